"""An index as its manifest names it at one moment: documents, vectors and engines, opened to be searched."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from scipy import sparse

from milco_hf.index.documents import Document
from milco_hf.index.exact import ExactSearch, best_row
from milco_hf.index.filters import Filter, condition
from milco_hf.index.hits import Hit
from milco_hf.index.manifest import read_manifest
from milco_hf.index.searching import open_segments, search
from milco_hf.index.seismic import Effort, SeismicSearch

# Filters whose documents are remembered.
_MASKS = 8


class Snapshot:
    """What is found in it never changes; adding documents makes another.

    Args:
        path: The index.
        engine: "exact" leaves Seismic alone; "seismic" insists on it; None takes what there is.

    Raises:
        FileNotFoundError: There is no index.
        ValueError: It is of a later version, has no Seismic though it should, or Seismic's file cannot be read.
        ImportError: It needs Seismic, which is not installed.
    """

    def __init__(self, path: Path, engine: str | None) -> None:
        self.manifest = read_manifest(path)
        segments = [path / segment["folder"] for segment in self.manifest["segments"]]
        self.rows, self.stores = open_segments(segments, sum(self.manifest["dimensions"].values()))
        self.firsts = np.cumsum([0, *map(len, self.stores)])
        self.exact = ExactSearch(self.rows)
        self.seismic = None
        about = self.manifest["seismic"]
        if engine == "seismic" and not about:
            raise ValueError(f"{path} has no Seismic lists; build it again with engine='seismic' (--engine seismic).")
        if about and engine != "exact":
            rows = self.rows
            if about["documents"] < rows.documents:
                count = about["segments"]
                rows, _ = open_segments(segments[:count], rows.width, self.stores[:count])
            self.seismic = SeismicSearch(rows, path / about["folder"], Effort(**about["recall"]["effort"]))
        self._masks: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def search(
        self, queries: sparse.csr_array, k: int, language: str | Iterable[str] | None, filter: Filter | None
    ) -> list[list[Hit]]:
        """See `Index.search_vectors`."""
        allowed = self._allowed(language, filter)
        k = min(k, max(1, self.rows.documents))
        scores, places = search(self.rows, self.seismic, self.exact, queries, k, allowed)
        return [self._hits(queries[[row]], scores[row], places[row]) for row in range(queries.shape[0])]

    def documents(self, ids: Sequence[str]) -> dict[str, Document]:
        """Documents by id, as far as they are known."""
        found: dict[str, Document] = {}
        for store in self.stores:
            numbers = store.numbers(ids)
            found.update(zip(numbers, store.documents(list(numbers.values()))))
        return found

    def languages(self) -> dict[str, int]:
        """How many documents there are in each language, "und" where nobody said."""
        counts: dict[str, int] = {}
        for store in self.stores:
            for language, count in store.languages().items():
                name = "und" if language is None else language
                counts[name] = counts.get(name, 0) + count
        return dict(sorted(counts.items()))

    def close(self) -> None:
        """Lets go of the files."""
        for store in self.stores:
            store.close()

    def _allowed(self, language: str | Iterable[str] | None, filter: Filter | None) -> np.ndarray | None:
        """[documents], whether each fits; None where all do."""
        wanted, values = condition(language, filter)
        if not values and wanted == "1":
            return None
        key = json.dumps([wanted, values])
        with self._lock:
            if key not in self._masks:
                mask = np.zeros(self.rows.documents, dtype=bool)
                for store, first in zip(self.stores, self.firsts):
                    mask[first + store.matching(wanted, values)] = True
                while len(self._masks) >= _MASKS:
                    self._masks.pop(next(iter(self._masks)))
                self._masks[key] = mask
            return self._masks[key]

    def _hits(self, query: sparse.csr_array, scores: np.ndarray, places: np.ndarray) -> list[Hit]:
        """Documents and scores as hits."""
        kept = scores > -np.inf
        numbers = places[kept].tolist()
        found: dict[int, Document] = {}
        for store, first in zip(self.stores, self.firsts.tolist()):
            here = [number for number in numbers if first <= number < first + len(store)]
            found.update(zip(here, store.documents([number - first for number in here])))
        hits = []
        for number, score in zip(numbers, scores[kept].tolist()):
            document = found[number]
            passage = self.rows.passage(best_row(self.rows, query, number)) if self.rows.split else None
            hits.append(
                Hit(
                    id=str(document.id),
                    score=score,
                    text=document.text,
                    title=document.title,
                    language=document.language,
                    metadata=dict(document.metadata),
                    passage=passage,
                )
            )
        return hits


__all__ = ["Snapshot"]
