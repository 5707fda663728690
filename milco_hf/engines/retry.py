"""Errors of engines, and how a call that an engine is too busy for is tried again."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class EngineError(OSError):
    """An engine refused something. An OSError, as errors of HTTP and of connections are in most libraries.

    Attributes:
        status: The HTTP status, where there is one.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class TooLargeError(EngineError):
    """A request has more bytes than the engine takes; a smaller batch may pass."""


class BusyError(EngineError):
    """The engine cannot take it now (too many requests, restarting, out of reach); later it may.

    Attributes:
        wait: Seconds that the engine asks to wait, where it says so.
    """

    def __init__(self, message: str, status: int | None = None, wait: float | None = None) -> None:
        super().__init__(message, status)
        self.wait = wait


@dataclass(frozen=True)
class Backoff:
    """How often and how long to wait: `first` seconds, then twice as long each time, up to `longest`.

    Args:
        attempts: Calls in all, the first included.
        first: Seconds before the second call.
        longest: No wait is longer, whatever the engine asks for.
    """

    attempts: int = 8
    first: float = 0.5
    longest: float = 60.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.first < 0 or self.longest < 0:
            raise ValueError(
                f"Backoff needs at least 1 attempt and waits that are not negative, got {self.attempts}, {self.first} "
                f"and {self.longest}."
            )

    def wait(self, failures: int, asked: float | None = None) -> float:
        """Seconds to wait after so many failures; a random half of it, so that many clients do not come back as one."""
        seconds = min(self.longest, self.first * 2.0 ** (failures - 1))
        seconds *= 0.5 + random.random() / 2
        return min(self.longest, max(seconds, asked or 0.0))


def retry(call: Callable[[], Result], backoff: Backoff) -> Result:
    """Calls until it succeeds, as long as it raises `BusyError` and attempts are left.

    Raises:
        BusyError: The last attempt's.
    """
    for failures in range(1, backoff.attempts):
        try:
            return call()
        except BusyError as error:
            seconds = backoff.wait(failures, error.wait)
            logger.warning("%s Trying again in %.1f s (%d of %d).", error, seconds, failures + 1, backoff.attempts)
            time.sleep(seconds)
    return call()


__all__ = ["Backoff", "BusyError", "EngineError", "TooLargeError", "retry"]
