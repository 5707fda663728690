"""Cutting an epoch into optimizer steps, and steps into the batches of each process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler

STEPS_PER_POOL = 64


class StepSampler(Sampler):
    """A batch sampler that knows optimizer steps, and gives each process its share of them.

    A step's pairs depend on the seed, the epoch and the number of pairs in a step only, not on how accumulation and
    processes divide it: 1 process × batch 8 = 2 processes × batch 2 × accumulation 2. Steps are cut from pools of pairs
    sorted by length, then shuffled. Items are (row, with_english).

    Args:
        draw: gives an epoch's rows in random order, `PairMixture.draw`.
        lengths: tokens of each row's longer side, [N]; None for no grouping by length.
        batch_size: pairs in a batch of one process; with a token budget, at most this many.
        accumulation: batches of one process in a step.
        world_size, rank: number of processes, and which of them this is.
        seed: seeds the shuffling.
        english_share: share of the pairs whose English side is a training text too, 0 to 1.
        max_batch_tokens: texts × longest text of a batch stay below it, by `lengths`; None for fixed batches.

    Raises:
        ValueError: a value that cannot work, or fewer pairs in an epoch than a step needs.
    """

    def __init__(
        self,
        draw: Callable[[int], np.ndarray],
        lengths: np.ndarray | None,
        batch_size: int,
        accumulation: int = 1,
        world_size: int = 1,
        rank: int = 0,
        seed: int = 0,
        english_share: float = 1.0,
        max_batch_tokens: int | None = None,
    ) -> None:
        if not 0 <= english_share <= 1:
            raise ValueError(f"english_share must be between 0 and 1, got {english_share}.")
        if max_batch_tokens is not None and lengths is None:
            raise ValueError("max_batch_tokens needs group_by_length: batches are filled by length.")
        self.draw, self.lengths = draw, lengths
        self.batch_size, self.accumulation = batch_size, accumulation
        self.world_size, self.rank = world_size, rank
        self.seed, self.english_share, self.max_batch_tokens = seed, english_share, max_batch_tokens
        self.epoch = 0
        self.steps = len(self._plan(0, None))
        if self.steps == 0:
            raise ValueError(
                f"An epoch has {len(draw(0))} pairs, fewer than one step of {batch_size} pairs × {accumulation} "
                f"batches × {world_size} processes. Lower per_device_train_batch_size or gradient_accumulation_steps."
            )

    @property
    def batch_sampler(self) -> StepSampler:
        """Itself: the Trainer looks here for `set_epoch`, inside of whatever wraps a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose which epoch the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[tuple[int, bool]]]:
        for step in self._plan(self.epoch, self.steps):
            for batch in range(self.accumulation):
                rows = step[batch * self.world_size + self.rank]
                yield list(zip(rows.tolist(), self._with_english(rows).tolist(), strict=True))

    def _with_english(self, rows: np.ndarray) -> np.ndarray:
        """Whether each row's English side is used, [n] booleans: a hash of row, epoch and seed, nothing to resume."""
        if self.english_share >= 1 or self.english_share <= 0:
            return np.full(len(rows), self.english_share >= 1)
        mixed = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= np.uint64((self.seed * 0x2545F4914F6CDD1D + self.epoch * 0xD1342543DE82EF95) % 2**64)
        mixed = (mixed ^ (mixed >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
        return (mixed >> np.uint64(40)).astype(np.float64) / 2**24 < self.english_share

    def _plan(self, epoch: int, steps: int | None) -> list[list[np.ndarray]]:
        """An epoch's steps; each a list of accumulation · world_size arrays of rows. `steps` fixes their number."""
        rng = np.random.default_rng([self.seed, 1_000_003, epoch])
        rows = self.draw(epoch)
        plan = self._fixed(rows, rng) if self.max_batch_tokens is None else self._budgeted(rows, rng)
        plan = [plan[number] for number in rng.permutation(len(plan))]
        if steps is not None and len(plan) != steps:  # budgets fill differently in each epoch; the Trainer counts one
            plan = (plan * (1 + steps // max(1, len(plan))))[:steps]
        return plan

    def _pools(self, rows: np.ndarray, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        for start in range(0, len(rows), size * STEPS_PER_POOL):
            pool = rows[start : start + size * STEPS_PER_POOL]
            yield pool if self.lengths is None else pool[np.argsort(self.lengths[pool], kind="stable")]

    def _fixed(self, rows: np.ndarray, rng: np.random.Generator) -> list[list[np.ndarray]]:
        parts = self.accumulation * self.world_size
        size = self.batch_size * parts
        rows = rows[: len(rows) // size * size]  # the rest, less than a step, is another one in each epoch
        return [
            np.split(pool[start : start + size], parts)
            for pool in self._pools(rows, size, rng)
            for start in range(0, len(pool), size)
        ]

    def _budgeted(self, rows: np.ndarray, rng: np.random.Generator) -> list[list[np.ndarray]]:
        assert self.lengths is not None
        assert self.max_batch_tokens is not None
        parts = self.accumulation * self.world_size
        sides = 1 + self.english_share  # texts of a pair, in the mean
        batches: list[np.ndarray] = []
        for pool in self._pools(rows, self.batch_size * parts, rng):
            start = 0
            for end in range(1, len(pool) + 1):
                full = end - start >= self.batch_size
                if end < len(pool):
                    full = full or (end - start + 1) * sides * int(self.lengths[pool[end]]) > self.max_batch_tokens
                if full or end == len(pool):
                    batches.append(pool[start:end])
                    start = end
        return [batches[start : start + parts] for start in range(0, len(batches) - parts + 1, parts)]
