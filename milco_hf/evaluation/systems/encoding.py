"""Batches of about equal length, encoded one at a time, given back in the order of the texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from sentence_transformers.base import BaseModel
from tqdm import tqdm

from milco_hf.evaluation.vectors import Vectors

V = TypeVar("V", bound=Vectors)


def in_batches(
    vectors: type[V], encode: Callable[[list[str]], V], texts: Sequence[str], batch_size: int, description: str
) -> V:
    """Vectors of texts; each batch's own leave the model at once, so that memory is that of the result."""
    if not texts:
        raise ValueError("There are no texts to encode.")
    order = np.argsort([-len(text) for text in texts], kind="stable")
    parts = [
        encode([texts[row] for row in order[start : start + batch_size]])
        for start in tqdm(
            range(0, len(order), batch_size), desc=description, unit=" batches", leave=False, disable=None
        )
    ]
    return vectors.concatenate(parts).take(np.argsort(order, kind="stable"))


def set_lengths(model: BaseModel, max_length: int | None, query_length: int | None) -> dict[str, Any]:
    """Cuts documents and queries at these lengths, in tokens; None leaves what the model says.

    Returns:
        The lengths in force, for the report.

    Raises:
        ValueError: A length is below 1 or longer than the model can read.
    """
    first = model[0]
    limit = model.max_seq_length
    for name, length in (("max_length", max_length), ("query_length", query_length)):
        if length is None:
            continue
        if length < 1 or (limit and length > limit):
            raise ValueError(f"{name} has to be between 1 and {limit}, the longest this model reads; got {length}.")
        side = "document_length" if name == "max_length" else "query_length"
        if hasattr(first, side):
            setattr(first, side, length)
        elif name == "max_length":
            model.max_seq_length = length
        else:
            raise ValueError(f"{type(first).__name__} has no length of its own for queries; leave query_length out.")
    return {
        "document_length": getattr(first, "document_length", None) or model.max_seq_length,
        "query_length": getattr(first, "query_length", None) or model.max_seq_length,
    }


__all__ = ["in_batches", "set_lengths"]
