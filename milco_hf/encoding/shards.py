"""Texts, read a shard at a time, and put together again as rows in their own order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from scipy import sparse

from milco_hf.encoding.routes import Routes
from milco_hf.encoding.rows import Batch, Rows
from milco_hf.encoding.tokens import Cut, Reader

# Texts that are sorted by length together; while one window is encoded, the next is tokenised.
WINDOW = 4096


@dataclass
class Pending:
    """A shard on its way: its texts, their ids and language adapters where there are any, and the rows done.

    `languages` are what a language shift shifts its rows by.
    """

    number: int
    texts: list[str]
    ids: list[str] | None
    adapters: list[int] | None = None
    languages: list[str | None] | None = None
    cut: Cut = field(default_factory=Cut)
    parts: list[tuple[np.ndarray, Rows]] = field(default_factory=list)
    done: int = 0

    def add(self, batch: Batch, rows: Rows) -> bool:
        """Takes the rows of a batch; True when all are there."""
        self.parts.append((batch.rows, rows))
        self.done += len(batch.rows)
        return self.done == len(self.texts)

    def matrix(self, width: int) -> sparse.csr_array:
        """The rows in the order of the texts, [texts, width]."""
        counts = np.zeros(len(self.texts), dtype=np.int64)
        for rows, part in self.parts:
            counts[rows] = part.counts
        starts = np.concatenate([[0], counts.cumsum()])
        columns, weights = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
        for rows, part in self.parts:
            before = part.counts.cumsum() - part.counts
            places = np.repeat(starts[rows] - before, part.counts) + np.arange(len(part.columns))
            columns[places], weights[places] = part.columns, part.weights
        return sparse.csr_array((weights, columns, starts), shape=(len(self.texts), width))


def read_shards(
    texts: Iterable[str], ids: Iterable[Any] | None, size: int, routes: Routes | None = None
) -> Iterator[Pending]:
    """Shards of `size` texts, the last one shorter.

    Raises:
        TypeError: A text is no string.
        ValueError: There are more texts than ids or languages, or fewer; or a language has no adapter.
    """
    texts, ids = iter(texts), None if ids is None else iter(ids)
    number = read = 0
    while block := list(islice(texts, size)):
        for place, text in enumerate(block, start=read):
            if not isinstance(text, str):
                raise TypeError(f"texts have to be strings, but number {place} is {text!r} ({type(text).__name__}).")
        names = None if ids is None else [str(name) for name in islice(ids, len(block))]
        if names is not None and len(names) < len(block):
            raise ValueError(f"There are {read + len(names)} ids, but more texts; give each text an id.")
        yield Pending(number, block, names, None if routes is None else routes.take(read, len(block)))
        number, read = number + 1, read + len(block)
    if routes is not None:
        routes.check_end(read)
    if ids is not None and any(True for _ in ids):
        raise ValueError(f"There are {read} texts, but more ids; give each text one id.")


def encode_shards(
    shards: Iterable[Pending],
    reader: Reader,
    encode: Callable[[Iterable[Batch]], Any],
    progress: Callable[[int], object],
) -> Iterator[Pending]:
    """The same shards, encoded, in the same order.

    Args:
        shards: Read only as far as the encoding needs.
        reader: Makes batches of texts, in a thread: the next window's while this one's are encoded.
        encode: Turns an iterator of batches into one of (batch, rows), in the same order.
        progress: Is told how many texts are done since it was told before.
    """
    waiting: dict[int, Pending] = {}
    with (
        ThreadPoolExecutor(1, "milco-tokens") as thread,
        closing(encode(_batches(shards, reader, thread, waiting))) as encoded,
    ):
        for batch, rows in encoded:
            progress(len(batch.rows))
            if waiting[batch.shard].add(batch, rows):
                yield waiting.pop(batch.shard)


def _batches(
    shards: Iterable[Pending], reader: Reader, thread: ThreadPoolExecutor, waiting: dict[int, Pending]
) -> Iterator[Batch]:
    """Batches of all windows; a window never reaches over the end of a shard, so that each shard stands for itself."""

    def taken(shard: Pending, future: Future) -> list[Batch]:
        batches, cut = future.result()
        shard.cut += cut
        return batches

    before: tuple[Pending, Future] | None = None
    for shard in shards:
        waiting[shard.number] = shard
        for first in range(0, len(shard.texts), WINDOW):
            window = shard.texts[first : first + WINDOW]
            adapters = None if shard.adapters is None else shard.adapters[first : first + WINDOW]
            now = shard, thread.submit(reader.batches, shard.number, first, window, adapters)
            if before is not None:
                yield from taken(*before)
            before = now
    if before is not None:
        yield from taken(*before)


__all__ = ["WINDOW", "Pending", "encode_shards", "read_shards"]
