"""The LexEcho head's pooling: one maximum per English term, without keeping the logits it is taken over.

The head of a batch scores texts × tokens × terms logits, and nobody needs them: forward only the largest one per text
and term, backward only the token that won. So the scores are made chunk by chunk over the vocabulary, and the gradient
goes through the winning tokens of the few terms that have one.
"""

from typing import Any

import torch
from torch import Tensor

# Above this share of (text, term) pairs with gradient, dense products over chunks beat going pair by pair. On two CPU
# cores in bf16 (288 texts × 24 tokens, d_e 256, V_e 16,000) the pairs took 0.35 s at 100 active terms a text and
# 1.4 s at 1,600, the dense products 5 s at any number.
DENSE_SHARE = 0.25


def log_sat(logits: Tensor) -> Tensor:
    """LogSat(x) = log(1 + ReLU(x)), in fp32 (paper, section 3.1)."""
    return torch.log1p(torch.relu(logits.float()))


def pooled_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor, chunk_elements: int = 2**23
) -> Tensor:
    """Max over a text's real tokens of the decoder's logits: t̃_j = max_i z_i · w_j + b_j (paper, section 3.1).

    Args:
        hidden: Z, the head's transformed states, shape [batch, tokens, d_e].
        weight: Rows of the decoder, shape [V_e, d_e].
        bias: Bias of the decoder, shape [V_e], or None.
        mask: Nonzero for real tokens, shape [batch, tokens]. Padding never enters the max.
        chunk_elements: About how many logits exist at a time.

    Returns:
        Pooled logits in fp32 (fp64 for fp64 input), shape [batch, V_e]. A text without any real token gets the
        dtype's minimum.
    """
    mask = mask.bool()
    out_dtype = torch.promote_types(hidden.dtype, torch.float32)
    if hidden.shape[0] == 0 or hidden.shape[1] == 0:
        return hidden.new_full((hidden.shape[0], weight.shape[0]), torch.finfo(out_dtype).min, dtype=out_dtype)
    compute_dtype = hidden.dtype
    if torch.is_autocast_enabled(hidden.device.type):
        compute_dtype = torch.get_autocast_dtype(hidden.device.type)
    pooled = _MaxOverTokens.apply(_repeat_first_token(hidden, mask), weight, compute_dtype, chunk_elements)
    # one bias per term, the same for every token: added to the maximum, in full precision
    pooled = pooled.to(out_dtype) if bias is None else pooled.to(out_dtype) + bias.to(out_dtype)
    return pooled.masked_fill(~mask.any(dim=1, keepdim=True), torch.finfo(out_dtype).min)


def _repeat_first_token(hidden: Tensor, mask: Tensor) -> Tensor:
    """Puts a copy of each text's first real token in place of its padding, which leaves every maximum as it is.

    That costs batch × tokens × d_e numbers; masking the logits would cost batch × tokens × V_e.
    """
    first = mask.to(torch.uint8).argmax(dim=1, keepdim=True)  # [batch, 1]
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    source = torch.where(mask, positions, first)  # [batch, tokens]
    return hidden.gather(1, source.unsqueeze(-1).expand_as(hidden))


class _MaxOverTokens(torch.autograd.Function):
    """[batch, tokens, d] and [terms, d] → [batch, terms]: the largest inner product over the tokens."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, dtype: torch.dtype, chunk_elements: int) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.dtype, ctx.chunk_elements = dtype, chunk_elements
        hidden = hidden.to(dtype)
        pooled = hidden.new_empty((hidden.shape[0], weight.shape[0]))
        for terms in _chunks(weight.shape[0], hidden.shape[0] * hidden.shape[1], chunk_elements):
            with torch.autocast(hidden.device.type, enabled=False):
                pooled[:, terms] = (hidden @ weight[terms].to(dtype).T).amax(dim=1)
        return pooled

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        hidden, weight = ctx.saved_tensors
        with torch.autocast(hidden.device.type, enabled=False):
            share = torch.count_nonzero(grad).item() / max(1, grad.numel())
            backward = _dense_backward if share > DENSE_SHARE else _sparse_backward
            grad_hidden, grad_weight = backward(
                hidden, weight, grad, ctx.dtype, ctx.chunk_elements, ctx.needs_input_grad[:2]
            )
        return grad_hidden, grad_weight, None, None


def _chunks(terms: int, rows: int, chunk_elements: int) -> list[slice]:
    """Slices of the vocabulary that keep rows × slice near `chunk_elements`."""
    width = max(1, min(terms, chunk_elements // max(1, rows)))
    return [slice(start, min(start + width, terms)) for start in range(0, terms, width)]


def _dense_backward(
    hidden: Tensor, weight: Tensor, grad: Tensor, dtype: torch.dtype, chunk_elements: int, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Scores each chunk again, and sends its gradient through the winners by two matrix products."""
    flat = hidden.to(dtype).flatten(0, 1)  # [batch × tokens, d]
    grad_hidden = torch.zeros_like(flat, dtype=torch.promote_types(dtype, torch.float32)) if needed[0] else None
    grad_weight = torch.zeros_like(weight) if needed[1] else None
    for terms in _chunks(weight.shape[0], flat.shape[0], chunk_elements):
        chunk = weight[terms].to(dtype)
        logits = (flat @ chunk.T).unflatten(0, hidden.shape[:2])  # [batch, tokens, chunk]
        winners = logits.argmax(dim=1, keepdim=True)
        routed = torch.zeros_like(logits).scatter_(1, winners, grad[:, None, terms].to(dtype)).flatten(0, 1)
        if needed[0]:
            grad_hidden += routed @ chunk
        if needed[1]:
            grad_weight[terms] = (routed.T @ flat).to(weight.dtype)
    if needed[0]:
        grad_hidden = grad_hidden.to(hidden.dtype).view_as(hidden)
    return grad_hidden, grad_weight


def _sparse_backward(
    hidden: Tensor, weight: Tensor, grad: Tensor, dtype: torch.dtype, chunk_elements: int, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Finds the winning token of each (text, term) pair that has gradient, and adds up over those pairs alone."""
    batch, tokens = hidden.shape[:2]
    text, term = grad.nonzero(as_tuple=True)
    wide = torch.promote_types(dtype, torch.float32)
    value = grad[text, term].to(wide)
    row = _winning_rows(hidden.to(dtype), weight, text, term, dtype, chunk_elements)
    grad_hidden = grad_weight = None
    if needed[0]:
        routed = _sparse(row, term, value, (batch * tokens, weight.shape[0]))
        grad_hidden = torch.sparse.mm(routed, weight.to(wide)).to(hidden.dtype).view_as(hidden)
    if needed[1]:
        routed = _sparse(term, row, value, (weight.shape[0], batch * tokens))
        grad_weight = torch.sparse.mm(routed, hidden.to(wide).flatten(0, 1)).to(weight.dtype)
    return grad_hidden, grad_weight


def _sparse(row: Tensor, column: Tensor, value: Tensor, shape: tuple[int, int]) -> Tensor:
    """A sparse matrix of entries whose indices are known to be right."""
    return torch.sparse_coo_tensor(torch.stack([row, column]), value, shape, check_invariants=False)


def _winning_rows(
    hidden: Tensor, weight: Tensor, text: Tensor, term: Tensor, dtype: torch.dtype, chunk_elements: int
) -> Tensor:
    """Row in [batch × tokens] of the token that won each (text, term) pair; pairs come sorted by text."""
    batch, tokens, width = hidden.shape
    counts = torch.bincount(text, minlength=batch)
    widest = int(counts.max()) if text.numel() else 0
    place = torch.arange(text.numel(), device=text.device) - (counts.cumsum(0) - counts)[text]
    padded = term.new_zeros((batch, widest))
    padded[text, place] = term  # [batch, widest], the terms of each text side by side
    winners = torch.empty_like(padded)
    for texts in _chunks(batch, widest * (tokens + width), chunk_elements):
        rows = weight[padded[texts]].to(dtype)  # [texts, widest, d]
        winners[texts] = (rows @ hidden[texts].transpose(1, 2)).argmax(dim=2)
    return text * tokens + winners[text, place]


__all__ = ["log_sat", "pooled_logits"]
