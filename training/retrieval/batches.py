"""Batches of rows: of all languages, or of one language each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from milco_hf.training.data.steps import STEPS_PER_POOL, StepSampler
from milco_hf.training.retrieval.dataset import RetrievalDataset

BATCH = 5_000


class RowSampler(StepSampler):
    """A `StepSampler` whose items are (row, epoch), and whose batches can hold one language each.

    With `languages`, what all processes see at a time, batch_size · world_size rows, is of one language: in-batch
    negatives then never differ from the question by language alone. The batches that accumulation adds up may differ.
    Rows that do not fill a batch of their language are left out of that epoch; other ones are in the next.

    Args:
        draw: gives an epoch's rows in random order, `PairMixture.draw`.
        lengths: tokens of each row, [N]; None for no grouping by length.
        languages: each row's language as a number, [N]; None for mixed batches.
        **kwargs: `StepSampler`'s batch_size, accumulation, world_size, rank, seed.
    """

    def __init__(
        self,
        draw: Callable[[int], np.ndarray],
        lengths: np.ndarray | None,
        languages: np.ndarray | None = None,
        **kwargs: Any,
    ) -> None:
        self.languages = languages
        super().__init__(draw, lengths, **kwargs)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:  # type: ignore[override]
        for batch in super().__iter__():
            yield [(row, self.epoch) for row, _ in batch]

    def _fixed(self, rows: np.ndarray, rng: np.random.Generator) -> list[list[np.ndarray]]:
        if self.languages is None:
            return super()._fixed(rows, rng)
        size = self.batch_size * self.world_size
        found = []
        for language in np.unique(self.languages[rows]):
            own = rows[self.languages[rows] == language]
            own = own[: len(own) // size * size]
            for start in range(0, len(own), size * STEPS_PER_POOL):
                pool = own[start : start + size * STEPS_PER_POOL]
                if self.lengths is not None:
                    pool = pool[np.argsort(self.lengths[pool], kind="stable")]
                found += [np.split(pool[at : at + size], self.world_size) for at in range(0, len(pool), size)]
        found = [found[number] for number in rng.permutation(len(found))]
        steps = len(found) // self.accumulation
        return [
            [part for batch in found[step * self.accumulation : (step + 1) * self.accumulation] for part in batch]
            for step in range(steps)
        ]


def row_lengths(
    data: RetrievalDataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    exact_up_to: int = 500_000,
    cache_dir: str | os.PathLike | None = None,
) -> np.ndarray:
    """Tokens of every row's passages in the mean, each cut to `max_length`, [N]; passages are most of the work.

    Args:
        data: the rows.
        tokenizer: the student's.
        max_length: passages are cut to it.
        exact_up_to: count the tokens of at most so many passages; of more, a thousand tell the tokens per byte.
        cache_dir: where to keep the counts.
    """
    size = len(data.passages)
    text = data.passages.column("text").cast(pa.large_binary())
    nbytes = np.asarray(pc.binary_length(text).combine_chunks(), dtype=np.float64)
    if size <= exact_up_to:
        lengths = _kept_count(data, tokenizer, nbytes, cache_dir)
    else:
        some = np.linspace(0, size - 1, 1000).astype(int)
        lengths = nbytes * (_count(data, tokenizer, some).sum() / max(1.0, nbytes[some].sum()))
    lengths = np.minimum(lengths, max_length)
    both = data.positives.joined(data.negatives)
    counts = np.maximum(1, np.diff(both.offsets))
    return np.bincount(both.rows, weights=lengths[both.values], minlength=len(data)) / counts


def _kept_count(
    data: RetrievalDataset,
    tokenizer: PreTrainedTokenizerBase,
    nbytes: np.ndarray,
    cache_dir: str | os.PathLike | None,
) -> np.ndarray:
    everything = np.arange(len(data.passages))
    if cache_dir is None:
        return _count(data, tokenizer, everything)
    some = data.texts(np.linspace(0, len(everything) - 1, min(200, len(everything))).astype(int))
    digest = hashlib.sha256(nbytes.tobytes())
    digest.update(str(tokenizer(some, verbose=False)["input_ids"]).encode())
    place = Path(cache_dir) / f"passage-lengths-{digest.hexdigest()[:16]}.npy"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished = place.with_suffix(f".{os.getpid()}.npy")  # another process never sees half a file
        np.save(unfinished, _count(data, tokenizer, everything))
        os.replace(unfinished, place)
    return np.load(place)


def _count(data: RetrievalDataset, tokenizer: PreTrainedTokenizerBase, numbers: np.ndarray) -> np.ndarray:
    found = []
    for start in range(0, len(numbers), BATCH):
        ids = tokenizer(data.texts(numbers[start : start + BATCH]), return_attention_mask=False, verbose=False)
        found += [len(tokens) for tokens in ids["input_ids"]]
    return np.array(found, dtype=np.float64)
