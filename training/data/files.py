"""Parallel text from local files: TSV, CSV, JSONL and Parquet, plain or compressed (.gz, .xz, .bz2)."""

from __future__ import annotations

import csv
import glob
import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from milco_hf.text_files import COMPRESSION, open_text
from milco_hf.training.data.columns import Columns, find_columns, language_of_name, positional_columns

logger = logging.getLogger(__name__)

FORMATS = {".tsv": "tsv", ".txt": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
UNKNOWN_LANGUAGE = "und"


@dataclass
class ReadCount:
    """How many lines of a source were read, and how many were skipped and why."""

    read: int = 0
    malformed: int = 0
    empty: int = 0
    excluded: int = 0
    excluded_tags: Counter[str] = field(default_factory=Counter)

    @property
    def skipped(self) -> int:
        """Lines that gave no pair."""
        return self.malformed + self.empty + self.excluded

    def exclude(self, source: str) -> None:
        """Count a pair whose source tag is left out."""
        self.excluded += 1
        self.excluded_tags[source] += 1


@dataclass(frozen=True)
class Pair:
    """One English text, its translation, the translation's language and a source tag (maybe empty)."""

    english: str
    other: str
    language: str
    source: str = ""


def file_format(path: Path) -> tuple[str | None, str]:
    """Return (format or None, compression suffix or "") by a file's name."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSION else ""
    return (FORMATS.get(suffixes[-1]) if suffixes else None), compression


def find_files(path: str) -> list[Path]:
    """Expand a file, a folder (searched in depth) or a glob into the data files it means, sorted.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a file whose name is in no format that can be read.
    """
    place = Path(path).expanduser()
    if place.is_file():
        files = [place]
    elif place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.is_file() and file_format(file)[0])
    else:
        files = sorted(Path(name) for name in glob.glob(str(place), recursive=True) if Path(name).is_file())
    if not files:
        raise FileNotFoundError(
            f"No data files at {path!r}. Give a file, a folder or a glob of {', '.join(sorted(FORMATS))} files "
            f"(also compressed: {', '.join(COMPRESSION)}), or the id of a dataset on the Hub."
        )
    for file in files:
        if file_format(file)[0] is None:
            raise ValueError(
                f"{file} is in no format that can be read; the name must end in one of {', '.join(sorted(FORMATS))}, "
                f"then maybe {', '.join(COMPRESSION)}."
            )
    return files


def read_pairs(
    path: Path,
    language: str | None = None,
    columns: dict[str, Any] | None = None,
    exclude_sources: frozenset[str] = frozenset(),
    count: ReadCount | None = None,
) -> Iterator[Pair]:
    """Read one file pair by pair.

    Args:
        path: the file; its name gives format, compression and, as ``en-XX``, the language.
        language: the other language, over what name or column say.
        columns: names or positions of columns by role, where they cannot be found by name.
        exclude_sources: source tags to leave out; `tag:language` leaves one out of that language only.
        count: counted up while reading.

    Raises:
        ValueError: no usable column.
    """
    count = count if count is not None else ReadCount()
    known_language = language or language_of_name(path.name)
    for english, other, row_language, source in _rows(path, known_language, columns, count):
        count.read += 1
        pair_language = language or row_language or known_language or UNKNOWN_LANGUAGE
        if is_excluded(source, pair_language, exclude_sources):
            count.exclude(source)
            continue
        english, other = english.strip(), other.strip()
        if not english or not other:
            count.empty += 1
            continue
        yield Pair(english, other, pair_language, source)


def is_excluded(source: str, language: str, excluded: frozenset[str]) -> bool:
    """Whether a pair's source tag is left out, everywhere (`tag`) or in its language (`tag:language`)."""
    return bool(source) and (source in excluded or f"{source}:{language}" in excluded)


def _rows(
    path: Path, language: str | None, columns: dict[str, Any] | None, count: ReadCount
) -> Iterator[tuple[str, str, str, str]]:
    kind, compression = file_format(path)
    if kind == "parquet":
        yield from _parquet_rows(path, language, columns, count)
        return
    with open_text(path, ending=compression, newline="") as file:
        if kind == "jsonl":
            yield from _json_rows(file, path, language, columns, count)
        elif kind == "csv":
            yield from _table_rows(csv.reader(file), path, language, columns, count)
        else:  # texts may hold quotes that mean nothing, so TSV is split, not parsed
            yield from _table_rows((line.rstrip("\r\n").split("\t") for line in file), path, language, columns, count)


def _table_rows(
    rows: Iterator[list[str]], path: Path, language: str | None, given: dict[str, Any] | None, count: ReadCount
) -> Iterator[tuple[str, str, str, str]]:
    first = next(rows, None)
    if first is None:
        return
    names = [cell.strip().lstrip("\ufeff") for cell in first]
    by_name = any(isinstance(column, str) for column in (given or {}).values())
    columns: Columns
    try:
        columns = find_columns(names, str(path), language, given)
        # A header is a row of names; positions given by the user never make one of a row of text.
        header = by_name or not given
    except ValueError:
        if by_name:
            raise
        header = False
    if not header:
        columns = positional_columns(len(first), str(path), given)
        names = [str(position) for position in range(len(first))]
        rows = _chain(first, rows)
        places = (columns.english, columns.other, columns.language, columns.source)
    else:
        places = tuple(
            None if column is None else names.index(column)  # type: ignore[arg-type]
            for column in (columns.english, columns.other, columns.language, columns.source)
        )
    english, other, lang, source = places
    for row in rows:
        try:
            yield (
                row[english],  # type: ignore[index]
                row[other],  # type: ignore[index]
                row[lang] if lang is not None else "",  # type: ignore[index]
                row[source] if source is not None and len(row) > source else "",  # type: ignore[index,operator]
            )
        except IndexError:
            count.read += 1
            count.malformed += 1


def _chain(first: list[str], rest: Iterator[list[str]]) -> Iterator[list[str]]:
    yield first
    yield from rest


def _json_rows(
    file: IO[str], path: Path, language: str | None, given: dict[str, Any] | None, count: ReadCount
) -> Iterator[tuple[str, str, str, str]]:
    columns: Columns | None = None
    for line in file:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
        except ValueError:
            count.read += 1
            count.malformed += 1
            continue
        record = flatten_translation(record)
        if columns is None:
            columns = find_columns(list(record), str(path), language, given)
        values = [record.get(name) if name is not None else "" for name in _names(columns)]
        if not isinstance(values[0], str) or not isinstance(values[1], str):
            count.read += 1
            count.malformed += 1
            continue
        yield values[0], values[1], str(values[2] or ""), str(values[3] or "")


def _parquet_rows(
    path: Path, language: str | None, given: dict[str, Any] | None, count: ReadCount
) -> Iterator[tuple[str, str, str, str]]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        columns = find_columns(file.schema_arrow.names, str(path), language, given)
        names = _names(columns)
        for batch in file.iter_batches(columns=[name for name in names if name is not None]):
            values = [batch.column(name).to_pylist() if name else [""] * batch.num_rows for name in names]
            for english, other, lang, source in zip(*values, strict=True):
                if not isinstance(english, str) or not isinstance(other, str):
                    count.read += 1
                    count.malformed += 1
                    continue
                yield english, other, str(lang or ""), str(source or "")


def _names(columns: Columns) -> tuple[str | None, ...]:
    return (columns.english, columns.other, columns.language, columns.source)  # type: ignore[return-value]


def flatten_translation(record: dict[str, Any]) -> dict[str, Any]:
    """Lift ``{"translation": {"en": …, "de": …}}``, as machine-translation sets have it, to the top level."""
    nested = record.get("translation")
    if isinstance(nested, dict):
        return {**{key: value for key, value in record.items() if key != "translation"}, **nested}
    return record
