"""Approximate search with Seismic, whose candidates are scored again exactly."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from tqdm.auto import trange

from milco_hf.index.exact import Found, best_of
from milco_hf.index.vectors import Rows

_FILE = "vectors.index.seismic"
_COLUMNS = "columns.npy"
# Seismic's own type holds 16 bits of a component.
_SMALL = 1 << 16
_ADD = 1 << 14


@dataclass(frozen=True)
class Effort:
    """How hard Seismic looks.

    Attributes:
        query_cut: The heaviest dimensions of a query whose lists are read.
        heap_factor: The smaller, the fewer blocks of documents are skipped.
    """

    query_cut: int
    heap_factor: float

    def to_dict(self) -> dict[str, Any]:
        """As the manifest has it."""
        return asdict(self)


# From fast to thorough; a build takes the first that finds as much as it was asked to.
EFFORTS = (Effort(16, 0.9), Effort(32, 0.8), Effort(64, 0.7), Effort(128, 0.5), Effort(1024, 0.2))


def installed() -> bool:
    """Whether Seismic is there."""
    from importlib.util import find_spec

    return find_spec("seismic") is not None


def build_seismic(rows: Rows, folder: Path, progress: bool = False) -> None:
    """Builds Seismic's lists over vectors and writes them.

    Dimensions are numbered anew, without those that nothing has, and documents go by the number of their row, so no
    name comes near the length at which Seismic cuts names off.

    Args:
        rows: The vectors.
        folder: A new folder.
        progress: Whether to show a bar while vectors are handed over; Seismic itself says nothing of how far it is.

    Raises:
        ImportError: `pip install "milco-hf[index]"`.
    """
    seismic = _library()
    used = np.zeros(rows.width, dtype=bool)
    for first in range(0, len(rows), _ADD):
        used[rows.slice(first, min(first + _ADD, len(rows))).indices] = True
    columns = np.flatnonzero(used)
    numbers = np.cumsum(used, dtype=np.int64) - 1
    small = len(columns) < _SMALL
    dataset = (seismic.SeismicDataset if small else seismic.SeismicDatasetLV)(max(1, len(columns)))
    for first in trange(0, len(rows), _ADD, desc="Seismic", unit=" blocks", disable=not progress):
        last = min(first + _ADD, len(rows))
        part = rows.slice(first, last)
        part.sort_indices()
        names = [str(row) for row in range(first, last)]
        dataset.add_documents_by_id(names, numbers[part.indices], part.data, part.indptr.astype(np.int64))
    folder.mkdir(parents=True)
    np.save(folder / _COLUMNS, columns)
    with _quiet():
        kind = seismic.SeismicIndex if small else seismic.SeismicIndexLV
        kind.build_from_dataset(dataset).save(str(folder / _FILE.split(".")[0]))


class SeismicSearch:
    """Seismic's candidates, with exact scores.

    Args:
        rows: The vectors.
        folder: What `build_seismic` wrote.
        effort: How hard it looks.

    Raises:
        ImportError: `pip install "milco-hf[index]"`.
        ValueError: The file cannot be read.
    """

    def __init__(self, rows: Rows, folder: Path, effort: Effort) -> None:
        seismic = _library()
        self.rows = rows
        self.effort = effort
        self._numbers = np.full(rows.width, -1, dtype=np.int64)
        columns = np.load(folder / _COLUMNS)
        self._numbers[columns] = np.arange(len(columns))
        self._string = seismic.get_seismic_string()
        kind = seismic.SeismicIndex if len(columns) < _SMALL else seismic.SeismicIndexLV
        try:
            self._index = kind.load(str(folder / _FILE))
        except OSError as error:
            raise ValueError(
                f"{folder / _FILE} cannot be read, perhaps because another version of Seismic wrote it: "
                f"{str(error)[:200]}. Index.load(path, engine='exact') searches without it; build the index again."
            ) from error

    def search(
        self,
        queries: sparse.csr_array,
        k: int,
        allowed: np.ndarray | None = None,
        effort: Effort | None = None,
    ) -> Found:
        """The best k documents of each query among Seismic's candidates, as `ExactSearch.search`.

        Args:
            queries: [Q, V_e + V_s].
            k: At least 1.
            allowed: [documents], false for those that may not be found; Seismic is asked for as many more candidates.
            effort: Another than the index's own.
        """
        count = _candidates(k, self.rows.split)
        if allowed is not None:
            count = min(len(self.rows), int(2 * count * len(allowed) / max(1, np.count_nonzero(allowed))))
        scores = np.full((queries.shape[0], k), -np.inf, dtype=np.float32)
        places = np.zeros((queries.shape[0], k), dtype=np.int64)
        for number, documents in enumerate(self.candidates(queries, count, effort or self.effort)):
            if allowed is not None:
                documents = documents[allowed[documents]]
            best, at = best_of(self.rows, queries[[number]], documents, k)
            scores[number, : best.shape[1]], places[number, : best.shape[1]] = best[0], at[0]
        return scores, places

    def candidates(self, queries: sparse.csr_array, count: int, effort: Effort) -> list[np.ndarray]:
        """Documents that Seismic finds for each query, ascending."""
        found = [np.zeros(0, dtype=np.int64)] * queries.shape[0]
        asked, components, values = [], [], []
        for number in range(queries.shape[0]):
            row = queries[[number]]
            known = self._numbers[row.indices]
            if (known >= 0).any():
                asked.append(number)
                components.append(known[known >= 0].astype(str).astype(self._string))
                values.append(row.data[known >= 0].astype(np.float32))
        if not asked:
            return found
        # results come in any order, and an empty one does not say whose it is
        for result in self._index.batch_search(
            np.asarray(asked).astype(str).astype(self._string),
            components,
            values,
            k=count,
            query_cut=effort.query_cut,
            heap_factor=effort.heap_factor,
        ):
            if result:
                rows = np.asarray([int(row) for _, _, row in result], dtype=np.int64)
                found[int(result[0][0])] = np.unique(self.rows.documents_of(rows))
        return found


def _candidates(k: int, split: bool) -> int:
    """Seismic's own scores are coarse, and several passages may be of one document."""
    return 4 * k + 20 if split else k + max(10, k // 2)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Seismic writes to the process's standard output, which may be somebody's data."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(nowhere)
        os.close(kept)


def _library() -> Any:
    try:
        import seismic
    except ImportError as error:
        raise ImportError(
            'Seismic needs an optional library: pip install "milco-hf[index]". engine="exact" does without it.'
        ) from error
    return seismic


__all__ = ["EFFORTS", "Effort", "SeismicSearch", "build_seismic", "installed"]
