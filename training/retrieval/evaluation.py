"""Retrieval by language while training: does a question find its passage among its language's?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from milco_hf.modeling import MilcoConfig
from milco_hf.training.evaluation import Processes, encode_texts, similarities
from milco_hf.training.retrieval.dataset import RetrievalDataset
from milco_hf.training.retrieval.reading import languages_of

DEPTH = 10


@dataclass
class LanguageRetrieval:
    """What one language's dev questions give: means over questions, cut at rank 10.

    Attributes:
        language: its code.
        queries, passages: how many questions, and passages in the pool.
        mrr, ndcg, accuracy: by both views' scores; accuracy is the share of questions whose first passage is right.
        pivot_mrr: MRR by the pivot view's scores alone.
        active_dims_query, active_dims_document: English terms in the mean.
        active_source_query, active_source_document: source tokens in the mean.
    """

    language: str
    queries: int
    passages: int
    mrr: float
    ndcg: float
    accuracy: float
    pivot_mrr: float
    active_dims_query: float
    active_dims_document: float
    active_source_query: float
    active_source_document: float

    def metrics(self) -> dict[str, float]:
        """Numbers by name, without the language."""
        return {name: value for name, value in vars(self).items() if name not in ("language", "queries", "passages")}


def ranking_metrics(scores: np.ndarray, relevant: Sequence[np.ndarray]) -> dict[str, float]:
    """MRR@10, nDCG@10 and the share of questions whose first passage is right.

    Equal scores are ranked as badly as they can be, and a passage of score 0 is never found: a model that gives all
    texts the same vector, or none, finds nothing.

    Args:
        scores: [Q, P].
        relevant: places of each question's right passages.
    """
    gains = 1 / np.log2(np.arange(2, DEPTH + 2))
    reciprocal, ndcg, first = [], [], []
    for row, right in zip(scores, relevant, strict=True):
        is_right = np.zeros(len(row), dtype=bool)
        is_right[right] = True
        top = np.lexsort((is_right, -row))[:DEPTH]
        hits = is_right[top] & (row[top] > 0)
        reciprocal.append(1 / (1 + hits.argmax()) if hits.any() else 0.0)
        ndcg.append(gains[: len(top)][hits].sum() / gains[: min(len(right), DEPTH)].sum())
        first.append(float(hits[0]))
    return {"mrr": float(np.mean(reciprocal)), "ndcg": float(np.mean(ndcg)), "accuracy": float(np.mean(first))}


def evaluate_retrieval(
    forward: Callable[..., object],
    tokenizer: PreTrainedTokenizerBase,
    config: MilcoConfig,
    dataset: RetrievalDataset,
    *,
    batch_size: int,
    query_length: int,
    document_length: int,
    device: torch.device,
    queries_per_language: int | None = None,
    processes: Processes | None = None,
) -> list[LanguageRetrieval]:
    """Score every language's dev questions against the positives of all of them.

    Args:
        forward: the model (as wrapped for training where it is sharded), in evaluation mode.
        tokenizer: the model's.
        config: the model's.
        dataset: dev rows.
        batch_size: texts in a batch.
        query_length: questions are cut to so many tokens.
        document_length: passages likewise.
        device: where the model is.
        queries_per_language: so many questions of each language, spread over all of them, and only their passages.
        processes: the processes that share the work.

    Returns:
        Scores of each language, by its code.
    """
    results = []
    codes, names = dataset.codes("query_language")
    for language, rows in dataset.by_language().items():
        if queries_per_language is not None and len(rows) > queries_per_language:
            rows = rows[np.linspace(0, len(rows) - 1, queries_per_language).astype(int)]
        positives = [dataset.positives[row] for row in rows]
        pool = np.unique(np.concatenate(positives))

        def encode(texts: list[str], length: int, languages: list[str]) -> tuple:
            return encode_texts(forward, tokenizer, config, texts, batch_size, length, device, processes, languages)

        queries = encode(dataset.queries(rows), query_length, [names[code] for code in codes[rows]])
        documents = encode(dataset.texts(pool), document_length, [languages_of(language)[1]] * len(pool))
        pivot, source = (
            np.concatenate([scores for _, scores in similarities(left, right)])
            for left, right in zip(queries, documents, strict=True)
        )
        relevant = [np.searchsorted(pool, found) for found in positives]
        active = [float(np.diff(view.indptr).mean()) for side in (queries, documents) for view in side]
        results.append(
            LanguageRetrieval(
                language=language,
                queries=len(rows),
                passages=len(pool),
                **ranking_metrics(pivot + source, relevant),
                pivot_mrr=ranking_metrics(pivot, relevant)["mrr"],
                active_dims_query=active[0],
                active_source_query=active[1],
                active_dims_document=active[2],
                active_source_document=active[3],
            )
        )
    return results


def summarize(results: Sequence[LanguageRetrieval]) -> dict[str, float]:
    """Means over languages (`mrr_mean` …), the lowest MRR, and each language's own MRR and nDCG (`sw_mrr` …)."""
    if not results:
        raise ValueError("No dev rows to evaluate; check dev_data and languages.")
    by_language = [result.metrics() for result in results]
    metrics = {f"{name}_mean": fmean(scores[name] for scores in by_language) for name in by_language[0]}
    metrics["mrr_min"] = min(result.mrr for result in results)
    for result in results:
        metrics[f"{result.language}_mrr"] = result.mrr
        metrics[f"{result.language}_ndcg"] = result.ndcg
    return metrics
