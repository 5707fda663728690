#!/usr/bin/env bash
# milco-mini again, from the data to the weights, in about two and a half hours on two CPU cores:
#
#   bash training/recipes/milco-mini.sh DATA [OUTPUT [flags of sap.py …]]
#
# DATA is a folder with train/, more/ and dev/, each with files en-XX.tsv.xz of three columns: English, other language,
# source tag. OUTPUT (runs/mini by default) gets tokenizers, teacher and start, the first pass in first/ and first2/, the second
# in sap/, the checkpoint in milco-mini/ and its scores by language in milco-mini.md. Flags go to all three runs of sap.py.
set -euo pipefail
data=${1:?"give the folder of the parallel text: bash training/recipes/milco-mini.sh DATA [OUTPUT]"}
output=${2:-runs/mini}
python=${PYTHON:-python}
here=$(cd "$(dirname "$0")/.." && pwd)

"$python" "$here/prepare_mini.py" --data "$data/train" "$data/more" --output "$output"
data_flags=(--teacher "$output/teacher" --train_data "$data/[tm]*/en-*.tsv.xz" --dev_data "$data/dev" --data_cache "$output/cache")
"$python" "$here/sap.py" --config "$here/recipes/milco-mini-first.yaml" \
    --model "$output/start" --output_dir "$output/first" "${data_flags[@]}" "${@:3}"
# Again from there, with larger steps for the token embeddings, which had moved too slowly, and less L1.
"$python" "$here/sap.py" --config "$here/recipes/milco-mini-first.yaml" \
    --model "$output/first" --output_dir "$output/first2" "${data_flags[@]}" \
    --max_minutes 25 --warmup_steps 50 --embeddings_learning_rate 1.5e-3 --connector_learning_rate 2e-4 \
    --head_learning_rate 1e-4 --norm_weight 1.0 --l1_weight 1e-3 --seed 1 "${@:3}"
"$python" "$here/sap.py" --config "$here/recipes/milco-mini.yaml" \
    --model "$output/first2" --output_dir "$output/sap" "${data_flags[@]}" "${@:3}"
"$python" "$here/finish.py" "$output/sap" --bias-shift -0.01 --output "$output/milco-mini"
"$python" "$here/evaluate_translation.py" "$output/milco-mini" --data "$data/dev" --markdown "$output/milco-mini.md"
