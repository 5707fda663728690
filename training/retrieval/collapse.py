"""Signs that representations collapse: nothing or everything active, the same top terms for unrelated texts."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from milco_hf.training.evaluation import TOO_MANY_ACTIVE

logger = logging.getLogger(__name__)

TOP_TERMS = 10
FEWEST_TEXTS = 4
TOO_MUCH_OVERLAP = 0.5


@torch.no_grad()
def top_term_overlap(pivot: Tensor, terms: int = TOP_TERMS) -> float:
    """Mean share of the strongest terms that two texts have in common, over all pairs of texts.

    Args:
        pivot: pivot views of texts that are mostly unrelated, [B, V_e].
        terms: strongest terms of each text that count; inactive ones never do.

    Returns:
        From 0 to 1; NaN for fewer than `FEWEST_TEXTS` texts.
    """
    if len(pivot) < FEWEST_TEXTS:
        return float("nan")
    terms = min(terms, pivot.shape[1])
    values, columns = pivot.topk(terms, dim=1)
    texts_with = torch.bincount(columns[values > 0], minlength=pivot.shape[1]).double()
    pairs = len(pivot) * (len(pivot) - 1)
    return float((texts_with * (texts_with - 1)).sum() / (pairs * terms))


def collapse_warnings(query_dims: float, document_dims: float, overlap: float, width: int, where: str) -> list[str]:
    """Warn of collapse; returns the warnings.

    Args:
        query_dims: active English terms of a question in the mean.
        document_dims: those of a passage.
        overlap: `top_term_overlap` of the passages, NaN where it was not measured.
        width: V_e.
        where: begins each message.
    """
    found = []
    for name, dims in (("questions", query_dims), ("passages", document_dims)):
        if dims <= 0:
            found.append(f"no English term of the {name} is active; lower the sparsity weights or learning_rate.")
        elif dims > TOO_MANY_ACTIVE * width:
            found.append(
                f"{dims:.0f} of {width} English terms of the {name} are active in the mean, over "
                f"{TOO_MANY_ACTIVE:.0%}; raise the sparsity weights, and check that the checkpoint was aligned."
            )
    if overlap > TOO_MUCH_OVERLAP:
        found.append(
            f"two passages of a batch have {overlap:.0%} of their {TOP_TERMS} strongest terms in common: "
            "representations collapse. Lower learning_rate, raise a temperature, or check the data for repetitions."
        )
    for message in found:
        logger.warning("%s: %s", where, message)
    return [f"{where}: {message}" for message in found]
