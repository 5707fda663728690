"""Corpora as files: JSON lines, tables, lines of text, plain or compressed, read one text at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from milco_hf.text_files import COMPRESSION, TABLES, naming, open_text, read_jsonl, read_table

ID_NAMES = ("_id", "id", "pid", "docid")
LANGUAGE_NAMES = ("language", "lang")


class Text(NamedTuple):
    """A text, its id and its language, None where its file gives none."""

    text: str
    id: str | None = None
    language: str | None = None


def kind_of(path: Path) -> str:
    """What a file's name says that it holds: ".jsonl", ".tsv", ".csv", and "" for lines of text."""
    suffixes = [suffix for suffix in path.suffixes if suffix not in COMPRESSION]
    return suffixes[-1] if suffixes and suffixes[-1] in (".jsonl", *TABLES) else ""


def read_texts(path: Path) -> Iterator[Text]:
    """The texts of a file.

    `.jsonl`: objects with `text`, maybe an id (`_id`, `id`, `pid` or `docid`), a `title`, which goes before the text,
    as BEIR has it, and a `language` (or `lang`). `.tsv`, `.csv`: the same names in a first row that has `text` among
    them; without such a row, one column is the text, two are id and text. Anything else: one text a line, an empty
    line an empty text. All may end in `.gz`, `.xz` or `.bz2`.

    Raises:
        ValueError: A line cannot be read, or has an id where others have none; the message names it.
    """
    with naming(path):
        yield from _texts(path, kind_of(path))


def _texts(path: Path, kind: str) -> Iterator[Text]:
    if not kind:
        with open_text(path) as lines:
            yield from (Text(line.rstrip("\r\n")) for line in lines)
        return
    with_ids = None
    for line, row in read_jsonl(path) if kind == ".jsonl" else read_table(path, kind):
        text = _text(row, f"{path}, line {line}")
        if with_ids is None:
            with_ids = text.id is not None
        if with_ids != (text.id is not None):
            here, before = ("no id", "have one") if with_ids else ("an id", "have none")
            raise ValueError(
                f"{path}, line {line}: {here}, but lines before {before}. Give each an id ({', '.join(ID_NAMES)}) or "
                "none."
            )
        yield text


def _text(row: dict[str, Any], place: str) -> Text:
    if not isinstance(row.get("text"), str):
        raise ValueError(f"{place}: needs a `text`; it has {', '.join(row) or 'nothing'}.")
    title, language = row.get("title"), _first(row, LANGUAGE_NAMES)
    for name, value in (("title", title), ("language", language)):
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{place}: `{name}` has to be a string, got {value!r}.")
    return Text(_joined(title, row["text"]), _id(row), language or None)


def _joined(title: str | None, text: str) -> str:
    """Title and text as BEIR joins them."""
    return text if title is None else f"{title} {text}".strip()


def _id(row: dict) -> str | None:
    found = _first(row, ID_NAMES)
    return None if found is None else str(found)


def _first(row: dict, names: tuple[str, ...]) -> Any:
    """The first of some keys that holds anything."""
    return next((row[name] for name in names if row.get(name) is not None), None)


__all__ = ["ID_NAMES", "LANGUAGE_NAMES", "Text", "kind_of", "read_texts"]
