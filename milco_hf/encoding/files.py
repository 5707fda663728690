"""Corpora as files: JSON lines, tables, lines of text, plain or compressed, read one text at a time."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from milco_hf.mining.files import COMPRESSION, open_text, read_jsonl

ID_NAMES = ("_id", "id", "pid", "docid")
LANGUAGE_NAMES = ("language", "lang")
_TABLES = {".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE}, ".csv": {}}
# csv refuses longer cells as it is set up; texts may be longer.
_LONGEST_CELL = 1 << 30


class Text(NamedTuple):
    """A text, its id and its language, None where its file gives none."""

    text: str
    id: str | None = None
    language: str | None = None


def kind_of(path: Path) -> str:
    """What a file's name says that it holds: ".jsonl", ".tsv", ".csv", and "" for lines of text."""
    suffixes = [suffix for suffix in path.suffixes if suffix not in COMPRESSION]
    return suffixes[-1] if suffixes and suffixes[-1] in (".jsonl", *_TABLES) else ""


def read_texts(path: Path) -> Iterator[Text]:
    """The texts of a file.

    `.jsonl`: objects with `text`, maybe an id (`_id`, `id`, `pid` or `docid`), a `title`, which goes before the text,
    as BEIR has it, and a `language` (or `lang`). `.tsv`, `.csv`: the same names in a first row that has `text` among
    them; without such a row, one column is the text, two are id and text. Anything else: one text a line, an empty
    line an empty text. All may end in `.gz`, `.xz` or `.bz2`.

    Raises:
        ValueError: A line cannot be read, or has an id where others have none; the message names it.
    """
    kind = kind_of(path)
    if not kind:
        with open_text(path) as lines:
            yield from (Text(line.rstrip("\r\n")) for line in lines)
        return
    with_ids = None
    for line, text in _jsonl(path) if kind == ".jsonl" else _table(path, kind):
        if with_ids is None:
            with_ids = text.id is not None
        if with_ids != (text.id is not None):
            here, before = ("no id", "have one") if with_ids else ("an id", "have none")
            raise ValueError(
                f"{path}, line {line}: {here}, but lines before {before}. Give each an id ({', '.join(ID_NAMES)}) or "
                "none."
            )
        yield text


def _jsonl(path: Path) -> Iterator[tuple[int, Text]]:
    for line, row in read_jsonl(path):
        if not isinstance(row.get("text"), str):
            raise ValueError(f"{path}, line {line}: needs a `text`; it has {', '.join(row) or 'nothing'}.")
        title, language = row.get("title"), _first(row, LANGUAGE_NAMES)
        for name, value in (("title", title), ("language", language)):
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{path}, line {line}: `{name}` has to be a string, got {value!r}.")
        yield line, Text(_joined(title, row["text"]), _id(row), language or None)


def _table(path: Path, kind: str) -> Iterator[tuple[int, Text]]:
    csv.field_size_limit(_LONGEST_CELL)
    with open_text(path) as file:
        rows = csv.reader(file, **_TABLES[kind])  # type: ignore[arg-type]
        names: list[str] | None = None
        try:
            for row in rows:
                if not row:
                    continue
                if names is None:
                    names = [cell.strip().removeprefix("\ufeff") for cell in row]  # as spreadsheets begin their files
                    if "text" in names:
                        continue
                    names = {1: ["text"], 2: ["id", "text"]}.get(len(row))
                    if names is None:
                        raise ValueError(
                            f"{path}, line {rows.line_num}: {len(row)} columns without names. Begin with a row of "
                            "names, such as id, title, text; or leave an id and a text."
                        )
                if len(row) != len(names):
                    raise ValueError(f"{path}, line {rows.line_num}: has {len(row)} columns, not {len(names)}.")
                cells = dict(zip(names, row))
                language = _first(cells, LANGUAGE_NAMES) or None
                yield rows.line_num, Text(_joined(cells.get("title"), cells["text"]), _id(cells), language)
        except csv.Error as error:
            raise ValueError(f"{path}, line {rows.line_num}: {error}.") from error


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
