"""Rows of sparse vectors of one or several segments, by number, and which document each belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import sparse

from milco_hf.encoding import VectorFolder
from milco_hf.encoding.folder import stacked

PASSAGES = "passages.npy"


class Rows:
    """Memory-mapped vectors, put end to end: pages are read when they are used.

    Args:
        folders: Folders that `encode_corpus` wrote, in the order of their documents.
        passages: Of each folder [rows, 3]: the document of a row (from 0 in its folder), and where the passage begins
            and ends in its text; None where every document is one row.
        documents: How many documents each folder holds.
        width: V_e + V_s.
    """

    def __init__(
        self,
        folders: Sequence[VectorFolder],
        passages: Sequence[np.ndarray | None],
        documents: Sequence[int],
        width: int,
    ) -> None:
        self.width = width
        # the shards stay mapped, so that another process may replace the index while this one searches
        self._shards = [shard.matrix for folder in folders for shard in folder.shards()]
        self._firsts = np.cumsum([0, *(shard.shape[0] for shard in self._shards)])
        self.documents = int(sum(documents))
        self.passages = passages
        self._segments = np.cumsum([0, *(len(folder) for folder in folders)])
        self.split = any(part is not None for part in passages)
        self.starts = self._starts(documents) if self.split else None

    def __len__(self) -> int:
        return int(self._firsts[-1])

    @property
    def entries(self) -> int:
        """Weights that are not zero."""
        return sum(shard.nnz for shard in self._shards)

    def first_row(self, document: int) -> int:
        """The first row of a document; of the one after the last, the number of rows."""
        return document if self.starts is None else int(self.starts[document])

    def documents_of(self, rows: np.ndarray) -> np.ndarray:
        """The documents that rows belong to."""
        return rows if self.starts is None else np.searchsorted(self.starts, rows, side="right") - 1

    def rows_of(self, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All rows of some documents (ascending), and where each document's begin among them."""
        if self.starts is None:
            return documents, np.arange(len(documents))
        counts = self.starts[documents + 1] - self.starts[documents]
        begin = np.cumsum(counts) - counts
        return np.repeat(self.starts[documents] - begin, counts) + np.arange(int(counts.sum())), begin

    def passage(self, row: int) -> tuple[int, int] | None:
        """Where a row's passage begins and ends in its document's text."""
        segment = int(np.searchsorted(self._segments, row, side="right")) - 1
        part = self.passages[segment]
        if part is None:
            return None
        _, start, end = part[row - self._segments[segment]].tolist()
        return start, end

    def slice(self, first: int, last: int) -> sparse.csr_array:
        """Rows first … last − 1, [rows, V_e + V_s]."""
        parts = []
        for shard, begin in zip(self._shards, self._firsts):
            low, high = max(first - begin, 0), min(last - begin, shard.shape[0])
            if low < high:
                parts.append(shard if (low, high) == (0, shard.shape[0]) else shard[low:high])
        return stacked(parts, self.width)

    def take(self, rows: np.ndarray) -> sparse.csr_array:
        """Some rows in ascending order, [rows, V_e + V_s]."""
        cuts = np.searchsorted(rows, self._firsts)
        parts = [
            shard[rows[low:high] - begin]
            for shard, begin, low, high in zip(self._shards, self._firsts, cuts[:-1], cuts[1:])
            if low < high
        ]
        return stacked(parts, self.width)

    def _starts(self, documents: Sequence[int]) -> np.ndarray:
        """The first row of every document, and the number of rows, [documents + 1]."""
        parts = []
        for part, count, first, last in zip(self.passages, documents, self._segments[:-1], self._segments[1:]):
            rows = np.arange(last - first) if part is None else np.asarray(part[:, 0])
            parts.append(first + np.searchsorted(rows, np.arange(count)))
        return np.concatenate([*parts, self._segments[-1:]])


def load_passages(folder: Path) -> np.ndarray | None:
    """A segment's passages, memory-mapped; None where its documents are whole."""
    path = folder / PASSAGES
    return np.load(path, mmap_mode="r") if path.is_file() else None


__all__ = ["PASSAGES", "Rows", "load_passages"]
