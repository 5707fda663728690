"""The LexEcho head's pooling in chunks, of texts that lie one after the other without padding."""

from typing import NamedTuple

import torch
from torch import Tensor

from .pooled_chunked import empty_result, keep_largest, vocabulary_slices, winner_dtype
from .pooled_chunked import forward as padded_forward


class Piece(NamedTuple):
    """Neighbouring texts of one length, or a slice of a longer text.

    Args:
        first: The first text.
        texts: How many.
        tokens: Of each.
        offset: Place of the first token in its text.
    """

    first: int
    texts: int
    tokens: int
    offset: int = 0


def forward(
    hidden: Tensor,
    weight: Tensor,
    cu_seqlens: Tensor,
    dtype: torch.dtype,
    chunk_elements: int,
    with_winners: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """The largest inner product over each text's tokens.

    On a CPU one product takes all texts at once, whatever their lengths, and texts of one length share a maximum.
    Elsewhere that would be a kernel for each length, so texts are padded there; `triton` walks each text's own tokens.

    Args:
        hidden: Shape [tokens of all texts, d_e].
        weight: Shape [V_e, d_e].
        cu_seqlens: Where each text begins, and at last where the last one ends, shape [batch + 1].
        dtype: What the products are computed in.
        chunk_elements: About how many of them exist at a time.
        with_winners: Whether the winners are asked for.

    Returns:
        Maxima [batch, V_e] in fp32 or wider, and each one's token, counted from its text's first and the lowest where
        several are equal, [batch, V_e]; None if not asked for. Texts without tokens hold anything.

    Raises:
        ValueError: `cu_seqlens` does not rise from 0 to the number of tokens.
    """
    tokens, terms, batch = len(hidden), len(weight), len(cu_seqlens) - 1
    lengths = cu_seqlens.diff()
    check_bounds(cu_seqlens, lengths, tokens)
    if hidden.device.type != "cpu" and batch and tokens:
        states, mask = _padded(hidden, cu_seqlens, lengths)
        maxima, winners = padded_forward(states, weight, mask, dtype, chunk_elements, with_winners)
        return maxima, None if winners is None else winners.to(winner_dtype(tokens))
    maxima, winners = empty_result(hidden, batch, terms, tokens, with_winners)
    if batch == 0 or tokens == 0:
        return maxima, winners
    order = lengths.argsort(stable=True)
    states = hidden[rows_in_order(cu_seqlens, lengths, order)].to(dtype)
    slices, limit = vocabulary_slices(terms, tokens, chunk_elements)
    blocks = pieces(lengths[order].tolist(), limit)
    for term in slices:
        rows = weight[term].to(dtype)
        _carry(states, rows, blocks, order, term, maxima, winners)
    return maxima, winners


def _carry(
    states: Tensor,
    rows: Tensor,
    blocks: list[list[Piece]],
    order: Tensor,
    term: slice,
    maxima: Tensor,
    winners: Tensor | None,
) -> None:
    """Takes the maximum over each text's tokens, a block at a time, for the terms of `rows`, which `term` are."""
    start = 0
    for block in blocks:
        end = start + sum(piece.texts * piece.tokens for piece in block)
        logits = states[start:end] @ rows.T  # [tokens, terms] of this chunk
        row, start = 0, end
        for piece in block:
            size = piece.texts * piece.tokens
            of_texts = logits[row : row + size].view(piece.texts, piece.tokens, -1)
            chunk = (order[piece.first : piece.first + piece.texts], term)
            keep_largest(of_texts, maxima, winners, chunk, None, first=piece.offset == 0, offset=piece.offset)
            row += size


def pieces(lengths: list[int], limit: int) -> list[list[Piece]]:
    """Sorts texts into blocks of at most `limit` tokens; only a text that is longer by itself is cut into several.

    Args:
        lengths: Ascending.
        limit: At least 1.
    """
    blocks: list[list[Piece]] = [[]]
    room, first = limit, 0
    while first < len(lengths):
        length = lengths[first]
        if length > limit:
            blocks += [[Piece(first, 1, min(limit, length - at), at)] for at in range(0, length, limit)]
            room, first = 0, first + 1
        elif length > room:
            blocks.append([])
            room = limit
        elif length == 0:
            first += 1
        else:
            most = first + room // length
            last = first + 1
            while last < len(lengths) and last < most and lengths[last] == length:
                last += 1
            blocks[-1].append(Piece(first, last - first, length))
            room, first = room - (last - first) * length, last
    return [block for block in blocks if block]


def rows_in_order(cu_seqlens: Tensor, lengths: Tensor, order: Tensor) -> Tensor:
    """Rows of all tokens, with their texts in the given order: [tokens]."""
    counts = lengths[order].long()
    ends = counts.cumsum(0)
    shift = cu_seqlens[:-1][order] - (ends - counts)
    return torch.arange(int(ends[-1]), device=order.device) + shift.repeat_interleave(counts)


def check_bounds(cu_seqlens: Tensor, lengths: Tensor, tokens: int) -> None:
    """Refuses cumulative lengths that are none; not on accelerators, which would have to wait for the answer."""
    if cu_seqlens.device.type != "cpu" or (cu_seqlens[0] == 0 and cu_seqlens[-1] == tokens and (lengths >= 0).all()):
        return
    raise ValueError(
        f"cu_seqlens has to rise from 0 to the number of tokens, {tokens}, with one number more than there are texts; "
        f"got {cu_seqlens.tolist()}."
    )


def _padded(hidden: Tensor, cu_seqlens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The texts side by side [batch, longest, d_e], and where they are real [batch, longest]."""
    places = torch.arange(int(lengths.max()), device=hidden.device)
    mask = places < lengths.unsqueeze(1)
    rows = (cu_seqlens[:-1].unsqueeze(1) + places).clamp(max=len(hidden) - 1)
    return hidden[rows], mask


__all__ = ["Piece", "check_bounds", "forward", "pieces", "rows_in_order"]
