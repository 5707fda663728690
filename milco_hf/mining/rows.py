"""Training rows: a query, its positives and maybe its negatives, as texts or as ids of a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milco_hf.mining.files import find_jsonl, output_paths, stem
from milco_hf.mining.passages import Passages, corpus_beside, read_passages
from milco_hf.text_files import read_jsonl

SCORES = ("pos_scores", "neg_scores")


@dataclass
class Row:
    """A line of a question file.

    `positives` and `negatives` are numbers of passages, in the order of the record's lists. `by_id` says whether the
    record names passages by id (pos_pid, neg_pid) or gives their texts (pos, neg).
    """

    record: dict[str, Any]
    query: str
    positives: list[int]
    negatives: list[int]
    by_id: bool
    language: str
    place: str

    @property
    def negative_key(self) -> str:
        """The record's key of its negatives."""
        return "neg_pid" if self.by_id else "neg"

    def name(self, passages: Passages, number: int) -> str:
        """How the record names a passage: its id, or what a model reads of it.

        Raises:
            ValueError: the record names passages by id, and this one has none.
        """
        if not self.by_id:
            return passages.texts[number]
        pid = passages.pids[number]
        if pid is None:
            raise ValueError(f"{self.place}: a passage given as text in another row has no id: {number}.")
        return pid


@dataclass
class RowFile:
    """The rows of one input file, and where they go."""

    source: Path
    target: Path
    rows: list[Row]


@dataclass
class RowSet:
    """Everything that was read: rows by file, the passages, and the corpus files that they came from."""

    files: list[RowFile]
    passages: Passages
    corpus: list[Path]

    @property
    def rows(self) -> list[Row]:
        """All rows, in the order of the files."""
        return [row for file in self.files for row in file.rows]

    def positives_of(self) -> dict[str, set[int]]:
        """Every positive of every query text: the same question in two rows has the positives of both."""
        pooled: dict[str, set[int]] = {}
        for row in self.rows:
            pooled.setdefault(row.query, set()).update(row.positives)
        return pooled


def read_row_set(
    inputs: Sequence[str | Path],
    output: str | Path,
    corpus: Sequence[str | Path] = (),
    titles: bool = False,
    overwrite: bool = False,
) -> RowSet:
    """Read question files and their passages.

    Args:
        inputs: question files, or folders of them.
        output: a file for one input, or a folder.
        corpus: files or folders of passages. Where none are given, the folder `passages` beside the questions.
        titles: put a passage's title before its text.
        overwrite: replace output files.

    Raises:
        FileExistsError: an output file is there already, and `overwrite` is false.
        ValueError: a row that cannot be used; the message names file and line.
    """
    sources = find_jsonl(inputs)
    targets = output_paths(sources, output, overwrite)
    corpus_files = find_jsonl(corpus) if corpus else corpus_beside(inputs)
    passages = read_passages(corpus_files, titles)
    files = [
        RowFile(source, target, [_row(record, source, line, passages) for line, record in read_jsonl(source)])
        for source, target in zip(sources, targets)
    ]
    return RowSet(files, passages, corpus_files)


def _row(record: dict[str, Any], path: Path, line: int, passages: Passages) -> Row:
    place = f"{path}, line {line}"
    query = record.get("query")
    if not isinstance(query, str) or not query.strip():
        raise ValueError(f"{place}: a row needs a query, got {query!r}.")
    by_id = bool(record.get("pos_pid")) and not (record.get("pos") and not passages.by_group)
    if not record.get("pos_pid" if by_id else "pos"):
        raise ValueError(f"{place}: a row needs positives, as texts (pos) or as ids (pos_pid).")

    if record.get("neg" if by_id else "neg_pid") and not record.get("neg_pid" if by_id else "neg"):
        raise ValueError(
            f"{place}: positives and negatives have to be named alike, both as ids (pos_pid, neg_pid) or both as texts "
            "(pos, neg)."
        )

    def numbers(name: str) -> list[int]:
        values = record.get(f"{name}_pid" if by_id else name) or []
        values = values if isinstance(values, list) else [values]
        if not by_id:
            return [passages.add(_text(value, place)) for value in values]
        found = [passages.number(str(value)) for value in values]
        if None in found:
            raise ValueError(
                f"{place}: no passage is called {str(values[found.index(None)])!r}. Give the files that hold the "
                "passages with --corpus, or put them into a folder `passages` beside the questions."
            )
        return found  # type: ignore[return-value]

    language = str(record.get("language") or stem(path))
    return Row(record, query, numbers("pos"), numbers("neg"), by_id, language, place)


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{place}: passages in pos and neg have to be texts, got {value!r}.")
    return value
