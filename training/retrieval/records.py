"""Records of files and Hub datasets: mappings from column names to values, with the place each one came from."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from milco_hf.text_files import open_text
from milco_hf.training.data.files import ReadCount, file_format
from milco_hf.training.data.sources import is_local
from milco_hf.training.retrieval.sources import language_of_file, local_files


@dataclass(frozen=True)
class Place:
    """Where a record came from: a file or dataset, its line (from 1), and the language that the name says."""

    name: str
    line: int
    language: str | None

    def __str__(self) -> str:
        return f"{self.name}:{self.line}"


def read_records(
    path: str,
    headers: Collection[str],
    positional: Sequence[str],
    split: str = "train",
    configs: Sequence[str] = (),
    count: ReadCount | None = None,
) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Read everything that a path means.

    Args:
        path: a file, folder or glob, or a Hub id.
        headers: column names, in lower case, by which the first line of a TSV or CSV file is told to be a header.
        positional: names of the columns of a table without header, in order.
        split: split of a Hub dataset.
        configs: configurations of a Hub dataset; all it has where empty.
        count: lines that are no records are counted here.

    Raises:
        FileNotFoundError: nothing is there.
    """
    count = count if count is not None else ReadCount()
    if is_local(path):
        for file in local_files((path,)):
            yield from _file_records(file, headers, positional, count)
    else:
        yield from _hub_records(path, split, configs)


def _hub_records(path: str, split: str, configs: Sequence[str]) -> Iterator[tuple[Place, dict[str, Any]]]:
    try:
        from datasets import get_dataset_config_names, load_dataset
    except ImportError as error:
        raise ImportError('Hub datasets need the library "datasets": pip install "milco-hf[train]"') from error
    for config in configs or get_dataset_config_names(path):
        language = language_of_file(config)
        for line, record in enumerate(load_dataset(path, config, split=split), 1):
            yield Place(f"{path}/{config}", line, language), dict(record)


def _file_records(
    path: Path, headers: Collection[str], positional: Sequence[str], count: ReadCount
) -> Iterator[tuple[Place, dict[str, Any]]]:
    kind, compression = file_format(path)
    language = language_of_file(path.name)

    def place(line: int) -> Place:
        return Place(path.name, line, language)

    if kind == "parquet":
        import pyarrow.parquet

        line = itertools.count(1)
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for record in batch.to_pylist():
                    yield place(next(line)), record
        return
    with open_text(path, ending=compression, newline="") as file:
        if kind == "jsonl":
            for number, line_text in enumerate(file, 1):
                record = _json_object(line_text)
                if record is not None:
                    yield place(number), record
                elif line_text.strip():
                    count.read += 1
                    count.malformed += 1
        else:
            for number, record in _table(file, kind == "csv", headers, positional, count):
                yield place(number), record


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _table(
    file: IO[str], is_csv: bool, headers: Collection[str], positional: Sequence[str], count: ReadCount
) -> Iterator[tuple[int, dict[str, Any]]]:
    # texts may hold quotes that mean nothing, so TSV is split, not parsed
    rows = csv.reader(file) if is_csv else (line.rstrip("\r\n").split("\t") for line in file)
    names: list[str] = []
    for number, cells in enumerate(rows, 1):
        if not names:
            header = [cell.strip().lstrip("\ufeff") for cell in cells]
            lowered = [cell.lower() for cell in header]
            if set(lowered) & set(headers):
                names = header
                continue
            names, lowered = list(positional), []
        if len(cells) < 2:
            count.read += 1
            count.malformed += 1
            continue
        record: dict[str, Any] = dict(zip(names, cells, strict=False))
        record.update(zip(lowered, cells, strict=False))  # known names are lower case; a recipe may name any column,
        record.update({str(position): cell for position, cell in enumerate(cells)})  # or say its position
        yield number, record
