"""From sources to a `RetrievalDataset`: every passage is held once, whatever names it, and kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from milco_hf.training.data.files import ReadCount
from milco_hf.training.data.sources import log_count
from milco_hf.training.retrieval.corpora import read_corpus, read_queries
from milco_hf.training.retrieval.dataset import PASSAGE_SCHEMA, ROW_SCHEMA, RetrievalDataset
from milco_hf.training.retrieval.reading import Row, read_rows
from milco_hf.training.retrieval.sources import RetrievalSource, local_files

logger = logging.getLogger(__name__)

CHUNK = 50_000


def load_rows(
    sources: Sequence[RetrievalSource],
    exclude_sources: Iterable[str] = (),
    languages: Iterable[str] = (),
    cache_dir: str | os.PathLike | None = None,
    with_titles: bool = False,
    whole_corpus: bool = False,
    progress: bool = True,
) -> RetrievalDataset:
    """Read sources into one dataset.

    Args:
        sources: the sources.
        exclude_sources: values of the rows' `source` to leave out everywhere; `value:language` in one language only.
        languages: only these languages; every one where empty.
        cache_dir: where to keep the tables. What was read before with the same settings, and from unchanged files, is
            memory-mapped from there.
        with_titles: put a corpus passage's title before its text.
        whole_corpus: hold all passages of the corpora, not only those that a row names.
        progress: show progress bars.

    Raises:
        ValueError: nothing is left of a source, or a row names a passage that its corpus does not have.
    """
    if not sources:
        raise ValueError("No data source given; set train_data to at least one path or Hub id.")
    settings = {
        "sources": [{key: value for key, value in asdict(source).items() if key not in ("name", "weight")}
                    for source in sources],
        "exclude": sorted(exclude_sources),
        "languages": sorted(languages),
        "titles": with_titles,
        "whole": whole_corpus,
        "columns": ROW_SCHEMA.names,
    }  # fmt: skip
    place = None if cache_dir is None else Path(cache_dir) / f"retrieval-{_fingerprint(settings, sources)}"
    if place is None or not place.exists():
        reader = _Reader(with_titles, whole_corpus)
        excluded, wanted = frozenset(exclude_sources), frozenset(languages)
        for origin, source in enumerate(sources):
            reader.add(source, origin, excluded, wanted, progress)
        tables = reader.finish()
        if place is None:
            return RetrievalDataset(*tables)
        _save(place, tables)
    tables = (pa.ipc.open_file(pa.memory_map(str(place / f"{name}.arrow"))).read_all() for name in ("rows", "passages"))
    return RetrievalDataset(*tables)


class _Passages:
    """Distinct texts, numbered as they come."""

    def __init__(self) -> None:
        self.numbers: dict[bytes, int] = {}
        self.table = _Table(PASSAGE_SCHEMA)

    def number(self, text: str, language: str) -> int:
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        number = self.numbers.setdefault(digest, len(self.numbers))
        if len(self.numbers) > self.table.size:
            self.table.add(text=text, language=language)
        return number


class _Table:
    """An Arrow table that grows row by row."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema, self.size = schema, 0
        self.columns: dict[str, list[Any]] = {name: [] for name in schema.names}
        self.batches: list[pa.RecordBatch] = []

    def add(self, **values: Any) -> None:
        for name, column in self.columns.items():
            column.append(values[name])
        self.size += 1
        if self.size % CHUNK == 0:
            self._flush()

    def finish(self) -> pa.Table:
        self._flush()
        return pa.Table.from_batches(self.batches, schema=self.schema)

    def _flush(self) -> None:
        arrays = [pa.array(self.columns[field.name], field.type) for field in self.schema]
        self.batches.append(pa.record_batch(arrays, schema=self.schema))
        for column in self.columns.values():
            column.clear()


class _Reader:
    """Collects rows; passages named by id are looked up source by source, once all of its rows are known."""

    def __init__(self, with_titles: bool, whole_corpus: bool) -> None:
        self.with_titles, self.whole_corpus = with_titles, whole_corpus
        self.passages = _Passages()
        self.rows = _Table(ROW_SCHEMA)

    def add(
        self, source: RetrievalSource, origin: int, excluded: frozenset[str], languages: frozenset[str], progress: bool
    ) -> None:
        count = ReadCount()
        before = self.rows.size
        named: list[Row] = []
        rows = tqdm(
            read_rows(source, excluded, count),
            desc=f"reading {source.name}",
            unit=" rows",
            disable=not progress,
            mininterval=1,
        )
        for row in rows:
            if languages and row.language not in languages:
                continue
            if row.by_id or row.query_is_id:
                named.append(row)
            else:
                self._add_row(row, origin, *self._texts_of(row))
        self._add_named(named, source, origin)
        log_count(source.name, count)
        if self.rows.size == before:
            raise ValueError(f"No rows are left of {source.path!r}: check its languages and excluded sources.")

    def finish(self) -> tuple[pa.Table, pa.Table]:
        return self.rows.finish(), self.passages.table.finish()

    def _texts_of(self, row: Row) -> tuple[list[int], list[int]]:
        return tuple(
            [self.passages.number(text, row.passage_language) for text in side]
            for side in (row.positives, row.negatives)
        )  # type: ignore[return-value]

    def _add_named(self, rows: list[Row], source: RetrievalSource, origin: int) -> None:
        if not rows:
            return
        wanted = {name for row in rows if row.by_id for side in (row.positives, row.negatives) for name in side}
        numbers: dict[str, int] = {}
        if source.corpus and wanted:
            for name, text, language in read_corpus(
                source.corpus, self.with_titles, None if self.whole_corpus else wanted
            ):
                numbers[name] = self.passages.number(text, language)
        queries = read_queries(source.queries, {row.query for row in rows}) if source.queries else {}
        for row in rows:
            if row.query_is_id:
                if row.query not in queries:
                    raise ValueError(f"{row.place}: question {row.query!r} is not in {list(source.queries)}.")
                row.query = queries[row.query]
            if not row.by_id:
                self._add_row(row, origin, *self._texts_of(row))
                continue
            unknown = [name for name in (*row.positives, *row.negatives) if name not in numbers]
            if unknown:
                raise ValueError(f"{row.place}: passage {unknown[0]!r} is not in the corpus {list(source.corpus)}.")
            self._add_row(row, origin, *([numbers[name] for name in side] for side in (row.positives, row.negatives)))

    def _add_row(self, row: Row, origin: int, positives: list[int], negatives: list[int]) -> None:
        scores = [
            [float("nan")] * len(passages) if given is None else given
            for passages, given in ((positives, row.positive_scores), (negatives, row.negative_scores))
        ]
        positives, scores[0] = _once(positives, scores[0], set())
        # a negative that is a positive under another id would be taught both ways
        negatives, scores[1] = _once(negatives, scores[1], set(positives))
        self.rows.add(
            query=row.query,
            language=row.language,
            source=row.source,
            place=str(row.place),
            query_language=row.query_language,
            passage_language=row.passage_language,
            parallel_id=row.parallel_id,
            origin=origin,
            pos=positives,
            neg=negatives,
            pos_scores=scores[0],
            neg_scores=scores[1],
        )


def _once(passages: list[int], scores: list[float], taken: set[int]) -> tuple[list[int], list[float]]:
    """Passages without repetition, and their scores."""
    kept = {}
    for passage, score in zip(passages, scores, strict=True):
        if passage not in taken:
            kept.setdefault(passage, score)
    return list(kept), list(kept.values())


def _save(place: Path, tables: tuple[pa.Table, pa.Table]) -> None:
    unfinished = place.with_name(f"{place.name}.{os.getpid()}.tmp")  # another process never sees half a folder
    unfinished.mkdir(parents=True, exist_ok=True)
    for name, table in zip(("rows", "passages"), tables, strict=True):
        with pa.OSFile(str(unfinished / f"{name}.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    try:
        os.replace(unfinished, place)
    except OSError:  # another process was faster
        shutil.rmtree(unfinished)


def _fingerprint(settings: dict[str, Any], sources: Sequence[RetrievalSource]) -> str:
    """A name for what reading gives: the settings and, for local files, their names, sizes and times."""
    files = [
        (str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns)
        for source in sources
        for path in (source.path, *source.corpus, *source.queries)
        for file in _present(path)
    ]
    return hashlib.sha256(json.dumps([settings, files], sort_keys=True, default=list).encode()).hexdigest()[:16]


def _present(path: str) -> list[Path]:
    """The files that a path means; none where there are none, since rows with texts need no corpus."""
    try:
        return list(local_files((path,)))
    except FileNotFoundError:
        return []


def describe(dataset: RetrievalDataset) -> str:
    """How many rows of which languages, for the log."""
    languages = {name: len(rows) for name, rows in dataset.by_language().items()}
    negatives = np.diff(dataset.negatives.offsets).mean() if len(dataset) else 0.0
    return (
        f"{len(dataset)} rows, {len(dataset.passages)} passages, {negatives:.1f} negatives a row, "
        f"{dataset.has_scores.mean():.0%} with a teacher's scores, in {len(languages)} languages: {languages}"
    )
