"""Loading a checkpoint of the paper's size from disk, against one pass over its safetensors.

    python benchmarks/loading.py                 # 2.4 GB of random weights: needs so much disk, and twice that memory
    python benchmarks/loading.py --small         # seconds: says only that it runs
    python benchmarks/loading.py --cold          # what the system has cached of the file is dropped before each run

Every measurement runs in a process of its own, one way after the other, so that none finds the other's memory. The time
is that of the work alone, imports not included. Memory is what the process has above that before the work: `private`,
its own (anonymous) pages, which nothing can take away, sampled every millisecond; and `resident`, the kernel's record
of the highest, with the pages of the mapped file, which are the system's cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from measuring import environment, print_table, write_json
from paper_size import paper_config

from milco_hf.modeling import MilcoForSparseEncoding

WAYS = ("one pass over the safetensors", "MilcoForSparseEncoding.from_pretrained")


def read_once(folder: Path) -> list[torch.Tensor]:
    """Every tensor of every safetensors file, copied into memory."""
    from safetensors import safe_open

    found = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found += [file.get_tensor(name).clone() for name in file.keys()]  # noqa: SIM118 -- it has no iterator
    return found


def load(folder: Path) -> MilcoForSparseEncoding:
    """The model, ready to encode."""
    return MilcoForSparseEncoding.from_pretrained(folder, local_files_only=True).eval()


class Memory(threading.Thread):
    """The most private and resident memory of this process since it started, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._before = {name: status(name) for name in ("RssAnon", "VmRSS")}
        Path("/proc/self/clear_refs").write_text("5")
        self._done = threading.Event()
        self._private = 0

    def run(self) -> None:
        """Samples until it is stopped."""
        while not self._done.wait(0.001):
            self._private = max(self._private, status("RssAnon"))

    def stop(self) -> dict[str, int]:
        """Ends the sampling; memory above that at the start."""
        self._done.set()
        self.join()
        private = max(self._private, status("RssAnon"))
        return {
            "private": private - self._before["RssAnon"],
            "resident": status("VmHWM") - self._before["VmRSS"],
        }


def status(name: str) -> int:
    """A field of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}.")


def measure(way: str, folder: Path) -> dict[str, float]:
    """One run of one way, in this process."""
    memory = Memory()
    memory.start()
    start = time.perf_counter()
    kept = read_once(folder) if way == WAYS[0] else load(folder)
    seconds = time.perf_counter() - start
    result = {"seconds": seconds, **memory.stop()}
    del kept
    return result


def in_a_process(way: str, folder: Path, threads: int | None) -> dict[str, float]:
    """One run in a process of its own."""
    command = [sys.executable, __file__, "--measure", way, "--folder", str(folder)]
    command += [] if threads is None else ["--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def drop_from_cache(folder: Path) -> None:
    """Lets the system forget what it has cached of the weights."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_checkpoint(folder: Path, small: bool) -> int:
    """Random weights; returns their bytes."""
    torch.manual_seed(0)
    model = MilcoForSparseEncoding(paper_config(small))
    model.save_pretrained(folder)
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a model of a few hundred kilobytes")
    parser.add_argument("--cold", action="store_true", help="drop the file from the system's cache before each run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads; by default PyTorch's own number")
    parser.add_argument("--folder", type=Path, help="where the checkpoint goes (default: a temporary folder)")
    parser.add_argument("--output", default="outputs/benchmarks/loading.json", metavar="FILE")
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.measure:
        print(json.dumps(measure(options.measure, options.folder)))
        return
    if not Path("/proc/self/clear_refs").exists():
        raise SystemExit("This benchmark reads memory from /proc, which only Linux has.")
    where = environment(torch.device("cpu"))
    with tempfile.TemporaryDirectory(prefix="milco-loading-", dir=options.folder) as temporary:
        folder = Path(temporary)
        weights = write_checkpoint(folder, options.small)
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way, runs in found.items():
                if options.cold:
                    drop_from_cache(folder)
                runs.append(in_a_process(way, folder, options.threads))
    rows, summary = [], {}
    base = statistics.median(run["seconds"] for run in found[WAYS[0]])
    for way, runs in found.items():
        seconds = [run["seconds"] for run in runs]
        middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        summary[way] = {"median": middle, "runs": runs, "times_the_pass": middle["seconds"] / base}
        row = [way, f"{middle['seconds']:.3g}", f"{min(seconds):.3g} … {max(seconds):.3g}"]
        row += [f"{middle['seconds'] / base:.2f} ×"]
        row += [f"{middle[name] / 2**20:,.0f} ({middle[name] / weights:.2f} ×)" for name in ("private", "resident")]
        rows.append(row)
    print_table(
        f"{weights / 2**20:,.0f} MiB of weights, {'cold' if options.cold else 'cached'}, {where['threads']} threads, "
        f"{options.rounds} rounds, load {where['load_before']}",
        ["", "median s", "lowest … highest", "time", "private MiB (÷ weights)", "resident MiB (÷ weights)"],
        rows,
    )
    settings = {**vars(options), "folder": None}
    content = {"benchmark": "loading", "settings": settings, "environment": where, "weights_bytes": weights}
    write_json(options.output, {**content, "results": summary})
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
