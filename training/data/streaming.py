"""Pairs that are never held at once: endless streams, mixed and shuffled in a buffer."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from milco_hf.training.data.files import Pair
from milco_hf.training.data.sources import SourceSpec, iterate_source


class PairStream(IterableDataset):
    """Pairs of several sources, drawn by the sources' weights, over and over.

    Every process and data worker reads the sources and keeps each n-th pair, so no two of them give the same one. The
    buffer is shuffled before pairs leave it; with `batch_size` given, pairs leave in runs of like length, so that the
    batches cut from the stream need little padding.

    Args:
        specs: the sources.
        exclude_sources: source tags to leave out.
        languages: only these other languages; all where empty.
        buffer: pairs to shuffle among.
        batch_size: pairs in a batch, for grouping by length; None for none.
        seed: seeds the shuffling.
        rank, world_size: which process this is, of how many.
        english_share: share of the pairs whose English side is a training text too.
    """

    def __init__(
        self,
        specs: Sequence[SourceSpec],
        exclude_sources: Sequence[str] = (),
        languages: Sequence[str] = (),
        buffer: int = 20_000,
        batch_size: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        english_share: float = 1.0,
    ) -> None:
        if buffer < 1:
            raise ValueError(f"shuffle_buffer must be positive, got {buffer}.")
        self.specs = list(specs)
        self.exclude_sources, self.languages = frozenset(exclude_sources), frozenset(languages)
        self.buffer, self.batch_size, self.seed = buffer, batch_size, seed
        self.rank, self.world_size, self.english_share = rank, world_size, english_share
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order that the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        part, parts = self.rank * workers + number, self.world_size * workers
        rng = random.Random(f"{self.seed} {self.epoch} {part}")
        held: list[Pair] = []
        for position, pair in enumerate(self._mixed(random.Random(f"{self.seed} {self.epoch}"))):
            if position % parts != part:
                continue
            held.append(pair)
            if len(held) == self.buffer:
                yield from self._leave(held, rng)
                held = []

    def _mixed(self, rng: random.Random) -> Iterator[Pair]:
        streams = [self._endless(spec) for spec in self.specs]
        weights = [spec.weight for spec in self.specs]
        while True:
            yield next(rng.choices(streams, weights)[0])

    def _endless(self, spec: SourceSpec) -> Iterator[Pair]:
        while True:
            empty = True
            for pair in iterate_source(spec, self.exclude_sources):
                if not self.languages or pair.language in self.languages:
                    empty = False
                    yield pair
            if empty:
                raise ValueError(f"No pairs in {spec.path!r}: check its languages and excluded sources.")

    def _leave(self, held: list[Pair], rng: random.Random) -> Iterator[dict[str, Any]]:
        rng.shuffle(held)
        if self.batch_size is not None:
            held.sort(key=lambda pair: max(len(pair.english), len(pair.other)))
            runs = [held[start : start + self.batch_size] for start in range(0, len(held), self.batch_size)]
            rng.shuffle(runs)
            held = [pair for run in runs for pair in run]
        for pair in held:
            with_english = rng.random() < self.english_share
            yield {
                "english": pair.english,
                "other": pair.other,
                "language": pair.language,
                "with_english": with_english,
            }
