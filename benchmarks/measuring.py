"""What every benchmark measures with: interleaved timings, peak memory, and where and with what they were taken."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
_PACKAGES = ("torch", "transformers", "sentence-transformers", "triton", "numpy", "scipy")


@dataclass
class Measurement:
    """Repeated runs of one way to do the work.

    Args:
        seconds: Wall-clock time of each run.
        extra_bytes: For each run, the most memory above what was in use before it.
    """

    seconds: list[float] = field(default_factory=list)
    extra_bytes: list[int] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median time in seconds."""
        return statistics.median(self.seconds)

    @property
    def peak(self) -> int:
        """Median of the runs' peaks in bytes."""
        return int(statistics.median(self.extra_bytes))

    def summary(self) -> dict:
        """What goes into the JSON file."""
        spread = {"median_s": self.median, "lowest_s": min(self.seconds), "highest_s": max(self.seconds)}
        return {**spread, "peak_extra_bytes": self.peak, "seconds": self.seconds, "extra_bytes": self.extra_bytes}


def interleaved(
    ways: dict[str, Callable[[], object]], rounds: int, device: torch.device, warm_up: int = 0
) -> dict[str, Measurement]:
    """Runs all ways one after the other, `rounds` times over, so that a busy machine is busy for all of them.

    Args:
        ways: What to run, by name; results are dropped.
        rounds: How often each is measured.
        device: Where they compute: its clock and its memory are read.
        warm_up: Rounds before those that count (compilation, autotuning, caches).

    Returns:
        The measurements by name.
    """
    found = {name: Measurement() for name in ways}
    for turn in range(warm_up + rounds):
        for name, run in ways.items():
            seconds, extra = _measured(run, device)
            if turn >= warm_up:
                found[name].seconds.append(seconds)
                found[name].extra_bytes.append(extra)
    return found


def _measured(run: Callable[[], object], device: torch.device) -> tuple[float, int]:
    """Seconds, and bytes above what was in use before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        start = time.perf_counter()
        run()
        torch.cuda.synchronize(device)
        return time.perf_counter() - start, torch.cuda.max_memory_allocated(device) - before
    with _PeakOfProcess() as peak:
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
    return seconds, peak.extra


class _PeakOfProcess:
    """The process's highest resident memory inside the `with` block, above that at its start.

    Linux keeps the highest value itself (VmHWM) and lets a process reset it, so no short peak is missed; elsewhere a
    thread samples every two milliseconds. Memory that the allocator kept from earlier runs is handed back first.
    """

    def __enter__(self) -> _PeakOfProcess:
        _hand_back_free_memory()
        self._sampler = None
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self._before = _status("VmRSS")
        except OSError:
            self._sampler = _Sampler()
            self._before = self._sampler.highest
            self._sampler.start()
        return self

    def __exit__(self, *error) -> None:
        if self._sampler is None:
            highest = _status("VmHWM")
        else:
            self._sampler.done.set()
            self._sampler.join()
            highest = self._sampler.highest
        self.extra = max(0, highest - self._before)


class _Sampler(threading.Thread):
    """Reads the process's resident memory until told to stop."""

    def __init__(self):
        import psutil

        super().__init__(daemon=True)
        self._process = psutil.Process()
        self.done = threading.Event()
        self.highest = self._process.memory_info().rss

    def run(self) -> None:
        while not self.done.wait(0.002):
            self.highest = max(self.highest, self._process.memory_info().rss)


def _status(name: str) -> int:
    """A field of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}.")


def _hand_back_free_memory() -> None:
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # only glibc has it
        return


def environment(device: torch.device) -> dict:
    """Machine, versions and commit, for the JSON file."""
    found = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": platform.machine(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "python": platform.python_version(),
        "versions": {},
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }
    for name in _PACKAGES:
        try:
            found["versions"][name] = version(name)
        except PackageNotFoundError:
            found["versions"][name] = None
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Prints a table; the first column is text, the others are numbers."""
    table = Table(title=title, title_justify="left")
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 140).print(table)


def write_json(path: str | Path, content: dict) -> None:
    """Writes the results, making the folder if there is none."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
