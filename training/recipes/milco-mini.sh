#!/usr/bin/env bash
# milco-mini again, from the data to the weights, in about an hour and a quarter on two CPU cores:
#
#   bash training/recipes/milco-mini.sh DATA [OUTPUT [flags of sap.py …]]
#
# DATA is a folder with train/, more/ and dev/, each with files en-XX.tsv.xz of three columns: English, other language,
# source tag. OUTPUT (runs/mini by default) gets tokenizers, teacher and start, then the run in sap/, the checkpoint in
# milco-mini/ and its scores by language in milco-mini.md.
set -euo pipefail
data=${1:?"give the folder of the parallel text: bash training/recipes/milco-mini.sh DATA [OUTPUT]"}
output=${2:-runs/mini}
python=${PYTHON:-python}
here=$(cd "$(dirname "$0")/.." && pwd)

"$python" "$here/prepare_mini.py" --data "$data/train" "$data/more" --output "$output"
"$python" "$here/sap.py" --config "$here/recipes/milco-mini.yaml" \
    --model "$output/start" --teacher "$output/teacher" --output_dir "$output/sap" \
    --train_data "$data/[tm]*/en-*.tsv.xz" --dev_data "$data/dev" "${@:3}"
"$python" "$here/finish.py" "$output/sap" --output "$output/milco-mini"
"$python" "$here/evaluate_translation.py" "$output/milco-mini" --data "$data/dev" --markdown "$output/milco-mini.md"
