"""A server gives back the memory of its batches."""

from __future__ import annotations

import platform
import threading
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient

import fresh
import milco_hf
from helpers_serving import StandInIndex
from milco_hf.allocator import GivesBack, without_onednn
from milco_hf.serving import create_app

# Narrow, so that it is quick, but with tensors as large as those of a model with 12,000 terms.
SCRIPT = """
import random, sys, time
from functools import partial
import numpy as np
import torch
from transformers import XLMRobertaConfig
from milco_hf import MilcoConfig, MilcoForSparseEncoding
from milco_hf.encoding.rows import Job, encode_batch
from milco_hf.allocator import GivesBack, without_onednn
from milco_hf.serving.batching import Batcher

TERMS = 12_000
sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
encoder = XLMRobertaConfig(**sizes, vocab_size=1000, max_position_embeddings=514, pad_token_id=1)
special = [TERMS, TERMS + 1, TERMS + 2]
torch.manual_seed(0)
model = MilcoForSparseEncoding(
    MilcoConfig(encoder_config=encoder, pivot_vocab_size=TERMS, pivot_hidden_size=16, special_token_ids=special)
).eval()

def resident():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))

gives_back = GivesBack() if sys.argv[1] == "gives back" else (lambda: None)
batcher = Batcher([partial(encode_batch, model)], 4096, 2048, TERMS + 1, lambda *_: gives_back())
rng, found = random.Random(0), []

def encode(lengths):
    texts = [np.array(rng.choices(range(TERMS + 3, TERMS + 1000), k=length), dtype=np.int32) for length in lengths]
    batcher.submit(texts, Job(), 600).future.result()
    found.append(resident())

with without_onednn(sys.argv[1] == "without oneDNN"):
    for number in range(5):
        encode([8])  # what the libraries set up when they are first used
    for number in range(100):
        longest = rng.choice((16, 60, 240, 500))
        encode([rng.randint(3, longest) for _ in range(rng.randint(1, 4096 // longest // 2))])
    time.sleep(2.1)
    encode([8])
batcher.close()  # a worker that still lives when Python ends may end it with an abort
result = found
"""


def resident(how: str, folder: Path) -> list[float]:
    """MiB after each of 5 small batches, of 100 of different sizes, and after a last small one."""
    return fresh.run(SCRIPT, how, cwd=folder, milco_hf=True)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc than glibc's")
def test_memory_is_given_back_after_batches_of_many_sizes(tmp_path):
    found = resident("gives back", tmp_path)
    assert found[-1] - found[4] < 64  # as malloc is by itself, 115


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc than glibc's")
@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="oneDNN stays on without MKL")
def test_memory_stands_still_without_onednn(tmp_path):
    growth = []
    for _ in range(3):  # malloc has its moods: 4 to 24 MiB were measured, and 35 to 46 with it
        found = resident("without oneDNN", tmp_path)
        growth.append(max(found) - max(found[:40]))
        if growth[-1] < 30:
            return
    raise AssertionError(f"grew by {growth} MiB")


def test_it_gives_back_every_few_seconds(monkeypatch):
    clock, times = [100.0], []
    monkeypatch.setattr("milco_hf.allocator.time.monotonic", lambda: clock[0])
    gives_back = GivesBack(2.0, lambda: times.append(clock[0]))
    for clock[0] in (100.5, 101.9, 102.0, 103.9, 104.1, 104.2, 110.0):
        gives_back()
    assert times == [102.0, 104.1, 110.0]


def test_there_is_nothing_to_call_without_glibc(monkeypatch):
    monkeypatch.setattr("milco_hf.allocator.ctypes.CDLL", lambda name: object())
    GivesBack(0.0)()
    monkeypatch.setattr("milco_hf.allocator.sys.platform", "win32")
    monkeypatch.delattr("milco_hf.allocator.ctypes.CDLL")
    GivesBack(0.0)()


def test_the_server_gives_back_after_batches_searches_and_explanations(checkpoint):
    app = create_app(index=StandInIndex(milco_hf.load(checkpoint, device="cpu")))
    calls = []
    app.state.engine.gives_back._every = 0.0
    app.state.engine.gives_back._trim = lambda: calls.append(threading.current_thread().name.rstrip("-_0"))
    with TestClient(app) as client:
        assert client.post("/search", json={"query": "music"}).status_code == 200
        assert client.post("/explain", json={"query": "music", "document": "music"}).status_code == 200
    assert calls == ["milco-worker", "milco-searches", "milco-explanations"]


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize("mkl", [True, False])
def test_onednn_is_off_while_a_cpu_computes_in_fp32_with_mkl(checkpoint, dtype, mkl, monkeypatch):
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    app = create_app(milco_hf.load(checkpoint, device="cpu"), dtype=dtype)
    assert torch.backends.mkldnn.enabled
    with TestClient(app):
        assert torch.backends.mkldnn.enabled is (dtype is not None or not mkl)
    assert torch.backends.mkldnn.enabled


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("first", [0, 1])
def test_onednn_comes_back_when_the_last_of_overlapping_contexts_ends(first, enabled, monkeypatch):
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", enabled)
    contexts = [without_onednn(True), without_onednn(True)]
    for context in contexts:
        context.__enter__()
        assert not torch.backends.mkldnn.enabled
    contexts[first].__exit__(None, None, None)
    assert not torch.backends.mkldnn.enabled
    contexts[1 - first].__exit__(None, None, None)
    assert torch.backends.mkldnn.enabled is enabled
