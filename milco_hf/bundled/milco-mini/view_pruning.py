"""Pruning of vectors where they are made: what a checkpoint's configuration says, on the device they are on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

VIEWS = ("both", "english", "source")
PruningForms = str | Mapping[str, str] | None


def parse_form(form: str) -> tuple[str, float]:
    """(method, amount) of "mass:0.9", "top_k:30", "max_ratio:0.1" or "threshold:0.2".

    Raises:
        ValueError: No form fits.
    """
    method, _, amount = str(form).partition(":")
    try:
        if method in ("mass", "max_ratio") and 0 < float(amount) <= 1:
            return method, float(amount)
        if method == "top_k" and int(amount) >= 1:
            return method, int(amount)
        if method == "threshold" and 0 < float(amount) < float("inf"):
            return method, float(amount)
    except ValueError:
        pass
    raise ValueError(
        "Pruning reads mass:SHARE or max_ratio:SHARE (above 0, at most 1), top_k:K (at least 1) or threshold:WEIGHT "
        f"(above 0), such as mass:0.9; got {form!r}."
    )


def parse_views(forms: PruningForms) -> dict[str, tuple[str, float]]:
    """What a configuration holds: None, a form for the whole vector, or {"english": form, "source": form}.

    Raises:
        ValueError: A form or a view is unknown, or "both" stands beside another.
    """
    if forms is None:
        return {}
    if isinstance(forms, str):
        forms = {"both": forms}
    if set(forms) - set(VIEWS) or ("both" in forms and len(forms) > 1):
        raise ValueError(f'Pruning is of "both", or of "english" and "source", got {", ".join(map(repr, forms))}.')
    return {view: parse_form(form) for view, form in forms.items()}


def prune_vectors(vectors: Tensor, forms: PruningForms, terms: int) -> Tensor:
    """Vectors with the entries that pruning drops set to zero.

    Args:
        vectors: [batch, V_e + V_s].
        forms: See `parse_views`.
        terms: V_e.
    """
    spans = {"both": (0, vectors.shape[1]), "english": (0, terms), "source": (terms, vectors.shape[1])}
    for view, (method, amount) in parse_views(forms).items():
        first, last = spans[view]
        part = vectors[:, first:last]
        rows, columns = part.nonzero(as_tuple=True)
        width = last - first
        keys, values = prune_entries(rows * width + columns, part[rows, columns], len(part), width, method, amount)
        kept = torch.zeros_like(part).reshape(-1).index_put((keys,), values).reshape(part.shape)
        vectors = torch.cat([vectors[:, :first], kept, vectors[:, last:]], dim=1)
    return vectors


def prune_entries(
    keys: Tensor, values: Tensor, rows: int, width: int, method: str, amount: float
) -> tuple[Tensor, Tensor]:
    """The entries of sparse rows that a method keeps; ties go to the smaller columns.

    Args:
        keys: [entries], row × width + column, ascending.
        values: [entries], their weights.
        rows: How many rows there are.
        width: Columns of a row.
        method: "mass" (the heaviest up to a share of the row's sum, with the one that crosses it), "top_k",
            "max_ratio" (at least a share of the row's largest) or "threshold".
        amount: The share, the number or the weight.

    Returns:
        The keys and values that are kept, in the same order.

    Raises:
        ValueError: A weight is negative, and mass and max-ratio know none.
    """
    if not len(keys):
        return keys, values
    row = keys // width
    if method == "threshold":
        keep = values.float() >= torch.tensor(amount, dtype=torch.float32, device=values.device)
        return keys[keep], values[keep]
    wide = torch.float32 if keys.device.type == "mps" else torch.float64  # mps has no fp64
    if method in ("mass", "max_ratio") and (smallest := float(values.min())) < 0:
        name = "Mass" if method == "mass" else "Max-ratio"
        raise ValueError(f"{name} pruning needs weights that are not negative, got {smallest}.")
    if method == "max_ratio":
        weights = values.to(wide)
        largest = weights.new_zeros(rows).scatter_reduce(0, row, weights, "amax", include_self=True)
        keep = (weights > 0) & (weights >= amount * largest[row])
        return keys[keep], values[keep]
    counts = torch.bincount(row, minlength=rows)
    order = values.argsort(descending=True, stable=True)  # stable, so that columns break ties
    order = order[row[order].argsort(stable=True)]
    places = torch.arange(len(keys), device=keys.device) - (counts.cumsum(0) - counts)[row]
    if method == "top_k":
        keep = places < amount
    else:
        padded = torch.zeros((rows, int(counts.max())), dtype=wide, device=keys.device)
        padded[row, places] = values[order].to(wide)
        total = padded.cumsum(1)
        before = torch.nn.functional.pad(total[:, :-1], (1, 0))
        keep = ((padded > 0) & ((before < amount * total[:, -1:]) | (amount == 1)))[row, places]
    kept = torch.zeros_like(keep)
    kept[order] = keep
    return keys[kept], values[kept]


__all__ = ["VIEWS", "PruningForms", "parse_form", "parse_views", "prune_entries", "prune_vectors"]
