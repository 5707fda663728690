"""The LexEcho head's pooling in chunks, on any device: a few logits at a time, and a backward pass without any."""

import torch
from torch import Tensor

# Dense products cost the same whatever share of the (text, term) pairs has gradient, but grow with the tokens; going
# pair by pair is the other way round. On a CPU they meet near one sixteenth of the pairs for each token
# (docs/performance.md), so texts of 16 tokens and more always go by pairs; elsewhere products are cheaper, and the
# number is not measured.
_DENSE_SHARE_PER_TOKEN_ON_CPU = 1 / 16
_DENSE_SHARE_ELSEWHERE = 0.25
# Narrower slices of the vocabulary would make the matrix products slow; texts are split before these are.
_NARROWEST = 256


def forward(
    hidden: Tensor, weight: Tensor, mask: Tensor, dtype: torch.dtype, chunk_elements: int
) -> tuple[Tensor, Tensor]:
    """The largest inner product over a text's real tokens, chunk by chunk over terms, texts and tokens.

    Args:
        hidden: Shape [batch, tokens, d_e].
        weight: Shape [V_e, d_e].
        mask: True for real tokens, shape [batch, tokens].
        dtype: What the products are computed in.
        chunk_elements: About how many of them exist at a time.

    Returns:
        Maxima [batch, V_e] in fp32 or wider, and the token that each one comes from, the lowest where several are
        equal, [batch, V_e] in `winner_dtype`. Texts without real tokens hold anything.
    """
    (batch, tokens, _), terms = hidden.shape, weight.shape[0]
    maxima = hidden.new_zeros((batch, terms), dtype=torch.promote_types(hidden.dtype, torch.float32))
    winners = torch.zeros((batch, terms), dtype=winner_dtype(tokens), device=hidden.device)
    if batch == 0 or tokens == 0:
        return maxima, winners
    states, origin = _without_padding(hidden, mask)
    states = states.to(dtype)
    wide, high, long = _block(batch, tokens, terms, chunk_elements)
    for term in _slices(terms, wide):
        rows = weight[term].to(dtype)
        for text in _slices(batch, high):
            for token in _slices(tokens, long):
                best, place = (states[text, token] @ rows.T).max(dim=1)  # [texts, terms of this chunk]
                place = origin[text].gather(1, place + token.start)
                if token.start > 0:
                    # a later token wins only if it is larger, and NaN always, so that it is seen
                    before = maxima[text, term]
                    better = (best > before) | best.isnan()
                    best, place = torch.where(better, best, before), torch.where(better, place, winners[text, term])
                maxima[text, term], winners[text, term] = best, place
    return maxima, winners


def backward(
    grad: Tensor,
    winners: Tensor,
    hidden: Tensor,
    weight: Tensor,
    dtype: torch.dtype,
    chunk_elements: int,
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Sends each maximum's gradient to the token and the term that it comes from; no logit is computed again.

    Args:
        grad: Gradient of the maxima, shape [batch, V_e]; zero for texts without real tokens.
        winners: As `forward` returned them.
        hidden: As given to `forward`.
        weight: As given to `forward`.
        dtype: What the products are computed in; gradients add up in fp32 or wider.
        chunk_elements: About how many elements a dense chunk has.
        needed: Whether `hidden` and `weight` need gradients.

    Returns:
        Gradients of `hidden` and `weight`, None where not needed.
    """
    winners = winners.clamp(min=0)
    share = torch.count_nonzero(grad).item() / max(1, grad.numel())
    if dense_pays(share, hidden.shape[1], hidden.device):
        return _dense(grad, winners, hidden, weight, dtype, chunk_elements, needed)
    return _by_pairs(grad, winners, hidden, weight, dtype, needed)


def dense_pays(share: float, tokens: int, device: torch.device) -> bool:
    """Whether dense products are the quicker way back, by the share of (text, term) pairs that have gradient."""
    return share > (_DENSE_SHARE_PER_TOKEN_ON_CPU * tokens if device.type == "cpu" else _DENSE_SHARE_ELSEWHERE)


def winner_dtype(tokens: int) -> torch.dtype:
    """int16 where it counts the tokens, else int32."""
    return torch.int16 if tokens < 2**15 else torch.int32


def _without_padding(hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Puts a copy of each text's first real token in place of its padding, which leaves every maximum as it is.

    That costs batch × tokens × d_e numbers; masking the logits would cost batch × tokens × V_e.

    Returns:
        The states, and [batch, tokens] the token that each one really is.
    """
    first = mask.to(torch.uint8).argmax(dim=1, keepdim=True)  # [batch, 1]
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    origin = torch.where(mask, positions, first)
    if mask.device.type == "cpu" and bool(mask.all()):  # elsewhere, asking costs more than copying
        return hidden, origin
    return hidden.gather(1, origin.unsqueeze(-1).expand_as(hidden)), origin


def _block(batch: int, tokens: int, terms: int, elements: int) -> tuple[int, int, int]:
    """Terms, texts and tokens of a chunk: all texts and tokens while at least `_NARROWEST` terms fit beside them."""
    wide = min(terms, max(_NARROWEST, elements // (batch * tokens)))
    high = min(batch, max(1, elements // (wide * tokens)))
    long = min(tokens, max(1, elements // (wide * high)))
    return wide, high, long


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _dense(
    grad: Tensor,
    winners: Tensor,
    hidden: Tensor,
    weight: Tensor,
    dtype: torch.dtype,
    chunk_elements: int,
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Writes a chunk's gradients where its logits would be, and multiplies."""
    (batch, tokens, _), terms = hidden.shape, weight.shape[0]
    wide_dtype = torch.promote_types(dtype, torch.float32)
    states = hidden.to(dtype)
    grad_hidden = torch.zeros_like(hidden, dtype=wide_dtype) if needed[0] else None
    grad_weight = torch.zeros_like(weight) if needed[1] else None
    wide, high, _ = _block(batch, tokens, terms, chunk_elements)
    for term in _slices(terms, wide):
        rows = weight[term].to(dtype)
        of_rows = torch.zeros_like(rows, dtype=wide_dtype)
        for text in _slices(batch, high):
            block = grad[text, term].to(dtype)
            routed = block.new_zeros((block.shape[0], tokens, block.shape[1]))
            routed.scatter_(1, winners[text, term].long().unsqueeze(1), block.unsqueeze(1))
            if needed[0]:
                grad_hidden[text] += routed @ rows
            if needed[1]:
                of_rows += routed.flatten(0, 1).T @ states[text].flatten(0, 1)
        if needed[1]:
            grad_weight[term] = of_rows.to(weight.dtype)
    return grad_hidden.to(hidden.dtype) if needed[0] else None, grad_weight


def _by_pairs(
    grad: Tensor, winners: Tensor, hidden: Tensor, weight: Tensor, dtype: torch.dtype, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Adds up over the (text, term) pairs that have gradient, as products with a sparse matrix."""
    batch, tokens = hidden.shape[:2]
    wide = torch.promote_types(dtype, torch.float32)
    text, term = grad.nonzero(as_tuple=True)
    row = text * tokens + winners[text, term]
    value = grad[text, term].to(wide)
    grad_hidden = grad_weight = None
    if needed[0]:
        grad_hidden = _sparse_product(row, term, value, batch * tokens, weight.to(wide))
        grad_hidden = grad_hidden.to(hidden.dtype).view(hidden.shape)
    if needed[1]:
        grad_weight = _sparse_product(term, row, value, weight.shape[0], hidden.to(wide).flatten(0, 1))
        grad_weight = grad_weight.to(weight.dtype)
    return grad_hidden, grad_weight


def _sparse_product(row: Tensor, column: Tensor, value: Tensor, rows: int, dense: Tensor) -> Tensor:
    """The sparse matrix of these entries times a dense one, [rows, d_e]."""
    entries = torch.stack([row, column])
    routed = torch.sparse_coo_tensor(entries, value, (rows, dense.shape[0]), check_invariants=False)
    # in place, since torch.sparse.mm would hold the result twice
    return dense.new_zeros((rows, dense.shape[1])).addmm_(routed, dense)


__all__ = ["backward", "dense_pays", "forward", "winner_dtype"]
