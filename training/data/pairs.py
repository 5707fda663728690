"""Parallel text held in one Arrow table: compact, quick to index, shared between processes by memory mapping."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from milco_hf.training.data.files import Pair, ReadCount, find_files
from milco_hf.training.data.sources import SourceSpec, iterate_source, log_count

logger = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [("english", pa.large_string()), ("other", pa.large_string()), ("language", pa.string()), ("source", pa.string())]
)
CHUNK = 50_000


class PairDataset(Dataset):
    """English texts and their translations.

    An item is ``{"english", "other", "language", "with_english"}``. Indices are plain numbers, or (number, flag) as the
    step sampler gives them, where the flag says whether the English side is a training text in this epoch too.

    Args:
        table: columns english, other, language, source.
        origins: for each row, which source spec it came from, [N] integers; zeros where there is only one.
    """

    def __init__(self, table: pa.Table, origins: np.ndarray | None = None) -> None:
        self.table = table.combine_chunks()
        self.origins = np.zeros(len(table), dtype=np.int16) if origins is None else origins
        if len(self.origins) != len(table):
            raise ValueError(f"origins must have one number a row, got {len(self.origins)} for {len(table)} rows.")

    @classmethod
    def from_pairs(cls, pairs: Iterable[Pair]) -> PairDataset:
        """Hold pairs in memory."""
        return cls(_to_table(pairs))

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int | tuple[int, bool]) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int | tuple[int, bool]]) -> list[dict[str, Any]]:
        """Take many items at once, as torch's fetcher asks for a batch."""
        rows = [index[0] if isinstance(index, tuple) else int(index) for index in indices]
        flags = [index[1] if isinstance(index, tuple) else True for index in indices]
        taken = self.table.select(["english", "other", "language"]).take(pa.array(rows, pa.int64())).to_pylist()
        return [{**item, "with_english": flag} for item, flag in zip(taken, flags, strict=True)]

    def codes(self, column: str) -> tuple[np.ndarray, list[str]]:
        """A text column as numbers: (codes [N], the distinct values they stand for)."""
        encoded = self.table.column(column).combine_chunks().dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.unify_dictionaries().combine_chunks()
        return np.asarray(encoded.indices), [str(value) for value in encoded.dictionary.to_pylist()]

    def text_bytes(self, column: str) -> np.ndarray:
        """Length of every text of a column in UTF-8 bytes, [N]."""
        import pyarrow.compute as pc

        return np.asarray(pc.binary_length(self.table.column(column).cast(pa.large_binary())).combine_chunks())

    def texts(self, column: str, rows: Sequence[int] | np.ndarray | None = None) -> list[str]:
        """Texts of a column, all of them or some rows' ones."""
        values = self.table.column(column)
        return (values if rows is None else values.take(pa.array(rows, pa.int64()))).to_pylist()

    def by_language(self, limit: int | None = None) -> dict[str, list[int]]:
        """Rows of each language in order, at most `limit` of each."""
        codes, names = self.codes("language")
        rows = {name: np.flatnonzero(codes == code)[:limit].tolist() for code, name in enumerate(names)}
        return dict(sorted((name, found) for name, found in rows.items() if found))


def load_pairs(
    specs: Sequence[SourceSpec],
    exclude_sources: Iterable[str] = (),
    languages: Iterable[str] = (),
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> PairDataset:
    """Read sources into one dataset.

    Args:
        specs: the sources; none of them may be a stream.
        exclude_sources: source tags to leave out everywhere; `tag:language` only in that language.
        languages: only these other languages; every one where empty.
        cache_dir: where to keep the Arrow table of each source. A source read before with the same settings, and with
            unchanged files, is then memory-mapped from there.
        progress: show a progress bar.

    Raises:
        ValueError: nothing is left, or a source is to be streamed.
    """
    excluded = frozenset(exclude_sources)
    wanted = set(languages)
    tables, origins = [], []
    for number, spec in enumerate(specs):
        if spec.streaming:
            raise ValueError(
                f"{spec.path!r} is to be streamed; streams cannot be held as a table. Set streaming: false."
            )
        table = _cached_table(spec, excluded, cache_dir, progress)
        if wanted:
            table = table.filter(_is_in(table.column("language"), wanted))
        if len(table) == 0:
            raise ValueError(f"No pairs are left of {spec.path!r}: check its languages and excluded sources.")
        tables.append(table)
        origins.append(np.full(len(table), number, dtype=np.int16))
    if not tables:
        raise ValueError("No data source given; set train_data to at least one path or Hub id.")
    return PairDataset(pa.concat_tables(tables), np.concatenate(origins))


def _is_in(column: pa.ChunkedArray, values: set[str]) -> pa.ChunkedArray:
    import pyarrow.compute as pc

    return pc.is_in(column, pa.array(sorted(values), column.type))


def _to_table(pairs: Iterable[Pair]) -> pa.Table:
    batches: list[pa.RecordBatch] = []
    columns: tuple[list[str], ...] = ([], [], [], [])

    def flush() -> None:
        arrays = [pa.array(values, kind) for values, kind in zip(columns, SCHEMA.types, strict=True)]
        batches.append(pa.record_batch(arrays, schema=SCHEMA))
        for values in columns:
            values.clear()

    for pair in pairs:
        for values, value in zip(columns, (pair.english, pair.other, pair.language, pair.source), strict=True):
            values.append(value)
        if len(columns[0]) >= CHUNK:
            flush()
    flush()
    return pa.Table.from_batches(batches, schema=SCHEMA)


def _cached_table(
    spec: SourceSpec, excluded: frozenset[str], cache_dir: str | os.PathLike | None, progress: bool
) -> pa.Table:
    place = None if cache_dir is None else Path(cache_dir) / f"pairs-{_fingerprint(spec, excluded)}.arrow"
    if place is None or not place.exists():
        count = ReadCount()
        pairs = iterate_source(spec, excluded, count)
        table = _to_table(tqdm(pairs, desc=f"reading {spec.name}", unit=" pairs", disable=not progress, mininterval=1))
        log_count(spec.name, count)
        if place is None:
            return table
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished = place.with_suffix(f".{os.getpid()}.tmp")  # another process never sees half a file
        with pa.OSFile(str(unfinished), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            writer.write_table(table)
        os.replace(unfinished, place)
        del table
    return pa.ipc.open_file(pa.memory_map(str(place))).read_all()


def _fingerprint(spec: SourceSpec, excluded: frozenset[str]) -> str:
    """A name for what reading a source gives: its settings and, for local files, their names, sizes and times."""
    settings = {key: value for key, value in asdict(spec).items() if key not in ("name", "weight")}
    files = []
    if spec.is_local:
        files = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in find_files(spec.path)]
    text = json.dumps([settings, sorted(excluded), files], sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
