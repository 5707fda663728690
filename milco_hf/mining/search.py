"""The best passages of each query by inner product, in blocks of queries and passages, ties by the passage's number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse
from tqdm.auto import tqdm

from milco_hf.mining.encoders import Vectors

SCORES_AT_A_TIME = 1 << 25


def top_passages(
    queries: Sequence[Vectors], passages: Sequence[Vectors], k: int, scores_at_a_time: int = SCORES_AT_A_TIME
) -> tuple[np.ndarray, np.ndarray]:
    """The k best passages of each query.

    Needs the memory of the vectors, of the results, and of `scores_at_a_time` scores. Neither the blocks that the
    vectors come in nor their sizes change the result.

    Args:
        queries: blocks of vectors, arrays [n, dimensions] or CSR matrices.
        passages: blocks of the same kind.
        k: how many; fewer where there are fewer passages.
        scores_at_a_time: how many scores are held at a time.

    Returns:
        Scores, fp32 [queries, k], best first; and the passages' numbers, int64 [queries, k]. Equal scores are in the
        order of the numbers.
    """
    sizes = [block.shape[0] for block in passages]
    k = min(k, sum(sizes))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    # queries are CSR rows, passages CSR columns: (Q · Dᵀ) then walks only the dimensions that a query has
    columns = [block.T.tocsr() if scipy.sparse.issparse(block) else block.T for block in passages]
    step = max(1, scores_at_a_time // max(1, max(sizes, default=1)))
    all_scores, all_numbers = [], []
    with tqdm(total=sum(block.shape[0] for block in queries), desc="searching", unit="query") as bar:
        for block in queries:
            for start in range(0, block.shape[0], step):
                part = block[start : start + step]
                scores = np.empty((part.shape[0], 0), np.float32)
                numbers = np.empty((part.shape[0], 0), np.int64)
                for transposed, first in zip(columns, starts):
                    product = part @ transposed
                    dense = product.toarray() if scipy.sparse.issparse(product) else product
                    found, where = _best(dense, k)
                    scores, numbers = _merge(scores, numbers, found, where + first, k)
                all_scores.append(scores)
                all_numbers.append(numbers)
                bar.update(part.shape[0])
    if not all_scores:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
    return np.concatenate(all_scores), np.concatenate(all_numbers)


def _best(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best columns of each row, [n, min(k, columns)], by score and then by number."""
    k = min(k, scores.shape[1])
    numbers = np.empty((len(scores), k), np.int64)
    if k == scores.shape[1]:
        numbers[:] = np.argsort(-scores, axis=1, kind="stable")
    else:
        least = np.partition(scores, -k, axis=1)[:, -k]
        for row, (values, bound) in enumerate(zip(scores, least)):
            # all that reach the k-th score, so that ties are cut by number and not by the partition's whim
            reached = np.flatnonzero(values >= bound)
            numbers[row] = reached[np.argsort(-values[reached], kind="stable")[:k]]
    return np.take_along_axis(scores, numbers, axis=1), numbers


def _merge(
    scores: np.ndarray, numbers: np.ndarray, more_scores: np.ndarray, more_numbers: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Join two lists of best passages; the second one's numbers are all higher, so a stable sort keeps ties right."""
    scores, numbers = np.hstack([scores, more_scores]), np.hstack([numbers, more_numbers])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(numbers, order, axis=1)
