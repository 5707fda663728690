#!/usr/bin/env bash
# milco-mini's first stage again, from the data to aligned weights, in about an hour on two CPU cores:
#
#   bash training/recipes/milco-mini.sh DATA DICTIONARIES [OUTPUT [flags of sap.py …]]
#
# DATA is a folder with train/, more/ and dev/, each with files en-XX.tsv.xz of three columns: English, other language,
# source tag. DICTIONARIES is what milco-mini-dictionaries.sh wrote. OUTPUT (runs/mini by default) gets tokenizers, teacher
# and start, the run of SAP in sap/, the checkpoint in milco-mini-sap/ and its scores by language in milco-mini-sap.md. Flags
# go to sap.py. milco-mini-sct.sh goes on from there. Needs pip install -e ".[train,romanize]".
set -euo pipefail
usage="bash training/recipes/milco-mini.sh DATA DICTIONARIES [OUTPUT [flags of sap.py …]]"
data=${1:?"$usage"}
dictionaries=${2:?"$usage"}
output=${3:-runs/mini}
python=${PYTHON:-python}
here=$(cd "$(dirname "$0")/.." && pwd)

"$python" "$here/prepare_mini.py" --data "$data/train" "$data/more" --dictionaries "$dictionaries" --output "$output" \
    --romanize --source-vocab-size 95000 --own-letters 3 --tokenizer-texts 15000 --lexicon-pairs 120000 --fit-rounds 9
"$python" "$here/sap.py" --config "$here/recipes/milco-mini.yaml" --model "$output/start" --teacher "$output/teacher" \
    --train_data "$data/[tm]*/en-*.tsv.xz" "{\"path\": \"$dictionaries\", \"weight\": 0.3}" --dev_data "$data/dev" \
    --data_cache "$output/cache" --output_dir "$output/sap" "${@:4}"
"$python" "$here/finish.py" "$output/sap" --output "$output/milco-mini-sap"
"$python" "$here/evaluate_translation.py" "$output/milco-mini-sap" --data "$data/dev" --markdown "$output/milco-mini-sap.md"
