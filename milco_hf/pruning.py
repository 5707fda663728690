"""Fewer dimensions a row: mass pruning (the paper's, Figure 5) and top-k, over whole CSR matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

# Rows are ranked in blocks of about this many entries, so that memory stays bounded whatever the matrix.
_BLOCK_ENTRIES = 1 << 22


def mass(matrix: sparse.csr_array, share: float) -> sparse.csr_array:
    """Keeps each row's heaviest entries until they hold a share of the row's mass.

    Of a row's entries, heaviest first (of equal ones the smaller column first), those are kept whose predecessors
    hold less than `share` of the sum of the row: the entry that crosses the share is the last one kept.

    Args:
        matrix: [N, V], no negative weights.
        share: Above 0, at most 1; 1 keeps every positive entry.

    Returns:
        A new matrix [N, V] with sorted columns.

    Raises:
        ValueError: The share is out of range, or a weight is negative.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share has to be above 0 and at most 1, got {share}.")
    if matrix.nnz and matrix.data.min() < 0:
        raise ValueError(f"Mass pruning needs weights that are not negative, got {matrix.data.min()}.")

    def keep(weights: np.ndarray) -> np.ndarray:
        total = np.cumsum(weights, axis=1, dtype=np.float64)
        before = np.zeros_like(total)
        before[:, 1:] = total[:, :-1]
        if share == 1:
            return weights > 0
        return (weights > 0) & (before < share * total[:, -1:])

    return _keep(matrix, keep)


def top_k(matrix: sparse.csr_array, k: int) -> sparse.csr_array:
    """Keeps each row's k heaviest entries, of equal ones those of the smaller columns.

    Args:
        matrix: [N, V].
        k: At least 1.

    Returns:
        A new matrix [N, V] with sorted columns.

    Raises:
        ValueError: k is below 1.
    """
    if k < 1:
        raise ValueError(f"k has to be at least 1, got {k}.")

    def keep(weights: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.arange(weights.shape[1]) < k, weights.shape)

    return _keep(matrix, keep)


@dataclass(frozen=True)
class Pruning:
    """One way to prune, as `--prune` writes it: `mass:0.9` or `top_k:30`."""

    method: str
    amount: float

    @classmethod
    def parse(cls, text: str) -> Pruning:
        """Reads METHOD:AMOUNT.

        Raises:
            ValueError: Neither form fits.
        """
        method, _, amount = text.partition(":")
        try:
            if method == "mass" and 0 < float(amount) <= 1:
                return cls(method, float(amount))
            if method == "top_k" and int(amount) >= 1:
                return cls(method, int(amount))
        except ValueError:
            pass
        raise ValueError(
            f"Pruning reads mass:SHARE (above 0, at most 1) or top_k:K (at least 1), such as mass:0.9; got {text!r}."
        )

    def __call__(self, matrix: sparse.csr_array) -> sparse.csr_array:
        """The pruned matrix."""
        return mass(matrix, self.amount) if self.method == "mass" else top_k(matrix, int(self.amount))

    def __str__(self) -> str:
        return f"{self.method}:{self.amount:g}"


def _keep(matrix: sparse.csr_array, rule: Callable[[np.ndarray], np.ndarray]) -> sparse.csr_array:
    """Entries that a rule keeps; it sees [rows, longest row] weights, heaviest first, padded with zeros at the end."""
    matrix = sparse.csr_array(matrix, copy=not matrix.has_canonical_format)
    matrix.sum_duplicates()  # and sorts each row by column, which the ties need
    kept = np.zeros(matrix.nnz, dtype=bool)
    lengths = np.diff(matrix.indptr)
    for first, last in _blocks(lengths):
        start, end = matrix.indptr[first], matrix.indptr[last]
        rows = np.repeat(np.arange(last - first), lengths[first:last])
        weights = matrix.data[start:end]
        order = np.lexsort((-weights, rows))  # stable, so that columns break ties
        places = np.arange(end - start) - (matrix.indptr[first:last] - start)[rows]
        padded = np.zeros((last - first, int(lengths[first:last].max(initial=0))), dtype=weights.dtype)
        padded[rows, places] = weights[order]
        kept[start + order] = rule(padded)[rows, places]
    counts = np.zeros(matrix.shape[0] + 1, dtype=matrix.indptr.dtype)
    np.cumsum(np.bincount(np.repeat(np.arange(len(lengths)), lengths)[kept], minlength=len(lengths)), out=counts[1:])
    return sparse.csr_array((matrix.data[kept], matrix.indices[kept], counts), shape=matrix.shape)


def _blocks(lengths: np.ndarray) -> list[tuple[int, int]]:
    """(first, last) rows of each block, whose padded size stays near `_BLOCK_ENTRIES`."""
    blocks, first, longest = [], 0, 0
    for row, length in enumerate(lengths.tolist()):
        longest = max(longest, length)
        if row > first and longest * (row + 1 - first) > _BLOCK_ENTRIES:
            blocks.append((first, row))
            first, longest = row, length
    if first < len(lengths):
        blocks.append((first, len(lengths)))
    return blocks


__all__ = ["Pruning", "mass", "top_k"]
