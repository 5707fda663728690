"""Names of dimensions for people: the English terms apart from the echoed source tokens."""

from __future__ import annotations

from collections.abc import Iterable

from milco_hf.vocabulary import PIVOT_PREFIX


def split_views(pairs: Iterable[tuple[str, float]]) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """Split what `SparseEncoder.decode` gives for one text into its two views.

    Args:
        pairs: (name, weight) pairs, heaviest first.

    Returns:
        The English terms without their prefix, and the source tokens, each in the order given.

    Example:
        >>> split_views([("en: book", 2.1), ("▁книгу", 0.7)])
        ([('book', 2.1)], [('▁книгу', 0.7)])
    """
    english: list[tuple[str, float]] = []
    source: list[tuple[str, float]] = []
    for name, weight in pairs:
        if name.startswith(PIVOT_PREFIX):
            english.append((name.removeprefix(PIVOT_PREFIX), weight))
        else:
            source.append((name, weight))
    return english, source
