"""Markdown tables of a report."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from milco_hf.evaluation.report import Report, Result


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers, to the right."""
    lines = [f"| {' | '.join(head)} |", f"|{' --- |'}{' ---: |' * (len(head) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def number(value: float | None) -> str:
    """Three digits, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def report_tables(report: Report) -> str:
    """Everything of a report that reads better as a table."""
    parts = [f"# Evaluation, {report.setting}", _systems(report)]
    for name in report.collections():
        parts.append(f"## {name}")
        first = report.select(collection=name)[0]
        parts.append(
            f"{first.document_count} documents, {first.query_count} queries"
            + (f" ({first.queries})." if len(report.select(collection=name)) > 1 else ".")
        )
        parts.append(_means(report, name))
        if report.setting == "matrix":
            parts += [_matrix(report, system["name"], name) for system in report.systems]
        else:
            parts.append(_by_language(report, name))
        if report.setting == "mixed":
            parts += [_bias(report, system["name"], name) for system in report.systems]
        if any(point.collection == name for point in report.curve):
            parts.append(_curve(report, name))
    if len(report.collections()) > 1:
        parts.append(_over_collections(report))
    return "\n\n".join(parts) + "\n"


def _systems(report: Report) -> str:
    head = ["system", "kind", "document length", "query length", "dtype", "view", "pruning", "fingerprint"]
    rows = []
    for system in report.systems:
        get = system["settings"].get
        pruning = ", ".join(f"{side} {get(key)}" for side, key in _SIDES if get(key))
        cells = [get("document_length"), get("query_length"), get("dtype"), get("view"), pruning]
        rows.append(
            [system["name"], system["kind"], *(str(c or "–") for c in cells), f"`{system['fingerprint'][:12]}`"]
        )
    return table(head, rows)


_SIDES = (("documents", "prune"), ("queries", "prune_queries"))


def _means(report: Report, name: str) -> str:
    """Every measure's mean over languages, and the active dimensions."""
    rows = []
    for system in report.systems:
        results = report.select(system["name"], name)
        dimensions = []
        for key in ("document_dimensions", "query_dimensions"):
            values = [result.statistics[key] for result in results if key in result.statistics]
            dimensions.append(f"{fmean(values):.1f}" if values else "–")
        for kind in report.means(system["name"], name):
            label = system["name"] if kind == "mean" else f"{system['name']}, {kind}"
            values = [report.means(system["name"], name, measure)[kind] for measure in report.measures]
            rows.append([label, *map(number, values), *dimensions])
    head = ["system", *report.measures, "dimensions of a document", "of a query"]
    return "Means over languages, each of which counts the same:\n\n" + table(head, rows)


def _by_language(report: Report, name: str) -> str:
    languages = list(dict.fromkeys(result.queries for result in report.select(collection=name)))
    rows = []
    for system in report.systems:
        found = {result.queries: result for result in report.select(system["name"], name)}
        values = [found[code].scores[report.measures[0]] for code in languages]
        rows.append([system["name"], *map(number, values), number(fmean(values))])
    return f"{report.measures[0]} by language of the queries:\n\n" + table(["system", *languages, "mean"], rows)


def _matrix(report: Report, system: str, name: str) -> str:
    results = report.select(system, name)
    rows_of, columns = _axes(results)
    found = {(r.queries, r.documents): r.scores[report.measures[0]] for r in results}
    rows = [[query, *(number(found[query, document]) for document in columns)] for query in rows_of]
    return f"{system}: {report.measures[0]} of queries (rows) to documents (columns):\n\n" + table(
        ["queries", *columns], rows
    )


def _bias(report: Report, system: str, name: str) -> str:
    head = ["queries", "own in top 10", "own among relevant", "excess", "own outranks"]
    head += ["English in top 10", "English among relevant", "excess", "English outranks"]
    keys = ("share_in_top", "share_among_relevant", "excess", "outranked")
    results = report.select(system, name)
    rows = []
    for result in results:
        cells = [result.bias.get(side, {}).get(key) for side in ("same", "english") for key in keys]
        rows.append([result.queries, *map(number, cells)])
    means: list[str] = []
    for side in ("same", "english"):
        there = [result.bias[side] for result in results if side in result.bias]
        means += [number(fmean(bias[key] for bias in there)) if there else "–" for key in keys]
    return f"{system}: language bias (see docs/evaluation.md for what is counted):\n\n" + table(
        head, [*rows, ["mean", *means]]
    )


def _curve(report: Report, name: str) -> str:
    points = [point for point in report.curve if point.collection == name]
    kinds = list(points[0].means)
    head = ["system", "pruning of documents", "dimensions kept", *(f"{report.measures[0]} {kind}" for kind in kinds)]
    rows = []
    for point in points:
        label = "none" if point.method == "none" else f"{point.method}:{point.amount:.4g}"
        rows.append([point.system, label, f"{point.document_dimensions:.1f}", *(number(point.means[k]) for k in kinds)])
    return "Quality by dimensions kept:\n\n" + table(head, rows)


def _over_collections(report: Report) -> str:
    names = report.collections()
    kinds = list(dict.fromkeys(k for name in names for k in report.means(report.systems[0]["name"], name)))
    rows = []
    for system in report.systems:
        cells = []
        for kind in kinds:
            values = [report.means(system["name"], name).get(kind) for name in names]
            there = [value for value in values if value is not None]
            cells.append(number(fmean(there)) if there else "–")
        rows.append([system["name"], *cells])
    return f"## All\n\n{report.measures[0]}, mean over {len(names)} collections:\n\n" + table(["system", *kinds], rows)


def _axes(results: Sequence[Result]) -> tuple[list[str], list[str]]:
    """Languages of the queries and of the documents, in the order in which they came."""
    documents = list(dict.fromkeys(result.documents for result in results))
    queries = list(dict.fromkeys(result.queries for result in results))
    return queries, documents


__all__ = ["number", "report_tables", "table"]
