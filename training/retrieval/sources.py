"""Sources of questions and passages as a recipe names them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from milco_hf.training.data.files import find_files
from milco_hf.training.data.sources import DataSource, is_local

_CODE = re.compile(r"[a-z]{2,3}(?:[-_][A-Za-z]{2,4})?")
# Names of files that look like language codes and are none.
_NO_LANGUAGE = frozenset({"all", "dev", "val", "qa", "run"})


@dataclass(frozen=True)
class RetrievalSource(DataSource):
    """A source of questions and passages; see `reading.ROLES` for the columns' roles.

    `language` wins over what names and columns say.

    Attributes:
        corpus: files, folders, globs or Hub ids of the passages that the rows name by id.
        queries: likewise for questions that the rows name by id.
        max_rows: at most this many rows per language, the first ones.
    """

    corpus: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    max_rows: int | None = None


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
