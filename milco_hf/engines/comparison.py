"""How far an engine's rankings agree with the products of the vectors."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import sparse

from milco_hf.encoding.folder import VectorFolder
from milco_hf.engines.base import Engine, opened
from milco_hf.engines.batches import checked_rows

# Of two scores, what counts as equal: engines add fp32 products in their own order.
_TOLERANCE = 1e-4


class Agreement(NamedTuple):
    """What `agreement` found.

    Attributes:
        queries: How many were asked; empty ones are not.
        k: Documents of each.
        recall: The share of the exact best k that the engine found; documents that tie with the last of them count too.
        error: The largest relative difference of a score.
    """

    queries: int
    k: int
    recall: float
    error: float

    def __str__(self) -> str:
        return (
            f"top {self.k} of {self.queries} queries: {self.recall:.4f} of the exact results found, scores within "
            f"{self.error:.1e}"
        )


def agreement(
    engine: Engine,
    vectors: VectorFolder | str | Path,
    queries: sparse.csr_array | None = None,
    *,
    k: int = 10,
    sample: int = 50,
    seed: int = 0,
) -> Agreement:
    """Searches an engine, and the vectors themselves, and compares.

    Args:
        engine: A collection that holds exactly the documents of `vectors`.
        vectors: What was uploaded; read shard by shard.
        queries: [Q, V_e + V_s]; by default some of the documents themselves.
        k: Documents of each query.
        sample: How many documents are taken as queries.
        seed: Of that choice.

    Returns:
        Recall and the largest relative difference of scores.
    """
    from milco_hf.evaluation.topk import Best  # with it comes the whole of evaluation, which uploads do without

    folder = opened(vectors)
    if queries is None:
        queries = _sampled(folder, sample, seed)
    queries = checked_rows(sparse.csr_array(queries), lambda row: f"query number {row}")
    queries = queries[np.flatnonzero(np.diff(queries.indptr))]
    found = engine.search(queries, k)
    wanted = [{name for name, _ in ranking} for ranking in found]
    exact: list[dict[str, float]] = [{} for _ in wanted]
    best = Best(queries.shape[0], k, matched_only=True)
    first = 0
    for shard in folder.shards():
        scores = (queries @ shard.matrix.T).toarray()
        places = np.arange(first, first + scores.shape[1])
        best.merge([best.add(0, scores, places)])
        names = shard.ids or [str(place) for place in places]
        for column, name in enumerate(names):
            for row, names_wanted in enumerate(wanted):
                if name in names_wanted:
                    exact[row][name] = float(scores[row, column])
        first += scores.shape[1]
    hits = total = 0
    error = 0.0
    for ranking, scores, last in zip(found, exact, best.scores):
        there = last[last > -np.inf]
        total += len(there)
        enough = there[-1] * (1 - _TOLERANCE) if len(there) else np.inf
        hits += min(len(there), sum(scores.get(name, 0.0) >= enough for name, _ in ranking))
        for name, score in ranking:
            if name in scores:
                error = max(error, abs(score - scores[name]) / scores[name])
    return Agreement(len(found), k, hits / total if total else 1.0, error)


def _sampled(folder: VectorFolder, sample: int, seed: int) -> sparse.csr_array:
    """Some rows, as they come in the folder."""
    if sample < 1:
        raise ValueError(f"sample has to be at least 1, got {sample}.")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(folder))[:sample])
    parts, first = [], 0
    for shard in folder.shards():
        last = first + shard.matrix.shape[0]
        parts.append(shard.matrix[chosen[(chosen >= first) & (chosen < last)] - first])
        first = last
    return sparse.csr_array(sparse.vstack(parts, format="csr"))


__all__ = ["Agreement", "agreement"]
