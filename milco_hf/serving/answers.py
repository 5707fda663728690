"""Vectors and other answers as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from fastapi import Response

from milco_hf.serving.batching import Row
from milco_hf.serving.engine import Encoded
from milco_hf.serving.errors import BACKEND, Refused
from milco_hf.terms import split_views


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer; a lone surrogate in it, which an index may hold, is escaped as JSON can."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text.encode("utf-8", "backslashreplace"), status, headers, "application/json")


def sparse_values(rows: Sequence[Row]) -> str:
    """The answer of `/embed_sparse`; nine digits are enough to get the same fp32 back."""
    _check_finite(rows)
    return (
        "["
        + ",".join(
            "["
            + ",".join(
                f'{{"index":{column},"value":{weight:.9g}}}'
                for column, weight in zip(columns.tolist(), weights.tolist())
            )
            + "]"
            for columns, weights in rows
        )
        + "]"
    )


def vectors(rows: Sequence[Row]) -> list[dict[str, list]]:
    """Dimensions and weights of each text."""
    _check_finite(rows)
    return [
        {"indices": columns.tolist(), "values": [float(f"{weight:.9g}") for weight in weights.tolist()]}
        for columns, weights in rows
    ]


def named(rows: Sequence[Row], names: Callable[[Sequence[int]], list[str]]) -> list[dict[str, dict[str, float]]]:
    """Weighted names of each text, as `milco encode` prints them, heaviest first."""
    _check_finite(rows)
    found = []
    for columns, weights in rows:
        order = np.argsort(-weights, kind="stable")
        pairs = zip(names(columns[order]), (round(weight, 4) for weight in weights[order].tolist()))
        english, source = split_views(pairs)
        found.append({"english": dict(english), "source": dict(source)})
    return found


def measured(encoded: Encoded, texts: Sequence[str]) -> dict[str, str]:
    """Headers that say what a request cost, named as text-embeddings-inference names them; times in ms."""
    return {
        "x-compute-characters": str(sum(map(len, texts))),
        "x-compute-tokens": str(encoded.tokens),
        "x-queue-time": str(round(1000 * encoded.queue_seconds)),
        "x-inference-time": str(round(1000 * encoded.inference_seconds)),
    }


def _check_finite(rows: Sequence[Row]) -> None:
    if not all(np.isfinite(weights).all() for _, weights in rows):
        raise Refused(424, BACKEND, "The model gave a weight that is no number (nan or infinite): check its weights.")


__all__ = ["json_response", "measured", "named", "sparse_values", "vectors"]
