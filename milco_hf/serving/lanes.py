"""Work that is done one piece at a time, in a thread of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from milco_hf.serving.batching import waited_too_long
from milco_hf.serving.errors import overloaded

Result = TypeVar("Result")


class Lane:
    """One thread with a bounded line before it.

    What runs here (searching an index, explaining a match) may be unsafe in two threads at once, so it never is.

    Args:
        name: What messages call it, in the plural.
        limit: How many may wait or run.
        timeout: Seconds that one may wait for its turn.
        after: Called in the thread after each piece of work.
    """

    def __init__(self, name: str, limit: int, timeout: float, after: Callable[[], None] = lambda: None) -> None:
        self._name = name
        self._limit = limit
        self._timeout = timeout
        self._after = after
        self._pending = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"milco-{name}")

    async def run(self, work: Callable[..., Result], *arguments: object) -> Result:
        """Does a piece of work when its turn comes.

        Raises:
            Refused: Too many wait (429), or this one waited too long (503).
        """
        if self._pending >= self._limit:
            raise overloaded(f"Too many {self._name} wait: {self._pending}. Try again in a moment.")
        self._pending += 1
        start = time.monotonic()
        try:
            future = self._thread.submit(self._work, work, *arguments)
            done = asyncio.wrap_future(future)
            await asyncio.wait({done}, timeout=self._timeout)
            if not done.done() and future.cancel():
                raise waited_too_long(time.monotonic() - start)
            return await done
        finally:
            self._pending -= 1

    def _work(self, work: Callable[..., Result], *arguments: object) -> Result:
        try:
            return work(*arguments)
        finally:
            self._after()

    def close(self) -> None:
        """Ends the thread when what it does is done; what only waits is dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)


__all__ = ["Lane"]
