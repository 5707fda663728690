"""Quality by the dimensions that documents keep, under mass and under top-k pruning (the paper's Figure 5)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import sparse

from milco_hf.evaluation.cache import VectorCache
from milco_hf.evaluation.collections import Collection
from milco_hf.evaluation.report import CurvePoint, Report, means_of
from milco_hf.evaluation.runner import run_group
from milco_hf.evaluation.systems.base import System, VectorSystem
from milco_hf.evaluation.systems.sparse import SparseSystemEncoder
from milco_hf.pruning import Pruning, mass

DIMENSIONS = (10, 20, 30, 50, 100, 200)
# Shares that are tried to find the one at which documents keep a number of dimensions; between them it is straight.
_SHARES = np.concatenate([np.linspace(0.02, 0.9, 45), np.linspace(0.91, 1.0, 19)])


def measure_curve(
    systems: Sequence[System],
    group: Sequence[Collection],
    report: Report,
    cache: VectorCache,
    dimensions: Sequence[int] = DIMENSIONS,
) -> list[CurvePoint]:
    """The curve of every sparse model among some systems.

    For each number of dimensions: top-k pruning with that k, and mass pruning with the share at which all documents of
    the group keep so many in the mean. Numbers above what documents have without pruning are left out. Queries stay as
    they are, or as `prune_queries` says.

    Args:
        systems: Those that are no sparse models are left out.
        group: The languages of a collection.
        report: Gives setting, depth and the main measure.
        cache: Where the documents' vectors lie; nothing is encoded again.
        dimensions: Numbers of dimensions, each at least 1.

    Raises:
        ValueError: None of the systems is a sparse model, or a number of dimensions is below 1.
    """
    if any(count < 1 for count in dimensions) or not dimensions:
        raise ValueError(f"A pruning curve needs numbers of dimensions of at least 1, got {list(dimensions)}.")
    encoders = [
        system.encoder
        for system in systems
        if isinstance(system, VectorSystem) and isinstance(system.encoder, SparseSystemEncoder)
    ]
    if not encoders:
        raise ValueError("A pruning curve needs a sparse model; none of the systems is one.")
    points = []
    for encoder in encoders:
        plain = copy.copy(encoder)
        plain.prune = None
        kept = kept_by_share(_matrices(plain, group, cache))
        points.append(_point(plain, None, group, report, cache))
        fitting = [count for count in sorted(set(dimensions)) if count < kept[-1]]
        for count in fitting:
            share = float(np.interp(count, kept, _SHARES))
            for pruning in (Pruning("mass", share), Pruning("top_k", count)):
                points.append(_point(plain, pruning, group, report, cache))
    return points


def kept_by_share(matrices: Iterator[sparse.csr_array]) -> np.ndarray:
    """Entries that a row keeps, in the mean over all rows of some matrices, at each of the shares tried."""
    kept, rows = np.zeros(len(_SHARES)), 0
    for matrix in matrices:
        kept += [mass(matrix, share).nnz for share in _SHARES]
        rows += matrix.shape[0]
    return kept / max(1, rows)


def _matrices(
    encoder: SparseSystemEncoder, group: Sequence[Collection], cache: VectorCache
) -> Iterator[sparse.csr_array]:
    """The documents' vectors, a shard at a time, in the view that is searched."""
    for collection in group:
        documents = cache.documents(encoder, collection)
        for shard in documents.shards:
            yield sparse.csr_array(encoder.prepare_documents(documents.load(shard)).content.T)


def _point(
    encoder: SparseSystemEncoder,
    pruning: Pruning | None,
    group: Sequence[Collection],
    report: Report,
    cache: VectorCache,
) -> CurvePoint:
    pruned = copy.copy(encoder)
    pruned.prune = pruning
    main = Report(report.setting, report.measures[:1], report.depth)
    # judgements were checked when the group was evaluated
    results = run_group(VectorSystem(pruned), group, main, cache, lenient=True)
    by_pool = {result.documents: result.statistics["document_dimensions"] * result.document_count for result in results}
    count = {result.documents: result.document_count for result in results}
    return CurvePoint(
        system=encoder.name,
        collection=group[0].name,
        method=pruning.method if pruning else "none",
        amount=pruning.amount if pruning else 1.0,
        document_dimensions=sum(by_pool.values()) / sum(count.values()),
        means=means_of(report.setting, results, report.measures[0]),
    )


__all__ = ["DIMENSIONS", "kept_by_share", "measure_curve"]
