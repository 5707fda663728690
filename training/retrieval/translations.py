"""Losses on parallel text beside SCT's own (after MIMO, Jang et al. 2026, arXiv 2605.31171), and two measures of it.

Translations shall have one vector, that of their English side: SMSE pulls the other side's pooled logits to the English
side's, which get no gradient from it. And they shall be told apart from other texts, whatever the language of those:
InfoNCE, by cosine of pivot views, finds each text's translation among all other texts of both sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from milco_hf.modeling.alignment_loss import smse
from milco_hf.training.retrieval.processes import PADDING, gather_rows
from milco_hf.training.retrieval.ranking_losses import infonce

STEEPNESS = 2.0
"""t of the uniformity, as in Wang & Isola."""


@dataclass
class TranslationParts:
    """What P pairs give.

    Attributes:
        smse: of each pair, [P].
        infonce: of each text, the other sides' first, [2 P]; None where it is not asked for.
        distances: squared distance of each pair's pivot views at unit length, [P] (no gradient).
        closeness: e^(−2 ‖x − y‖²), summed over the ordered pairs of texts that are no translations of each other, and
            their number: two scalars (no gradient).
    """

    smse: Tensor
    infonce: Tensor | None
    distances: Tensor
    closeness: tuple[Tensor, Tensor]


def translation_parts(
    logits: Tensor, numbers: Tensor, extra_weight: float = 1.0, temperature: float | None = None
) -> TranslationParts:
    """SMSE, InfoNCE, alignment and uniformity of parallel texts.

    SMSE is each pair's own. InfoNCE's negatives are all texts of one micro-batch on all processes, English ones and
    others alike, but for those that translate the same English text, so it depends on the size of that.

    Args:
        logits: pooled logits before LogSat: those of P texts, then those of their English sides, [2 P, V_e].
        numbers: says which English text each pair has, [P], none negative: equal for pairs that share it.
        extra_weight: `smse`'s, for terms that the English side does not have.
        temperature: InfoNCE's; None leaves it out.
    """
    logits = logits.float()
    others, english = logits.chunk(2)
    losses = smse(others, english.detach(), extra_weight=extra_weight)
    unit = torch.nn.functional.normalize(torch.log1p(torch.relu(logits)), dim=1)  # [2P, V_e]
    both = torch.cat([numbers, numbers])
    contrast = None
    if temperature is not None:
        pool, start = gather_rows(unit)
        known = gather_rows(both.unsqueeze(1), PADDING)[0].squeeze(1)
        own = torch.arange(len(unit), device=unit.device)
        excluded = (both.unsqueeze(1) == known) | (known == PADDING)
        contrast = infonce(unit @ pool.T, (own + len(numbers)) % len(own) + start, excluded, temperature)
    with torch.no_grad():
        unit = unit.detach()
        distances = alignment(*unit.chunk(2))
        unrelated = both.unsqueeze(1) != both
        closeness = torch.where(unrelated, closenesses(unit), 0.0).sum(), unrelated.sum()
    return TranslationParts(losses, contrast, distances, closeness)


def alignment(left: Tensor, right: Tensor) -> Tensor:
    """‖x − y‖² of each pair of unit vectors, [B]; the mean is Wang & Isola's alignment (ICML 2020), 0 at best."""
    return (left - right).square().sum(dim=1)


def closenesses(unit: Tensor) -> Tensor:
    """e^(−2 ‖x − y‖²) of all pairs of unit vectors, [B, B]: the logarithm of the mean is Wang & Isola's uniformity.

    0 for vectors that are all alike, −4 for orthogonal ones; texts without any active term have distance 1 to others.
    """
    squares = unit.square().sum(dim=1)
    distances = (squares.unsqueeze(1) + squares - 2 * unit @ unit.T).clamp(min=0)
    return torch.exp(-STEEPNESS * distances)
