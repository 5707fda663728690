"""Sources of questions and passages as a recipe names them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from milco_hf.training.data.files import find_files
from milco_hf.training.data.sources import SourceSpec

_LISTS = ("languages", "exclude_sources", "configs", "corpus", "queries")
_CODE = re.compile(r"[a-z]{2,3}(?:[-_][A-Za-z]{2,4})?")
# Names of files that look like language codes and are none.
_NO_LANGUAGE = frozenset({"all", "dev", "val", "qa", "run"})


@dataclass(frozen=True)
class RetrievalSource:
    """One entry of SCT's ``train_data`` or ``dev_data``.

    Attributes:
        path: a file, a folder, a glob, or the id of a dataset on the Hub.
        name: what to call it in logs; the path where not set.
        weight: how often its rows are drawn, relative to the other sources (see `data.mixing`).
        languages: only these languages; every one where empty.
        exclude_sources: values of the rows' `source` to leave out, besides those excluded for all sources.
        columns: names (or, in a table without header, positions) of columns by role, see `reading.ROLES`.
        language: the language, over what names and columns say.
        split: split of a Hub dataset.
        configs: configurations of a Hub dataset; its only one, or `default`, where empty.
        corpus: files, folders, globs or Hub ids of the passages that the rows name by id.
        queries: likewise for questions that the rows name by id.
        max_rows: at most this many rows per language, the first ones.
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
    corpus: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    max_rows: int | None = None

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ValueError(
                f"The weight of {self.path!r} must be positive, got {self.weight}; leave the source out instead."
            )
        if not self.name:
            object.__setattr__(self, "name", self.path)

    @classmethod
    def parse(cls, entry: str | dict[str, Any], corpus: tuple[str, ...] = ()) -> RetrievalSource:
        """Make a source of a recipe's entry: a path or Hub id, a mapping, or the JSON text of a mapping.

        Args:
            entry: the entry.
            corpus: passages of entries that name none of their own.

        Raises:
            ValueError: unknown keys, or no path.
        """
        if isinstance(entry, str):
            if not entry.lstrip().startswith("{"):
                return cls(path=entry, corpus=corpus)
            entry = json.loads(entry)
        valid = [item.name for item in fields(cls)]
        unknown = sorted(set(entry) - set(valid))
        if unknown:
            raise ValueError(f"Unknown keys {unknown} in a data source; valid ones are {', '.join(valid)}.")
        if not entry.get("path"):
            raise ValueError(f"A data source needs a path (a file, folder, glob or Hub id), got {entry!r}.")
        values = {"corpus": corpus, **entry}
        for name in _LISTS:
            value = values.get(name) or ()
            values[name] = (value,) if isinstance(value, str) else tuple(value)
        return cls(**{**values, "columns": dict(values.get("columns") or {})})


def is_local(path: str) -> bool:
    """Whether a path means files on this machine rather than a dataset on the Hub."""
    return SourceSpec(path=path).is_local


def local_files(paths: tuple[str, ...]) -> Iterator[Path]:
    """The files that some local paths mean, in order; Hub ids among them are left out."""
    for path in paths:
        if is_local(path):
            yield from find_files(path)


def language_of_file(name: str) -> str | None:
    """Read the language from a file's or a configuration's name that is nothing but its code.

    Args:
        name: for example ``sw.jsonl.xz`` or ``zh-tw.tsv``.

    Returns:
        ``sw``, ``zh-tw`` …, or None where the name says nothing.
    """
    stem = name.replace("\\", "/").rsplit("/", 1)[-1].split(".", 1)[0]
    if not _CODE.fullmatch(stem) or stem in _NO_LANGUAGE:
        return None
    return stem.replace("_", "-").lower()
