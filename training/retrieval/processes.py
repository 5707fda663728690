"""Sums and gathers over processes that gradients flow back through; without process group they do nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from milco_hf.training.retrieval.views import Views

PADDING = -2


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Sum(torch.autograd.Function):
    """x → Σ of every process's x. Each process's loss depends on it, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone()
        dist.all_reduce(grad)
        return grad


class _Gather(torch.autograd.Function):
    """[B, …] → [W · B, …], the processes' tensors in the order of their ranks."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        parts = [torch.empty_like(value) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, value.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


def sum_over_processes(value: Tensor) -> Tensor:
    """Σ over processes; the gradient that reaches each one's value is that of all processes' losses together."""
    return _Sum.apply(value) if _several() else value


def largest_over_processes(*values: int, device: torch.device | str = "cpu") -> list[int]:
    """The largest of each number over processes."""
    if not _several():
        return list(values)
    largest = torch.tensor(values, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest.tolist()


def gather_rows(rows: Tensor, padding: float = 0) -> tuple[Tensor, int]:
    """The rows of all processes' matrices, with gradient.

    Args:
        rows: this process's, [B, n]; processes may have different numbers of rows and columns.
        padding: fills columns that are missing, and whole rows of a process that has fewer.

    Returns:
        All rows [W · largest B, largest n], and where this process's own begin.
    """
    if not _several():
        return rows, 0
    height, width = largest_over_processes(*rows.shape, device=rows.device)
    missing = (0, width - rows.shape[1], 0, height - len(rows))
    return _Gather.apply(torch.nn.functional.pad(rows, missing, value=padding)), dist.get_rank() * height


def gather_views(texts: Views, numbers: Tensor) -> tuple[Views, Tensor, int]:
    """The texts of all processes, with gradient.

    Args:
        texts: this process's, [B, …]; processes may have different numbers of texts and tokens.
        numbers: a number for each text, [B], none negative.

    Returns:
        All texts with padding rows of zeros between them, their numbers (`PADDING` for those rows), and where this
        process's own begin.
    """
    if not _several():
        return texts, numbers, 0
    rows, width = largest_over_processes(*texts.input_ids.shape, device=texts.pivot.device)
    more, wider = rows - len(texts), width - texts.input_ids.shape[1]
    pad = torch.nn.functional.pad
    gathered = replace(
        texts,
        pivot=_Gather.apply(pad(texts.pivot, (0, 0, 0, more))),
        input_ids=_Gather.apply(pad(texts.input_ids, (0, wider, 0, more))),
        weights=None if texts.weights is None else _Gather.apply(pad(texts.weights, (0, wider, 0, more))),
    )
    return gathered, _Gather.apply(pad(numbers, (0, more), value=PADDING)), dist.get_rank() * rows
