"""How much of what exact search finds Seismic finds too, measured where an index is built."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from milco_hf.index.exact import ExactSearch
from milco_hf.index.seismic import EFFORTS, SeismicSearch
from milco_hf.index.store import DocumentStore
from milco_hf.scripts import split_passages

logger = logging.getLogger(__name__)

K = 10
_SAMPLE = 100
_WORDS = 12


def sample_queries(stores: Sequence[DocumentStore], count: int = _SAMPLE) -> list[str]:
    """The first words of documents from all over the index, for want of questions."""
    total = sum(map(len, stores))
    chosen = np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))
    texts, first = [], 0
    for store in stores:
        here = chosen[(chosen >= first) & (chosen < first + len(store))] - first
        texts += [split_passages(document.text, _WORDS)[0] for document in store.documents(here)]
        first += len(store)
    return [text for text in texts if text.strip()]


def measure_recall(
    seismic: SeismicSearch,
    exact: ExactSearch,
    queries: sparse.csr_array,
    target: float,
    progress: Callable[[str], object] = logger.info,
) -> dict[str, Any]:
    """Recall@10 against exact search, at the least effort that reaches a target.

    Args:
        seismic: Over the same vectors as `exact`.
        exact: What is right. Where scores are equal any of the documents counts as right.
        queries: [Q, V_e + V_s].
        target: Between 0 and 1.
        progress: Is told each measurement.

    Returns:
        `recall`, `k`, `queries`, `target`, `effort`, and `tried`: the recall of every effort that was measured.
    """
    right, _ = exact.search(queries, K)
    wanted = (right > -np.inf).sum()
    tried = []
    for effort in EFFORTS:
        found, _ = seismic.search(queries, K, effort=effort)
        last = np.where(right > -np.inf, right, np.inf).min(axis=1, initial=np.inf, keepdims=True)
        hits = (found >= last).sum()
        recall = float(hits / wanted) if wanted else 1.0
        tried.append({**effort.to_dict(), "recall": round(recall, 4)})
        progress(f"Seismic finds {recall:.1%} of the exact top {K} with {effort}.")
        if recall >= target:
            break
    if tried[-1]["recall"] < target:
        logger.warning(
            "Seismic finds %.1f %% of the exact top %d of %d sample queries, less than the %.1f %% asked for; "
            "engine='exact' (--engine exact) finds all.",
            *(100 * tried[-1]["recall"], K, queries.shape[0], 100 * target),
        )
    about = {"recall": tried[-1]["recall"], "k": K, "queries": queries.shape[0], "target": target}
    return {**about, "effort": effort.to_dict(), "tried": tried}


__all__ = ["K", "measure_recall", "sample_queries"]
