"""From what somebody wrote on the command line to a system."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.util import load_file_path

from milco_hf.evaluation.systems.base import System, VectorSystem
from milco_hf.evaluation.systems.bm25 import Bm25System
from milco_hf.evaluation.systems.dense import DenseSystemEncoder, MultiVectorSystemEncoder
from milco_hf.evaluation.systems.sparse import SparseSystemEncoder
from milco_hf.loading import NotOnHub, bundled_checkpoints, load, on_hub

BM25 = "bm25"
_CLASSES = {
    "SparseEncoder": SparseEncoder,
    "SentenceTransformer": SentenceTransformer,
    "MultiVectorEncoder": MultiVectorEncoder,
}
_NAMED = re.compile(r"(?P<name>[\w.@+:-]+)=(?P<spec>.+)")
# Options that only sparse vectors have.
_SPARSE_ONLY = ("view", "prune", "prune_queries")


def open_systems(specs: Iterable[Any], revision: str | None = None, **options: Any) -> list[System]:
    """Every system, with names that tell them apart.

    Args:
        specs: See `open_system`.
        revision: Branch, tag or commit of the one system that is given by its Hub id.
        **options: See `open_system`.

    Raises:
        ValueError: There are none, two have the same name, options of sparse models find no sparse model, or a revision
            finds no Hub id, or several.
    """
    specs = list(specs)
    if not specs:
        raise ValueError("Name at least one model, or bm25.")
    systems = [open_system(spec, revision=each, **options) for spec, each in zip(specs, revisions(specs, revision))]
    asked = [name for name in _SPARSE_ONLY if options.get(name) not in (None, "both")]
    if asked and not any(system.kind == "sparse" for system in systems):
        raise ValueError(f"{', '.join(asked)}: for sparse models alone, and none of the systems is one.")
    taken: dict[str, Any] = {}
    for spec, system in zip(specs, systems):
        if system.name in taken:
            raise ValueError(
                f"Two systems are called {system.name!r} ({taken[system.name]} and {spec}); write NAME=MODEL to "
                "tell them apart."
            )
        taken[system.name] = spec
    return systems


def open_system(
    spec: Any,
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    query_length: int | None = None,
    dtype: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    **sparse_options: Any,
) -> System:
    """One system.

    Args:
        spec: "bm25"; a bundled checkpoint's name, a folder or a Hub id of a `SparseEncoder`, `SentenceTransformer` or
            `MultiVectorEncoder`; NAME=MODEL for a name of one's own; such a model itself, or a `System`.
        batch_size: Texts in a batch.
        max_length: Documents are cut to so many tokens; None for what the model says.
        query_length: Queries likewise.
        dtype: Of the weights, such as "bfloat16"; None for what they are stored in.
        device: Such as "cuda"; None for the best there is.
        trust_remote_code: Run code that comes with a model.
        revision: Branch, tag or commit of a model that is given by its Hub id.
        **sparse_options: `view`, `prune`, `prune_queries` of `SparseSystemEncoder`; other models do without.

    Raises:
        ValueError: It is none of these, an option is unknown, or a revision is asked of what is no Hub id.
        FileNotFoundError: There is no such model.
    """
    sparse_options = {name: value for name, value in sparse_options.items() if value not in (None, "both")}
    unknown = set(sparse_options) - set(_SPARSE_ONLY)
    if unknown:
        raise ValueError(f"There is no option {', '.join(sorted(unknown))}.")
    (revision,) = revisions([spec], revision)
    if not isinstance(spec, str | Path | SparseEncoder | SentenceTransformer | MultiVectorEncoder):
        if hasattr(spec, "index") and hasattr(spec, "fingerprint"):
            return spec
        raise ValueError(
            f"A system is a name, a folder, a sentence-transformers model or a System, got {type(spec).__name__}."
        )
    if isinstance(spec, str | Path):
        name, place = named(str(spec))
        if place == BM25:
            return Bm25System(name)
        model = open_model(place, dtype=dtype, device=device, trust_remote_code=trust_remote_code, revision=revision)
    else:
        name, model = getattr(spec.model_card_data, "model_name", None) or type(spec).__name__, spec
        name = _short(name)
    options = {"batch_size": batch_size, "max_length": max_length, "query_length": query_length}
    if isinstance(model, SparseEncoder):
        return VectorSystem(SparseSystemEncoder(model, name, **options, **sparse_options))
    encoder = MultiVectorSystemEncoder if isinstance(model, MultiVectorEncoder) else DenseSystemEncoder
    return VectorSystem(encoder(model, name, **options))


def revisions(specs: Iterable[Any], revision: str | None) -> list[str | None]:
    """Of each system the revision: None but of the one that is given by its Hub id.

    Args:
        specs: See `open_system`.
        revision: Branch, tag or commit, or None.

    Raises:
        ValueError: There is a revision, and none of the systems is given by its Hub id, or several are.
    """
    specs = list(specs)
    if revision is None:
        return [None] * len(specs)
    on_hub = [_given_by_hub_id(spec) for spec in specs]
    if sum(on_hub) != 1:
        ids = ", ".join(str(spec) for spec, there in zip(specs, on_hub) if there)
        raise ValueError(
            f"revision={revision!r} goes with one model that is given by its Hub id, and "
            + (f"here are several: {ids}. Evaluate each by itself." if ids else "none is: leave it away.")
        )
    return [revision if there else None for there in on_hub]


def _given_by_hub_id(spec: Any) -> bool:
    """Whether a system is neither bundled nor a folder nor bm25 nor open already."""
    if not isinstance(spec, str | Path):
        return False
    _, place = named(str(spec))
    return place != BM25 and place not in bundled_checkpoints() and not Path(place).expanduser().is_dir()


def open_model(
    place: str,
    *,
    dtype: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> SparseEncoder | SentenceTransformer | MultiVectorEncoder:
    """A model of sentence-transformers, of the class that its own configuration names.

    Args:
        place: A bundled checkpoint's name, a folder or a Hub id.
        dtype: See `open_system`.
        device: See `open_system`.
        trust_remote_code: See `open_system`.
        revision: Of a Hub id.

    Raises:
        ValueError: The configuration names another class (a CrossEncoder cannot search).
        FileNotFoundError: There is no such model.
    """
    options: dict[str, Any] = {"device": device}
    if dtype:
        options["model_kwargs"] = {"dtype": dtype}
    folder = Path(place).expanduser()
    if not folder.is_dir() and place in bundled_checkpoints():
        return load(place, **options)
    if folder.is_dir():
        config = folder / "config.json"
        if config.is_file() and "milco" in str(json.loads(config.read_text(encoding="utf-8")).get("model_type")):
            return load(place, **options)
        place = str(folder)
    elif place.count("/") > 1 or place.startswith((".", "/", "~")):
        hint = " In NAME=MODEL, NAME takes letters, digits and . _ @ + : - alone." if "=" in place else ""
        raise FileNotFoundError(f"There is no model {place!r}: no such folder.{hint}")
    else:
        try:
            options["local_files_only"] = not on_hub(place, revision=revision)
        except NotOnHub as error:
            raise _no_model(place, str(error)) from error
        options |= {} if revision is None else {"revision": revision}
    options["trust_remote_code"] = trust_remote_code
    try:
        local = options.get("local_files_only", False)
        path = load_file_path(place, "config_sentence_transformers.json", revision=revision, local_files_only=local)
        stated = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
        kind = stated.get("model_type", "SentenceTransformer")
        if kind not in _CLASSES:
            raise ValueError(f"{place} is a {kind}; a system is one of {', '.join(_CLASSES)}, or bm25.")
        return _CLASSES[kind](place, **options)
    except OSError as error:
        raise _no_model(place, f"the Hub gave: {str(error).splitlines()[0]}") from error


def _no_model(place: str, reason: str) -> FileNotFoundError:
    bundled = ", ".join(bundled_checkpoints())
    return FileNotFoundError(
        f"There is no model {place!r}: it is no folder, no bundled checkpoint ({bundled}) and not bm25; {reason}"
    )


def named(spec: str) -> tuple[str, str]:
    """(what to call it, where it lies)."""
    match = _NAMED.fullmatch(spec)
    if match and not Path(spec).expanduser().exists():
        return match["name"], match["spec"]
    return _short(spec), spec


def _short(spec: str) -> str:
    """The last part of a path or Hub id, with its parent where that alone says little."""
    parts = [part for part in Path(spec).parts if part not in ("/", ".", "..", "~")]
    last = parts[-1] if parts else spec
    if re.fullmatch(r"(checkpoint|final|model|best|last|output)([-_]?\d+)?", last) and len(parts) > 1:
        last = f"{parts[-2]}-{last}"
    return re.sub(r"[^\w.@+:-]", "-", last)


__all__ = ["BM25", "named", "open_model", "open_system", "open_systems", "revisions"]
