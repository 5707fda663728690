"""Launch files for clusters: what they ask accelerate and torchrun for; the two-node ones really run, on loopback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed.run as torchrun
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import _filter_args, prepare_multi_gpu_env

import helpers_sct
import helpers_training
import tiny

ROOT = Path(__file__).parents[1]
SLURM = ROOT / "training" / "slurm"
STAGES = ("sap", "sct")

# srun starts a command on every node, and with --kill-on-bad-exit ends all when one fails
SRUN = """
[ "$1" = --kill-on-bad-exit=1 ] || { echo "srun: unexpected $1" >&2; exit 64; }
shift
tasks=()
for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do
  SLURM_PROCID=$node setsid "$@" &
  tasks+=($!)
done
for _ in "${tasks[@]}"; do
  if wait -n; then continue; else code=$?; fi
  for task in "${tasks[@]}"; do kill -- "-$task" 2>/dev/null; done
  exit "$code"
done
"""


def environment(folder: Path, nodes: int, gpus: str, **stand_ins: str) -> dict[str, str]:
    """A SLURM job's environment, with stand-ins for its commands on PATH."""
    binaries = folder / "bin"
    binaries.mkdir(parents=True, exist_ok=True)
    for name, body in {"scontrol": "echo 127.0.0.1; echo 127.0.0.1", **stand_ins}.items():
        (binaries / name).write_text(f"#!/bin/bash\n{body}\n")
        (binaries / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "ACCELERATE_"))}
    return {
        **kept,
        "PATH": f"{binaries}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_JOB_NODELIST": "node[01-02]",
        "SLURM_GPUS_PER_NODE": gpus,
        "SLURM_CPUS_PER_TASK": "16",
        "SLURM_JOB_ID": str(os.getpid()),  # decides the port
        "OUTPUT_DIR": str(folder / "out"),
        "VENV": str(folder / "none"),
    }


JOBS = [("one_gpu", 1, "1", "single_gpu"), ("eight_gpus", 1, "8", "ddp"), ("two_nodes", 2, "a100:8", "multi_node")]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("job", "nodes", "gpus", "config"), JOBS)
def test_the_launch_line_of_every_job(tmp_path, job, nodes, gpus, config, stage):
    accelerate = f'printf "%s\\n" "$OMP_NUM_THREADS" "$@" > {tmp_path}/asked-$SLURM_PROCID'
    stand_ins = {"srun": SRUN, "accelerate": accelerate, "scontrol": "echo node01; echo node02"}
    variables = environment(tmp_path, nodes, gpus, **stand_ins)
    variables.pop("OMP_NUM_THREADS", None)
    recipe = f"training/recipes/milco-560m{'-sct' if stage == 'sct' else ''}.yaml"
    command = ["bash", str(SLURM / f"{job}.sbatch"), f"training/{stage}.py", recipe, "--run_name", "two words"]
    subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    processes = nodes * int(gpus.split(":")[-1])
    for rank in range(nodes):
        threads, *run = (tmp_path / f"asked-{rank}").read_text().splitlines()
        assert threads == str(16 // (processes // nodes))
        flags = dict(zip(run[1:13:2], run[2:14:2]))
        assert run[0] == "launch"
        assert flags == {
            "--config_file": f"training/accelerate/{config}.yaml",
            "--num_machines": str(nodes),
            "--num_processes": str(processes),
            "--machine_rank": str(rank),
            "--main_process_ip": "node01" if nodes > 1 else "127.0.0.1",
            "--main_process_port": str(20000 + os.getpid() % 10000),
        }
        given = ["--config", recipe, "--output_dir", str(tmp_path / "out"), "--resume_from_checkpoint", "auto"]
        assert run[13:] == [f"training/{stage}.py", *given, "--run_name", "two words"]
        assert (ROOT / flags["--config_file"]).is_file()
        assert (ROOT / run[13]).is_file()


@pytest.mark.parametrize(("job", "nodes", "gpus", "config"), JOBS)
def test_what_a_job_asks_slurm_for(job, nodes, gpus, config):
    text = (SLURM / f"{job}.sbatch").read_text()
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", text, re.MULTILINE))
    assert (asked["nodes"], asked["ntasks-per-node"], asked["gpus-per-node"]) == (str(nodes), "1", gpus.split(":")[-1])
    assert "#SBATCH --requeue" in text
    assert config in (SLURM / "launch.sh").read_text()


@pytest.mark.parametrize("config", ["multi_node", "fsdp2"])
@pytest.mark.parametrize("rank", [0, 1])
def test_every_machine_is_told_where_the_first_one_is(config, rank, monkeypatch):
    """What torchrun makes of it: with an empty endpoint each machine would wait at its own localhost."""
    line = ["--config_file", str(ROOT / "training" / "accelerate" / f"{config}.yaml"), "--num_machines", "2"]
    line += ["--num_processes", "16", "--machine_rank", str(rank), "--main_process_ip", "node01"]
    options = launch_command_parser().parse_args([*line, "--main_process_port", "20123", "training/sct.py"])
    options, _, _ = _validate_launch_command(options)
    prepare_multi_gpu_env(options)
    script = ["--training_script", options.training_script, "--training_script_args", options.training_script_args]
    options = _filter_args(options, torchrun.get_args_parser(), script)
    found, _, _ = torchrun.config_from_args(options)
    assert found.rdzv_endpoint == "node01:20123"
    assert (found.min_nodes, found.max_nodes, found.nproc_per_node) == (2, 2, 8)
    assert found.rdzv_configs["rank"] == rank


def test_a_job_without_a_script_says_so(tmp_path):
    command = ["bash", str(SLURM / "one_gpu.sbatch")]
    done = subprocess.run(command, env=environment(tmp_path, 1, "1"), capture_output=True, text=True)
    assert done.returncode != 0
    assert "training/sap.py or training/sct.py" in done.stderr


def two_nodes(
    folder: Path, script: str | Path, *flags: str | Path, timeout: float = 240
) -> subprocess.CompletedProcess:
    """Run the two-node job here: two nodes of one process each, over gloo."""
    variables = environment(folder, 2, "1", srun=SRUN)
    variables |= {"ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    variables |= {"GLOO_SOCKET_IFNAME": "lo", "TOKENIZERS_PARALLELISM": "false"}
    command = ["bash", str(SLURM / "two_nodes.sbatch"), str(script), *map(str, flags)]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=240)


def tiny_run(stage: str, folder: Path) -> Path:
    """A recipe of two steps."""
    settings = {
        "per_device_train_batch_size": 2,
        "max_steps": 2,
        "save_steps": 1,
        "save_total_limit": 2,
        "warmup_steps": 0,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "max_threads": 1,
    }
    if stage == "sap":
        model = tiny.checkpoint(folder / "student")
        teacher = helpers_training.static_folder(folder / "teacher")
        data = helpers_training.PARALLEL / "train"
        settings |= {"model": str(model), "teacher": str(teacher), "train_data": [str(data)], "max_length": 32}
    else:
        model = helpers_sct.student(folder / "student")
        data = helpers_sct.write(folder / "rows.jsonl", helpers_sct.rows())
        settings |= {"model": str(model), "train_data": [str(data)], "negatives": 2}
        settings |= {"query_length": 16, "document_length": 32}
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps(settings))  # JSON is YAML
    return recipe


def state(folder: Path) -> dict:
    return json.loads((folder / "trainer_state.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_nodes_train_and_the_next_start_goes_on(tmp_path, stage):
    recipe = tiny_run(stage, tmp_path)
    first = two_nodes(tmp_path, f"training/{stage}.py", recipe)
    assert first.returncode == 0, first.stderr[-3000:]
    output = tmp_path / "out"
    assert state(output)["global_step"] == 2
    for step in (1, 2):
        written = {path.name for path in (output / f"checkpoint-{step}").iterdir()}
        assert {"model.safetensors", "optimizer.pt", "trainer_state.json"} <= written
        assert {"rng_state_0.pth", "rng_state_1.pth"} <= written  # one of each process: there were two
    assert not (output / "unfinished").exists()
    before = state(output / "checkpoint-1")["log_history"]

    # the next start finds a last checkpoint that is half written
    optimizer = output / "checkpoint-2" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:100])
    second = two_nodes(tmp_path, f"training/{stage}.py", recipe, "--max_steps", "3")
    assert second.returncode == 0, second.stderr[-3000:]
    assert "checkpoint-2 is passed over: optimizer.pt is cut off" in second.stdout + second.stderr
    assert state(output)["global_step"] == 3
    after = state(output)["log_history"]
    assert after[: len(before)] == before  # it went on from step 1
    assert [entry["step"] for entry in after if "loss" in entry] == [1, 2, 3]


FAILING = """
import time, sys
import torch.distributed as dist
from accelerate import Accelerator
state = Accelerator()
if state.process_index == 1:
    raise RuntimeError("the disk of the second node is full")
dist.barrier()  # waits half an hour for the other one
"""


@pytest.mark.slow
def test_a_failed_process_ends_the_job_with_its_error(tmp_path):
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    began = time.monotonic()
    done = two_nodes(tmp_path, script)
    assert done.returncode not in (0, 64)
    assert time.monotonic() - began < 120
    assert "RuntimeError: the disk of the second node is full" in done.stderr
