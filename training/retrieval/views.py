"""The two views of a batch of texts, and inner products between batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

ViewChoice = Literal["pivot", "source", "both"]
VIEWS = ("pivot", "source", "both")
_IDS = 2**32  # more than any vocabulary has


@dataclass
class Views:
    """Pivot view and source tokens of B texts.

    Attributes:
        pivot: English weights, [B, V_e].
        input_ids: source tokens, dimensions of the vocabulary, [B, n].
        weights: weight of each source token, 0 where it does not echo, [B, n]; None without a source view.
        pooling: how equal tokens of a text combine, `sum` or `max`, as in the model's configuration.
    """

    pivot: Tensor
    input_ids: Tensor
    weights: Tensor | None
    pooling: str = "sum"
    _entries: tuple[Tensor, Tensor, Tensor] | None = field(default=None, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.pivot)

    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """The source view's nonzero entries: (text, dimension, weight), each [E], no (text, dimension) twice."""
        if self._entries is None:
            self._entries = self._find_entries()
        return self._entries

    def _find_entries(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.weights is None:
            empty = self.input_ids.new_zeros(0)
            return empty, empty, self.pivot.new_zeros(0)
        rows, places = (self.weights > 0).nonzero(as_tuple=True)
        ids = self.input_ids[rows, places]
        keys, back = torch.unique(rows * _IDS + ids, return_inverse=True)
        values = self.weights.new_zeros(len(keys)).scatter_reduce(
            0, back, self.weights[rows, places], reduce="sum" if self.pooling == "sum" else "amax"
        )
        return torch.div(keys, _IDS, rounding_mode="floor"), keys % _IDS, values


def shortened(texts: Views, dimensions: int) -> Views:
    """The texts' largest dimensions over both views; gradients flow through what is kept.

    Args:
        texts: B texts.
        dimensions: how many of each text are kept, at most; more where the last ones are equal.
    """
    pivot = texts.pivot.detach()
    rows, ids, values = (part.detach() for part in texts.entries())
    counts = torch.bincount(rows, minlength=len(texts))
    places = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    source = pivot.new_zeros((len(texts), dimensions + int(counts.max())))  # never fewer than are kept
    source = source.index_put((rows, places), values.to(source.dtype))
    largest = torch.cat([pivot.topk(min(dimensions, pivot.shape[1]), dim=1).values, source], dim=1)
    lowest = largest.topk(dimensions, dim=1).values[:, -1:]  # [B, 1]
    weights = texts.weights
    if weights is not None:
        chosen = values >= lowest[rows, 0]
        keys = torch.arange(len(texts), device=rows.device).unsqueeze(1) * _IDS + texts.input_ids  # [B, n]
        weights = torch.where(torch.isin(keys, rows[chosen] * _IDS + ids[chosen]), weights, 0.0)
    return Views(torch.where(pivot >= lowest, texts.pivot, 0.0), texts.input_ids, weights, texts.pooling)


def scores(queries: Views, documents: Views, views: ViewChoice = "both") -> Tensor:
    """⟨t_q, t_d⟩ + ⟨s_q, s_d⟩ of all pairs, or one of the two products: [Q, P] in fp32.

    Raises:
        ValueError: the source view is asked for, but the texts have none; or `views` is unknown.
    """
    if views not in VIEWS:
        raise ValueError(f"score_views must be one of {', '.join(VIEWS)}, got {views!r}.")
    if views != "pivot" and (queries.weights is None or documents.weights is None):
        raise ValueError(f"score_views: {views} needs a source view, and this model has none; set score_views: pivot.")
    found = None
    if views != "source":
        found = queries.pivot.float() @ documents.pivot.float().T
    if views != "pivot":
        source = source_scores(queries, documents)
        found = source if found is None else found + source
    return found  # type: ignore[return-value]


def source_scores(queries: Views, documents: Views) -> Tensor:
    """⟨s_q, s_d⟩ of all pairs, [Q, P], over the tokens that occur in some question only.

    With U distinct tokens in the batch's questions (at most Q · n_q, a few hundred in practice), both sides become
    matrices over those U, [Q, U] and [P, U], and one product gives all scores. That costs O((Q·n_q + P·n_p)·log) for
    finding the tokens, (Q + P)·U numbers of memory and Q·P·U multiplications: it grows with the length of the
    questions, not with V_s and not with n_q · n_p. The inner product of `embeddings` would take (Q + P)·V_s numbers,
    comparing all pairs of tokens Q·P·n_q·n_p.
    """
    q_rows, q_ids, q_values = queries.entries()
    known, columns = torch.unique(q_ids, return_inverse=True)  # [U]
    left = q_values.new_zeros((len(queries), len(known))).index_put((q_rows, columns), q_values)
    d_rows, d_ids, d_values = documents.entries()
    places = torch.searchsorted(known, d_ids).clamp(max=max(0, len(known) - 1))
    shared = known[places] == d_ids if len(known) else torch.zeros_like(d_ids, dtype=torch.bool)
    right = d_values.new_zeros((len(documents), len(known)))
    right = right.index_put((d_rows[shared], places[shared]), d_values[shared])
    return left.float() @ right.float().T
