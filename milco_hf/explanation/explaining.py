"""`explain`: a query's and a document's vectors, taken apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from sentence_transformers import SparseEncoder

from milco_hf.encoding.opening import Opened, autocast_dtype, open_model
from milco_hf.explanation.reading import read_side
from milco_hf.explanation.result import Contribution, Explanation, Side
from milco_hf.modeling import MilcoConfig, MilcoForSparseEncoding
from milco_hf.pruning import Prune

if TYPE_CHECKING:
    import torch

Model = str | Path | SparseEncoder | MilcoForSparseEncoding


@overload
def explain(
    model: Model,
    query: str,
    document: str,
    *,
    query_prune: Prune = ...,
    document_prune: Prune = ...,
    query_length: int | None = ...,
    document_length: int | None = ...,
    views: str = ...,
    dtype: str | torch.dtype | None = ...,
    query_language: str | None = ...,
    document_language: str | None = ...,
) -> Explanation: ...


@overload
def explain(
    model: Model,
    query: str,
    document: Sequence[str],
    *,
    query_prune: Prune = ...,
    document_prune: Prune = ...,
    query_length: int | None = ...,
    document_length: int | None = ...,
    views: str = ...,
    dtype: str | torch.dtype | None = ...,
    query_language: str | None = ...,
    document_language: str | Sequence[str | None] | None = ...,
) -> list[Explanation]: ...


def explain(
    model: Model,
    query: str,
    document: str | Sequence[str],
    *,
    query_prune: Prune = None,
    document_prune: Prune = None,
    query_length: int | None = None,
    document_length: int | None = None,
    views: str = "both",
    dtype: str | torch.dtype | None = None,
    query_language: str | None = None,
    document_language: str | Sequence[str | None] | None = None,
) -> Explanation | list[Explanation]:
    """Says why a document gets its score for a query.

    The vectors are those of `encode_corpus`, so prompts, lengths and pruning count as they do in an index; without
    pruning the score is `model.similarity(model.encode_query(query), model.encode_document(document))`.

    Args:
        model: A bundled checkpoint's name, a folder, a Hub id, or a model that is loaded.
        query: The query.
        document: The document, or several, such as the texts of a ranked list.
        query_prune: What is kept of the query's vector, as `milco_hf.pruning.parse` reads it: "mass:0.9",
            "english=mass:0.9 source=top_k:16", "none"; by default what `encode_corpus` does without it.
        document_prune: What is kept of the document's.
        query_length: Longest query in tokens, special tokens included; by default what the model says.
        document_length: Longest document.
        views: "both", or "english" or "source" alone.
        dtype: As `encode_corpus` takes it, so that vectors computed under autocast are explained as they are.
        query_language: The query's, for encoders with language adapters (X-MOD), such as "de"; None is the model's
            default.
        document_language: The documents', likewise, or one for each, as `encode_corpus` takes them.

    Returns:
        The explanation; for several documents one each, in their order.

    Raises:
        TypeError: A text is no string, or `model` is no model.
        ValueError: The model is no MILCO checkpoint or has no adapter for a language, a text is no valid Unicode, or a
            number or name cannot work; the message says what to do.

    Example:
        >>> why = milco_hf.explain("milco-mini", "Musik der alten Stadt", "The city is known for its music.")
        >>> [(part.term, round(part.share, 2)) for part in why.contributions[:2]]
        >>> why.to_html()
    """
    texts = [document] if isinstance(document, str) else list(document)
    for kind, text in [("query", query), *(("document", text) for text in texts)]:
        _check_text(kind, text)
    languages = _languages(document_language, len(texts))
    opened = _open(model)
    autocast = autocast_dtype(dtype, opened.devices)
    asked = read_side(opened, query, "query", query_prune, query_length, views, autocast, query_language)
    sides = (
        read_side(opened, text, "document", document_prune, document_length, views, autocast, language)
        for text, language in zip(texts, languages)
    )
    found = [_compared(opened, asked, side) for side in sides]
    return found[0] if isinstance(document, str) else found


def _languages(given: str | Sequence[str | None] | None, texts: int) -> list[str | list[str | None] | None]:
    """Of each document, as `encode_corpus` takes it: the one name of all, or a list of its own."""
    if given is None or isinstance(given, str):
        return [given] * texts
    if len(given) != texts:
        raise ValueError(
            f"document_language names {len(given)} languages for {texts} documents; give one each, or one for all."
        )
    return [[name] for name in given]


def _compared(opened: Opened, query: Side, document: Side) -> Explanation:
    """Every dimension that both have, and what it adds."""
    in_document = {entry.dimension: entry for entry in document.entries}
    pairs = [(entry, in_document[entry.dimension]) for entry in query.entries if entry.dimension in in_document]
    products = [mine.weight * theirs.weight for mine, theirs in pairs]
    total = sum(products)
    parts = [
        Contribution(mine, theirs, product, product / total if total else 0.0)
        for (mine, theirs), product in zip(pairs, products)
    ]
    parts.sort(key=lambda part: (-part.score, part.dimension))
    name = Path(opened.name)
    return Explanation(name.name if name.is_dir() else opened.name, query, document, tuple(parts))


def _open(model: Model) -> Opened:
    """The model, loaded; refuses what has no English head whose winners could be asked for."""
    if isinstance(model, (str, os.PathLike)):
        from milco_hf.loading import load

        model = load(model)
    if isinstance(model, SparseEncoder):
        inner = getattr(getattr(model, "transformers_model", None), "config", None)
        if len(model) > 1 or getattr(inner, "model_type", None) != MilcoConfig.model_type:
            raise ValueError(
                "explain needs a MILCO checkpoint, and this SparseEncoder is made of other modules "
                f"({', '.join(type(module).__name__ for module in model)}). Its own model.intersection and "
                "model.decode name the dimensions that two of its vectors share."
            )
    return open_model(model, None)


def _check_text(kind: str, text: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"The {kind} has to be a string, got {text!r} of type {type(text).__name__}.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The {kind} is no valid Unicode: half of a surrogate pair ({text[error.start]!r}) stands at character "
            f"{error.start}. Decode it with errors='replace'."
        ) from None


__all__ = ["explain"]
