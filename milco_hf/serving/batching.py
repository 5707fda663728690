"""Texts of several callers in one forward pass: a queue, and one thread for each device."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from milco_hf.encoding.rows import Batch, Job, Rows
from milco_hf.serving.errors import BACKEND, UNHEALTHY, Refused, overloaded

logger = logging.getLogger(__name__)

Row = tuple[np.ndarray, np.ndarray]
"""One vector: columns (int32, ascending) and weights (fp32)."""

# As in encode_corpus: the pooled logits of thousands of very short texts would not be small.
_SHORTEST = 16
# A batch is chosen from the first so many texts that wait, so that choosing stays cheap.
_WINDOW = 1024


@dataclass
class Request:
    """The texts of one caller.

    Args:
        job: What is made of them.
        rows: Their vectors, as they come.
        deadline: By `time.monotonic()`, when those that still wait are given up.
        future: Gets `rows`.
        waiting: Texts that no batch has taken.
        open: Texts without a vector.
        queue_seconds: How long the last of them waited.
        inference_seconds: How long the forward passes took that they were in.
    """

    job: Job
    rows: list[Row | None]
    deadline: float
    started: float = field(default_factory=time.monotonic)
    future: Future = field(default_factory=Future)
    waiting: int = 0
    open: int = 0
    queue_seconds: float = 0.0
    inference_seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class _Text:
    request: Request
    place: int
    tokens: np.ndarray
    adapter: int | None

    @property
    def size(self) -> int:
        return max(len(self.tokens), _SHORTEST)


class Batcher:
    """Encodes what callers submit, as many texts at a time as a budget of tokens holds.

    The text that has waited longest is in the next batch; others of the same job join it that are about as long, so
    little is padded. Nothing waits for a batch to fill: while one is computed, the next gathers.

    Args:
        workers: What encodes a batch, one function for each device; each gets a thread.
        max_tokens: Tokens of a batch, padding included. A longer text is a batch of its own.
        max_queue: Texts that may wait.
        pad: The token that fills up shorter texts.
        on_batch: Called after each batch with the worker's number, its texts, its tokens and the seconds it took.
    """

    def __init__(
        self,
        workers: Sequence[Callable[[Batch, Job], Rows]],
        max_tokens: int,
        max_queue: int,
        pad: int = 0,
        on_batch: Callable[[int, int, int, float], None] | None = None,
    ) -> None:
        self._max_tokens = max_tokens
        self._max_queue = max_queue
        self._pad = pad
        self._on_batch = on_batch
        self._queue: list[_Text] = []
        self._changed = threading.Condition()
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, args=(number, worker), name=f"milco-worker-{number}", daemon=True)
            for number, worker in enumerate(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Texts that wait."""
        return len(self._queue)

    @property
    def alive(self) -> bool:
        """Whether every worker runs and new texts are taken."""
        return not self._closing and all(thread.is_alive() for thread in self._threads)

    def submit(
        self, tokens: Sequence[np.ndarray], job: Job, timeout: float, adapters: Sequence[int] | None = None
    ) -> Request:
        """Queues the texts of a caller, all or none.

        Args:
            tokens: Each text's tokens.
            job: What is made of them.
            timeout: Seconds that they may wait.
            adapters: The number of each text's language adapter; None for encoders without adapters.

        Raises:
            Refused: The queue is full (429), or the server is ending (503).
        """
        with self._changed:
            if self._closing:
                raise Refused(503, UNHEALTHY, "The server is shutting down.")
            if len(self._queue) + len(tokens) > self._max_queue:
                raise overloaded(
                    f"Model is overloaded: {len(self._queue)} texts wait and {len(tokens)} more would exceed the "
                    f"queue's {self._max_queue}. Try again in a moment."
                )
            count = len(tokens)
            request = Request(job, [None] * count, time.monotonic() + timeout, waiting=count, open=count)
            request.future.set_running_or_notify_cancel()  # from here on nobody can cancel it between check and result
            routes = adapters or [None] * count
            self._queue += [_Text(request, place, ids, routes[place]) for place, ids in enumerate(tokens)]
            self._changed.notify(count)
        if not count:
            request.future.set_result([])
        return request

    def give_up(self, request: Request) -> bool:
        """Takes a request out of the queue if one of its texts still waits; says whether it was."""
        with self._changed:
            if request.future.done() or not request.waiting:
                return False
            self._drop(request)
            return True

    def close(self, timeout: float | None = None) -> bool:
        """Takes no more, works off what waits, and ends the threads; says whether they ended within `timeout` s."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        until = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if until is None else max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self, number: int, worker: Callable[[Batch, Job], Rows]) -> None:
        while True:
            with self._changed:
                texts = self._take()
                while not texts:
                    if self._closing and not self._queue:
                        return
                    self._changed.wait()
                    texts = self._take()
            self._encode(number, worker, texts)

    def _take(self) -> list[_Text]:
        """The next batch, taken out of the queue; empty if nothing waits."""
        now = time.monotonic()
        for request in {id(text.request): text.request for text in self._queue if text.request.deadline < now}.values():
            self._drop(request)
            request.future.set_exception(waited_too_long(now - request.started))
        if not self._queue:
            return []
        first = self._queue[0]
        window = [text for text in islice(self._queue, _WINDOW) if text.request.job == first.request.job]
        window.sort(key=lambda text: -text.size)  # stable, so that who came first goes first among equals
        at = window.index(first)
        chosen, longest = [first], first.size
        # shorter ones cost what the first one's length costs; longer ones make all of them longer
        for text in (*window[at + 1 :], *reversed(window[:at])):
            longest = max(longest, text.size)
            if longest * (len(chosen) + 1) > self._max_tokens:
                break
            chosen.append(text)
        taken = set(map(id, chosen))
        self._queue = [text for text in self._queue if id(text) not in taken]
        for text in chosen:
            text.request.waiting -= 1
            text.request.queue_seconds = now - text.request.started
        return chosen

    def _drop(self, request: Request) -> None:
        self._queue = [text for text in self._queue if text.request is not request]
        request.waiting = 0

    def _encode(self, number: int, worker: Callable[[Batch, Job], Rows], texts: list[_Text]) -> None:
        lengths = np.array([len(text.tokens) for text in texts], dtype=np.int64)
        ids = np.full((len(texts), int(lengths.max())), self._pad, dtype=np.int32)
        for row, text in enumerate(texts):
            ids[row, : lengths[row]] = text.tokens
        routed = texts[0].adapter is not None  # then all are: they have one encoder
        adapters = np.array([text.adapter for text in texts], dtype=np.int64) if routed else None
        start = time.monotonic()
        error: Refused | None = None
        try:
            rows = worker(Batch(0, np.arange(len(texts)), ids, lengths, adapters), texts[0].request.job)
        except Exception:
            # the worker lives on: what broke one batch, such as memory that ran out, need not break the next
            logger.exception("A batch of %d texts of up to %d tokens failed.", len(texts), ids.shape[1])
            error = Refused(424, BACKEND, "The model failed on this input; the server's log says how.")
        seconds = time.monotonic() - start
        if error is None:
            ends = np.cumsum(rows.counts)
            for row, text in enumerate(texts):
                part = slice(int(ends[row] - rows.counts[row]), int(ends[row]))
                # copies, so that a caller who keeps one vector does not keep the batch
                text.request.rows[text.place] = (rows.columns[part].copy(), rows.weights[part].copy())
        if self._on_batch is not None:
            self._on_batch(number, len(texts), int(ids.size), seconds)
        with self._changed:
            for request in {id(text.request): text.request for text in texts}.values():
                request.open -= sum(text.request is request for text in texts)
                request.inference_seconds += seconds
                if request.future.done():
                    continue
                if error is not None:
                    self._drop(request)
                    request.future.set_exception(error)
                elif not request.open:
                    request.future.set_result(request.rows)


def waited_too_long(seconds: float) -> Refused:
    """The answer to who waited longer than the queue's time limit."""
    return overloaded(f"Model is overloaded: not begun after {seconds:.1f} s in the queue. Try again in a moment.", 503)


__all__ = ["Batcher", "Request", "Row", "waited_too_long"]
