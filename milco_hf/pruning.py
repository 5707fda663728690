"""Fewer dimensions a row, over whole CSR matrices: mass (the paper's, Figure 5), top-k, max-ratio and threshold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from milco_hf.modeling import view_pruning

if TYPE_CHECKING:
    from torch import Tensor

VIEWS = view_pruning.VIEWS
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
    _check_share("share", share)
    _check_weights("Mass", matrix.data.min() if matrix.nnz else 0)

    def keep(weights: np.ndarray) -> np.ndarray:
        total = np.cumsum(weights, axis=1, dtype=np.float64)
        before = np.zeros_like(total)
        before[:, 1:] = total[:, :-1]
        if share == 1:
            return weights > 0
        return (weights > 0) & (before < share * total[:, -1:])

    return _ranked(matrix, keep)


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

    return _ranked(matrix, keep)


def max_ratio(matrix: sparse.csr_array, ratio: float) -> sparse.csr_array:
    """Keeps the entries of at least a ratio of their row's largest; equal weights stay or go together.

    Args:
        matrix: [N, V], no negative weights.
        ratio: Above 0, at most 1; 1 keeps the largest entry, and all that equal it.

    Returns:
        A new matrix [N, V] with sorted columns.

    Raises:
        ValueError: The ratio is out of range, or a weight is negative.
    """
    _check_share("ratio", ratio)
    _check_weights("Max-ratio", matrix.data.min() if matrix.nnz else 0)

    def keep(weights: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
        wide = weights.astype(np.float64)
        largest = np.zeros(count)
        np.maximum.at(largest, rows, wide)
        return (wide > 0) & (wide >= ratio * largest[rows])

    return _each(matrix, keep)


def threshold(matrix: sparse.csr_array, weight: float) -> sparse.csr_array:
    """Keeps the entries of at least a weight.

    Args:
        matrix: [N, V].
        weight: Above 0; compared in the matrix's dtype, so that 0.7 keeps an fp32 entry of 0.7.

    Returns:
        A new matrix [N, V] with sorted columns.

    Raises:
        ValueError: The weight is not above 0, or not finite.
    """
    _check_weight(weight)
    return _each(matrix, lambda weights, rows, count: weights >= weights.dtype.type(weight))


@dataclass(frozen=True)
class Pruning:
    """One way to prune, as `--prune` writes it: `mass:0.9`, `top_k:30`, `max_ratio:0.1` or `threshold:0.2`."""

    method: str
    amount: float

    @classmethod
    def parse(cls, text: str) -> Pruning:
        """Reads METHOD:AMOUNT.

        Raises:
            ValueError: No form fits.
        """
        return cls(*view_pruning.parse_form(text))

    def __call__(self, matrix: sparse.csr_array) -> sparse.csr_array:
        """The pruned matrix."""
        if self.method == "top_k":
            return top_k(matrix, int(self.amount))
        return {"mass": mass, "max_ratio": max_ratio, "threshold": threshold}[self.method](matrix, self.amount)

    def __str__(self) -> str:
        return f"{self.method}:{self.amount if isinstance(self.amount, int) else format(self.amount, '.12g')}"


Prune = str | Pruning | Mapping[str, "str | Pruning"] | Iterable[str] | None


def parse(prune: Prune) -> dict[str, Pruning]:
    """Reads what `--prune`, `encode_corpus`, `Index` and a checkpoint's configuration take.

    Args:
        prune: None or "none" for no pruning; "mass:0.9" for the whole vector; of the views by themselves
            {"english": "mass:0.9", "source": "top_k:16"}, "english=mass:0.9 source=top_k:16", or these two words in a
            list. A dictionary whose only key is "both" is the whole vector too.

    Returns:
        The pruning of "both", or of "english" and "source"; empty for none.

    Raises:
        ValueError: A form or a view is unknown, a view comes twice, or "both" stands beside another.
    """
    if prune is None:
        return {}
    if isinstance(prune, Pruning):
        return {"both": prune}
    if not isinstance(prune, Mapping):
        prune = _views_of(prune)
    if unknown := set(prune) - set(VIEWS):
        raise ValueError(f"prune names the views {', '.join(VIEWS)}, got {', '.join(map(repr, sorted(unknown)))}.")
    if "both" in prune and len(prune) > 1:
        raise ValueError('prune takes "both", or "english" and "source", not all of them.')
    return {view: form if isinstance(form, Pruning) else Pruning.parse(form) for view, form in prune.items()}


def prune(matrix: sparse.csr_array, how: Prune, terms: int) -> sparse.csr_array:
    """Prunes MILCO vectors: the whole, or each view by itself.

    Args:
        matrix: [N, V_e + V_s].
        how: See `parse`.
        terms: V_e, where the source view begins.

    Returns:
        A matrix of the same shape; the same one where nothing is pruned.

    Raises:
        ValueError: See `parse` and the methods.
    """
    forms = parse(how)
    if not forms:
        return matrix
    if "both" in forms:
        return forms["both"](matrix)
    if not 0 <= terms <= matrix.shape[1]:
        raise ValueError(f"terms has to be between 0 and the {matrix.shape[1]} columns there are, got {terms}.")
    parts = [("english", matrix[:, :terms]), ("source", matrix[:, terms:])]
    pruned = [forms[view](part) if view in forms else part for view, part in parts]
    return sparse.csr_array(sparse.hstack(pruned, format="csr", dtype=matrix.dtype))


def default_pruning(model: Any, kind: str, max_active_dims: bool = True) -> dict[str, Pruning]:
    """How a model says that its vectors are pruned where nobody says otherwise.

    Args:
        model: A SparseEncoder, or a MilcoForSparseEncoding.
        kind: "query" or "document".
        max_active_dims: Whether a SparseEncoder's `max_active_dims` counts too.

    Returns:
        A SparseEncoder's `max_active_dims` where it is set, else what `config.query_pruning` or
        `config.document_pruning` says: what is asked for wins over what the checkpoint says.
    """
    most = getattr(model, "max_active_dims", None)
    if most:
        return parse(f"top_k:{most}") if max_active_dims else {}
    config = getattr(getattr(model, "transformers_model", model), "config", None)
    return parse(getattr(config, f"{kind}_pruning", None))


@contextmanager
def unpruned(model: Any) -> Iterator[None]:
    """A model without the pruning that its configuration asks for, as long as the context lasts."""
    config = getattr(getattr(model, "transformers_model", model), "config", None)
    names = [name for name in ("query_pruning", "document_pruning") if getattr(config, name, None) is not None]
    before = {name: getattr(config, name) for name in names}
    for name in names:
        setattr(config, name, None)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def prune_entries(
    keys: Tensor, values: Tensor, rows: int, width: int, pruning: Pruning | None
) -> tuple[Tensor, Tensor]:
    """What the methods above keep, found on the device that the entries are on.

    Args:
        keys: [entries], row × width + column, ascending.
        values: [entries], their weights.
        rows: How many rows there are.
        width: Columns of a row.
        pruning: The method; None keeps all.

    Returns:
        The keys and values that are kept, in the same order.

    Raises:
        ValueError: A weight is negative, and mass and max-ratio know none.
    """
    if pruning is None:
        return keys, values
    return view_pruning.prune_entries(keys, values, rows, width, pruning.method, pruning.amount)


def _check_share(name: str, share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"{name} has to be above 0 and at most 1, got {share}.")


def _check_weight(weight: float) -> None:
    if not 0 < weight < float("inf"):
        raise ValueError(f"weight has to be above 0 and finite, got {weight}.")


def _check_weights(method: str, smallest: float) -> None:
    if smallest < 0:
        raise ValueError(f"{method} pruning needs weights that are not negative, got {smallest}.")


def _views_of(prune: str | Iterable[str]) -> dict[str, str]:
    """`mass:0.9` or `english=mass:0.9 source=top_k:16`, in one string or in several, as a dictionary."""
    words = (prune if isinstance(prune, str) else " ".join(prune)).replace(",", " ").split()
    if words == ["none"]:
        return {}
    if len(words) == 1 and "=" not in words[0]:
        return {"both": words[0]}
    pairs = [word.partition("=") for word in words]
    if not words or any(not equals for _, equals, _ in pairs) or len({view for view, _, _ in pairs}) < len(pairs):
        raise ValueError(
            f"Pruning takes one HOW, such as mass:0.9, or english=HOW and source=HOW, or none; got {' '.join(words)!r}."
        )
    return {view: form for view, _, form in pairs}


def _canonical(matrix: sparse.csr_array) -> sparse.csr_array:
    """The matrix with each row sorted by column, which ties need; the one that was given stays as it is."""
    matrix = sparse.csr_array(matrix, copy=not matrix.has_canonical_format)
    matrix.sum_duplicates()
    return matrix


def _each(matrix: sparse.csr_array, rule: Callable[[np.ndarray, np.ndarray, int], np.ndarray]) -> sparse.csr_array:
    """Entries that a rule keeps; it sees a block's weights, the row of each, and how many rows there are."""
    matrix = _canonical(matrix)
    kept = np.zeros(matrix.nnz, dtype=bool)
    lengths = np.diff(matrix.indptr)
    # rows that begin within the same stretch of entries make a block
    _, firsts = np.unique(matrix.indptr[:-1] // _BLOCK_ENTRIES, return_index=True)
    for first, last in zip(firsts, [*firsts[1:], len(lengths)]):
        start, end = matrix.indptr[first], matrix.indptr[last]
        rows = np.repeat(np.arange(last - first), lengths[first:last])
        kept[start:end] = rule(matrix.data[start:end], rows, int(last - first))
    return _taken(matrix, kept, lengths)


def _ranked(matrix: sparse.csr_array, rule: Callable[[np.ndarray], np.ndarray]) -> sparse.csr_array:
    """Entries that a rule keeps; it sees [rows, longest row] weights, heaviest first, padded with zeros at the end."""
    matrix = _canonical(matrix)
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
    return _taken(matrix, kept, lengths)


def _taken(matrix: sparse.csr_array, kept: np.ndarray, lengths: np.ndarray) -> sparse.csr_array:
    """The entries where `kept` is true."""
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


__all__ = [
    "VIEWS",
    "Prune",
    "Pruning",
    "default_pruning",
    "mass",
    "max_ratio",
    "parse",
    "prune",
    "prune_entries",
    "threshold",
    "top_k",
    "unpruned",
]
