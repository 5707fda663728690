"""Documents as an index takes them, from memory, files, BEIR folders or a data set of the Hub."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milco_hf.encoding.files import ID_NAMES

# What a record's keys mean; every other key is metadata.
_NAMES = {"id": ID_NAMES, "title": ("title",), "text": ("text",), "language": ("language", "lang")}


@dataclass(frozen=True)
class Document:
    """A document.

    Attributes:
        text: Its text.
        id: Its name; None lets the index count.
        title: Encoded before the text.
        language: Such as "de"; searches can ask for it.
        metadata: Anything JSON can hold; searches can filter by its keys.
    """

    text: str
    id: str | None = None
    title: str = ""
    language: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def encoded_text(self, start: int = 0, end: int | None = None) -> str:
        """What the model reads: the title and the text (or a passage of it), as BEIR joins them."""
        return f"{self.title} {self.text[start:end]}".strip()


def read_documents(
    source: Any,
    *,
    fields: Mapping[str, str] | None = None,
    language: str | None = None,
    subset: str | None = None,
    split: str | None = None,
    revision: str | None = None,
) -> Iterator[Document]:
    """Documents, one after the other.

    Args:
        source: Texts, dictionaries or `Document`s, such as a list or a generator; or where they lie: a file (.jsonl,
            .csv, .tsv, .txt, each also .gz, .xz or .bz2; .parquet), a folder of such files, a folder in the BEIR layout
            (or one of each language in it, whose names are the languages and go before the ids: "de:p7"), or the id of
            a data set on the Hub. In a list, files and folders are `Path`s: a string there is a text, so data sets of
            the Hub are given one at a time.
        fields: Which key or column is the "text", "id", "title" or "language", where it has another name.
        language: Of documents that do not say. Encoders with language adapters (X-MOD) read each document with its own.
        subset: Of a data set on the Hub: its configuration.
        split: Of a data set on the Hub; by default "corpus", "train" or the only one.
        revision: Of a data set on the Hub.

    Raises:
        FileNotFoundError: There is no such file, folder or data set.
        ValueError: A document cannot be read; the message names the file and the line, or the number.
        TypeError: A document is none.
        ImportError: Parquet and data sets need `pip install "milco-hf[index]"`.
    """
    unknown = set(fields or {}) - set(_NAMES)
    if unknown:
        raise ValueError(f"fields names {', '.join(_NAMES)}, got {', '.join(map(repr, sorted(unknown)))}.")
    with_ids: bool | None = None
    for place, record, prefix, own_language in _records(source, subset, split, revision):
        document = _document(record, place, dict(fields or {}), prefix, own_language or language)
        if with_ids is None:
            with_ids = document.id is not None
        if with_ids != (document.id is not None):
            here, before = ("no id", "have one") if with_ids else ("an id", "have none")
            raise ValueError(
                f"{place}: {here}, but documents before {before}. Give each an id ({', '.join(ID_NAMES)}, or "
                "fields={'id': …}) or none."
            )
        yield document


def _records(
    source: Any, subset: str | None, split: str | None, revision: str | None
) -> Iterator[tuple[str, Any, str, str | None]]:
    """(where it stands, the record, what goes before its id, its language) of each document."""
    from milco_hf.index.sources import records_at

    if isinstance(source, (str, Path)):
        yield from records_at(source, subset, split, revision)
        return
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise TypeError(f"documents are several, such as a list, or a path; got {type(source).__name__}.")
    for number, record in enumerate(source):
        if isinstance(record, Path):
            yield from records_at(record, subset, split, revision)
        else:
            yield f"document number {number}", record, "", None


def _document(record: Any, place: str, fields: dict[str, str], prefix: str, language: str | None) -> Document:
    """A record as a document, checked so that storing it cannot fail."""
    if isinstance(record, str):
        record = {"text": record}
    if isinstance(record, Document):
        taken = {name: getattr(record, name) for name in _NAMES}
        record, fields = dict(record.metadata), {}
    elif isinstance(record, Mapping):
        record = dict(record)
        taken = {name: _take(record, (fields[name],) if name in fields else _NAMES[name]) for name in _NAMES}
        if isinstance(record.get("metadata"), Mapping):
            record = {**{name: value for name, value in record.items() if name != "metadata"}, **record["metadata"]}
    else:
        raise TypeError(f"{place}: a document is a text, a dictionary or a Document, got {type(record).__name__}.")
    if not isinstance(taken["text"], str):
        wanted = fields.get("text", "text")
        there = ", ".join(map(str, record)) or "nothing else"
        raise ValueError(
            f"{place}: needs a `{wanted}` that is a string, got {taken['text']!r}; it also has {there} "
            "(fields={'text': NAME}, --field text=NAME, says what it is called)."
        )
    for name in ("title", "language"):
        if taken[name] is not None and not isinstance(taken[name], str):
            raise ValueError(f"{place}: `{fields.get(name, name)}` has to be a string, got {taken[name]!r}.")
    identifier = None if taken["id"] is None else f"{prefix}{taken['id']}"
    if identifier is not None and not identifier.strip():
        raise ValueError(f"{place}: its id is empty.")
    document = Document(
        taken["text"],
        identifier,
        taken["title"] or "",
        taken["language"] or language,
        {str(name): plain(value) for name, value in record.items()},
    )
    _check_unicode(document, place)
    return document


def _take(record: dict[str, Any], names: Iterable[str]) -> Any:
    """The first of some keys that holds anything; the record loses it."""
    for name in names:
        if record.get(name) is not None:
            return record.pop(name)
        record.pop(name, None)
    return None


def plain(value: Any) -> Any:
    """A value as JSON can hold it: numpy's numbers as Python's, NaN as None, dates and the like as strings."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(part) for part in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _check_unicode(document: Document, place: str) -> None:
    """Half a surrogate pair is no character, and neither tokenizers nor files can hold it."""
    values = {name: getattr(document, name) for name in ("id", "title", "text", "language")}
    values["metadata"] = json.dumps(dict(document.metadata), ensure_ascii=False)
    for name, value in values.items():
        try:
            (value or "").encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{place}: `{name}` holds half a surrogate pair ({value[error.start]!r}) at {error.start}, which is no "
                "character. Clean it, for example with text.encode('utf-16', 'surrogatepass').decode('utf-16', "
                "'replace')."
            ) from None


__all__ = ["Document", "plain", "read_documents"]
