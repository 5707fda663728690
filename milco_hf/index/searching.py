"""Search over all segments of an index, by whatever engine finds the documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import sparse

from milco_hf.encoding import VectorFolder
from milco_hf.evaluation.topk import Best
from milco_hf.index.exact import ExactSearch, Found, best_of
from milco_hf.index.segments import DOCUMENTS, VECTORS
from milco_hf.index.seismic import SeismicSearch
from milco_hf.index.store import DocumentStore
from milco_hf.index.vectors import Rows, load_passages

# Up to so many documents (or passages), exact search is fast enough.
EXACT_UP_TO = 50_000


def open_segments(
    folders: Sequence[Path], width: int, stores: Sequence[DocumentStore] | None = None
) -> tuple[Rows, list[DocumentStore]]:
    """The vectors and documents of segments."""
    opened = list(stores) if stores is not None else [DocumentStore(folder / DOCUMENTS) for folder in folders]
    vectors = [VectorFolder(folder / VECTORS) for folder in folders]
    return Rows(vectors, [load_passages(folder) for folder in folders], list(map(len, opened)), width), opened


def search(
    rows: Rows,
    seismic: SeismicSearch | None,
    exact: ExactSearch,
    queries: sparse.csr_array,
    k: int,
    allowed: np.ndarray | None,
) -> Found:
    """The best k documents of each query by whatever finds them: few documents exactly, many through Seismic."""
    few = allowed is not None and np.count_nonzero(allowed) <= EXACT_UP_TO
    if seismic is None or queries.shape[0] == 0:
        return exact.search(queries, k, allowed)
    if few:
        return best_of(rows, queries, np.flatnonzero(allowed), k)
    covered = seismic.rows.documents
    best = Best(queries.shape[0], k, matched_only=True)
    scores, places = seismic.search(queries, k, None if allowed is None else allowed[:covered])
    if allowed is not None and (short := scores[:, -1] == -np.inf).any():
        # a filter may have left too few candidates
        known = allowed & (np.arange(len(allowed)) < covered)
        again, at = exact.search(queries[np.flatnonzero(short)], k, known)
        scores[short, : again.shape[1]], places[short, : at.shape[1]] = again, at
    best.merge([(scores, places)])
    if covered < rows.documents:
        later = np.arange(covered, rows.documents)
        best.merge([best_of(rows, queries, later if allowed is None else later[allowed[covered:]], k)])
    return best.scores, best.places


__all__ = ["EXACT_UP_TO", "open_segments", "search"]
