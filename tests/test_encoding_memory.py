"""Memory stays flat while a long stream of texts is encoded into a folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import fresh
import milco_hf
import tiny
from milco_hf.encoding import workers

SCRIPT = """
import sys
import milco_hf
from milco_hf import encode_corpus
checkpoint, output = sys.argv[1:3]

def resident():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))

found = []
def texts():
    for row in range(100_000):
        if row % 10_000 == 0:
            found.append(resident())
        yield f"the old book {row} of the quiet city"[: 8 + row % 29]

folder = encode_corpus(checkpoint, texts(), output=output, shard_size=1000, devices="cpu", progress=False)
result = found, folder.manifest["entries"]
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason=f"{sys.platform} does not say how much is resident")
def test_memory_is_flat_over_a_long_run(tmp_path):
    checkpoint = tiny.checkpoint(tmp_path / "tiny")
    found, entries = fresh.run(SCRIPT, checkpoint, tmp_path / "vectors", cwd=tmp_path, milco_hf=True)
    assert len(found) == 10
    settled = max(found[:6])  # MiB up to 50,000 texts: by then caches and arenas have what they need
    later = entries * 0.5 * 8 / 2**20  # what the vectors of the texts after that take
    assert later > 7
    assert max(found[6:]) - settled < later / 2


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="oneDNN stays on without MKL")
def test_onednn_is_off_for_batches_in_fp32_alone_and_free_memory_is_given_back(checkpoint, dtype, monkeypatch):
    """oneDNN keeps something for each size of a batch: 200 MiB after 14,000 short texts of milco-mini."""
    enabled, given_back = [], []
    encode = workers.encode_batch
    monkeypatch.setattr(workers, "GivesBack", lambda: lambda: given_back.append(True))
    monkeypatch.setattr(
        workers, "encode_batch", lambda *all: enabled.append(torch.backends.mkldnn.enabled) or encode(*all)
    )
    milco_hf.encode_corpus(checkpoint, ["the old book", "music"], dtype=dtype, devices="cpu", batch_tokens=1)
    assert enabled == [dtype is not None] * 2
    assert given_back == [True] * 2
    assert torch.backends.mkldnn.enabled
