"""Which of a question's negatives a step sees."""

from __future__ import annotations

from typing import Literal

import numpy as np

Method = Literal["random", "top", "stratified"]
METHODS = ("random", "top", "stratified")


def sample_negatives(
    scores: np.ndarray, number: int, method: Method = "random", rng: np.random.Generator | None = None
) -> np.ndarray:
    """Choose some negatives of one question.

    - `random`: all alike.
    - `top`: those that the teacher scores highest, the hardest.
    - `stratified`: k scores are aimed at, evenly spaced over the range of the teacher's scores, from the lowest to the
      highest, both included (for k = 1 the highest): s_min + (s_max − s_min) · i / (k − 1), i = 0 … k − 1. From the
      highest aim to the lowest, each takes the negative of the nearest score that is still free. So the choice covers
      the whole range however many negatives crowd at one end of it ("Beyond Hard Negatives", 2026).

    Equal scores are chosen among at random.

    Args:
        scores: the teacher's score of each negative, [n]; NaN where it gave none, which only `random` takes.
        number: how many to choose; all n where there are fewer.
        method: see above.
        rng: where chance comes from; a fixed one by default.

    Returns:
        Places of the chosen ones, [min(number, n)]; the highest score first for `top` and `stratified`.

    Raises:
        ValueError: an unknown method, or scores are missing.
    """
    if method not in METHODS:
        raise ValueError(f"negative_sampling must be one of {', '.join(METHODS)}, got {method!r}.")
    rng = rng if rng is not None else np.random.default_rng(0)
    order = rng.permutation(len(scores))
    if method == "random":
        return order[:number]
    if np.isnan(scores).any():
        raise ValueError(f"negative_sampling: {method} needs a teacher's scores; use random, or score the data.")
    order = order[np.argsort(-scores[order], kind="stable")]  # highest first, ties at random
    if method == "top" or number >= len(order):
        return order[:number]
    return order[_spread(scores[order], number)]


def _spread(descending: np.ndarray, number: int) -> list[int]:
    """Places of the scores nearest to evenly spaced ones, none twice."""
    aims = np.linspace(descending[0], descending[-1], number) if number != 1 else descending[:1]
    free = np.ones(len(descending), dtype=bool)
    chosen = []
    for aim in aims:
        distances = np.where(free, np.abs(descending - aim), np.inf)
        chosen.append(int(distances.argmin()))
        free[chosen[-1]] = False
    return sorted(chosen)
