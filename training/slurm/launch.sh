#!/bin/bash
# Starts a training script on all GPUs of a SLURM job; the .sbatch files here call it, with what follows their names:
#
#   SCRIPT [RECIPE] [FLAGS …]      training/sap.py or training/sct.py, a recipe (.yaml), and flags that override it
#
# Give partition, account and time as your site wants them, on sbatch's command line or as SBATCH_PARTITION,
# SBATCH_ACCOUNT, SBATCH_TIMELIMIT. In the environment:
#   VENV               the environment to activate (.venv)
#   OUTPUT_DIR         the folder for checkpoints, one that all machines see (runs/RECIPE-JOB)
#   ACCELERATE_CONFIG  another file of training/accelerate, such as fsdp2.yaml
#
# A job starts from the last complete checkpoint in its folder, where there is one: requeued jobs go on, and so does a
# new job that is given the folder of an old one. When one process fails, its error is in the log and all others end.
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:-.}"
script="${1:?give a script: training/sap.py or training/sct.py}"
shift
arguments=()
name="$(basename "$script" .py)"
if [[ "${1:-}" == *.yaml || "${1:-}" == *.yml ]]; then
  arguments+=(--config "$1")
  name="$(basename "${1%.y*ml}")"
  shift
fi

venv="${VENV:-.venv}"
if [ -f "$venv/bin/activate" ]; then
  # shellcheck disable=SC1091
  source "$venv/bin/activate"
fi

# SLURM_GPUS_PER_NODE may read "8" or "a100:8"; SLURM_GPUS_ON_NODE is a number where it is set.
gpus="${SLURM_GPUS_ON_NODE:-${SLURM_GPUS_PER_NODE:-1}}"
gpus="${gpus##*:}"
nodes="${SLURM_JOB_NUM_NODES:-1}"
processes=$((gpus * nodes))
main_address=127.0.0.1
if [ "$nodes" -gt 1 ]; then
  hosts="$(scontrol show hostnames "$SLURM_JOB_NODELIST")"
  main_address="${hosts%%$'\n'*}"
fi
main_port=$((20000 + ${SLURM_JOB_ID:-0} % 10000))
output="${OUTPUT_DIR:-runs/$name-${SLURM_JOB_ID:-local}}"

if [ -n "${ACCELERATE_CONFIG:-}" ]; then
  config="$ACCELERATE_CONFIG"
elif [ "$nodes" -gt 1 ]; then
  config=training/accelerate/multi_node.yaml
elif [ "$gpus" -gt 1 ]; then
  config=training/accelerate/ddp.yaml
else
  config=training/accelerate/single_gpu.yaml
fi

cpus="${SLURM_CPUS_PER_TASK:-8}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cpus / gpus > 0 ? cpus / gpus : 1))}"
export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-true}"
echo "$script on $nodes node(s) x $gpus GPU(s), main process at $main_address:$main_port, output in $output"

# $SLURM_PROCID is each node's own number, so it is read there and not here.
launch() {
  exec accelerate launch \
    --config_file "$config" \
    --num_machines "$nodes" \
    --num_processes "$processes" \
    --machine_rank "${SLURM_PROCID:-0}" \
    --main_process_ip "$main_address" \
    --main_process_port "$main_port" \
    "$script" "$@"
}
export -f launch
export config nodes processes main_address main_port script

arguments+=(--output_dir "$output" --resume_from_checkpoint auto "$@")
if command -v srun >/dev/null; then
  # one task a node; when it fails, the tasks of the other nodes end too, which would wait for it
  exec srun --kill-on-bad-exit=1 bash -c 'launch "$@"' launch "${arguments[@]}"
else
  launch "${arguments[@]}"
fi
