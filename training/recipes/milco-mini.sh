#!/usr/bin/env bash
# milco-mini's first stage again, from the data to aligned weights, in about an hour and a quarter on two CPU cores:
#
#   bash training/recipes/milco-mini.sh DATA [OUTPUT [flags of sap.py …]]
#
# DATA is a folder with train/, more/ and dev/, each with files en-XX.tsv.xz of three columns: English, other language,
# source tag. OUTPUT (runs/mini by default) gets tokenizers, teacher and start, the run of SAP in sap/, the checkpoint in
# milco-mini-sap/ and its scores by language in milco-mini-sap.md. Flags go to sap.py.
# milco-mini-sct.sh goes on from there. Needs pip install -e ".[train,romanize]".
set -euo pipefail
data=${1:?"give the folder of the parallel text: bash training/recipes/milco-mini.sh DATA [OUTPUT]"}
output=${2:-runs/mini}
python=${PYTHON:-python}
here=$(cd "$(dirname "$0")/.." && pwd)

"$python" "$here/prepare_mini.py" --data "$data/train" "$data/more" --output "$output" \
    --romanize --source-vocab-size 42000 --own-letters 2.5 --lexicon-pairs 120000
# Two processes of one thread each: in SAP about as fast as one process of two threads
export OMP_NUM_THREADS=1
"$python" -m torch.distributed.run --standalone --nproc_per_node 2 "$here/sap.py" --config "$here/recipes/milco-mini.yaml" \
    --model "$output/start" --teacher "$output/teacher" --train_data "$data/[tm]*/en-*.tsv.xz" --dev_data "$data/dev" \
    --data_cache "$output/cache" --output_dir "$output/sap" "${@:3}"
unset OMP_NUM_THREADS
"$python" "$here/finish.py" "$output/sap" --output "$output/milco-mini-sap"
"$python" "$here/evaluate_translation.py" "$output/milco-mini-sap" --data "$data/dev" --markdown "$output/milco-mini-sap.md"
