import json
import os
import socket
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from safetensors.torch import load_file

import helpers_sct as s
import tiny
from milco_hf.training.retrieval.arguments import SctArguments
from milco_hf.training.retrieval.objective import Objective
from milco_hf.training.retrieval.views import Views

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow

SETTINGS = {
    "max_steps": 4,
    "optim": "sgd",
    "learning_rate": 0.05,
    "warmup_steps": 1,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": "true",
    "max_threads": 1,
    "query_length": 16,
    "document_length": 32,
    "negatives": 2,
    "eval_strategy": "steps",
    "eval_steps": 4,
    "per_device_eval_batch_size": 5,
    "kl_weight": 0.5,
    "margin_mse_weight": 0.1,
    "infonce_weight": 0.5,
    "query_sparsity_weight": 0.02,
    "document_sparsity_weight": 0.01,
    "document_sparsity_warmup_steps": 2,
}


def run_script(processes, output, *flags):
    """Train through the script, in so many gloo processes, and return what it logged and saved."""
    line = [part for name, value in {**SETTINGS, "output_dir": output}.items() for part in (f"--{name}", str(value))]
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "training/sct.py", *line, *flags]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    log = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return log, load_file(output / "model.safetensors")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("processes")
    data = str(s.write(root / "rows.jsonl", s.rows()))
    return ["--model", str(s.student(root / "student")), "--train_data", data, "--dev_data", data]


@pytest.fixture(scope="module")
def one_process(places, tmp_path_factory):
    """Runs by sparsity, each once."""
    found = {}

    def run(*flags):
        if flags not in found:
            folder = tmp_path_factory.mktemp("one")
            found[flags] = run_script(1, folder, *places, *flags, "--per_device_train_batch_size", "8")
        return found[flags]

    return run


NAMES = {"loss", "kl", "margin_mse", "infonce", "l1_query", "l1_document", "flops_query", "flops_document", "grad_norm"}
NAMES |= {"active_dims_query", "active_dims_document", "active_source_document", "teacher_entropy", "candidates"}
NAMES |= {"eval_mrr_mean", "eval_ndcg_mean", "eval_active_dims_query_mean", "epoch"}


def assert_same(found, expected):
    (log, weights), (expected_log, expected_weights) = found, expected
    compared = set()
    for entry, other in zip(log, expected_log, strict=True):
        for name in NAMES & set(other):
            compared.add(name)
            assert entry[name] == pytest.approx(other[name], rel=2e-4), name
    assert {"loss", "infonce", "eval_mrr_mean"} <= compared
    for name, tensor in expected_weights.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("sparsity", ["l1", "flops"])
def test_two_processes_give_the_same_trajectory(one_process, places, tmp_path, sparsity):
    """InfoNCE's negatives are those of both processes, and FLOPS' means are over both."""
    flags = ("--sparsity", sparsity)
    found = run_script(2, tmp_path, *places, *flags, "--per_device_train_batch_size", "4")
    assert_same(found, one_process(*flags))


def test_two_processes_with_gradcache_and_one_language_a_batch(one_process, places, tmp_path):
    # 3 of a process's passages at a time: the processes have different numbers of distinct passages
    flags = ("--sparsity", "flops", "--batch_language", "same")
    sizes = ("--per_device_train_batch_size", "4", "--gradcache_minibatch", "3")
    assert_same(run_script(2, tmp_path, *places, *flags, *sizes), one_process(*flags))


def test_two_processes_and_accumulation(one_process, places, tmp_path):
    """Without InfoNCE, which sees the passages of one micro-batch only."""
    flags = ("--infonce_weight", "0")
    sizes = ("--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2")
    log, weights = run_script(2, tmp_path, *places, *flags, *sizes)
    expected_log, expected_weights = one_process(*flags)
    losses = [[entry["loss"] for entry in entries if "loss" in entry] for entries in (log, expected_log)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for name, tensor in expected_weights.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-5)


def test_two_processes_with_reverse_training_and_parallel_text(one_process, places, tmp_path):
    """Questions, and texts of both sides, are negatives over both processes."""
    data = s.write(tmp_path / "rows.jsonl", [*s.bridged(), *s.rows()])
    pairs = "".join(f"{a} {b}\t{x} {y}\n" for (a, x), (b, y) in permutations(zip(s.ENGLISH, s.GERMAN), 2))
    (tmp_path / "en-de.tsv").write_text(pairs)
    flags = ("--train_data", str(data), "--clear_weight", "0.5", "--pivot_infonce_weight", "0.2")
    flags += ("--short_infonce_weight", "0.1", "--short_dimensions", "4")
    flags += ("--parallel_data", str(tmp_path / "en-de.tsv"))
    flags += ("--alignment_weight", "0.1", "--alignment_infonce_weight", "0.3")
    found = run_script(2, tmp_path / "out", *places, *flags, "--per_device_train_batch_size", "4")
    expected = one_process(*flags)
    assert_same(found, expected)
    names = ("clear", "pivot_infonce", "short_infonce", "bridged_share")
    for name in (*names, "alignment_smse", "alignment_infonce", "alignment"):
        values = [[entry[name] for entry in log if name in entry] for log, _ in (found, expected)]
        assert values[0] == pytest.approx(values[1], rel=2e-4), name
        assert len(values[0]) == 4


def test_two_processes_train_low_rank_updates(one_process, places, tmp_path):
    flags = ("--lora", "true", "--lora_r", "2", "--lora_dropout", "0")
    found = run_script(2, tmp_path, *places, *flags, "--per_device_train_batch_size", "4")
    assert_same(found, one_process(*flags))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


# ---- sharded models ----


def _batch():
    """Four questions with two candidates each, out of six passages."""
    texts = [text for text, _ in s.passages()[:6]]
    batch = {}
    for side, some in (("query", [record["query"] for record in s.rows()[:4]]), ("document", texts)):
        encoded = tiny.batch(some)
        batch[f"{side}_ids"], batch[f"{side}_mask"] = encoded["input_ids"], encoded["attention_mask"]
    batch["candidates"] = torch.tensor([[0, 4], [1, 5], [2, 4], [3, 0]])
    batch["teacher_scores"] = torch.tensor([[2.0, 1.0], [1.5, 0.0], [3.0, 2.5], [1.0, -1.0]])
    batch["document_numbers"] = torch.arange(6)
    batch["answers"] = torch.tensor([[0], [1], [2], [3]])
    return batch


def _share(batch, rows):
    """The batch of a process that has only some of the questions, and only their passages."""
    part = {name: tensor[rows] for name, tensor in batch.items() if not name.startswith("document_")}
    kept = part["candidates"].unique()
    part["candidates"] = torch.searchsorted(kept, part["candidates"])
    return {**part, **{name: tensor[kept] for name, tensor in batch.items() if name.startswith("document_")}}


def _loss(model, batch, world_size):
    args = SctArguments(use_cpu=True, infonce_weight=1.0, sparsity="flops", document_sparsity_weight=0.1)
    objective = Objective(args, model.config.projection_dim, True)
    views = []
    for side in ("query", "document"):
        ids, mask = batch[f"{side}_ids"], batch[f"{side}_mask"]
        output = model(input_ids=ids, attention_mask=mask, return_embeddings=False)
        views.append(Views(output.pivot_view, ids, output.source_weights))
    parts = objective.parts(*views, batch)
    weights = {"query": 0.0, "document": 0.1}
    # each process's share, FLOPS's too: `loss` divides that by the world size of the arguments
    loss = objective.loss(parts, torch.tensor(4), torch.tensor(8), weights)
    shared = 0.1 * parts.flops["document"][0] * parts.flops["document"][1] / 8
    return loss - shared + shared / world_size


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
    loss = _loss(model, _share(batch, torch.tensor([[0, 1], [2, 3]][rank])), 2) * 2  # gradients are averaged
    loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad.full_tensor(), expected[name], rtol=1e-4, atol=1e-5)
    dist.destroy_process_group()


def test_a_sharded_model_has_the_same_gradients():
    model, batch = tiny.model(), _batch()
    _loss(model, batch, 1).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_sharded, args=(port, batch, expected), nprocs=2)
