"""The LexEcho head's pooling: one maximum per English term, without keeping the logits it is taken over.

The head of a batch scores texts × tokens × terms logits, and nobody needs them: forward only the largest one per text
and term, backward only the token that won. One function, `pooled_logits`, and three ways to compute it: `reference`
keeps every logit, `chunked` a few at a time, `triton` none at all.
"""

import logging
import zlib
from typing import Any

import torch
from torch import Tensor

from .configuration_milco import HEAD_BACKENDS
from .pooled_chunked import backward as chunked_backward
from .pooled_chunked import forward as chunked_forward
from .pooled_chunked import winner_dtype
from .pooled_reference import max_over_segments, max_over_tokens
from .pooled_segments import forward as segments_forward
from .pooled_triton import backward as triton_backward
from .pooled_triton import forward as triton_forward
from .pooled_triton import triton_problem

logger = logging.getLogger(__name__)

# One process may hold several copies of this file, milco_hf's own and remote checkpoints'; operators are global.
_OPERATORS = f"milco_hf::head_{zlib.crc32(__name__.encode()):08x}"


def log_sat(logits: Tensor) -> Tensor:
    """LogSat(x) = log(1 + ReLU(x)), in fp32 (paper, section 3.1)."""
    return torch.log1p(torch.relu(logits.float()))


def pooled_logits(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None = None,
    chunk_elements: int = 2**22,
    backend: str = "auto",
    *,
    cu_seqlens: Tensor | None = None,
    with_winners: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Max over a text's real tokens of the decoder's logits: t̃_j = max_i z_i · w_j + b_j (paper, section 3.1).

    Args:
        hidden: Z, the head's transformed states, shape [batch, tokens, d_e] with `mask`; or, with `cu_seqlens`, of
            texts that lie one after the other, shape [tokens of all texts, d_e].
        weight: Rows of the decoder, shape [V_e, d_e].
        bias: Bias of the decoder, shape [V_e], or None.
        mask: Nonzero for real tokens, shape [batch, tokens]. Padding never enters the max.
        chunk_elements: About how many logits `chunked` has at a time.
        backend: "reference" keeps all logits; "chunked" a few at a time, on any device; "triton" none, on CUDA, and
            is "chunked" where Triton or CUDA is missing; "auto" is "chunked", until "triton" has been timed on a GPU.
        cu_seqlens: Without `mask`: the row that each text begins with, and at last the number of rows, shape
            [batch + 1], as flash attention takes them.
        with_winners: False where nobody reads the winners; without gradients the maximum alone is quicker.

    Returns:
        Pooled logits in fp32 (fp64 for fp64 input), shape [batch, V_e], and the token that each of them comes from,
        counted from its text's first and the lowest where several are equal, shape [batch, V_e], in int16 below 32,768
        tokens (of all texts, with `cu_seqlens`) and int32 from there on, or None. A text without any real token gets
        the dtype's minimum and the winner −1.

    Raises:
        ValueError: `backend` is none of the four, or `hidden` does not go with what was given of `mask` and
            `cu_seqlens`.
    """
    if backend not in HEAD_BACKENDS:
        raise ValueError(f"backend must be one of {list(HEAD_BACKENDS)}, got {backend!r}.")
    if (mask is None) == (cu_seqlens is None) or hidden.ndim != (2 if mask is None else 3):
        raise ValueError(
            "hidden is [batch, tokens, d_e] with mask, or [tokens, d_e] with cu_seqlens; got "
            f"{list(hidden.shape)} with mask {'' if mask is None else list(mask.shape)} and cu_seqlens "
            f"{'' if cu_seqlens is None else list(cu_seqlens.shape)}."
        )
    mask = None if mask is None else mask.bool()
    dtype = hidden.dtype
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    backward = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    if backend == "reference":
        pooled, winners = _by_reference(hidden, weight, mask, cu_seqlens, dtype)
    else:
        pooled, winners = _pool(
            hidden, weight, mask, cu_seqlens, dtype, chunk_elements, backend, with_winners or backward
        )
    if bias is not None:
        # one bias per term, the same for every token: added to the maximum, in full precision
        pooled = pooled + bias.to(pooled.dtype)
    empty = cu_seqlens.diff() == 0 if mask is None else ~mask.any(dim=1)
    empty = empty.unsqueeze(1)
    pooled = pooled.masked_fill(empty, torch.finfo(pooled.dtype).min)
    return pooled, winners.masked_fill(empty, -1) if with_winners else None


def _by_reference(
    hidden: Tensor, weight: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    if mask is None:
        pooled, winners = max_over_segments(hidden, weight, cu_seqlens, dtype)
    else:
        pooled, winners = max_over_tokens(hidden, weight, mask, dtype)
    return pooled, winners.to(_winner_dtype(hidden))


def _winner_dtype(hidden: Tensor) -> torch.dtype:
    return winner_dtype(hidden.shape[-2])


def _starts(hidden: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """The row of `hidden`, its texts one after the other, that each text begins with: [batch + 1] in int64."""
    if cu_seqlens is not None:
        return cu_seqlens.long()
    batch, tokens = hidden.shape[:2]
    return torch.arange(batch + 1, device=hidden.device) * tokens


# Operators of their own are opaque to torch.compile, so neither the loops nor the measured density break its graph.
@torch.library.custom_op(f"{_OPERATORS}_pool", mutates_args=())
def _pool(
    hidden: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    dtype: torch.dtype,
    chunk_elements: int,
    backend: str,
    with_winners: bool,
) -> tuple[Tensor, Tensor]:
    """Maxima [batch, V_e] in fp32 or wider, and winners, by the given backend; no winners if none are wanted."""
    with torch.autocast(hidden.device.type, enabled=False):
        if _by_triton(backend, hidden, dtype):
            rows = hidden.flatten(0, -2)
            starts = _starts(hidden, cu_seqlens)
            maxima, winners = triton_forward(rows, weight, mask, starts, _winner_dtype(hidden), dtype)
        elif mask is None:
            maxima, winners = segments_forward(hidden, weight, cu_seqlens, dtype, chunk_elements, with_winners)
        else:
            maxima, winners = chunked_forward(hidden, weight, mask, dtype, chunk_elements, with_winners)
    # operators cannot return None
    return maxima, winners if with_winners else maxima.new_empty(0, dtype=_winner_dtype(hidden))


@_pool.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    dtype: torch.dtype,
    chunk_elements: int,
    backend: str,
    with_winners: bool,
) -> tuple[Tensor, Tensor]:
    batch = hidden.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    shape = (batch, weight.shape[0])
    maxima = hidden.new_empty(shape, dtype=torch.promote_types(hidden.dtype, torch.float32))
    return maxima, hidden.new_empty(shape if with_winners else 0, dtype=_winner_dtype(hidden))


@torch.library.custom_op(f"{_OPERATORS}_unpool", mutates_args=())
def _unpool(
    grad: Tensor,
    winners: Tensor,
    hidden: Tensor,
    weight: Tensor,
    cu_seqlens: Tensor | None,
    dtype: torch.dtype,
    chunk_elements: int,
    backend: str,
    needs_hidden: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of `hidden` and `weight`; empty where not needed, since operators cannot return None."""
    needed = (needs_hidden, needs_weight)
    rows, starts = hidden.flatten(0, -2), _starts(hidden, cu_seqlens)
    with torch.autocast(hidden.device.type, enabled=False):
        if _by_triton(backend, hidden, dtype):
            gradients = triton_backward(grad, winners, rows, weight, starts, dtype, needed)
        else:
            gradients = chunked_backward(grad, winners, rows, weight, starts, dtype, chunk_elements, needed)
    of_hidden, of_weight = gradients
    return (
        hidden.new_empty(0) if of_hidden is None else of_hidden.view(hidden.shape),
        weight.new_empty(0) if of_weight is None else of_weight,
    )


@_unpool.register_fake
def _(
    grad: Tensor,
    winners: Tensor,
    hidden: Tensor,
    weight: Tensor,
    cu_seqlens: Tensor | None,
    dtype: torch.dtype,
    chunk_elements: int,
    backend: str,
    needs_hidden: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    return (
        hidden.new_empty(hidden.shape) if needs_hidden else hidden.new_empty(0),
        weight.new_empty(weight.shape) if needs_weight else weight.new_empty(0),
    )


def _keep_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    hidden, weight, _, cu_seqlens, *settings, _ = inputs
    ctx.settings = settings
    ctx.save_for_backward(output[1], hidden, weight, cu_seqlens)


def _pool_backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    needed = tuple(ctx.needs_input_grad[:2])
    gradients = _unpool(grad, *ctx.saved_tensors, *ctx.settings, *needed)
    of_hidden, of_weight = (gradient if need else None for gradient, need in zip(gradients, needed, strict=True))
    return of_hidden, of_weight, None, None, None, None, None, None


_pool.register_autograd(_pool_backward, setup_context=_keep_for_backward)

_told: set[str] = set()


def _by_triton(backend: str, hidden: Tensor, dtype: torch.dtype) -> bool:
    """Whether Triton is asked for and can run; says once why it cannot."""
    if backend != "triton":
        return False
    problem = triton_problem(hidden.device, dtype)
    if problem is not None and problem not in _told:
        _told.add(problem)
        logger.warning('head_backend="triton" computes as "chunked": %s.', problem)
    return problem is None


__all__ = ["log_sat", "pooled_logits"]
