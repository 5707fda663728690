"""Passages and questions that training rows name by id."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from milco_hf.training.data.files import UNKNOWN_LANGUAGE
from milco_hf.training.retrieval.reading import join_title
from milco_hf.training.retrieval.records import read_records

PASSAGE_IDS = ("pid", "id", "_id", "docid", "doc_id", "passage_id")
QUERY_IDS = ("query_id", "qid", "id", "_id")
TEXTS = ("text", "query", "question", "contents", "passage")


def read_corpus(
    paths: Sequence[str], with_title: bool, wanted: Collection[str] | None = None
) -> Iterator[tuple[str, str, str]]:
    """Passages as (id, text, language).

    Args:
        paths: files (JSONL, Parquet, CSV; TSV of id and text, maybe title), folders, globs or Hub ids.
        with_title: put each passage's title before its text.
        wanted: only passages with these ids; all where None.

    Raises:
        ValueError: a record has no id or no text.
    """
    yield from _texts(paths, PASSAGE_IDS, "a passage", with_title, wanted)


def read_queries(paths: Sequence[str], wanted: Collection[str] | None = None) -> dict[str, str]:
    """Questions' texts by id, of files as `read_corpus` takes them.

    Raises:
        ValueError: a record has no id or no text.
    """
    return {name: text for name, text, _ in _texts(paths, QUERY_IDS, "a question", False, wanted)}


def _texts(
    paths: Sequence[str], ids: Sequence[str], what: str, with_title: bool, wanted: Collection[str] | None
) -> Iterator[tuple[str, str, str]]:
    for path in paths:
        for place, record in read_records(path, {*ids, *TEXTS}, ("id", "text", "title")):
            name = _first(record, ids)
            text = _first(record, TEXTS)
            if name is None or not isinstance(text, str):
                raise ValueError(
                    f"{place}: {what} needs an id ({', '.join(ids)}) and a text ({', '.join(TEXTS)}), got the columns "
                    f"{list(record)}."
                )
            if wanted is None or str(name) in wanted:
                language = str(_first(record, ("language", "lang")) or place.language or UNKNOWN_LANGUAGE)
                yield str(name), join_title(record.get("title"), text.strip(), with_title), language


def _first(record: dict[str, Any], names: Sequence[str]) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)
