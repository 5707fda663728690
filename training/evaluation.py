"""Translation retrieval by language: does a text find its translation among all others?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from milco_hf.modeling import MilcoConfig
from milco_hf.training.collator import ENGLISH
from milco_hf.training.data.pairs import PairDataset
from milco_hf.training.teachers.cache import Teacher

logger = logging.getLogger(__name__)

ROWS = 1024
DENSE_SHARE = 0.02
TEACHER_TERMS = 10
NOTHING_ACTIVE = 0.0
TOO_MANY_ACTIVE = 0.2


class Processes(Protocol):
    """The processes that share an evaluation; `accelerate.Accelerator` is one."""

    num_processes: int
    process_index: int


@dataclass
class LanguageScores:
    """What one language's dev pairs give."""

    language: str
    pairs: int
    accuracy_other_to_english: float
    accuracy_english_to_other: float
    full_accuracy_other_to_english: float
    full_accuracy_english_to_other: float
    active_dims: float
    active_dims_english: float
    empty_share: float
    teacher_top10: float | None = None
    samples: list[tuple[str, str, str]] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        """Numbers by name, without the language."""
        skipped = ("language", "pairs", "samples")
        return {name: value for name, value in vars(self).items() if name not in skipped and value is not None}


@torch.no_grad()
def batch_views(
    forward: Callable[..., object], batch: dict[str, Tensor], config: MilcoConfig
) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Encode one batch: (pivot view [B, V_e], source view [B, V_e + V_s] whose dimensions are token ids) as CSR."""
    output = forward(**batch, return_embeddings=False, source_view=True)
    pivot = output.pivot_view.float().cpu()  # type: ignore[attr-defined]
    rows, columns = pivot.nonzero(as_tuple=True)
    values = pivot[rows, columns].numpy()
    view = sparse.csr_array((values, (rows.numpy(), columns.numpy())), shape=tuple(pivot.shape))
    shape = (len(pivot), config.projection_dim)
    weights = output.source_weights  # type: ignore[attr-defined]
    if weights is None:
        return view, sparse.csr_array(shape, dtype=np.float32)
    weights = weights.float().cpu()
    rows, places = weights.nonzero(as_tuple=True)
    columns, values = batch["input_ids"].cpu()[rows, places].numpy(), weights[rows, places].numpy()
    rows = rows.numpy()
    if config.echo_pooling == "max":  # of equal (text, token) entries only the largest stays
        order = np.lexsort((-values, columns, rows))
        rows, columns, values = rows[order], columns[order], values[order]
        first = np.ones(len(rows), dtype=bool)
        first[1:] = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
        rows, columns, values = rows[first], columns[first], values[first]
    return view, sparse.csr_array((values, (rows, columns)), shape=shape)  # equal entries are summed


def encode_texts(
    forward: Callable[..., object],
    tokenizer: PreTrainedTokenizerBase,
    config: MilcoConfig,
    texts: Sequence[str],
    batch_size: int,
    max_length: int,
    device: torch.device,
    processes: Processes | None = None,
    languages: Sequence[str | None] | None = None,
) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Encode texts, sorted by length, split over processes; the result comes in the texts' own order on every process.

    `languages`, one for each text, choose the adapters of encoders that have some.

    Returns:
        (pivot views [N, V_e], source views [N, V_e + V_s]) in fp32.
    """
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length, verbose=False)["input_ids"]
    adapters = None if languages is None else config.adapter_ids(languages)
    order = sorted(range(len(texts)), key=lambda row: len(encoded[row]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    world = processes.num_processes if processes else 1
    rank = processes.process_index if processes else 0
    # Sharded models gather their weights in every forward, so all processes make the same number of them.
    rounds = -(-len(batches) // world)
    found: list[tuple[list[int], sparse.csr_array, sparse.csr_array]] = []
    for number in range(rounds):
        mine = number * world + rank
        rows = batches[mine] if mine < len(batches) else batches[0]
        batch = tokenizer.pad({"input_ids": [encoded[row] for row in rows]}, return_tensors="pt")
        batch = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
        if adapters is not None:
            batch["lang_ids"] = torch.tensor([adapters[row] for row in rows], device=device)
        views = batch_views(forward, batch, config)
        if mine < len(batches):
            found.append((rows, *views))
    if world > 1:
        from accelerate.utils import gather_object

        found = gather_object(found)
    numbers = np.concatenate([rows for rows, _, _ in found])
    back = np.argsort(numbers)
    return tuple(sparse.vstack([part[side] for part in found], format="csr")[back] for side in (1, 2))  # type: ignore[return-value]


def similarities(left: sparse.csr_array, right: sparse.csr_array) -> Iterator[tuple[int, np.ndarray]]:
    """Inner products of all rows, a block of `left` at a time: (its first row, scores [rows, right's rows])."""
    width = left.shape[1]
    dense = max(left.nnz / max(1, left.shape[0]), right.nnz / max(1, right.shape[0])) > DENSE_SHARE * width
    for start in range(0, left.shape[0], ROWS):
        block = left[start : start + ROWS]
        if not dense:
            yield start, (block @ right.T).toarray()
            continue
        part = block.toarray()
        scores = [part @ right[first : first + ROWS].toarray().T for first in range(0, right.shape[0], ROWS)]
        yield start, np.concatenate(scores, axis=1)


def retrieval_accuracy(scores: np.ndarray) -> float:
    """Share of rows whose own column has the highest score, [n, n]; a row of zeros finds nothing."""
    own = np.arange(len(scores))
    return float(((scores.argmax(axis=1) == own) & (scores[own, own] > 0)).mean()) if len(scores) else 0.0


def score_language(
    language: str,
    english: tuple[sparse.csr_array, sparse.csr_array],
    other: tuple[sparse.csr_array, sparse.csr_array],
    teacher_rows: Sequence[tuple[np.ndarray, np.ndarray]] | None = None,
) -> LanguageScores:
    """Scores of one language from its pairs' (pivot, source) views, row by row translations of each other.

    `teacher_rows` are the teacher's (terms, logits) of the English texts: `teacher_top10` is the share of its ten
    strongest terms that the other language's view has at all.
    """
    size = english[0].shape[0]
    pivot = np.concatenate([scores for _, scores in similarities(other[0], english[0])])
    echoed = np.concatenate([scores for _, scores in similarities(other[1], english[1])])
    active = np.diff(other[0].indptr)
    found = None
    if teacher_rows is not None:
        shares = []
        for row, (terms, logits) in enumerate(teacher_rows):
            top = terms[np.argsort(-logits, kind="stable")[:TEACHER_TERMS]]
            if len(top):
                mine = other[0].indices[other[0].indptr[row] : other[0].indptr[row + 1]]
                shares.append(np.isin(top, mine).mean())
        found = float(np.mean(shares)) if shares else 0.0
    return LanguageScores(
        language=language,
        pairs=size,
        accuracy_other_to_english=retrieval_accuracy(pivot),
        accuracy_english_to_other=retrieval_accuracy(pivot.T),
        full_accuracy_other_to_english=retrieval_accuracy(pivot + echoed),
        full_accuracy_english_to_other=retrieval_accuracy((pivot + echoed).T),
        active_dims=float(active.mean()),
        active_dims_english=float(np.diff(english[0].indptr).mean()),
        empty_share=float((active == 0).mean()),
        teacher_top10=found,
    )


def top_terms(view: sparse.csr_array, row: int, tokenizer: PreTrainedTokenizerBase, number: int = 8) -> str:
    """The strongest English terms of a text, as `term 1.23` each."""
    start, end = view.indptr[row], view.indptr[row + 1]
    order = np.argsort(-view.data[start:end], kind="stable")[:number]
    names = tokenizer.convert_ids_to_tokens([int(dim) for dim in view.indices[start:end][order]])
    weights = view.data[start:end][order]
    return ", ".join(f"{name.removeprefix('en: ')} {weight:.2f}" for name, weight in zip(names, weights, strict=True))


def evaluate_translation(
    forward: Callable[..., object],
    tokenizer: PreTrainedTokenizerBase,
    config: MilcoConfig,
    dataset: PairDataset,
    *,
    batch_size: int,
    max_length: int,
    device: torch.device,
    teacher: Teacher | None = None,
    pairs_per_language: int | None = None,
    samples: int = 0,
    processes: Processes | None = None,
) -> list[LanguageScores]:
    """Score every language of some dev pairs, one after the other, so that only one language's views are held.

    Args:
        forward: the model (as wrapped for training where it is sharded), in evaluation mode.
        tokenizer: the model's.
        config: the model's.
        dataset: dev pairs.
        batch_size: texts in a batch.
        max_length: texts are cut to this many tokens.
        device: where the model is.
        teacher: gives `teacher_top10` where there is one.
        pairs_per_language: only the first so many pairs of each language.
        samples: texts whose strongest terms are kept, spread over the languages.
        processes: the processes that share the work.

    Returns:
        Scores of each language, by its code.
    """
    results = []
    languages = dataset.by_language(pairs_per_language)
    shown = set(np.linspace(0, len(languages) - 1, min(samples, len(languages))).astype(int)) if samples else set()
    for number, (language, rows) in enumerate(languages.items()):
        english_texts, other_texts = dataset.texts("english", rows), dataset.texts("other", rows)
        views = encode_texts(
            forward,
            tokenizer,
            config,
            [*english_texts, *other_texts],
            batch_size,
            max_length,
            device,
            processes,
            languages=[ENGLISH] * len(rows) + [language] * len(rows),
        )
        english = tuple(view[: len(rows)] for view in views)
        other = tuple(view[len(rows) :] for view in views)
        teacher_rows = teacher.targets(english_texts).rows() if teacher is not None else None
        scores = score_language(language, english, other, teacher_rows)  # type: ignore[arg-type]
        if number in shown:
            scores.samples.append((english_texts[0], other_texts[0], top_terms(other[0], 0, tokenizer)))
        results.append(scores)
    return results


def summarize(results: Sequence[LanguageScores]) -> dict[str, float]:
    """Means over languages, the lowest accuracy, and each language's own numbers, by metric name."""
    if not results:
        raise ValueError("No dev pairs to evaluate; check dev_data and languages.")
    metrics: dict[str, float] = {}
    by_language = [result.metrics() for result in results]
    for name in by_language[0]:
        metrics[f"{name}_mean"] = fmean(scores[name] for scores in by_language)
    metrics["accuracy_other_to_english_min"] = min(result.accuracy_other_to_english for result in results)
    for result in results:
        metrics[f"{result.language}_accuracy"] = result.accuracy_other_to_english
        metrics[f"{result.language}_accuracy_english_to_other"] = result.accuracy_english_to_other
        metrics[f"{result.language}_active_dims"] = result.active_dims
        if result.teacher_top10 is not None:
            metrics[f"{result.language}_teacher_top10"] = result.teacher_top10
    return metrics


def warn_about_activity(active: float, width: int, where: str) -> str | None:
    """Warn when nothing, or more than a fifth of the English vocabulary, is active; returns the warning."""
    message = None
    if active <= NOTHING_ACTIVE:
        message = f"{where}: no English term is active at all; lower l1_weight or learning_rate."
    elif active > TOO_MANY_ACTIVE * width:
        message = (
            f"{where}: {active:.0f} of {width} English terms are active in the mean, over {TOO_MANY_ACTIVE:.0%}. "
            "A fresh model starts so; if it stays so, raise l1_weight, or check the teacher's vocabulary."
        )
    if message:
        logger.warning(message)
    return message
