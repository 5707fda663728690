import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from safetensors.torch import load_file

import helpers_training as h
import tiny
from milco_hf.training.losses import alignment_terms

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


def run(processes, output, *flags):
    """Train through the script, in so many gloo processes, and return what it logged and saved."""
    line = ["--output_dir", str(output), "--save_strategy", "no", "--report_to", "none", "--use_cpu", "true"]
    line += [
        "--logging_steps",
        "1",
        "--max_steps",
        "5",
        "--optim",
        "sgd",
        "--learning_rate",
        "0.05",
        "--warmup_steps",
        "2",
    ]
    line += [
        "--train_data",
        str(h.PARALLEL / "train"),
        "--dev_data",
        str(h.PARALLEL / "dev"),
        "--eval_strategy",
        "steps",
    ]
    line += ["--eval_steps", "5", "--per_device_eval_batch_size", "5", "--max_length", "32", "--max_threads", "1"]
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "training/sap.py", *line, *flags]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((output / "trainer_state.json").read_text())["log_history"], load_file(
        output / "model.safetensors"
    )


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    root = tmp_path_factory.mktemp("processes")
    student = tiny.model()
    student.config.encoder_config.hidden_dropout_prob = 0.0
    student.config.encoder_config.attention_probs_dropout_prob = 0.0
    student.save_pretrained(root / "student")
    student.tokenizer.save_pretrained(root / "student")
    flags = ["--model", str(root / "student"), "--teacher", str(h.static_folder(root / "teacher"))]
    flags += ["--english_share", "0.5", "--l1_weight", "0.02"]
    return flags, run(1, root / "out", *flags, "--per_device_train_batch_size", "8")


@pytest.mark.parametrize(("batch", "accumulation"), [(4, 1), (2, 2)])
def test_two_processes_give_the_same_trajectory(one_process, tmp_path, batch, accumulation):
    flags, (expected_log, expected_weights) = one_process
    sizes = ["--per_device_train_batch_size", str(batch), "--gradient_accumulation_steps", str(accumulation)]
    log, weights = run(2, tmp_path, *flags, *sizes)
    names = ["loss", "smse", "l1", "active_dims", "active_dims_english", "grad_norm", "eval_active_dims_mean", "epoch"]
    for entry, expected in zip(log, expected_log, strict=True):
        for name in set(names) & set(expected):
            assert entry[name] == pytest.approx(expected[name], rel=1e-4), name
    for name, tensor in expected_weights.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-6)


def test_two_processes_share_a_teacher_cache_and_a_time_limit(one_process, tmp_path):
    flags, _ = one_process
    timed = [
        "--max_minutes",
        "0.02",
        "--max_steps",
        "100000",
        "--num_train_epochs",
        "100000",
        "--lr_scheduler_type",
        "linear",
    ]
    timed += ["--eval_strategy", "no", "--logging_steps", "20", "--teacher_cache", str(tmp_path / "cache")]
    log, _ = run(2, tmp_path / "out", *flags, *timed, "--per_device_train_batch_size", "4")
    assert log[-2]["learning_rate"] < 0.05 * 0.2
    assert len(list((tmp_path / "cache").rglob("*.keys.npy"))) == 2


def _loss(model, batch, rows):
    """A share of the texts' SAP loss, as the trainer computes it."""
    part = {name: tensor[rows] for name, tensor in batch.items() if name != "token_type_ids"}
    found = model(**part, return_embeddings=False, source_view=False).pivot_logits
    texts = ["the old book", "who wrote the music"] * 3
    terms = alignment_terms(found, h.static_teacher().targets([texts[row] for row in rows]), torch.arange(len(rows)))
    return terms.smse.sum() + 0.1 * terms.l1.sum()


def _sharded(rank, port, batch, expected):
    """One of two processes: shard the model as accelerate's FSDP2 does, and compare a step's gradients."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mesh = dist.init_device_mesh("cpu", (2,))
    model = tiny.model()
    for layer in model.encoder.encoder.layer:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    loss = _loss(model, batch, [0, 2, 4] if rank == 0 else [1, 3, 5]) * 2 / 6  # gradients are averaged
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad.full_tensor(), expected[name], rtol=1e-4, atol=1e-5)
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == set(expected)
    dist.destroy_process_group()


def test_a_sharded_model_has_the_same_gradients():
    model = tiny.model()
    batch = tiny.batch()  # tokenizers trained in two processes may differ
    (_loss(model, batch, list(range(6))) / 6).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_sharded, args=(port, batch, expected), nprocs=2)
