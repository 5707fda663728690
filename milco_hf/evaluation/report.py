"""What an evaluation found, as numbers, JSON and Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from milco_hf.evaluation.bias import ENGLISH


@dataclass
class Result:
    """One system's run: one language's queries against one pool of documents.

    Attributes:
        system: The system's name.
        collection: The collection's name.
        queries: The queries' language.
        documents: The documents' language, or "all" for the mixed pool.
        scores: Means over the queries by measure.
        query_count: How many queries.
        document_count: How many documents.
        statistics: Active dimensions of documents and queries, where there are any.
        bias: Of the mixed pool: towards the queries' own language ("same") and, for others, towards "english".
        run: The run file, relative to the output folder.
        qrels: The judgements it was scored with, likewise.
        dropped: What `lenient` left out.
    """

    system: str
    collection: str
    queries: str
    documents: str
    scores: dict[str, float]
    query_count: int
    document_count: int
    statistics: dict[str, float] = field(default_factory=dict)
    bias: dict[str, dict[str, float]] = field(default_factory=dict)
    run: str | None = None
    qrels: str | None = None
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass
class CurvePoint:
    """Quality at one pruning.

    Attributes:
        system: The system's name.
        collection: The collection's name.
        method: "mass", "top_k", or "none".
        amount: The share of the mass, or k.
        document_dimensions: What a document kept, in the mean over all documents.
        means: As `Report.means` gives them, of the main measure.
    """

    system: str
    collection: str
    method: str
    amount: float
    document_dimensions: float
    means: dict[str, float]


@dataclass
class Report:
    """All results of one call of `evaluate`.

    Attributes:
        setting: "monolingual", "matrix" or "mixed".
        measures: Their names; the first is the one that tables show by language.
        depth: Documents of a query in a run file.
        systems: Name, kind, fingerprint and settings of each.
        results: One for each system, collection, query language and pool.
        curve: Quality by pruning, where it was asked for.
    """

    setting: str
    measures: list[str]
    depth: int
    systems: list[dict[str, Any]] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)

    def select(self, system: str | None = None, collection: str | None = None) -> list[Result]:
        """Results of a system or of a collection, in the order in which they were found."""
        return [
            result
            for result in self.results
            if system in (None, result.system) and collection in (None, result.collection)
        ]

    def collections(self) -> list[str]:
        """Names of the collections."""
        return list(dict.fromkeys(result.collection for result in self.results))

    def value(self, system: str, queries: str, documents: str | None = None, measure: str | None = None) -> float:
        """One number: a system's score of one query language (against one document language).

        Raises:
            KeyError: There is no such result, or more than one.
        """
        found = [
            result
            for result in self.select(system)
            if result.queries == queries and documents in (None, result.documents)
        ]
        if len(found) != 1:
            raise KeyError(f"{len(found)} results of {system} for {queries} → {documents}.")
        return found[0].scores[measure or self.measures[0]]

    def means(self, system: str, collection: str, measure: str | None = None) -> dict[str, float]:
        """Means over languages, each of which counts the same.

        "mean" for the monolingual and the mixed setting. For the matrix: "within" (a language to itself), "between"
        (all ordered pairs of different languages), "to English" and "from English" where English is there.
        """
        return means_of(self.setting, self.select(system, collection), measure or self.measures[0])

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        content = asdict(self)
        content["means"] = [
            {
                "system": system["name"],
                "collection": name,
                "measure": measure,
                **self.means(system["name"], name, measure),
            }
            for name in self.collections()
            for system in self.systems
            for measure in self.measures
        ]
        return content

    def to_markdown(self) -> str:
        """Tables for people."""
        from milco_hf.evaluation.tables import report_tables

        return report_tables(self)

    def save(self, folder: str | Path) -> None:
        """Write `results.json` and `results.md`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=1)
        (folder / "results.json").write_text(f"{text}\n", encoding="utf-8")
        (folder / "results.md").write_text(self.to_markdown(), encoding="utf-8")


def means_of(setting: str, results: Sequence[Result], measure: str) -> dict[str, float]:
    """See `Report.means`."""
    if setting != "matrix":
        return {"mean": fmean(result.scores[measure] for result in results)}
    groups = {
        "within": [r for r in results if r.queries == r.documents],
        "between": [r for r in results if r.queries != r.documents],
        "to English": [r for r in results if r.documents == ENGLISH != r.queries],
        "from English": [r for r in results if r.queries == ENGLISH != r.documents],
    }
    return {name: fmean(r.scores[measure] for r in group) for name, group in groups.items() if group}


__all__ = ["CurvePoint", "Report", "Result", "means_of"]
