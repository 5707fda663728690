"""Training rows: a question, the passages that answer it, others that do not, and what a teacher thinks of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from milco_hf.training.data.files import UNKNOWN_LANGUAGE, ReadCount, is_excluded
from milco_hf.training.retrieval.records import Place, read_records
from milco_hf.training.retrieval.sources import RetrievalSource

ROLES = {
    "query": ("query", "question", "anchor"),
    "query_id": ("query_id", "qid", "query-id"),
    "pos": ("pos", "positive", "positives", "positive_passages"),
    "neg": ("neg", "negative", "negatives", "negative_passages"),
    "pos_pid": ("pos_pid", "pos_pids", "pos_id", "pos_ids", "positive_id", "positive_ids"),
    "neg_pid": ("neg_pid", "neg_pids", "neg_id", "neg_ids", "negative_id", "negative_ids"),
    "pos_scores": ("pos_scores", "pos_score", "positive_scores"),
    "neg_scores": ("neg_scores", "neg_score", "negative_scores"),
    "language": ("language", "lang"),
    "query_language": ("query_language",),
    "parallel_id": ("parallel_id",),
    "source": ("source", "source_tag", "origin"),
}
"""Roles of columns, and the names by which they are known."""

ENGLISH = "en"
CROSSED = f"-{ENGLISH}"

HEADERS = frozenset(name for names in ROLES.values() for name in names)


@dataclass
class Row:
    """One row as its file has it.

    Attributes:
        query: the question's text, or its id where `query_is_id`.
        positives, negatives: texts of passages, or their ids where `by_id`.
        positive_scores, negative_scores: the teacher's, or None.
        language: the row's language, by which rows are mixed and dev rows are pooled.
        source: the row's source tag, maybe empty.
        place: where the row came from.
        query_language, passage_language: as `languages_of` tells them.
        parallel_id: what translations of one question have in common, maybe empty.
    """

    query: str
    positives: list[str]
    negatives: list[str]
    positive_scores: list[float] | None
    negative_scores: list[float] | None
    language: str
    source: str
    place: Place
    by_id: bool = False
    query_is_id: bool = False
    query_language: str = ""
    passage_language: str = ""
    parallel_id: str = ""


def read_rows(
    source: RetrievalSource, exclude_sources: frozenset[str] = frozenset(), count: ReadCount | None = None
) -> Iterator[Row]:
    """Read a source's rows in its own order.

    Rows without a question or without a positive are skipped and counted.

    Args:
        source: the source.
        exclude_sources: values of `source` excluded everywhere; `value:language` in one language only.
        count: counted up while reading.

    Raises:
        ValueError: a file has no question or no positives at all, or a row's scores do not fit its passages.
    """
    count = count if count is not None else ReadCount()
    excluded = exclude_sources | frozenset(source.exclude_sources)
    positional = ("query_id" if source.queries else "query",) + (
        ("pos_pid", "neg_pid") if source.corpus else ("pos", "neg")
    )
    taken: dict[str, int] = {}
    checked: set[str] = set()
    headers = HEADERS | {column.lower() for column in source.columns.values() if isinstance(column, str)}
    for place, record in read_records(source.path, headers, positional, source.split, source.configs, count):
        names = _columns(record, source.columns)
        if place.name not in checked:
            _check_columns(names, record, place, source)
            checked.add(place.name)
        count.read += 1
        language = str(source.language or _value(record, names, "language") or place.language or UNKNOWN_LANGUAGE)
        tag = str(_value(record, names, "source") or "")
        if source.languages and language not in source.languages:
            continue
        if is_excluded(tag, language, excluded):
            count.exclude(tag)
            continue
        row = _row(record, names, language, tag, place, source)
        if row is None:
            count.empty += 1
            continue
        taken[language] = taken.get(language, 0) + 1
        if source.max_rows is None or taken[language] <= source.max_rows:
            yield row


def languages_of(language: str, query_language: str = "") -> tuple[str, str]:
    """The languages of a row's question and of its passages.

    Args:
        language: the row's: that of both, or `ur-en` for Urdu questions with English passages, as `milco score --cross`
            writes it.
        query_language: the question's, where it is another one, as `cloze_rows.py` writes it.
    """
    crossed = language.endswith(CROSSED)
    question, passages = (language.removesuffix(CROSSED), ENGLISH) if crossed else (language, language)
    return query_language or question, passages


def join_title(title: Any, text: str, with_title: bool) -> str:
    """A passage as it is encoded: its text, after its title where that is wanted and there is one."""
    if with_title and isinstance(title, str) and title.strip():
        return f"{title.strip()} {text}"
    return text


def _columns(record: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, str]:
    """The column of each role that a record has one for."""
    names = {role: next((name for name in known if name in record), None) for role, known in ROLES.items()}
    names.update({role: str(column) for role, column in given.items()})
    return {role: name for role, name in names.items() if name is not None}


def _check_columns(names: dict[str, str], record: Mapping[str, Any], place: Place, source: RetrievalSource) -> None:
    unknown = sorted(set(source.columns) - set(ROLES))
    if unknown:
        raise ValueError(f"Unknown column roles {unknown}; the roles are {', '.join(ROLES)}.")
    missing = [str(column) for column in source.columns.values() if str(column) not in record]
    if missing:
        raise ValueError(f"{place.name} has no column {missing[0]!r}; it has {list(record)}.")
    if not {"query", "query_id"} & set(names) or not {"pos", "pos_pid"} & set(names):
        side = "the question" if not {"query", "query_id"} & set(names) else "the passages that answer it"
        hint = " Passages that rows name by id belong in corpus." if "text" in record else ""
        raise ValueError(
            f"{place.name} has no column for {side}. Its columns are {list(record)}. Name them in the recipe, for "
            f"example columns: {{query: …, pos: …, neg: …}}.{hint}"
        )
    if "pos" not in names and not source.corpus:
        raise ValueError(f"{place.name} names passages by id ({names['pos_pid']}); say where they are: corpus: FILE.")
    if "query" not in names and not source.queries:
        raise ValueError(
            f"{place.name} names questions by id ({names['query_id']}); say where they are: queries: FILE."
        )


def _value(record: Mapping[str, Any], names: Mapping[str, str], role: str) -> Any:
    return record.get(names[role]) if role in names else None


def _row(
    record: Mapping[str, Any],
    names: Mapping[str, str],
    language: str,
    tag: str,
    place: Place,
    source: RetrievalSource,
) -> Row | None:
    query_is_id = "query" not in names
    query = _value(record, names, "query_id" if query_is_id else "query")
    query = "" if query is None else str(query).strip()
    by_id = "pos" not in names
    sides = ("pos_pid", "neg_pid") if by_id else ("pos", "neg")
    positives, negatives = (_passages(_value(record, names, side), place) for side in sides)
    if not query or not positives:
        return None
    scores = []
    for side, passages in (("pos_scores", positives), ("neg_scores", negatives)):
        value = _scores(_value(record, names, side), place, side)
        if value is not None and len(value) != len(passages):
            raise ValueError(f"{place}: {len(value)} {side} for {len(passages)} passages; there must be one for each.")
        scores.append(value)
    # one side alone says nothing: a difference or a ranking needs both
    if scores[0] is None or (scores[1] is None and negatives):
        scores = [None, None]
    languages = languages_of(language, str(_value(record, names, "query_language") or ""))
    parallel_id = _value(record, names, "parallel_id")
    return Row(
        *(query, positives, negatives, scores[0], scores[1], language, tag, place, by_id, query_is_id, *languages),
        parallel_id="" if parallel_id is None else str(parallel_id),
    )


def _listed(value: Any) -> list[Any]:
    """A column's value as a list: one value, a list, or the JSON text of a list, as tables hold them."""
    if value is None or value == "":
        return []
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    return list(value) if isinstance(value, list | tuple) else [value]


def _passages(value: Any, place: Place) -> list[str]:
    found = []
    for passage in _listed(value):
        text = passage.get("text") if isinstance(passage, dict) else passage
        if not isinstance(text, str | int):
            raise ValueError(f"{place}: a passage must be a text or an id, got {passage!r}.")
        if str(text).strip():
            found.append(str(text).strip())
        else:
            raise ValueError(f"{place}: a passage is empty; leave it out, and its score with it.")
    return found


def _scores(value: Any, place: Place, side: str) -> list[float] | None:
    listed = _listed(value)
    if not listed:
        return None
    try:
        return [float(score) for score in listed]
    except (TypeError, ValueError):
        raise ValueError(f"{place}: {side} must be numbers, got {value!r}.") from None
