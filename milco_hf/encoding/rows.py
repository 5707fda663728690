"""A batch's sparse rows, made and pruned on the model's device without a [batch, V_e + V_s] tensor."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from milco_hf.modeling import MilcoForSparseEncoding
from milco_hf.pruning import Pruning, prune_entries


@dataclass(frozen=True)
class Job:
    """What is made of every text.

    Args:
        views: "both", "english" or "source".
        prune: What is pruned how: the whole vector ("both"), or its "english" and its "source" view by themselves.
        dtype: Of autocast; None computes in the weights' own.
    """

    views: str = "both"
    prune: Mapping[str, Pruning] = field(default_factory=dict)
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Batch:
    """Tokens of some texts.

    Args:
        shard: Number of their shard.
        rows: Each text's row in it, [texts].
        ids: [texts, longest] int32, padded.
        lengths: [texts].
        adapters: The number of each text's language adapter, [texts]; None for encoders without adapters.
    """

    shard: int
    rows: np.ndarray
    ids: np.ndarray
    lengths: np.ndarray
    adapters: np.ndarray | None = None


@dataclass(frozen=True)
class Rows:
    """Rows of a CSR matrix: entries of each row [texts], and all `columns` (ascending in each row) and `weights`."""

    counts: np.ndarray
    columns: np.ndarray
    weights: np.ndarray


@torch.inference_mode()
def encode_batch(model: MilcoForSparseEncoding, batch: Batch, job: Job) -> Rows:
    """The vectors of a batch.

    Pivot maxima [texts, V_e] and source weights [texts, tokens] are what the model gives; their nonzero entries become
    (row, column) keys, pruned and sorted on the device, so that only what is kept is copied.

    Args:
        model: In evaluation mode.
        batch: The texts.
        job: What is made of them.
    """
    device = model.device
    ids = torch.from_numpy(batch.ids).to(device, torch.long)
    lengths = torch.from_numpy(batch.lengths).to(device)
    mask = (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()
    adapters = None if batch.adapters is None else torch.from_numpy(batch.adapters).to(device)
    context = nullcontext() if job.dtype is None else torch.autocast(device.type, dtype=job.dtype)
    with context:
        output = model(
            input_ids=ids,
            attention_mask=mask,
            return_embeddings=False,
            source_view=job.views != "english",
            lang_ids=adapters,
            return_dict=True,
        )
    width = model.config.projection_dim
    found = []
    if job.views != "source":
        found.append(("english", *_pivot_entries(output.pivot_view, width)))
    if output.source_weights is not None:
        found.append(("source", *_source_entries(ids, output.source_weights, width, model.config.echo_pooling)))
    found = [prune_entries(keys, values, len(ids), width, job.prune.get(view)) for view, keys, values in found]
    if not found:  # the source view alone, of a model that has none
        found = [(torch.zeros(0, dtype=torch.long, device=device), torch.zeros(0, device=device))]
    keys, values = (torch.cat(parts) for parts in zip(*found))
    if len(found) > 1:
        keys, order = keys.sort()
        values = values[order]
    keys, values = prune_entries(keys, values, len(ids), width, job.prune.get("both"))
    counts = torch.bincount(keys // width, minlength=len(ids))
    return Rows(counts.cpu().numpy(), (keys % width).int().cpu().numpy(), values.float().cpu().numpy())


def _pivot_entries(pivot_view: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """(keys, weights) of the active English terms; key = row × width + column, ascending."""
    rows, columns = pivot_view.nonzero(as_tuple=True)
    return rows * width + columns, pivot_view[rows, columns]


def _source_entries(ids: Tensor, weights: Tensor, width: int, pooling: str) -> tuple[Tensor, Tensor]:
    """(keys, weights) of the echoed source tokens, equal ones of a text summed or their largest taken."""
    rows, places = weights.nonzero(as_tuple=True)
    keys, token = torch.unique(rows * width + ids[rows, places], return_inverse=True)
    reduce = "sum" if pooling == "sum" else "amax"
    pooled = weights.new_zeros(len(keys)).scatter_reduce(0, token, weights[rows, places], reduce, include_self=True)
    kept = pooled != 0
    return keys[kept], pooled[kept]


__all__ = ["Batch", "Job", "Rows", "encode_batch"]
