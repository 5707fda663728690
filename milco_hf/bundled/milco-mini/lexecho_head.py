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
from .pooled_reference import max_over_tokens
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
    mask: Tensor,
    chunk_elements: int = 2**23,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Max over a text's real tokens of the decoder's logits: t̃_j = max_i z_i · w_j + b_j (paper, section 3.1).

    Args:
        hidden: Z, the head's transformed states, shape [batch, tokens, d_e].
        weight: Rows of the decoder, shape [V_e, d_e].
        bias: Bias of the decoder, shape [V_e], or None.
        mask: Nonzero for real tokens, shape [batch, tokens]. Padding never enters the max.
        chunk_elements: About how many logits `chunked` has at a time.
        backend: "reference" keeps all logits; "chunked" a few at a time, on any device; "triton" none, on CUDA, and
            is "chunked" where Triton or CUDA is missing; "auto" is "chunked", until "triton" has been timed on a GPU.

    Returns:
        Pooled logits in fp32 (fp64 for fp64 input), shape [batch, V_e], and the token that each of them comes from,
        the lowest where several are equal, shape [batch, V_e], in int16 below 32,768 tokens and int32 from there on. A
        text without any real token gets the dtype's minimum and the winner −1.

    Raises:
        ValueError: `backend` is none of the four.
    """
    if backend not in HEAD_BACKENDS:
        raise ValueError(f"backend must be one of {list(HEAD_BACKENDS)}, got {backend!r}.")
    mask = mask.bool()
    dtype = hidden.dtype
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    if backend == "reference":
        pooled, winners = max_over_tokens(hidden, weight, mask, dtype)
        winners = winners.to(winner_dtype(hidden.shape[1]))
    else:
        pooled, winners = _pool(hidden, weight, mask, dtype, chunk_elements, backend)
    if bias is not None:
        # one bias per term, the same for every token: added to the maximum, in full precision
        pooled = pooled + bias.to(pooled.dtype)
    empty = ~mask.any(dim=1, keepdim=True)
    return pooled.masked_fill(empty, torch.finfo(pooled.dtype).min), winners.masked_fill(empty, -1)


# Operators of their own are opaque to torch.compile, so neither the loops nor the measured density break its graph.
@torch.library.custom_op(f"{_OPERATORS}_pool", mutates_args=())
def _pool(
    hidden: Tensor, weight: Tensor, mask: Tensor, dtype: torch.dtype, chunk_elements: int, backend: str
) -> tuple[Tensor, Tensor]:
    """Maxima [batch, V_e] in fp32 or wider, and winners, by the given backend."""
    with torch.autocast(hidden.device.type, enabled=False):
        if _by_triton(backend, hidden, dtype):
            return triton_forward(hidden, weight, mask, dtype)
        return chunked_forward(hidden, weight, mask, dtype, chunk_elements)


@_pool.register_fake
def _(
    hidden: Tensor, weight: Tensor, mask: Tensor, dtype: torch.dtype, chunk_elements: int, backend: str
) -> tuple[Tensor, Tensor]:
    shape = (hidden.shape[0], weight.shape[0])
    maxima = hidden.new_empty(shape, dtype=torch.promote_types(hidden.dtype, torch.float32))
    return maxima, hidden.new_empty(shape, dtype=winner_dtype(hidden.shape[1]))


@torch.library.custom_op(f"{_OPERATORS}_unpool", mutates_args=())
def _unpool(
    grad: Tensor,
    winners: Tensor,
    hidden: Tensor,
    weight: Tensor,
    dtype: torch.dtype,
    chunk_elements: int,
    backend: str,
    needs_hidden: bool,
    needs_weight: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of `hidden` and `weight`; empty where not needed, since operators cannot return None."""
    needed = (needs_hidden, needs_weight)
    with torch.autocast(hidden.device.type, enabled=False):
        if _by_triton(backend, hidden, dtype):
            gradients = triton_backward(grad, winners, hidden, weight, dtype, needed)
        else:
            gradients = chunked_backward(grad, winners, hidden, weight, dtype, chunk_elements, needed)
    of_hidden, of_weight = gradients
    return (
        hidden.new_empty(0) if of_hidden is None else of_hidden,
        weight.new_empty(0) if of_weight is None else of_weight,
    )


@_unpool.register_fake
def _(
    grad: Tensor,
    winners: Tensor,
    hidden: Tensor,
    weight: Tensor,
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
    hidden, weight, _, *ctx.settings = inputs
    ctx.save_for_backward(output[1], hidden, weight)


def _pool_backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    needed = tuple(ctx.needs_input_grad[:2])
    gradients = _unpool(grad, *ctx.saved_tensors, *ctx.settings, *needed)
    of_hidden, of_weight = (gradient if need else None for gradient, need in zip(gradients, needed, strict=True))
    return of_hidden, of_weight, None, None, None, None


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
