"""Plots as PNG and SVG: the language matrix as a heat map, quality by dimensions kept (the paper's Figure 5)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from milco_hf.evaluation.report import Report

_FORMATS = ("png", "svg")


def save_plots(report: Report, folder: str | Path) -> list[Path]:
    """Every plot that a report has something for.

    Args:
        report: The report.
        folder: Where the files go.

    Returns:
        The files.

    Raises:
        ImportError: matplotlib is not installed.
    """
    folder = Path(folder)
    files: list[Path] = []
    for name in report.collections():
        if report.setting == "matrix":
            for system in report.systems:
                figure = matrix_figure(report, system["name"], name)
                files += _save(figure, folder, f"{name}.{system['name']}.matrix")
        if any(point.collection == name for point in report.curve):
            files += _save(curve_figure(report, name), folder, f"{name}.pruning")
    return files


def matrix_figure(report: Report, system: str, collection: str) -> Any:
    """A heat map of the main measure: languages of queries down, of documents across."""
    import numpy as np

    results = report.select(system, collection)
    documents = list(dict.fromkeys(result.documents for result in results))
    queries = list(dict.fromkeys(result.queries for result in results))
    values = np.full((len(queries), len(documents)), np.nan)
    for result in results:
        values[queries.index(result.queries), documents.index(result.documents)] = result.scores[report.measures[0]]
    size = 1.5 + 0.5 * max(len(documents), len(queries))
    figure = _figure((size + 0.8, size))
    axes = figure.subplots()
    image = axes.imshow(values, cmap="viridis", vmin=0, vmax=1)
    axes.set_xticks(range(len(documents)), documents)
    axes.set_yticks(range(len(queries)), queries)
    axes.set_xlabel("language of the documents")
    axes.set_ylabel("language of the queries")
    for (row, column), value in np.ndenumerate(values):
        shade = "black" if value > 0.6 else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=shade, fontsize=7)
    axes.set_title(f"{system}, {collection}: {report.measures[0]}")
    figure.colorbar(image, ax=axes, fraction=0.045)
    return figure


def curve_figure(report: Report, collection: str) -> Any:
    """The main measure by the dimensions that documents keep: a panel for each mean, a line for each way to prune."""
    points = [point for point in report.curve if point.collection == collection]
    kinds = list(points[0].means)
    figure = _figure((4.6 * len(kinds), 3.8))
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axes, kind in zip(panels, kinds):
        for system in dict.fromkeys(point.system for point in points):
            color = None
            for method, style in (("mass", "o-"), ("top_k", "s--")):
                line = sorted(
                    (p.document_dimensions, p.means[kind]) for p in points if p.system == system and p.method == method
                )
                if line:
                    (drawn,) = axes.plot(*zip(*line), style, color=color, label=f"{system}, {method}", markersize=4)
                    color = drawn.get_color()
            for point in points:
                if point.system == system and point.method == "none":
                    label = f"{system}, all {point.document_dimensions:.0f}"
                    axes.axhline(point.means[kind], linestyle=":", color=color, label=label)
        axes.set_xscale("log")
        axes.set_xlabel("dimensions kept of a document, mean")
        axes.set_ylabel(f"{report.measures[0]}, {kind}")
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=7)
    figure.suptitle(collection)
    return figure


def _figure(size: tuple[float, float]) -> Any:
    """A figure of its own, drawn without a screen and without pyplot's global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Plots need matplotlib: pip install "milco-hf[evaluate]"') from error
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, folder: Path, name: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.@+-]", "-", name)
    files = [folder / f"{name}.{suffix}" for suffix in _FORMATS]
    for file in files:
        figure.savefig(file, dpi=150)
    return files


__all__ = ["curve_figure", "matrix_figure", "save_plots"]
