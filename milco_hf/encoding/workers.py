"""Where batches are encoded: in this process, or in one process for each of several devices."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from milco_hf.allocator import GivesBack, without_onednn
from milco_hf.encoding.rows import Batch, Job, Rows, encode_batch
from milco_hf.modeling import MilcoForSparseEncoding

# Batches that wait in line for each process, so that none waits for this one.
_AHEAD = 3


def encode_here(model: MilcoForSparseEncoding, batches: Iterable[Batch], job: Job) -> Iterator[tuple[Batch, Rows]]:
    """Encodes batches one after the other; the model is in evaluation mode meanwhile."""
    was_training = model.training
    model.eval()
    gives_back = GivesBack()
    try:
        for batch in batches:
            yield batch, _rows(model, batch, job, gives_back)
    finally:
        model.train(was_training)


def encode_on(
    devices: Sequence[str], model: MilcoForSparseEncoding, batches: Iterable[Batch], job: Job
) -> Iterator[tuple[Batch, Rows]]:
    """Encodes batches in a process for each device; what comes back is in the order of the batches.

    The processes read the model from a temporary file, so neither shared memory nor a second download is needed.

    Raises:
        RuntimeError: A process died.
    """
    context = multiprocessing.get_context("spawn")
    on_cpu = sum(torch.device(device).type == "cpu" for device in devices)
    threads = max(1, torch.get_num_threads() // max(1, on_cpu))
    waiting: deque = deque()
    with tempfile.TemporaryDirectory(prefix="milco-model-") as folder:
        path = Path(folder) / "model.pt"
        was_training = model.training
        torch.save(model.eval(), path)
        model.train(was_training)
        free = context.Queue()
        for device in devices:
            free.put(device)
        pool = ProcessPoolExecutor(len(devices), context, _start, (path, free, job, threads))
        try:
            for batch in batches:
                waiting.append((batch, pool.submit(_encode, batch)))
                if len(waiting) > _AHEAD * len(devices):
                    yield _finished(waiting)
            while waiting:
                yield _finished(waiting)
        except BrokenProcessPool as error:
            raise RuntimeError(
                "A process that encodes died. A script that encodes on several devices needs `if __name__ == "
                "'__main__':` around the call; else memory ran out perhaps: try a smaller batch_tokens or fewer "
                "devices. What is in the output folder stays, and the same call continues there."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _rows(model: MilcoForSparseEncoding, batch: Batch, job: Job, gives_back: GivesBack) -> Rows:
    """A batch's rows, in memory that does not grow with every new size of a batch."""
    in_fp32 = model.device.type == "cpu" and model.dtype == torch.float32 and job.dtype is None
    with without_onednn(in_fp32):
        rows = encode_batch(model, batch, job)
    gives_back()
    return rows


def _finished(waiting: deque) -> tuple[Batch, Rows]:
    batch, future = waiting.popleft()
    return batch, future.result()


# What a process keeps: where its model comes from until the first batch, then the model.
_process: dict[str, Any] = {}


def _start(path: Path, free: Any, job: Job, threads: int) -> None:
    torch.set_num_threads(threads)
    _process.update(path=path, free=free, job=job, gives_back=GivesBack())


def _encode(batch: Batch) -> Rows:
    """Opens the model with the first batch, so that a failure reaches the caller as what it is."""
    if "model" not in _process:
        device = _process["free"].get()
        # our own file of a moment ago, so that unpickling it is safe
        _process["model"] = torch.load(_process["path"], map_location=device, weights_only=False).to(device)
    return _rows(_process["model"], batch, _process["job"], _process["gives_back"])


__all__ = ["encode_here", "encode_on"]
