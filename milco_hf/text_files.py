"""Text files, plain or compressed: opened by their names, read as JSON lines and as tables."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

COMPRESSION = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
TABLES: dict[str, dict[str, Any]] = {".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE}, ".csv": {}}
# csv refuses longer cells as it is set up; texts may be longer.
_LONGEST_CELL = 1 << 30


def open_text(path: Path, mode: str = "r", ending: str | None = None, newline: str = "\n") -> IO[str]:
    """Open a text file, compressed or not as its name's ending (or another one) says."""
    opener = COMPRESSION.get(path.suffix if ending is None else ending, open)
    return opener(path, f"{mode}t", encoding="utf-8", newline=newline)  # type: ignore[operator]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names the file in errors of reading it that do not.

    Raises:
        ValueError: It is no UTF-8, or its compressed end is missing.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}).") from error
    except EOFError as error:
        raise ValueError(f"{path} ends too early, so it was not written or copied whole ({error}).") from error


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Records of a file with their line numbers, from 1; empty lines are passed over.

    Raises:
        ValueError: a line is no JSON object; the message names it.
    """
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: no JSON ({error}).") from None
            if not isinstance(record, dict):
                raise ValueError(f"{path}, line {number}: has to be an object, got {type(record).__name__}.")
            yield number, record


def read_table(path: Path, kind: str, any_names: bool = False) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a table by the names of their columns, with their line numbers, from 1; empty lines are passed over.

    A first row that has `text` among its cells names the columns. Without such a row, one column is the text, and two
    are id and text.

    Args:
        path: The file.
        kind: One of `TABLES`.
        any_names: Whether a first row of more than two cells names them too, for callers who know which column is the
            text and use the others: each then has to have a name of its own.

    Raises:
        ValueError: The table cannot be read; the message names the line.
    """
    csv.field_size_limit(_LONGEST_CELL)
    with open_text(path) as file:
        rows = csv.reader(file, **TABLES[kind])
        names: list[str] | None = None
        try:
            for row in rows:
                if not row:
                    continue
                if names is None:
                    names = [cell.strip().removeprefix("\ufeff") for cell in row]  # as spreadsheets begin their files
                    if "text" in names or (any_names and len(names) > 2):
                        if any_names and (len(set(names)) < len(names) or "" in names):
                            raise ValueError(
                                f"{path}, line {rows.line_num}: the first row has to name each column, once; it reads "
                                f"{', '.join(map(repr, names))}."
                            )
                        continue
                    if len(names) > 2:
                        raise ValueError(
                            f"{path}, line {rows.line_num}: {len(names)} columns without names. Begin with a row of "
                            "names, such as id, title, text; or leave an id and a text."
                        )
                    names = ["text"] if len(names) == 1 else ["id", "text"]
                if len(row) != len(names):
                    raise ValueError(f"{path}, line {rows.line_num}: has {len(row)} columns, not {len(names)}.")
                yield rows.line_num, dict(zip(names, row))
        except csv.Error as error:
            raise ValueError(f"{path}, line {rows.line_num}: {error}.") from error


__all__ = ["COMPRESSION", "TABLES", "naming", "open_text", "read_jsonl", "read_table"]
