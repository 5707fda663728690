"""Negatives that the teacher takes for answers."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np

from milco_hf.training.retrieval.dataset import Ragged, RetrievalDataset

logger = logging.getLogger(__name__)

Rule = Literal["ratio", "margin"]
Action = Literal["drop", "promote"]


def treat_false_negatives(dataset: RetrievalDataset, threshold: float, rule: Rule, action: Action) -> int:
    """Drop or promote negatives whose teacher score is too near to the positive's, in place.

    With b the highest score among a row's positives, a negative of score s counts as false where s > threshold · b
    (`ratio`, as NV-Retriever does with 0.95) or s > b − threshold (`margin`). Rows without scores stay as they are.

    Args:
        dataset: changed in place.
        threshold: see above.
        rule: ratio or margin.
        action: drop them, or make them positives of their row.

    Returns:
        How many there were.

    Raises:
        ValueError: a ratio of a score that is not positive; the message names the row.
    """
    negatives, scores = dataset.negatives, dataset.negative_scores
    best = np.full(len(dataset), -np.inf)
    np.maximum.at(best, dataset.positive_scores.rows, dataset.positive_scores.values)
    if rule == "ratio":
        wrong = np.flatnonzero((best <= 0) & dataset.has_scores)
        if len(wrong):
            raise ValueError(
                f"false_negative_rule: ratio needs positive scores, but the positive of {dataset.place(int(wrong[0]))} "
                f"scores {best[wrong[0]]:.3f}. Use false_negative_rule: margin."
            )
        limits = threshold * best
    else:
        limits = best - threshold
    false = scores.values > limits[negatives.rows]  # NaN is above nothing
    # dropped ones may still be in a batch, for other questions, and are no negatives of this one there either
    answers = dataset.positives.joined(negatives.select(false))
    dataset.answers = dataset.shared(answers)
    if action == "promote":
        dataset.positives = answers
        dataset.positive_scores = dataset.positive_scores.joined(scores.select(false))
    dataset.negatives, dataset.negative_scores = negatives.select(~false), scores.select(~false)
    found = int(false.sum())
    logger.info(
        "false negatives: %d of %d negatives (%.2f %%) %s, in %d rows",
        found,
        len(false),
        100 * found / max(1, len(false)),
        "dropped" if action == "drop" else "promoted to positives",
        len(np.unique(Ragged(negatives.offsets, false).rows[false])),
    )
    return found
