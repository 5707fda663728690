"""Keeps resident memory from growing in long work: fewer things that stay, and free memory given back.

glibc puts allocations of 128 KiB and more on pages of their own, but raises that to 32 MiB as it sees them freed. From
then on tensors of ever other sizes lie on heaps, between small things that stay: oneDNN keeps a primitive for every new
number of tokens. The gaps fit few other batches, so the heaps grow, and malloc gives back only their ends.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

# Seconds of work between two times. Each costs some milliseconds, and the next batches touch their pages anew.
_EVERY = 2.0


class GivesBack:
    """To be called after each piece of work; every few seconds it has malloc give free pages back to the system.

    Args:
        every: Seconds at least between two times.
        trim: What gives back; by default glibc's `malloc_trim`, and elsewhere nothing.
    """

    def __init__(self, every: float = _EVERY, trim: Callable[[], object] | None = None) -> None:
        self._every = every
        self._trim = trim or _malloc_trim()
        self._lock = threading.Lock()
        self._last = time.monotonic()

    def __call__(self) -> None:
        """Gives back, if it is time; from any thread."""
        if self._trim is None:
            return
        with self._lock:
            now = time.monotonic()
            if now - self._last < self._every:
                return
            self._last = now
        self._trim()


def _malloc_trim() -> Callable[[], object] | None:
    """glibc's; None under another C library."""
    if not sys.platform.startswith("linux"):
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None if trim is None else lambda: trim(ctypes.c_size_t(0))


class _OneDnn:
    """oneDNN's switch, which the whole process shares: the first who wants it off turns it, the last turns it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._off = 0
        self._before = True

    def turn_off(self) -> None:
        with self._lock:
            if self._off == 0:
                self._before = torch.backends.mkldnn.enabled
                torch.backends.mkldnn.enabled = False
            self._off += 1

    def turn_back(self) -> None:
        with self._lock:
            self._off -= 1
            if self._off == 0:
                torch.backends.mkldnn.enabled = self._before


_onednn = _OneDnn()


@contextmanager
def without_onednn(off: bool) -> Iterator[None]:
    """Turns oneDNN off in the whole process as long as the context lasts; torch's own kernels do its work.

    Contexts of several threads may overlap: oneDNN comes back when the last of them ends.

    Args:
        off: Whether to do so, where torch has MKL: that multiplies in fp32, and leaves oneDNN nothing but GELU. In bf16
            oneDNN multiplies, and without MKL (on ARM) in fp32 too.
    """
    if not (off and torch.backends.mkl.is_available()):
        yield
        return
    _onednn.turn_off()
    try:
        yield
    finally:
        _onednn.turn_back()


__all__ = ["GivesBack", "without_onednn"]
