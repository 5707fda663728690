"""Hard negatives: the passages that an encoder ranks high for a query and that are not its positives."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from milco_hf.mining.encoders import Encoder
from milco_hf.mining.files import to_line, write_lines
from milco_hf.mining.library_miner import mine_with_library
from milco_hf.mining.passages import Passages
from milco_hf.mining.rows import SCORES, Row, RowSet
from milco_hf.mining.search import top_passages

logger = logging.getLogger(__name__)

Found = list[tuple[int, float]]


@dataclass(frozen=True)
class MiningOptions:
    """How negatives are chosen; the words are those of sentence-transformers' `mine_hard_negatives`.

    Args:
        num_negatives: negatives of each query; fewer where fewer qualify.
        range_min: skip so many of the best that qualify: false negatives are likeliest there.
        range_max: look no further than this rank. By default `range_min + num_negatives`, or `range_min + 10 ×
            num_negatives` with a margin or random sampling.
        absolute_margin: a negative's score must be lower than the worst positive's by at least this.
        relative_margin: a negative's score must be lower than the worst positive's by at least this share of it.
        sampling: the best ("top"), or any up to range_max ("random").
        seed: of random sampling.
    """

    num_negatives: int = 8
    range_min: int = 0
    range_max: int | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    sampling: Literal["top", "random"] = "top"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_negatives < 1:
            raise ValueError(f"num_negatives must be at least 1, got {self.num_negatives}.")
        if self.range_min < 0:
            raise ValueError(f"range_min must not be negative, got {self.range_min}.")
        if self.sampling not in ("top", "random"):
            raise ValueError(f"sampling must be 'top' or 'random', got {self.sampling!r}.")
        if self.last < self.range_min + self.num_negatives:
            raise ValueError(
                f"range_max {self.range_max} leaves fewer than {self.num_negatives} negatives after the first "
                f"{self.range_min}; it must be at least {self.range_min + self.num_negatives}."
            )

    @property
    def last(self) -> int:
        """`range_max`, or its default."""
        if self.range_max is not None:
            return self.range_max
        margin = self.absolute_margin is not None or self.relative_margin is not None
        many = 10 if margin or self.sampling == "random" else 1
        return self.range_min + many * self.num_negatives

    def limit(self, worst_positive: float) -> float:
        """The highest score that a negative may have."""
        limits = [float("inf")]
        if self.absolute_margin is not None:
            limits.append(worst_positive - self.absolute_margin)
        if self.relative_margin is not None:
            limits.append(worst_positive - abs(worst_positive) * self.relative_margin)
        return min(limits)


def mine(
    row_set: RowSet,
    encoder: Encoder,
    options: MiningOptions | None = None,
    per_language: bool = False,
    only: Sequence[str] = (),
    backend: Literal["auto", "sentence-transformers", "blocks"] = "auto",
) -> dict[str, Any]:
    """Mine negatives for all rows, and write the rows with them.

    Written rows have `neg_pid` (or `neg`, where they give texts) and `miner_scores`, the encoder's score of each; both
    replace what was there, teacher scores of earlier negatives go, other keys stay.

    Args:
        row_set: rows and passages.
        encoder: ranks the passages.
        options: how negatives are chosen.
        per_language: take a query's negatives only from the corpus file of its language.
        only: mine for rows of these languages, and write the others as they are; for all where empty.
        backend: "sentence-transformers" uses its `mine_hard_negatives` (dense encoders; holds all vectors and results
            in memory; cosine), "blocks" our own search (dense by cosine, sparse by the inner product); "auto" takes
            the first for dense encoders and the second for sparse ones.

    Returns:
        Counts: rows, negatives, rows_with_fewer, rows_without.

    Raises:
        ValueError: a query whose language has no corpus file, no row of a language of `only`, or a backend that cannot
            do it.
    """
    options = options or MiningOptions()
    if backend == "auto":
        backend = "blocks" if encoder.sparse else "sentence-transformers"
    if backend == "sentence-transformers" and encoder.sparse:
        raise ValueError(
            "sentence-transformers' miner asks for dense, normalized vectors, which a SparseEncoder does not give; "
            "use --backend blocks."
        )
    found: dict[tuple[str, str], Found] = {}
    pooled = row_set.positives_of()
    languages = {row.language for row in row_set.rows}
    if not languages.issuperset(only):
        raise ValueError(
            f"No rows are of {', '.join(sorted(set(only) - languages))}; there are: {', '.join(sorted(languages))}."
        )
    mined = [row for row in row_set.rows if not only or row.language in only]
    for group, rows in _groups(mined, row_set.passages, per_language).items():
        candidates = row_set.passages.by_group[group] if per_language else row_set.passages.candidates
        queries = list(dict.fromkeys(row.query for row in rows))
        positives = [sorted(pooled[query]) for query in queries]
        search = mine_with_library if backend == "sentence-transformers" else mine_in_blocks
        logger.info("%s: %d queries, %d passages", group or "all", len(queries), len(candidates))
        for query, negatives in zip(
            queries, search(encoder, queries, positives, candidates, row_set.passages, options)
        ):
            found[group, query] = negatives
    return _write(row_set, found, options.num_negatives, per_language, only)


def mine_in_blocks(
    encoder: Encoder,
    queries: list[str],
    positives: Sequence[Sequence[int]],
    candidates: Iterable[int],
    passages: Passages,
    options: MiningOptions,
) -> list[Found]:
    """Negatives of each query by our own search: memory for the vectors and one block of scores.

    Args:
        encoder: dense vectors are compared by cosine, as sentence-transformers' miner does, sparse ones by the inner
            product.
        queries: different texts.
        positives: passages of each query that are no negatives.
        candidates: passages that may be negatives; positives join them, as they do in sentence-transformers' miner.
        passages: their texts.
        options: how negatives are chosen.

    Returns:
        For each query, passages and scores, best first.
    """
    numbers = list(dict.fromkeys([*candidates, *(number for some in positives for number in some)]))
    local = {number: place for place, number in enumerate(numbers)}
    passage_blocks = encoder.blocks([passages.texts[number] for number in numbers], "document")
    query_blocks = encoder.blocks(queries, "query")
    if not encoder.sparse:
        passage_blocks = [_normalized(block) for block in passage_blocks]
        query_blocks = [_normalized(block) for block in query_blocks]
    own = [[local[number] for number in some] for some in positives]
    # as many more as the positives that may stand among them
    depth = options.last + max(map(len, own), default=0)
    scores, found = top_passages(query_blocks, passage_blocks, depth)
    margin = options.absolute_margin is not None or options.relative_margin is not None
    worst = _worst_positives(query_blocks, passage_blocks, own) if margin else [float("inf")] * len(queries)
    return [
        [(numbers[place], score) for place, score in _choose(query, row, places, own_places, bound, options)]
        for query, row, places, own_places, bound in zip(queries, scores, found, own, worst)
    ]


def _choose(
    query: str, scores: np.ndarray, places: np.ndarray, own: list[int], worst_positive: float, options: MiningOptions
) -> list[tuple[int, float]]:
    """Negatives among the best passages of one query."""
    limit = options.limit(worst_positive)
    excluded = set(own)
    left = [
        (place, float(score))
        for place, score in zip(places.tolist(), scores)
        if place not in excluded and score <= limit
    ]
    left = left[options.range_min : options.last]
    if options.sampling == "top" or len(left) <= options.num_negatives:
        return left[: options.num_negatives]
    # seeded by the query, so that neither order nor blocks change what is drawn
    drawn = random.Random(f"{options.seed} {query}").sample(range(len(left)), options.num_negatives)
    return [left[place] for place in sorted(drawn)]


def _normalized(block: np.ndarray) -> np.ndarray:
    return block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12)


def _worst_positives(queries: list[Any], passages: list[Any], positives: list[list[int]]) -> list[float]:
    """The lowest score of each query's positives."""
    starts = np.concatenate([[0], np.cumsum([block.shape[0] for block in passages])])
    worst, query = [], 0
    for block in queries:
        for row in range(block.shape[0]):
            scores = []
            for place in positives[query]:
                which = int(np.searchsorted(starts, place, side="right")) - 1
                product = block[[row]] @ passages[which][[place - starts[which]]].T
                scores.append(float(product.toarray()[0, 0] if hasattr(product, "toarray") else product[0, 0]))
            worst.append(min(scores, default=float("inf")))
            query += 1
    return worst


def _groups(rows: list[Row], passages: Passages, per_language: bool) -> dict[str, list[Row]]:
    """Rows that share their candidates."""
    if not per_language:
        return {"": rows}
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.language not in passages.by_group:
            there = ", ".join(sorted(passages.by_group)) or "none"
            raise ValueError(
                f"{row.place}: no corpus file holds passages of {row.language!r}; there are files for: {there}. A "
                "row's language is its key `language`, or else its file's name without endings."
            )
        groups.setdefault(row.language, []).append(row)
    return groups


def _write(
    row_set: RowSet,
    found: dict[tuple[str, str], Found],
    wanted: int,
    per_language: bool,
    only: Sequence[str],
) -> dict[str, Any]:
    counts = {"rows": 0, "negatives": 0, "rows_with_fewer": 0, "rows_without": 0}

    def lines(rows: list[Row]) -> Iterable[str]:
        for row in rows:
            negatives = found.get((row.language if per_language else "", row.query))
            if negatives is None or (only and row.language not in only):
                yield to_line(row.record)
                continue
            counts["rows"] += 1
            counts["negatives"] += len(negatives)
            counts["rows_with_fewer"] += len(negatives) < wanted
            counts["rows_without"] += not negatives
            record = {key: value for key, value in row.record.items() if key not in SCORES}
            record[row.negative_key] = [row.name(row_set.passages, number) for number, _ in negatives]
            record["miner_scores"] = [short(score) for _, score in negatives]
            yield to_line(record)

    for file in row_set.files:
        write_lines(file.target, lines(file.rows))
    if counts["rows_with_fewer"]:
        logger.warning(
            "%d of %d rows have fewer than %d negatives (%d have none): raise range_max or lower the margin.",
            counts["rows_with_fewer"],
            counts["rows"],
            wanted,
            counts["rows_without"],
        )
    return counts


def short(score: float) -> float:
    """An fp32 number in as few digits as give it back exactly."""
    return float(str(np.float32(score)))
