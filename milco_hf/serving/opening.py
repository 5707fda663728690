"""The model on each device, and the index, as `create_app` is asked for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milco_hf.encoding.opening import KINDS, Opened, autocast_dtype, open_model
from milco_hf.encoding.rows import Job
from milco_hf.loading import load
from milco_hf.pruning import Prune, default_pruning, parse
from milco_hf.serving.engine import Engine
from milco_hf.serving.metrics import Metrics
from milco_hf.serving.reading import Kind
from milco_hf.serving.settings import Settings

if TYPE_CHECKING:
    from milco_hf.index import Index


def open_engine(
    model: Any,
    index: str | Path | Index | None,
    settings: Settings,
    metrics: Metrics,
    *,
    revision: str | None,
    devices: str | Sequence[str] | None,
    dtype: str | None,
    lengths: Mapping[str, int | None],
    prunes: Mapping[str, Prune],
    check_fingerprint: bool,
) -> tuple[Engine, Index | None]:
    """Opens model and index so that the endpoints' vectors fit the index.

    Args:
        model: As `create_app` takes it.
        index: As `create_app` takes it.
        settings: Limits and defaults.
        metrics: What is counted.
        revision: As `create_app` takes it.
        devices: As `create_app` takes them.
        dtype: As `create_app` takes it.
        lengths: The longest "query" and "document"; None as the index or the model says.
        prunes: What is kept of the vectors of each; None as the index or the model says.
        check_fingerprint: As `create_app` takes it.

    Raises:
        ValueError: A name or number cannot work, or does not fit the index.
        FileNotFoundError: There is no such checkpoint or index.
    """
    named = [devices] if isinstance(devices, str) else [str(device) for device in devices or []]
    if len(set(named)) < len(named):
        raise ValueError(f"devices names one device twice ({', '.join(named)}), and two models on one gain nothing.")
    if revision is not None and not isinstance(model, (str, Path)):
        raise ValueError(
            f"revision={revision!r} goes with a model that is given by its Hub id"
            + (": the index names its own model's revision itself." if index is not None else ".")
        )
    if index is not None:
        _check_left_to_index(lengths, prunes)
        index = _open_index(index, model, revision, named, check_fingerprint)
        info = index.info
        lengths = {"query": info["lengths"]["query_length"], "document": info["lengths"]["max_length"]}
        prunes = {"query": info["pruning"]["queries"] or "none", "document": info["pruning"]["documents"] or "none"}
        models = [open_model(index.model, named[:1])]  # refuses a loaded model that lies elsewhere
        models[0] = replace(models[0], name=info["model"])
        again = info["model"] if model is None else model
        revision = info["revision"] if model is None else revision
    else:
        again = "milco-mini" if model is None else model
        first = again if revision is None else load(again, revision=revision, device=next(iter(named), None))
        models = [open_model(first, named[:1])]
        models[0] = replace(models[0], name=str(again) if isinstance(again, (str, Path)) else models[0].name)
    for device in named[1:]:
        if not isinstance(again, (str, Path)):
            raise ValueError("Several devices need the model by name, as each gets its own; this one is loaded.")
        models.append(open_model(load(again, device=device, revision=revision), None))
    views = "both" if index is None else index.info["views"]
    kinds = {kind: _kind(models, kind, lengths[kind], prunes[kind], views, dtype) for kind in KINDS}
    return Engine(models, kinds, settings, metrics), index


def _open_index(
    index: str | Path | Index, model: Any, revision: str | None, devices: Sequence[str], check_fingerprint: bool
) -> Index:
    """The index, with its model on the first device."""
    from milco_hf.index import Index

    if not isinstance(index, (str, Path)):
        if model is not None or devices:
            raise ValueError("The index is open already and has its model: leave model and devices to it.")
        return index
    device = next(iter(devices), None)
    if revision is not None:
        model = load(model, revision=revision, device=device)
    return Index.load(index, model, device=device, check_fingerprint=check_fingerprint)


def _check_left_to_index(lengths: Mapping[str, int | None], prunes: Mapping[str, Prune]) -> None:
    """Refuses what would make vectors that do not fit the index."""
    given = [f"{kind}_length" for kind, length in lengths.items() if length is not None]
    given += [f"{kind}_prune" for kind, prune in prunes.items() if prune is not None]
    if given:
        raise ValueError(
            f"{', '.join(given)}: an index says itself how queries and documents are encoded. Build it otherwise "
            "(milco index), or let a search ask for another pruning of its query (`prune`)."
        )


def _kind(models: Sequence[Opened], name: str, length: int | None, prune: Prune, views: str, dtype: str | None) -> Kind:
    """How texts of a kind are encoded: as asked, or else as the checkpoint says."""
    first = models[0]
    forms = default_pruning(first.whole, name) if prune is None else parse(prune)
    job = Job(views, forms, autocast_dtype(dtype, [opened.devices[0] for opened in models]))
    return Kind(name, first.prompt(name), first.max_length(name, length), job)


__all__ = ["open_engine"]
