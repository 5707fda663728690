"""The LexEcho head's pooling as Triton kernels for CUDA: a matrix product whose epilogue is the maximum.

Logits live in registers only. The backward pass adds up in a fixed order, without atomics: the same gradients every
time. Triton is optional; without it, or without CUDA, the head computes in chunks.
"""

# ruff: noqa: ANN001, ANN202 -- Triton looks up the annotations of a kernel, and knows none of Python's.

import contextlib
import os

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

# Triton decides this when it is imported: kernels run on the CPU then, for tests.
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def triton_problem(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot compute in this dtype on this device, or None if they can."""
    if triton is None:
        return "Triton is not installed (pip install triton)"
    if device.type != "cuda" and not _INTERPRETED:
        return f"its kernels need CUDA, and the tensors are on {device.type}"
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"its kernels compute in float32, bfloat16 and float16, not in {dtype}"
    return None


def forward(
    hidden: Tensor, weight: Tensor, mask: Tensor | None, starts: Tensor, winner: torch.dtype, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The largest inner product over a text's real tokens; products are added up in fp32 and never leave the chip.

    Args:
        hidden: States of all tokens, text after text, shape [rows, d_e].
        weight: Shape [V_e, d_e].
        mask: True for real tokens, with `rows` elements; None if all are.
        starts: The row that each text begins with, and `rows` at last, shape [batch + 1].
        winner: Dtype of the winners.
        dtype: What is multiplied; tiles are cast to it as they are read.

    Returns:
        Maxima [batch, V_e] in fp32 (a NaN among a text's logits comes out as infinity), and the token that each one
        comes from, counted from its text's first and the lowest where several are equal. Texts without real tokens
        hold anything.
    """
    (rows, width), terms, batch = hidden.shape, weight.shape[0], len(starts) - 1
    maxima = hidden.new_empty((batch, terms), dtype=torch.float32)
    winners = hidden.new_empty((batch, terms), dtype=winner)
    if batch == 0 or rows == 0:
        return maxima.zero_(), winners.zero_()
    hidden, weight, starts = hidden.contiguous(), weight.contiguous(), starts.contiguous()
    real = starts if mask is None else mask.to(torch.uint8).contiguous()  # without a mask nothing reads it

    def grid(meta: dict) -> tuple[int, int]:
        return batch, triton.cdiv(terms, meta["BLOCK_TERMS"])

    with _on(hidden.device):
        _max_kernel[grid](
            *(hidden, weight, real, starts, maxima, winners, terms),
            triton.next_power_of_2(triton.cdiv(rows, batch)),
            WIDTH=width,
            MASKED=mask is not None,
            COMPUTE=_TYPES[dtype],
            # the interpreter multiplies the bit patterns of bf16 as whole numbers
            MULTIPLY=tl.float32 if _INTERPRETED else _TYPES[dtype],
            PRECISION=_precision(dtype),
        )
    return maxima, winners


def backward(
    grad: Tensor,
    winners: Tensor,
    hidden: Tensor,
    weight: Tensor,
    starts: Tensor,
    dtype: torch.dtype,
    needed: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Sends each maximum's gradient to the token and the term that it comes from, in a fixed order.

    Args:
        grad: Gradient of the maxima, shape [batch, V_e].
        winners: As `forward` returned them.
        hidden: As given to `forward`.
        weight: As given to `forward`.
        starts: As given to `forward`.
        dtype: What the tiles are cast to as they are read; sums are in fp32.
        needed: Whether `hidden` and `weight` need gradients.

    Returns:
        Gradients of `hidden` and `weight`, None where not needed.
    """
    (rows, width), terms, batch = hidden.shape, weight.shape[0], len(grad)
    if batch == 0 or rows == 0:
        return (
            torch.zeros_like(hidden) if needed[0] else None,
            torch.zeros_like(weight) if needed[1] else None,
        )
    grad, hidden, weight, starts = (tensor.contiguous() for tensor in (grad, hidden, weight, starts))
    block = min(256, triton.next_power_of_2(width))
    sizes = {"WIDTH": width, "COMPUTE": _TYPES[dtype], "BLOCK_WIDTH": block}
    slices = triton.cdiv(width, block)
    of_hidden = torch.empty_like(hidden) if needed[0] else None
    of_weight = torch.empty_like(weight) if needed[1] else None
    with _on(hidden.device):
        if needed[0]:
            order, pairs = _pairs_by_token(grad, winners, starts, rows)
            _hidden_kernel[(rows, slices)](grad, weight, order, pairs, of_hidden, terms, BLOCK_PAIRS=16, **sizes)
        if needed[1]:
            _weight_kernel[(terms, slices)](
                grad, winners, hidden, starts, of_weight, batch, terms, BLOCK_TEXTS=16, **sizes
            )
    return of_hidden, of_weight


def _pairs_by_token(grad: Tensor, winners: Tensor, starts: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """(text, term) pairs sorted by the token that won them, and where each token's pairs start.

    Pairs without gradient sort behind all tokens. Nothing here waits for the device.
    """
    row = torch.where((grad != 0) & (winners >= 0), starts[:-1].unsqueeze(1) + winners, rows).int()
    row, order = row.flatten().sort(stable=True)
    numbers = torch.arange(rows + 1, dtype=torch.int32, device=grad.device)
    return order, torch.searchsorted(row, numbers)


def _on(device: torch.device) -> contextlib.AbstractContextManager:
    """Triton launches on the current device, which need not be the tensors'."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _precision(dtype: torch.dtype) -> str:
    return "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32 else "ieee"


if triton is not None:
    _TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}

    def _config(tokens: int, terms: int, width: int, warps: int, stages: int) -> "triton.Config":
        blocks = {"BLOCK_TOKENS": tokens, "BLOCK_TERMS": terms, "BLOCK_WIDTH": width}
        return triton.Config(blocks, num_warps=warps, num_stages=stages)

    # Those that do not fit a device's shared memory are passed over when they are timed.
    _CONFIGS = [
        _config(128, 256, 64, 8, 3),  # Hopper: two warp groups, 128 × 256 accumulators
        _config(128, 256, 64, 8, 4),
        _config(128, 128, 64, 8, 4),
        _config(128, 128, 64, 4, 3),
        _config(64, 256, 64, 8, 4),
        _config(128, 128, 32, 4, 4),  # Ampere
        _config(64, 128, 64, 4, 4),
        _config(64, 256, 32, 4, 4),
        _config(32, 128, 64, 4, 4),  # short texts
        _config(16, 128, 64, 4, 4),
    ]

    # Texts are the quick dimension of the grid, so that neighbours read the same rows of the decoder.
    @triton.autotune([_config(16, 16, 16, 4, 1)] if _INTERPRETED else _CONFIGS, key=["terms", "bucket", "WIDTH"])
    @triton.jit
    def _max_kernel(
        hidden,
        weight,
        mask,
        starts,
        maxima,
        winners,
        terms,
        bucket,
        WIDTH: tl.constexpr,
        MASKED: tl.constexpr,
        COMPUTE: tl.constexpr,
        MULTIPLY: tl.constexpr,
        PRECISION: tl.constexpr,
        BLOCK_TOKENS: tl.constexpr,
        BLOCK_TERMS: tl.constexpr,
        BLOCK_WIDTH: tl.constexpr,
    ):
        """One text and one slice of the vocabulary: its tokens block by block, the maximum carried along."""
        text = tl.program_id(0).to(tl.int64)
        term = tl.program_id(1) * BLOCK_TERMS + tl.arange(0, BLOCK_TERMS)
        known = term < terms
        best = tl.full((BLOCK_TERMS,), float("-inf"), tl.float32)
        winner = tl.full((BLOCK_TERMS,), -1, tl.int32)
        row = tl.load(starts + text).to(tl.int64)
        tokens = (tl.load(starts + text + 1) - row).to(tl.int32)
        for start in range(0, tokens, BLOCK_TOKENS):
            token = start + tl.arange(0, BLOCK_TOKENS)
            real = token < tokens
            if MASKED:
                real = tl.load(mask + row + token, mask=real, other=0) != 0
            if tl.max(real.to(tl.int32), axis=0) > 0:  # padding of shorter texts costs nothing
                logits = tl.zeros((BLOCK_TOKENS, BLOCK_TERMS), tl.float32)
                for first in range(0, WIDTH, BLOCK_WIDTH):
                    dim = first + tl.arange(0, BLOCK_WIDTH)
                    states = tl.load(
                        hidden + (row + token)[:, None] * WIDTH + dim[None, :],
                        mask=real[:, None] & (dim < WIDTH)[None, :],
                        other=0.0,
                    )
                    rows = tl.load(
                        weight + term.to(tl.int64)[None, :] * WIDTH + dim[:, None],
                        mask=known[None, :] & (dim < WIDTH)[:, None],
                        other=0.0,
                    )
                    states, rows = states.to(COMPUTE).to(MULTIPLY), rows.to(COMPUTE).to(MULTIPLY)
                    logits = tl.dot(states, rows, logits, input_precision=PRECISION)
                logits = tl.where(logits == logits, logits, float("inf"))  # comparisons would pass over NaN
                logits = tl.where(real[:, None], logits, float("-inf"))
                top, place = tl.max(logits, axis=0, return_indices=True, return_indices_tie_break_left=True)
                better = top > best
                winner = tl.where(better, start + place, winner)
                best = tl.where(better, top, best)
        tl.store(maxima + text * terms + term, best, mask=known)
        tl.store(winners + text * terms + term, winner.to(winners.dtype.element_ty), mask=known)

    @triton.jit
    def _hidden_kernel(
        grad,
        weight,
        order,
        starts,
        result,
        terms,
        WIDTH: tl.constexpr,
        COMPUTE: tl.constexpr,
        BLOCK_WIDTH: tl.constexpr,
        BLOCK_PAIRS: tl.constexpr,
    ):
        """One token and one slice of d_e: the decoder rows of the terms that the token won, times their gradients."""
        row = tl.program_id(0).to(tl.int64)
        dim = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
        start, end = tl.load(starts + row), tl.load(starts + row + 1)
        total = tl.zeros((BLOCK_WIDTH,), tl.float32)
        for first in range(start, end, BLOCK_PAIRS):
            place = first + tl.arange(0, BLOCK_PAIRS)
            pair = tl.load(order + place, mask=place < end, other=0)
            value = tl.load(grad + pair, mask=place < end, other=0.0).to(tl.float32)
            rows = tl.load(
                weight + (pair % terms)[:, None] * WIDTH + dim[None, :],
                mask=(place < end)[:, None] & (dim < WIDTH)[None, :],
                other=0.0,
            )
            total += tl.sum(value[:, None] * rows.to(COMPUTE).to(tl.float32), axis=0)
        tl.store(result + row * WIDTH + dim, total.to(result.dtype.element_ty), mask=dim < WIDTH)

    @triton.jit
    def _weight_kernel(
        grad,
        winners,
        hidden,
        starts,
        result,
        batch,
        terms,
        WIDTH: tl.constexpr,
        COMPUTE: tl.constexpr,
        BLOCK_WIDTH: tl.constexpr,
        BLOCK_TEXTS: tl.constexpr,
    ):
        """One term and one slice of d_e: the states that won it in each text, times their gradients."""
        term = tl.program_id(0).to(tl.int64)
        dim = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
        total = tl.zeros((BLOCK_WIDTH,), tl.float32)
        for first in range(0, batch, BLOCK_TEXTS):
            text = (first + tl.arange(0, BLOCK_TEXTS)).to(tl.int64)
            value = tl.load(grad + text * terms + term, mask=text < batch, other=0.0).to(tl.float32)
            winner = tl.load(winners + text * terms + term, mask=text < batch, other=-1).to(tl.int64)
            active = (value != 0) & (winner >= 0)
            row = tl.load(starts + text, mask=text < batch, other=0).to(tl.int64) + winner
            states = tl.load(
                hidden + row[:, None] * WIDTH + dim[None, :],
                mask=active[:, None] & (dim < WIDTH)[None, :],
                other=0.0,
            )
            total += tl.sum(tl.where(active, value, 0.0)[:, None] * states.to(COMPUTE).to(tl.float32), axis=0)
        tl.store(result + term * WIDTH + dim, total.to(result.dtype.element_ty), mask=dim < WIDTH)


__all__ = ["backward", "forward", "triton_problem"]
