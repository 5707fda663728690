"""Exact search: inner products of CSR matrices, a block of queries and of documents at a time."""

from __future__ import annotations

import threading

import numpy as np
from scipy import sparse

from milco_hf.evaluation.topk import Best
from milco_hf.index.vectors import Rows

_ROWS = 16384
_QUERIES = 64
Found = tuple[np.ndarray, np.ndarray]


class ExactSearch:
    """Scores every document; what it transposes it keeps, 8 bytes an entry.

    Of equal scores the document that came first wins, and one that shares no dimension with a query is not found.

    Args:
        rows: The vectors.
        first: The first document that is searched; those before it are somebody else's.
    """

    def __init__(self, rows: Rows, first: int = 0) -> None:
        self.rows = rows
        self._spans = self._blocks(first)
        self._kept: dict[int, sparse.csr_array] = {}
        self._lock = threading.Lock()

    def search(self, queries: sparse.csr_array, k: int, allowed: np.ndarray | None = None) -> Found:
        """The best k documents of each query.

        Args:
            queries: [Q, V_e + V_s].
            k: At least 1.
            allowed: [documents], false for those that may not be found; None allows all.

        Returns:
            Scores and documents, both [Q, at most k]; a score of −inf says that there are no more.
        """
        best = Best(queries.shape[0], k, matched_only=True)
        for number, (first, last) in enumerate(self._spans):
            if allowed is not None and not allowed[first:last].any():
                continue
            places = np.arange(first, last)
            blocks = []
            for start in range(0, queries.shape[0], _QUERIES):
                scores = (queries[start : start + _QUERIES] @ self._across(number)).toarray()
                if self.rows.starts is not None:
                    scores = np.maximum.reduceat(scores, self.rows.starts[first:last] - self.rows.starts[first], axis=1)
                if allowed is not None:
                    scores = np.where(allowed[first:last], scores, 0)
                blocks.append(best.add(start, scores, places))
            if blocks:
                best.merge(blocks)
        return best.scores, best.places

    def _blocks(self, first: int) -> list[tuple[int, int]]:
        """(first, last) documents of each block; a document's passages are never in two."""
        spans = []
        while first < self.rows.documents:
            row = self.rows.first_row(first) + _ROWS
            last = self.rows.documents
            if row < len(self.rows):
                last = max(first + 1, int(self.rows.documents_of(np.asarray([row]))[0]))
            spans.append((first, last))
            first = last
        return spans

    def _across(self, number: int) -> sparse.csr_array:
        """A block's vectors, transposed, [V_e + V_s, rows]."""
        with self._lock:
            if number not in self._kept:
                first, last = self._spans[number]
                block = self.rows.slice(self.rows.first_row(first), self.rows.first_row(last))
                self._kept[number] = sparse.csr_array(block.T.tocsr())
            return self._kept[number]


def best_of(rows: Rows, queries: sparse.csr_array, documents: np.ndarray, k: int) -> Found:
    """The best k of a few documents, exactly, as `ExactSearch.search`.

    Args:
        rows: The vectors.
        queries: [Q, V_e + V_s].
        documents: Their numbers, ascending.
        k: At least 1.
    """
    best = Best(queries.shape[0], k, matched_only=True)
    if len(documents) and queries.shape[0]:
        numbers, begin = rows.rows_of(documents)
        across = rows.take(numbers).T.tocsr()
        blocks = []
        for start in range(0, queries.shape[0], _QUERIES):
            scores = (queries[start : start + _QUERIES] @ across).toarray()
            blocks.append(best.add(start, np.maximum.reduceat(scores, begin, axis=1), documents))
        best.merge(blocks)
    return best.scores, best.places


def best_row(rows: Rows, query: sparse.csr_array, document: int) -> int:
    """The row of a document's best passage; of equal ones the first."""
    first, last = rows.first_row(document), rows.first_row(document + 1)
    if last - first == 1:
        return first
    return first + int((query @ rows.slice(first, last).T.tocsr()).toarray()[0].argmax())


__all__ = ["ExactSearch", "Found", "best_of", "best_row"]
