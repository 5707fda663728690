"""Data sources as a recipe names them: local paths or Hub ids, with weights, languages and tags to leave out."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milco_hf.training.data.columns import find_columns, language_of_name
from milco_hf.training.data.files import (
    UNKNOWN_LANGUAGE,
    Pair,
    ReadCount,
    find_files,
    flatten_translation,
    is_excluded,
    read_pairs,
)

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSource:
    """One entry of a stage's ``train_data`` or ``dev_data``.

    Attributes:
        path: a file, a folder, a glob, or the id of a dataset on the Hub.
        name: what to call it in logs; the path where not set.
        weight: how often its rows are drawn, relative to the other sources (see `mixing`).
        languages: only these languages; every one where empty.
        exclude_sources: source tags to leave out, besides those excluded for all sources.
        columns: names (or, in a table without header, positions) of columns by role.
        language: the rows' language, where nothing else says it.
        split: split of a Hub dataset.
        configs: configurations of a Hub dataset.
    """

    path: str
    name: str = ""
    weight: float = 1.0
    languages: tuple[str, ...] = ()
    exclude_sources: tuple[str, ...] = ()
    columns: dict[str, Any] = field(default_factory=dict)
    language: str | None = None
    split: str = "train"
    configs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(
                f"The weight of {self.path!r} must be positive, got {self.weight}; leave the source out instead."
            )
        if not self.name:
            object.__setattr__(self, "name", self.path)

    @property
    def is_local(self) -> bool:
        """Whether the path means files on this machine rather than a dataset on the Hub."""
        return is_local(self.path)

    @classmethod
    def parse(cls, entry: str | dict[str, Any] | Self, **defaults: Any) -> Self:
        """Make a source of a recipe's entry: a path or Hub id, a mapping, or the JSON text of a mapping.

        Args:
            entry: the entry.
            **defaults: values of attributes that the entry does not set.

        Raises:
            ValueError: unknown keys, or no path.
        """
        if isinstance(entry, cls):
            return entry
        if isinstance(entry, str):
            entry = json.loads(entry) if entry.lstrip().startswith("{") else {"path": entry}
        valid = {item.name: item for item in fields(cls)}
        unknown = sorted(set(entry) - set(valid))
        if unknown:
            raise ValueError(f"Unknown keys {unknown} in a data source; valid ones are {', '.join(valid)}.")
        if not entry.get("path"):
            raise ValueError(f"A data source needs a path (a file, folder, glob or Hub id), got {entry!r}.")
        values = {**defaults, **entry}
        for name, value in values.items():
            if valid[name].default == ():
                values[name] = (value,) if isinstance(value, str) else tuple(value or ())
        return cls(**{**values, "columns": dict(values.get("columns") or {})})


@dataclass(frozen=True)
class SourceSpec(DataSource):
    """A source of parallel text: its languages are the other sides', roles are english, other, language, source.

    In `exclude_sources`, `tag:language` leaves a tag out of one language only; `configs` (``en-de`` …) are those of
    `languages` where empty.

    Attributes:
        max_pairs: at most this many pairs per language, the first ones.
        streaming: read a Hub dataset as a stream, never downloading it whole.
    """

    max_pairs: int | None = None
    streaming: bool = False


def is_local(path: str) -> bool:
    """Whether a path means files on this machine rather than a dataset on the Hub."""
    place = os.path.expanduser(path)
    if os.path.exists(place) or any(sign in place for sign in "*?[") or place.startswith(("/", ".", "~")):
        return True
    suffixes = {".tsv", ".csv", ".jsonl", ".parquet", ".xz", ".gz"}
    return place.count("/") != 1 or Path(place).suffix.lower() in suffixes


def iterate_source(
    spec: SourceSpec, exclude_sources: frozenset[str] = frozenset(), count: ReadCount | None = None
) -> Iterator[Pair]:
    """Yield a source's pairs in its own order.

    Args:
        spec: the source.
        exclude_sources: tags excluded for every source.
        count: counted up while reading.
    """
    count = count if count is not None else ReadCount()
    excluded = exclude_sources | frozenset(spec.exclude_sources)
    pairs = _local_pairs(spec, excluded, count) if spec.is_local else _hub_pairs(spec, excluded, count)
    if spec.max_pairs is None:
        yield from pairs
        return
    taken: dict[str, int] = {}
    for pair in pairs:
        taken[pair.language] = taken.get(pair.language, 0) + 1
        if taken[pair.language] <= spec.max_pairs:
            yield pair


def log_count(name: str, count: ReadCount) -> None:
    """Log what a source gave, and what was skipped."""
    if count.excluded_tags:
        logger.info("%s: left out %s", name, dict(count.excluded_tags.most_common()))
    logger.info(
        "%s: %d lines read, %d skipped (%d malformed, %d with an empty side, %d of excluded sources)",
        name, count.read, count.skipped, count.malformed, count.empty, count.excluded,
    )  # fmt: skip


def _local_pairs(spec: SourceSpec, excluded: frozenset[str], count: ReadCount) -> Iterator[Pair]:
    for path in find_files(spec.path):
        named = spec.language or language_of_name(path.name)
        if spec.languages and named is not None and named not in spec.languages:
            continue
        for pair in read_pairs(path, spec.language, spec.columns, excluded, count):
            if not spec.languages or pair.language in spec.languages:
                yield pair


def hub_configs(spec: SourceSpec) -> list[str]:
    """The configurations of a Hub dataset that a spec means.

    sentence-transformers' parallel sets have one configuration a language (``en-de``, ``en-fr-ca``), some of them one
    more that repeats them all (``all``), which is left out.

    Raises:
        ValueError: none is left.
    """
    from datasets import get_dataset_config_names

    if spec.configs:
        return list(spec.configs)
    names = get_dataset_config_names(spec.path)
    named = [name for name in names if language_of_name(name)]
    if not named:
        return names
    chosen = [name for name in named if not spec.languages or language_of_name(name) in spec.languages]
    if not chosen:
        raise ValueError(f"{spec.path} has none of the languages {list(spec.languages)}; its configurations: {names}.")
    return chosen


def _hub_pairs(spec: SourceSpec, excluded: frozenset[str], count: ReadCount) -> Iterator[Pair]:
    from datasets import load_dataset

    for config in hub_configs(spec):
        dataset = load_dataset(spec.path, config, split=spec.split, streaming=spec.streaming)
        yield from dataset_pairs(dataset, spec, f"{spec.path} ({config})", language_of_name(config), excluded, count)


def dataset_pairs(
    dataset: Any, spec: SourceSpec, where: str, language: str | None, excluded: frozenset[str], count: ReadCount
) -> Iterator[Pair]:
    """Yield the pairs of a `datasets` dataset (or stream) whose columns are found by name or given by the spec."""
    language = spec.language or language
    columns = None
    for record in dataset:
        record = flatten_translation(record)
        if columns is None:
            columns = find_columns(list(record), where, language, spec.columns)
        count.read += 1
        english, other = record.get(columns.english), record.get(columns.other)
        source = str(record.get(columns.source) or "") if columns.source else ""
        of_row = record.get(columns.language) if columns.language else None
        pair_language = str(language or of_row or UNKNOWN_LANGUAGE)
        if not isinstance(english, str) or not isinstance(other, str):
            count.malformed += 1
        elif is_excluded(source, pair_language, excluded):
            count.exclude(source)
        elif not english.strip() or not other.strip():
            count.empty += 1
        else:
            pair = Pair(english.strip(), other.strip(), pair_language, source)
            if not spec.languages or pair.language in spec.languages:
                yield pair
