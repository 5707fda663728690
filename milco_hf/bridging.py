"""Rows for new tokens: each a combination of the rows of a few close tokens, found through a bridge model.

SemBridge (Hong, Jang, Ju, Moon, Lim, arXiv 2605.26002): tokens that both vocabularies have keep their rows; any other
starts as a sparse weighted sum of the old tokens that a multilingual dense encoder, the bridge, finds closest to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

NEIGHBOURS = 10
ALPHA = 2.0
_ELEMENTS = 2**24  # similarities, and numbers of neighbours' rows, at a time
_STEPS = 60  # halvings of the interval that holds the threshold: past the precision of fp64


def check_weighing(neighbours: int, alpha: float) -> None:
    """Refuses what no combination can be made of.

    Args:
        neighbours: k of `combine`.
        alpha: α of `entmax`.

    Raises:
        ValueError: `neighbours` is below 1, or `alpha` below 1 or not finite.
    """
    if neighbours < 1:
        raise ValueError(f"bridge_neighbours has to be at least 1, got {neighbours}.")
    if not 1 <= alpha < math.inf:
        raise ValueError(f"bridge_alpha has to be at least 1 (softmax) and finite, got {alpha}.")


def entmax(scores: Tensor, alpha: float = ALPHA) -> Tensor:
    """α-entmax along the last dimension: weights that sum to 1, with exact zeros for α above 1.

        p_i = max(0, (α − 1) s_i − τ)^(1 / (α − 1)),   τ such that Σ p_i = 1

    (Peters, Niculae, Martins, 2019.) α = 1 is softmax, 2 is sparsemax; a larger one leaves fewer weights.

    Args:
        scores: [..., k].
        alpha: At least 1.

    Returns:
        The weights, [..., k] in fp64.

    Raises:
        ValueError: `alpha` is below 1 or not finite.
    """
    if not 1 <= alpha < math.inf:
        raise ValueError(f"alpha has to be at least 1 (softmax) and finite, got {alpha}.")
    scores = scores.double()
    if alpha == 1:
        return scores.softmax(dim=-1)
    scores = (alpha - 1) * scores
    high = scores.amax(dim=-1, keepdim=True)
    low = high - 1  # there the largest weight alone is 1
    for _ in range(_STEPS):
        middle = (low + high) / 2
        enough = (scores - middle).clamp(min=0).pow(1 / (alpha - 1)).sum(dim=-1, keepdim=True) >= 1
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    weights = (scores - low).clamp(min=0).pow(1 / (alpha - 1))
    return weights / weights.sum(dim=-1, keepdim=True)


def combine(
    wanted: Tensor, known: Tensor, rows: Tensor, neighbours: int = NEIGHBOURS, alpha: float = ALPHA
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows for wanted tokens: Σ_j p_j row_j over the k known tokens of largest cosine, p = entmax_α(cosines).

    Args:
        wanted: The bridge's vectors of the wanted tokens, [N, d].
        known: Of the known tokens, [M, d].
        rows: Rows of the known tokens, [M, width]. Beside the result, some 2²⁴ numbers are held at a time.
        neighbours: k; all known tokens where there are fewer.
        alpha: See `entmax`.

    Returns:
        The rows [N, width] in fp32, the neighbours' numbers [N, k], closest first, and their weights [N, k].

    Raises:
        ValueError: `neighbours` is below 1, there are no known tokens, or sizes do not fit.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours has to be at least 1, got {neighbours}.")
    if not len(known) or len(known) != len(rows) or wanted.shape[1] != known.shape[1]:
        raise ValueError(
            f"{tuple(wanted.shape)} vectors of wanted tokens, {tuple(known.shape)} of known ones and {len(rows)} rows "
            "of these do not fit together."
        )
    wanted, known = (torch.nn.functional.normalize(part.float(), dim=1) for part in (wanted, known))
    neighbours = min(neighbours, len(known))
    made, found, weights = [], [], []
    for part in wanted.split(max(1, _ELEMENTS // max(len(known), neighbours * rows.shape[1]))):
        cosines, closest = (part @ known.T).topk(neighbours, dim=1)
        share = entmax(cosines, alpha).float()
        made.append(torch.einsum("nk,nkw->nw", share, rows[closest].float()))
        found.append(closest)
        weights.append(share)
    return torch.cat(made), torch.cat(found), torch.cat(weights)


class Bridge:
    """A dense multilingual encoder that says which tokens mean the same.

    Args:
        model: Path or Hub id of any sentence-transformers model, or an object with its `encode`.
        neighbours: k of `combine`.
        alpha: α of `entmax`.
        batch_size: Tokens at a time.
        progress: Whether to show a bar.

    Raises:
        ValueError: `neighbours` or `alpha` cannot be.
        FileNotFoundError: There is no such model.
    """

    def __init__(
        self,
        model: str | Path | Any,
        neighbours: int = NEIGHBOURS,
        alpha: float = ALPHA,
        batch_size: int = 256,
        progress: bool = False,
    ) -> None:
        check_weighing(neighbours, alpha)
        if isinstance(model, (str, Path)):
            from sentence_transformers import SentenceTransformer

            try:
                model = SentenceTransformer(str(model))
            except OSError as error:
                raise FileNotFoundError(
                    f"The bridge {str(model)!r} (--bridge) cannot be read: {str(error).splitlines()[0]} Give the path "
                    "or Hub id of a sentence-transformers model."
                ) from error
        self.model = model
        self.neighbours = neighbours
        self.alpha = alpha
        self.batch_size = batch_size
        self.progress = progress

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Vectors of some texts, [N, d] in fp32; each distinct text is read once.

        Raises:
            ValueError: The model gives numbers that are not finite; the message names the text.
        """
        distinct = list(dict.fromkeys(texts))
        found = self.model.encode(
            distinct, batch_size=self.batch_size, show_progress_bar=self.progress, convert_to_numpy=True
        )
        found = np.asarray(found, dtype=np.float32)
        if not np.isfinite(found).all():  # a row made of such a vector would be none, and would be saved
            broken = distinct[int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])]
            raise ValueError(f"The bridge's vector of {broken!r} has numbers that are not finite; try it in float32.")
        place = {text: number for number, text in enumerate(distinct)}
        return torch.from_numpy(found[[place[text] for text in texts]])


__all__ = ["ALPHA", "NEIGHBOURS", "Bridge", "check_weighing", "combine", "entmax"]
