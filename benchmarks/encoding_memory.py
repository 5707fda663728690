"""Resident memory while `encode_corpus` writes a long stream of short texts to a folder: is it flat?

    python benchmarks/encoding_memory.py --texts 1000000
    python benchmarks/encoding_memory.py --quick

The texts come from a generator, which reads the process's memory as it goes.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from encoding import mixed_texts
from measuring import environment, print_table, write_json

import milco_hf


def resident_mib() -> float:
    """The process's resident memory in MiB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmRSS.")


def short_texts(count: int, every: int, found: list[tuple[int, float]], seed: int = 0) -> Iterator[str]:
    """Texts of 3 to 8 words; notes (texts so far, MiB) in `found` every so many."""
    words = " ".join(mixed_texts(200, "log")).split()
    rng = random.Random(seed)
    for row in range(count):
        if row % every == 0:
            found.append((row, resident_mib()))
        start = rng.randrange(len(words) - 8)
        yield " ".join(words[start : start + rng.randint(3, 8)])
    found.append((count, resident_mib()))


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="milco-mini", help="(default: milco-mini)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--texts", type=int, help="how many (default: 1,000,000; 1,000 with --quick)")
    parser.add_argument("--shard-size", type=int, help="(default: 16,384; 100 with --quick)")
    parser.add_argument("--quick", action="store_true", help="few texts")
    parser.add_argument("--output", default="outputs/benchmarks/encoding_memory.json", metavar="FILE")
    options = parser.parse_args()
    count = options.texts or (1000 if options.quick else 1_000_000)
    size = options.shard_size or (100 if options.quick else 16384)
    before = environment(torch.device(options.device))

    model = milco_hf.load(options.model, device=options.device)
    found: list[tuple[int, float]] = []
    folder = tempfile.mkdtemp(prefix="milco-memory-")
    start = time.perf_counter()
    try:
        texts = short_texts(count, max(1, count // 20), found)
        vectors = milco_hf.encode_corpus(model, texts, output=folder, shard_size=size, progress=False)
        entries = vectors.manifest["entries"]
    finally:
        shutil.rmtree(folder)
    seconds = time.perf_counter() - start
    print_table(
        f"{count} texts of 3 to 8 words, {options.model}, shards of {size}, {entries} entries, {count / seconds:.0f} "
        "texts/s",
        ["texts read", "resident MiB"],
        [[str(row), f"{mib:.0f}"] for row, mib in found],
    )
    content = {"what": "encoding_memory", "settings": {**vars(options), "texts": count, "shard_size": size}}
    content.update(environment=before, seconds=seconds, entries=entries, resident_mib=found)
    write_json(options.output, content)
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
