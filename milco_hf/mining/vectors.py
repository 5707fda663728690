"""Vectors of many texts on disk, in blocks that are whole or absent, read through memory maps."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.sparse
from tqdm.auto import tqdm

from milco_hf.mining.encoders import BLOCK, Encoder, Vectors


class StoredVectors:
    """Vectors [texts, dimensions] in a folder, dense or CSR, of which only what is asked for enters memory.

    Args:
        folder: what `encode_into` filled.
    """

    def __init__(self, folder: Path) -> None:
        self.blocks = [_open_block(path) for path in sorted(folder.iterdir()) if path.suffix == ".block"]
        self.starts = np.concatenate([[0], np.cumsum([block.shape[0] for block in self.blocks])]).astype(np.int64)

    def rows(self, numbers: np.ndarray) -> Vectors:
        """Vectors of some texts, in the order asked for; an array [len(numbers), dimensions] or CSR matrix."""
        which = np.searchsorted(self.starts, numbers, side="right") - 1
        parts, order = [], []
        for block in np.unique(which):
            there = np.flatnonzero(which == block)
            parts.append(self.blocks[block][numbers[there] - self.starts[block]])
            order.append(there)
        back = np.argsort(np.concatenate(order), kind="stable")
        if scipy.sparse.issparse(parts[0]):
            return scipy.sparse.vstack(parts, format="csr")[back]
        return np.concatenate(parts)[back]


def encode_into(
    folder: Path, encoder: Encoder, texts: Sequence[str], task: Literal["query", "document"], block: int = BLOCK
) -> StoredVectors:
    """Encode texts into a folder, a block at a time; blocks that are there already are kept.

    Blocks are cut at fixed places, so what a run that was cut short left behind is what this one would write.

    Args:
        folder: made where it is absent.
        encoder: the encoder.
        texts: all texts.
        task: "query" or "document".
        block: texts in a block.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(texts), desc=f"{task} vectors", unit="text") as bar:
        for number, start in enumerate(range(0, len(texts), block)):
            part = list(texts[start : start + block])
            path = folder / f"{number:06d}.block"
            if not path.is_dir():
                _save_block(path, encoder.encode(part, task))
            bar.update(len(part))
    return StoredVectors(folder)


def _save_block(path: Path, vectors: Vectors) -> None:
    passing = path.with_suffix(".partial")
    shutil.rmtree(passing, ignore_errors=True)
    passing.mkdir()
    if scipy.sparse.issparse(vectors):
        for name in ("data", "indices", "indptr"):
            np.save(passing / f"{name}.npy", getattr(vectors, name))
        np.save(passing / "shape.npy", np.array(vectors.shape))
    else:
        np.save(passing / "dense.npy", vectors)
    passing.rename(path)


def _open_block(path: Path) -> Vectors:
    if (path / "dense.npy").is_file():
        return np.load(path / "dense.npy", mmap_mode="r")
    data, indices, indptr = (np.load(path / f"{name}.npy", mmap_mode="r") for name in ("data", "indices", "indptr"))
    shape = tuple(np.load(path / "shape.npy").tolist())
    return scipy.sparse.csr_array((data, indices, indptr), shape=shape)
