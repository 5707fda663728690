"""Parallel text beside questions and passages: every micro-batch has some pairs too."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerBase

from milco_hf.training.collator import ENGLISH, language_ids, tokenize
from milco_hf.training.data.pairs import PairDataset
from milco_hf.training.data.steps import StepSampler
from milco_hf.training.retrieval.batches import RowSampler
from milco_hf.training.retrieval.candidates import CandidateDataset
from milco_hf.training.retrieval.collator import CandidateCollator


class PairNumber(NamedTuple):
    """An index that means a pair, not a question."""

    number: int


class ParallelSampler(Sampler):
    """The batches of a `RowSampler`, with those of a `StepSampler` over pairs at their side.

    The pairs have epochs of their own, one after the other. Which one a batch has depends on its number since the start
    of training alone, so that resuming changes nothing; and like the rows', a step's pairs do not depend on how
    accumulation and processes divide it.

    Args:
        rows: batches of (row, epoch).
        pairs: batches of (pair, flag); has the same accumulation and processes.
    """

    def __init__(self, rows: RowSampler, pairs: StepSampler) -> None:
        self.rows, self.pairs = rows, pairs
        self.batch_size = rows.batch_size

    @property
    def batch_sampler(self) -> ParallelSampler:
        """Itself, see `StepSampler.batch_sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose which epoch of the rows the next iteration gives."""
        self.rows.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[list[tuple[int, int] | PairNumber]]:
        pairs = self._pairs(self.rows.epoch * len(self.rows))
        for batch in self.rows:
            yield [*batch, *(PairNumber(number) for number, _ in next(pairs))]

    def _pairs(self, start: int) -> Iterator[list[tuple[int, bool]]]:
        """Batches of pairs, from the start-th of training on."""
        epoch, skipped = divmod(start, len(self.pairs))
        while True:
            self.pairs.set_epoch(epoch)
            yield from islice(self.pairs, skipped, None)
            epoch, skipped = epoch + 1, 0


class ParallelDataset(Dataset):
    """A `CandidateDataset`'s items and a `PairDataset`'s, by what `ParallelSampler` gives.

    Args:
        rows: questions with candidates.
        pairs: parallel text.
    """

    def __init__(self, rows: CandidateDataset, pairs: PairDataset) -> None:
        self.rows, self.pairs = rows, pairs
        self.data = rows.data

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | tuple[int, int] | PairNumber) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int | tuple[int, int] | PairNumber]) -> list[dict[str, Any]]:
        """Take many items at once, as torch's fetcher asks for a batch; questions come first."""
        rows = [index for index in indices if not isinstance(index, PairNumber)]
        numbers = [index.number for index in indices if isinstance(index, PairNumber)]
        return [*(self.rows.__getitems__(rows) if rows else []), *(self.pairs.__getitems__(numbers) if numbers else [])]


class ParallelCollator:
    """Makes a `CandidateCollator`'s batch with P pairs beside it.

    It holds more:

    - ``parallel_ids``, ``parallel_mask`` [2 P, n]: the other sides, then the English ones;
    - ``parallel_numbers`` [P]: equal for pairs of the same English text.

    Args:
        candidates: collates the questions.
        tokenizer: the student's tokenizer.
        max_length: texts are cut to so many tokens.
        pad_to_multiple_of: widths are rounded up to a multiple of it.
    """

    def __init__(
        self,
        candidates: CandidateCollator,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        pad_to_multiple_of: int | None = None,
    ) -> None:
        self.candidates, self.tokenizer = candidates, tokenizer
        self.max_length, self.pad_to_multiple_of = max_length, pad_to_multiple_of

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Make a batch of items, as `ParallelDataset` gives them."""
        pairs = [item for item in items if "query" not in item]
        texts = [pair[side] for side in ("other", "english") for pair in pairs]
        ids, mask = tokenize(self.tokenizer, texts, self.max_length, self.pad_to_multiple_of)
        return {
            **self.candidates([item for item in items if "query" in item]),
            "parallel_ids": ids,
            "parallel_mask": mask,
            **language_ids(
                self.candidates.adapters,
                [pair["language"] for pair in pairs] + [ENGLISH] * len(pairs),
                "parallel_lang_ids",
            ),
            "parallel_numbers": torch.tensor([_number(pair["english"]) for pair in pairs]),
        }


def _number(text: str) -> int:
    """63 bits that stand for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
