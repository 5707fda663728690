"""The model of an index: opened when it is first needed, checked against what the index was built with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import sparse

from milco_hf import loading, pruning
from milco_hf.encoding import encode_corpus
from milco_hf.encoding.opening import open_model
from milco_hf.fingerprint import model_fingerprint
from milco_hf.index.manifest import versions
from milco_hf.loading import load


def opened(model: Any, devices: Sequence[str] | str | None, revision: str | None) -> tuple[Any, str, str | None]:
    """(the model, what manifests call it, its commit on the Hub) of what `Index.build` takes as a model.

    Raises:
        ValueError: A revision of a model that is loaded already, or see `encode_corpus`.
    """
    if revision is not None:
        if not isinstance(model, (str, Path)):
            raise ValueError("revision is for a model that is given by name; this one is loaded already.")
        device = devices if isinstance(devices, str) else devices[0] if devices and len(devices) == 1 else None
        whole = load(model, revision=revision, device=device)
        name = str(model)
    else:
        found = open_model(model, devices)
        whole, name = found.whole, found.name
    folder = Path(name).expanduser()
    if folder.is_dir():
        # the bundled ones lie elsewhere in every installation
        bundled = Path(loading.__file__).resolve().parent / "bundled"
        name = folder.name if folder.resolve().parent == bundled else str(folder.resolve())
    config = getattr(getattr(whole, "transformers_model", whole), "config", None)
    return whole, name, getattr(config, "_commit_hash", None)


def check_lengths(model: Any, **lengths: int | None) -> None:
    """Refuses lengths that a model cannot read, before anything is encoded.

    Args:
        model: What `opened` gave.
        **lengths: By kind, "document" and "query"; None for the model's own.

    Raises:
        ValueError: It cannot; the message says what it can.
    """
    found = open_model(model, None)
    for kind, length in lengths.items():
        found.max_length(kind, length)


def open_again(manifest: Mapping[str, Any], model: Any, device: str | None, folder: Path) -> Any:
    """The model of an index, by the name in its manifest or as it is given.

    Raises:
        FileNotFoundError: There is no such model any more.
    """
    if model is not None and not isinstance(model, (str, Path)):
        return model
    name = manifest["model"] if model is None else model
    revision = manifest["revision"] if model is None and not Path(str(name)).is_dir() else None
    try:
        return load(name, device=device, **({} if revision is None else {"revision": revision}))
    except FileNotFoundError as error:
        if model is not None:
            raise
        raise FileNotFoundError(
            f"{folder} was built with {name}, which is not there any more. Index.load(path, model=FOLDER) (--model "
            f"FOLDER) says where it lies now. {error}"
        ) from error


def check_fingerprint(manifest: Mapping[str, Any], model: Any, folder: Path) -> None:
    """Refuses a model whose vectors do not belong to an index.

    Raises:
        ValueError: The fingerprints differ; the message has both, and the way out.
    """
    here = model_fingerprint(model)
    if here == manifest["model_fingerprint"]:
        return
    changed = ", ".join(
        f"{name} {manifest['versions'].get(name)} there and {version} here"
        for name, version in versions().items()
        if manifest["versions"].get(name) != version
    )
    raise ValueError(
        f"{folder} was built with {manifest['model']}, fingerprint {manifest['model_fingerprint']}, but this model has "
        f"{here}: weights, tokenizer, lengths, prompts, code or library versions differ, so that queries would not "
        "fit the documents. "
        + (f"The libraries do: {changed}. " if changed else "")
        + "Search with the model that the index was built with, or build the index again with this one (milco index … "
        "--overwrite). If you know that the vectors are the same: check_fingerprint=False (--any-model)."
    )


def check_made_by(manifest: Mapping[str, Any], vectors: Mapping[str, Any], folder: Path) -> None:
    """Refuses query vectors that another model made, or of other views.

    Args:
        manifest: The index's.
        vectors: What `load_vectors` gives for the queries.
        folder: The index.

    Raises:
        ValueError: They do not belong to the index; the message says why and what to do.
    """
    way_out = "Encode the queries again: milco_hf.encode_corpus(index.model, texts, kind='query', …), or index.search."
    if vectors["fingerprint"] != manifest["model_fingerprint"]:
        raise ValueError(
            f"{folder} was built with {manifest['model']}, fingerprint {manifest['model_fingerprint']}, but the "
            f"queries were encoded with {vectors['model']}, fingerprint {vectors['fingerprint']}. {way_out}"
        )
    settings = vectors["settings"]
    for name, wanted in (("kind", "query"), ("views", manifest["settings"]["views"])):
        if settings[name] != wanted:
            raise ValueError(
                f"{folder} (fingerprint {manifest['fingerprint']}) takes queries with {name} {wanted!r}, but these "
                f"were encoded with {settings[name]!r}. {way_out}"
            )


def encode_queries(
    manifest: Mapping[str, Any],
    model: Any,
    texts: Sequence[str],
    prune: Any,
    language: str | Sequence[str | None] | None = None,
) -> sparse.csr_array:
    """Queries as the index wants them, [Q, V_e + V_s].

    Args:
        manifest: The index's.
        model: The index's.
        texts: The queries.
        prune: Otherwise than the index says; None for that.
        language: Of the queries, as `encode_corpus` takes it.

    Raises:
        ValueError: The model has no adapter for a language, or none at all; or there are not as many as queries.
    """
    settings = manifest["settings"]
    forms = pruning.parse(settings["query_pruning"] if prune is None else prune)
    return encode_corpus(
        model,
        texts,
        kind="query",
        language=language,
        max_length=settings["query_length"],
        views=settings["views"],
        prune=forms,
        progress=False,
    )


__all__ = ["check_fingerprint", "check_lengths", "check_made_by", "encode_queries", "open_again", "opened"]
