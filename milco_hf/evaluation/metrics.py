"""Metrics through ir_measures, and TREC files that anybody can score again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from milco_hf.evaluation.collections import Qrels
from milco_hf.evaluation.topk import Ranking

MEASURES = ("nDCG@10", "R@100", "RR@10", "Success@1", "Success@5")
ANSWER_MEASURES = ("Success@1", "Success@5", "Success@20", "Success@100")


@dataclass(frozen=True)
class Scores:
    """Measures of one run: the mean over queries, and each query's own."""

    mean: dict[str, float]
    by_query: dict[str, dict[str, float]]


def check_measures(measures: Sequence[str]) -> None:
    """Makes sure that ir_measures knows every name, before anything is computed.

    Raises:
        ValueError: It does not; the message names the measure.
    """
    _parse(measures)


def score(run: Mapping[str, Mapping[str, float]], qrels: Qrels, measures: Sequence[str] = MEASURES) -> Scores:
    """Scores a run; a query for which nothing was found counts as zero.

    Args:
        run: Scores by query id and document id.
        qrels: Relevance by query id and document id.
        measures: As ir_measures writes them.

    Raises:
        ValueError: ir_measures knows no such measure.
    """
    import ir_measures

    parsed = _parse(measures)
    names = {measure: name for name, measure in parsed.items()}
    by_query: dict[str, dict[str, float]] = {query: {} for query in qrels}
    for metric in ir_measures.iter_calc(list(parsed.values()), qrels, dict(run)):
        by_query[metric.query_id][names[metric.measure]] = float(metric.value)
    # ir_measures's own mean is the same, over the same queries
    mean = {name: float(np.mean([values[name] for values in by_query.values()])) for name in parsed}
    return Scores(mean, by_query)


def as_run(queries: Iterable[str], ranking: Ranking) -> dict[str, dict[str, float]]:
    """A ranking by query id and document id."""
    return {query: dict(found) for query, found in zip(queries, ranking, strict=True)}


def write_run(path: Path, run: Mapping[str, Mapping[str, float]], tag: str) -> None:
    """A TREC run file; scores are written so that reading them gives the same float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tag = "_".join(tag.split()) or "run"
    with path.open("w", encoding="utf-8") as file:
        for query, found in run.items():
            for rank, (document, value) in enumerate(found.items(), 1):
                file.write(f"{query} Q0 {document} {rank} {np.float32(value)!s} {tag}\n")


def write_qrels(path: Path, qrels: Qrels) -> None:
    """A TREC judgements file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for query, row in qrels.items():
            for document, relevance in row.items():
                file.write(f"{query} 0 {document} {relevance}\n")


def _parse(measures: Sequence[str]) -> dict[str, object]:
    try:
        import ir_measures
    except ImportError as error:
        raise ImportError('Evaluation needs ir_measures: pip install "milco-hf[evaluate]"') from error
    if not measures:
        raise ValueError("Name at least one measure, such as nDCG@10.")
    parsed = {}
    for name in measures:
        try:
            parsed[name] = ir_measures.parse_measure(name)
        except (NameError, SyntaxError, ValueError) as error:
            raise ValueError(
                f"ir_measures knows no measure {name!r} ({error}); it reads such as {', '.join(MEASURES)}."
            ) from error
    return parsed


__all__ = [
    "ANSWER_MEASURES",
    "MEASURES",
    "Scores",
    "as_run",
    "check_measures",
    "score",
    "write_qrels",
    "write_run",
]
