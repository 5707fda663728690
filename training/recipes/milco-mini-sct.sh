#!/usr/bin/env bash
# milco-mini's second stage, from the aligned checkpoint to the weights, in about three quarters of an hour on two CPU cores:
#
#   bash training/recipes/milco-mini-sct.sh CHECKPOINT PARALLEL RETRIEVAL [OUTPUT [flags of sct.py …]]
#
# CHECKPOINT is what milco-mini.sh made (milco-mini-sap). PARALLEL holds train/ and more/ with en-XX.tsv.xz, RETRIEVAL holds
# train/XX.jsonl.xz with train/passages/, dev/ and eval/xquad-r/. OUTPUT (runs/mini by default) gets cloze.jsonl.gz,
# echo-start, sct, echo-again and milco-mini.
set -euo pipefail
usage="bash training/recipes/milco-mini-sct.sh CHECKPOINT PARALLEL RETRIEVAL [OUTPUT [flags of sct.py …]]"
checkpoint=${1:?"$usage"}
parallel=${2:?"$usage"}
retrieval=${3:?"$usage"}
output=${4:-runs/mini}
python=${PYTHON:-python}
here=$(cd "$(dirname "$0")/.." && pwd)
questions="$retrieval/train/*.jsonl.xz"
passages="$retrieval/train/passages"
# what milco-mini-sct.yaml leaves out, for the two scripts that read no recipe
mapfile -t excluded < <("$python" -c 'import sys, yaml; print(*yaml.safe_load(open(sys.argv[1]))["exclude_sources"], sep="\n")' \
    "$here/recipes/milco-mini-sct.yaml")
(( ${#excluded[@]} )) || { echo "milco-mini-sct.yaml's exclude_sources could not be read" >&2; exit 1; }

"$python" "$here/cloze_rows.py" --data "$parallel/train" "$parallel/more" --output "$output/cloze.jsonl.gz"
"$python" "$here/start_echo.py" "$checkpoint" --train-data "$questions" "$output/cloze.jsonl.gz" --corpus "$passages" \
    --exclude-sources "${excluded[@]}" --echo-pooling max --output "$output/echo-start"
"$python" "$here/sct.py" --config "$here/recipes/milco-mini-sct.yaml" --model "$output/echo-start" --output_dir "$output/sct" \
    --dev_data "$retrieval/dev" --corpus "$passages" --train_data "$questions" \
    "{\"path\": \"$output/cloze.jsonl.gz\", \"name\": \"cloze\", \"weight\": 1.4}" "${@:5}"
# SCT moved the states that [ECHO] reads, further than its own small rate could follow: fitted again
"$python" "$here/start_echo.py" "$output/sct" --train-data "$questions" "$output/cloze.jsonl.gz" --corpus "$passages" \
    --exclude-sources "${excluded[@]}" --scale 0.12 --output "$output/echo-again"
"$python" "$here/finish.py" "$output/echo-again" --output "$output/milco-mini" --vocabulary-dtype float8_e4m3fn \
    --query-pruning english=top_k:40 --document-pruning english=top_k:200
milco evaluate "$output/milco-mini" --data "$retrieval/eval/xquad-r" --setting matrix --pruning-curve --output "$output/xquad-r"
