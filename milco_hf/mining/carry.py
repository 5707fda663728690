"""Scores of one language's questions for their translations: parallel rows and parallel passages."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

from milco_hf.mining.rows import Row, RowSet


@dataclass
class Job:
    """A row to be written, and what the teacher reads for it.

    `positives` and `negatives` are numbers of passages as the teacher sees them, aligned with the record's lists. A job
    without a query is written without scores.
    """

    record: dict[str, Any]
    query: str | None
    positives: list[int]
    negatives: list[int]


@dataclass
class CarryCount:
    """What became of the rows."""

    own: int = 0
    carried: int = 0
    crossed: int = 0
    without_twin: int = 0
    without_positive: int = 0
    negatives_kept: int = 0
    negatives_dropped: int = 0
    negatives_of_twins: int = 0
    carried_without_negatives: int = 0

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


class Parallel:
    """Which rows and passages are translations of each other.

    Rows of equal `key` are. Their positives are, where both have one; a passage that met several (a longer paragraph
    cut at other places) belongs to the one that it met most often, the first one among equals.

    Args:
        row_set: all rows.
        key: the record's key that translations share, such as parallel_id.
        language: the language whose rows the teacher reads.

    Raises:
        ValueError: no row of that language has the key.
    """

    def __init__(self, row_set: RowSet, key: str, language: str) -> None:
        self.key, self.language = key, language
        self.twins: dict[str, Row] = {}
        for row in row_set.rows:
            if row.language == language and row.record.get(key) is not None:
                self.twins.setdefault(str(row.record[key]), row)
        if not self.twins:
            there = ", ".join(sorted({row.language for row in row_set.rows}))
            raise ValueError(f"No row of language {language!r} has a {key!r}; the rows' languages are: {there}.")
        to_source: dict[int, Counter[int]] = {}
        to_target: dict[tuple[str, int], Counter[int]] = {}
        for row in row_set.rows:
            twin = self.twin(row)
            if twin is not None and len(row.positives) == len(twin.positives) == 1:
                theirs, ours = row.positives[0], twin.positives[0]
                to_source.setdefault(theirs, Counter())[ours] += 1
                to_target.setdefault((row.language, ours), Counter())[theirs] += 1
        self._to_source = {passage: _first(counts) for passage, counts in to_source.items()}
        self._to_target = {place: _first(counts) for place, counts in to_target.items()}

    def twin(self, row: Row) -> Row | None:
        """The row that a row is a translation of; None for rows of the source language."""
        value = row.record.get(self.key)
        return None if row.language == self.language or value is None else self.twins.get(str(value))

    def source_passage(self, number: int) -> int | None:
        """What a passage is a translation of, None where that is not known."""
        return self._to_source.get(number)

    def target_passage(self, language: str, number: int) -> int | None:
        """The translation of a passage into a language, None where there is none."""
        return self._to_target.get((language, number))


def _first(counts: Counter[int]) -> int:
    return min(counts, key=lambda number: (-counts[number], number))


def own_job(row: Row) -> Job:
    """A row scored by its own texts."""
    return Job(row.record, row.query, row.positives, row.negatives)


def carried_jobs(
    row_set: RowSet,
    rows: list[Row],
    parallel: Parallel,
    without_twin: Literal["keep", "drop", "score"] = "keep",
    cross: bool = False,
    count: CarryCount | None = None,
) -> list[Job]:
    """Jobs of some rows, those with a twin scored by the twin's question and passages.

    A translated row's negatives are scored by what they are translations of; those of unknown origin go, and so do
    those that are translations of the twin's positives. In their place, and where a row has none, come the translations
    of the twin's negatives, up to the number that the row had (or else the twin).

    Args:
        row_set: all rows.
        rows: those to make jobs of.
        parallel: the translations.
        without_twin: rows of other languages without a twin are kept without scores, dropped, or scored by their own
            texts.
        cross: also give a row with the translated question and the twin's passages (language `ur-en`, for example).
        count: counted up.
    """
    count = count if count is not None else CarryCount()
    pooled = row_set.positives_of()
    jobs: list[Job] = []
    for row in rows:
        twin = parallel.twin(row)
        if row.language == parallel.language:
            jobs.append(own_job(row))
            count.own += 1
            continue
        if twin is None:
            count.without_twin += 1
            if without_twin == "score":
                jobs.append(own_job(row))
            elif without_twin == "keep":
                jobs.append(Job(row.record, None, [], []))
            continue
        job = _carried(row_set, row, twin, parallel, pooled, count)
        if job is not None:
            jobs.append(job)
        elif without_twin == "keep":
            jobs.append(Job(row.record, None, [], []))
        if cross:
            jobs.append(_crossed(row_set, row, twin, parallel.key))
            count.crossed += 1
    return jobs


def _carried(
    row_set: RowSet, row: Row, twin: Row, parallel: Parallel, pooled: dict[str, set[int]], count: CarryCount
) -> Job | None:
    """The row with its twin's question and passages for the teacher; None where no positive has a counterpart."""
    if len(row.positives) == len(twin.positives) == 1:
        positives = [(row.positives[0], twin.positives[0])]
    else:
        found = [(number, parallel.source_passage(number)) for number in row.positives]
        positives = [(number, source) for number, source in found if source is not None]
    if not positives:
        count.without_positive += 1
        return None
    own, theirs = pooled[row.query], pooled[twin.query] | {source for _, source in positives}
    found = [(number, parallel.source_passage(number)) for number in row.negatives]
    found += [(parallel.target_passage(row.language, source), source) for source in twin.negatives]
    mined = [*_miner_scores(row), *_miner_scores(twin)]
    kept: list[tuple[int, int, int]] = []
    for place, (number, source) in enumerate(found):
        if number is None or source is None or number in own or source in theirs:
            continue
        if all(number != old and source != other for _, old, other in kept):
            kept.append((place, number, source))
    del kept[len(row.negatives) or len(twin.negatives) :]
    of_row = sum(place < len(row.negatives) for place, _, _ in kept)
    count.carried += 1
    count.negatives_kept += of_row
    count.negatives_dropped += len(row.negatives) - of_row
    count.negatives_of_twins += len(kept) - of_row
    count.carried_without_negatives += not kept
    record = dict(row.record)
    name = "_pid" if row.by_id else ""
    record[f"pos{name}"] = [row.name(row_set.passages, number) for number, _ in positives]
    record[f"neg{name}"] = [row.name(row_set.passages, number) for _, number, _ in kept]
    record.pop("miner_scores", None)
    scores = [mined[place] for place, _, _ in kept]
    if kept and None not in scores:
        record["miner_scores"] = scores
    return Job(record, twin.query, [source for _, source in positives], [source for _, _, source in kept])


def _miner_scores(row: Row) -> list[float | None]:
    """The miner's score of each negative, None where it is not known."""
    scores = row.record.get("miner_scores") or []
    return scores if len(scores) == len(row.negatives) else [None] * len(row.negatives)


def _crossed(row_set: RowSet, row: Row, twin: Row, key: str) -> Job:
    """The translated question with the passages of the twin."""
    record = {name: value for name, value in twin.record.items() if name not in ("query", "language")}
    record = {"query": row.query, **record, "language": f"{row.language}-{twin.language}", key: row.record[key]}
    return Job(record, twin.query, twin.positives, twin.negatives)
