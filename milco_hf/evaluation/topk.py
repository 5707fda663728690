"""The best k documents of each query, exactly, a block of documents after the other."""

from __future__ import annotations

import numpy as np

Ranking = list[list[tuple[str, float]]]


class Best:
    """The best k so far of every query.

    Of equal scores the document whose id comes later in the order of its characters wins. This is how trec_eval ranks a
    run file with ties, so what is cut off here is what trec_eval would have ranked last.

    Args:
        queries: How many queries.
        k: How many documents of each are kept.
        matched_only: Drop documents whose score is not above zero (nothing in them matched the query).
    """

    def __init__(self, queries: int, k: int, matched_only: bool) -> None:
        if k < 1:
            raise ValueError(f"k has to be at least 1, got {k}.")
        self.k = k
        self.matched_only = matched_only
        self.scores = np.full((queries, 0), -np.inf, dtype=np.float32)
        self.places = np.zeros((queries, 0), dtype=np.int64)

    def add(self, first_query: int, scores: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best of a block.

        Args:
            first_query: The query of the block's first row.
            scores: [rows, documents].
            places: [documents]: where each document stands when ids are sorted backwards; the smaller wins a tie.

        Returns:
            (scores, places), both [rows, at most k].

        Raises:
            ValueError: A score is no number.
        """
        if np.isnan(scores).any():
            row = first_query + int(np.isnan(scores).any(axis=1).argmax())
            raise ValueError(f"Query number {row} has a score that is no number (nan); check the model's vectors.")
        scores = scores.astype(np.float32, copy=True)
        if self.matched_only:
            scores[scores <= 0] = -np.inf
        order = np.argsort(places, kind="stable")
        chosen = _largest(scores[:, order], self.k)
        return np.take_along_axis(scores[:, order], chosen, axis=1), places[order][chosen]

    def merge(self, blocks: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """Take in the best of every query over some more documents: blocks of rows, in the order of the queries."""
        scores = np.concatenate([self.scores, np.concatenate([block[0] for block in blocks])], axis=1)
        places = np.concatenate([self.places, np.concatenate([block[1] for block in blocks])], axis=1)
        order = np.lexsort((places, -scores), axis=1)[:, : self.k]
        self.scores = np.take_along_axis(scores, order, axis=1)
        self.places = np.take_along_axis(places, order, axis=1)

    def ranking(self, ids: list[str]) -> Ranking:
        """(id, score) of each query, best first; `ids` are all ids sorted backwards."""
        return [
            [(ids[place], score) for score, place in zip(scores, places) if score > -np.inf]
            for scores, places in zip(self.scores.tolist(), self.places.tolist())
        ]


def _largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Columns of each row's k largest scores, best first; of equal ones the smaller column first."""
    count = scores.shape[1]
    if count <= k:
        return np.argsort(-scores, axis=1, kind="stable")
    chosen = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    values = np.take_along_axis(scores, chosen, axis=1)
    chosen = np.take_along_axis(chosen, np.lexsort((chosen, -values), axis=1), axis=1)
    # argpartition takes any of the scores that are equal to the k-th; rows with more of them than fit are done again
    tied = np.flatnonzero((scores >= values.min(axis=1, keepdims=True)).sum(axis=1) > k)
    for row in tied:
        chosen[row] = np.argsort(-scores[row], kind="stable")[:k]
    return chosen


__all__ = ["Best", "Ranking"]
