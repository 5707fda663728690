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
    hidden: Tensor, weight: Tensor, mask: Tensor, dtype: torch.dtype, chunk_elements: int, with_winners: bool = True
) -> tuple[Tensor, Tensor | None]:
    """The largest inner product over a text's real tokens, chunk by chunk over terms, texts and tokens.

    Args:
        hidden: Shape [batch, tokens, d_e].
        weight: Shape [V_e, d_e].
        mask: True for real tokens, shape [batch, tokens].
        dtype: What the products are computed in.
        chunk_elements: About how many of them exist at a time.
        with_winners: Whether the winners are asked for; the maximum alone takes two thirds of the time.

    Returns:
        Maxima [batch, V_e] in fp32 or wider, and the token that each one comes from, the lowest where several are
        equal, [batch, V_e] in `winner_dtype`; None if not asked for. Texts without real tokens hold anything.
    """
    (batch, tokens, _), terms = hidden.shape, weight.shape[0]
    maxima, winners = empty_result(hidden, batch, terms, tokens, with_winners)
    if batch == 0 or tokens == 0:
        return maxima, winners
    states, origin = _without_padding(hidden, mask)
    states = states.to(dtype)
    wide, high, long = _block(batch, tokens, terms, chunk_elements)
    for term in _slices(terms, wide):
        rows = weight[term].to(dtype)
        for text in _slices(batch, high):
            for token in _slices(tokens, long):
                products = states[text, token] @ rows.T  # [texts, tokens, terms] of this chunk
                where = origin[text, token.start : token.stop]
                keep_largest(products, maxima, winners, (text, term), where, first=token.start == 0)
    return maxima, winners


def empty_result(
    hidden: Tensor, batch: int, terms: int, tokens: int, with_winners: bool
) -> tuple[Tensor, Tensor | None]:
    """Maxima of zero and winners, if asked for, to be filled: [batch, V_e] each."""
    maxima = hidden.new_zeros((batch, terms), dtype=torch.promote_types(hidden.dtype, torch.float32))
    if not with_winners:
        return maxima, None
    return maxima, torch.zeros((batch, terms), dtype=winner_dtype(tokens), device=hidden.device)


def keep_largest(
    products: Tensor,
    maxima: Tensor,
    winners: Tensor | None,
    chunk: tuple,
    origin: Tensor | None,
    first: bool,
    offset: int = 0,
) -> None:
    """Carries a chunk's maximum over tokens into the results.

    Args:
        products: Shape [texts, tokens, terms].
        maxima: Of all texts and terms; written to.
        winners: Likewise, or None.
        chunk: The chunk's texts and terms, as indices into `maxima`.
        origin: The token that each of these tokens really is, shape [texts, tokens]; None for themselves.
        first: Whether the chunk holds its texts' first tokens, so that there is nothing to compare with.
        offset: Place of the chunk's first token in its text, where `origin` is None.
    """
    if winners is None:
        best = products.amax(dim=1).to(maxima.dtype)
        maxima[chunk] = best if first else torch.maximum(best, maxima[chunk])
        return
    best, place = products.max(dim=1)  # [texts, terms]
    place = place + offset if origin is None else origin.gather(1, place)
    if not first:
        # a later token wins only if it is larger, and NaN always, so that it is seen
        before = maxima[chunk]
        better = (best > before) | best.isnan()
        best, place = torch.where(better, best, before), torch.where(better, place, winners[chunk])
    maxima[chunk], winners[chunk] = best.to(maxima.dtype), place.to(winners.dtype)


def backward(
    grad: Tensor,
    winners: Tensor,
    hidden: Tensor,
    weight: Tensor,
    starts: Tensor,
    dtype: torch.dtype,
    chunk_elements: int,
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Sends each maximum's gradient to the token and the term that it comes from; no logit is computed again.

    Args:
        grad: Gradient of the maxima, shape [batch, V_e]; zero for texts without real tokens.
        winners: As `forward` returned them.
        hidden: States of all tokens, text after text, shape [rows, d_e].
        weight: As given to `forward`.
        starts: The row that each text begins with, and `rows` at last, shape [batch + 1].
        dtype: What the products are computed in; gradients add up in fp32 or wider.
        chunk_elements: About how many elements a dense chunk has.
        needed: Whether `hidden` and `weight` need gradients.

    Returns:
        Gradients of `hidden` and `weight`, None where not needed.
    """
    share = torch.count_nonzero(grad).item() / max(1, grad.numel())
    if dense_pays(share, len(hidden) / max(1, len(grad)), hidden.device):
        return _dense(grad, winners, hidden, weight, starts, dtype, chunk_elements, needed)
    return _by_pairs(grad, winners, hidden, weight, starts, dtype, needed)


def dense_pays(share: float, tokens: float, device: torch.device) -> bool:
    """Whether dense products are the quicker way back, by the share of (text, term) pairs that have gradient.

    Args:
        share: That share.
        tokens: Of a text, on average.
        device: Where.
    """
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


def vocabulary_slices(terms: int, tokens: int, elements: int) -> tuple[list[slice], int]:
    """Slices of the vocabulary for so many tokens at a time, and how many tokens fit beside one."""
    wide = min(terms, max(_NARROWEST, elements // max(1, tokens)))
    return _slices(terms, wide), max(1, elements // max(1, wide))


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _dense(
    grad: Tensor,
    winners: Tensor,
    hidden: Tensor,
    weight: Tensor,
    starts: Tensor,
    dtype: torch.dtype,
    chunk_elements: int,
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Writes a chunk's gradients where its logits would be, and multiplies."""
    wide_dtype = torch.promote_types(dtype, torch.float32)
    states = hidden.to(dtype)
    grad_hidden = torch.zeros_like(hidden, dtype=wide_dtype) if needed[0] else None
    grad_weight = torch.zeros_like(weight) if needed[1] else None
    slices, limit = vocabulary_slices(len(weight), len(hidden), chunk_elements)
    groups = _groups(starts.tolist(), limit)
    for term in slices:
        rows = weight[term].to(dtype)
        of_rows = torch.zeros_like(rows, dtype=wide_dtype)
        for text, token in groups:
            block = grad[text, term].to(dtype)
            routed = block.new_zeros((token.stop - token.start, block.shape[1]))
            row = (starts[text].unsqueeze(1) - token.start) + winners[text, term].clamp(min=0)
            # adding, since a text without tokens, whose gradients are zero, points at its neighbour's
            routed.scatter_add_(0, row.long().clamp(max=len(routed) - 1), block)
            if needed[0]:
                grad_hidden[token] += routed @ rows
            if needed[1]:
                of_rows += routed.T @ states[token]
        if needed[1]:
            grad_weight[term] = of_rows.to(weight.dtype)
    return grad_hidden.to(hidden.dtype) if needed[0] else None, grad_weight


def _groups(starts: list[int], rows: int) -> list[tuple[slice, slice]]:
    """Neighbouring texts with about so many rows together, at least one text: (texts, their rows)."""
    groups, first = [], 0
    for text in range(1, len(starts)):
        last = text == len(starts) - 1
        if last or starts[text + 1] - starts[first] > rows:
            if starts[text] > starts[first]:
                groups.append((slice(first, text), slice(starts[first], starts[text])))
            first = text
    return groups


def _by_pairs(
    grad: Tensor,
    winners: Tensor,
    hidden: Tensor,
    weight: Tensor,
    starts: Tensor,
    dtype: torch.dtype,
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Adds up over the (text, term) pairs that have gradient, as products with a sparse matrix."""
    wide = torch.promote_types(dtype, torch.float32)
    text, term = grad.nonzero(as_tuple=True)
    row = starts[text] + winners[text, term]
    value = grad[text, term].to(wide)
    grad_hidden = grad_weight = None
    if needed[0]:
        grad_hidden = _sparse_product(row, term, value, len(hidden), weight.to(wide)).to(hidden.dtype)
    if needed[1]:
        grad_weight = _sparse_product(term, row, value, len(weight), hidden.to(wide)).to(weight.dtype)
    return grad_hidden, grad_weight


def _sparse_product(row: Tensor, column: Tensor, value: Tensor, rows: int, dense: Tensor) -> Tensor:
    """The sparse matrix of these entries times a dense one, [rows, d_e]."""
    entries = torch.stack([row, column])
    routed = torch.sparse_coo_tensor(entries, value, (rows, dense.shape[0]), check_invariants=False)
    # in place, since torch.sparse.mm would hold the result twice
    return dense.new_zeros((rows, dense.shape[1])).addmm_(routed, dense)


__all__ = ["backward", "dense_pays", "empty_result", "forward", "keep_largest", "vocabulary_slices", "winner_dtype"]
