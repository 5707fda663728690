"""Many callers at once against `milco serve`: errors, requests a second, latencies, and the server's memory over time.

    python benchmarks/serving_load.py
    python benchmarks/serving_load.py --callers 4 --seconds 20 --index my-index
    python benchmarks/serving_load.py --url http://127.0.0.1:8000

Without --url it starts a server of its own on a free port. Each caller sends one request after the other over a
connection that it keeps: mostly one query, one in eight a handful of documents, and with an index searches too. Every
answer is checked: a status other than 200, a vector missing, or weights (scores) that differ from those of the first
answer to the same request count as errors. Memory is what the server says in /metrics (its resident memory).
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import torch
from encoding import mixed_texts
from measuring import environment, print_table, write_json


@dataclass
class Load:
    """What the callers saw.

    Args:
        seconds: Each request's time, by endpoint.
        errors: How often what went wrong.
        memory: (seconds since the start, MiB) of the server.
        answers: The first answer to each request.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    errors: Counter = field(default_factory=Counter)
    memory: list[tuple[float, float]] = field(default_factory=list)
    answers: dict[bytes, list[float]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, path: str, body: bytes, seconds: float, status: int, answer: list[float] | None) -> None:
        """Takes in one answer."""
        with self.lock:
            self.seconds.setdefault(path, []).append(seconds)
            if answer is None:
                self.errors[f"{path}: {status}"] += 1
            elif not same(self.answers.setdefault(body, answer), answer):
                self.errors[f"{path}: another answer to the same request"] += 1


def same(first: list[float], second: list[float]) -> bool:
    """Whether two answers are the same within rounding: in other batches, texts are padded to other lengths."""
    return len(first) == len(second) and all(abs(one - two) <= 0.01 * one for one, two in zip(first, second))


def summary(path: str, answer: Any) -> list[float]:
    """What is compared of an answer: the sum of each vector's weights, or of the scores of what was found."""
    if path == "/embed_sparse":
        return [sum(part["value"] for part in vector) for vector in answer]
    return [sum(hit["score"] for hit in answer["hits"])]


def requests(count: int, searching: bool, seed: int) -> list[tuple[str, bytes]]:
    """Different requests, which callers draw from."""
    texts = mixed_texts(count * 4, "log")
    rng = random.Random(seed)
    found = []
    for number in range(count):
        words = texts[number].split()
        query = " ".join(words[: rng.randint(3, 10)]) or "music"
        if number % 8 == 0:
            inputs = [text[:2000] for text in texts[count + 3 * number : count + 3 * number + rng.randint(2, 8)]] or [
                query
            ]
            found.append(("/embed_sparse", json.dumps({"inputs": inputs, "truncate": True}).encode()))
        elif searching and number % 2:
            found.append(("/search", json.dumps({"query": query, "k": 10, "truncate": True}).encode()))
        else:
            body = {"inputs": query, "prompt_name": "query", "truncate": True}
            found.append(("/embed_sparse", json.dumps(body).encode()))
    return found


def call(
    address: str, choices: list[tuple[str, bytes]], load: Load, until: float, seed: int, token: str | None
) -> None:
    """One caller, over one connection, until the time is over."""
    rng = random.Random(seed)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    connection: http.client.HTTPConnection | None = None
    while time.monotonic() < until:
        path, body = rng.choice(choices)
        start = time.monotonic()
        try:
            connection = connection or http.client.HTTPConnection(urlsplit(address).netloc, timeout=120)
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            found = summary(path, json.loads(content)) if answer.status == 200 else None
        except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException) as error:
            with load.lock:
                load.errors[f"{path}: {type(error).__name__}"] += 1
            connection = None
            continue
        load.note(path, body, time.monotonic() - start, answer.status, found)


def watch(address: str, load: Load, until: float, every: float, token: str | None) -> None:
    """Reads the server's memory now and then."""
    began = time.monotonic()
    while True:
        load.memory.append((round(time.monotonic() - began, 1), resident_mib(address, token)))
        if time.monotonic() >= until:
            return
        time.sleep(min(every, max(0.0, until - time.monotonic())))


def resident_mib(address: str, token: str | None) -> float:
    """The server's resident memory."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=120)
    connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"} if token else {})
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.search(r"^process_resident_memory_bytes (\S+)$", text, re.MULTILINE)
    return round(float(found.group(1)) / 2**20, 1) if found else float("nan")


def started(options: argparse.Namespace) -> tuple[subprocess.Popen, str]:
    """A server of our own, and its address."""
    command = [sys.executable, "-m", "milco_hf.cli", "serve", "--port", "0", "--auto-truncate"]
    for name in ("model", "index", "device"):
        if getattr(options, name):
            command += [f"--{name}", getattr(options, name)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:  # type: ignore[union-attr]
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            # what it may log is read on, or it would block when the pipe is full
            threading.Thread(target=lambda: [sys.stderr.write(text) for text in process.stderr], daemon=True).start()
            return process, found.group(0)
        sys.stderr.write(line)
    raise SystemExit("The server did not start.")


def main() -> None:
    """Measures and reports; the exit status is 1 if there was an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a server that runs already; a token comes from MILCO_API_KEY")
    parser.add_argument("--model", help="for a server of our own (default: milco-mini, or the index's)")
    parser.add_argument("--index", help="search this index too")
    parser.add_argument("--device", help="such as cpu or cuda")
    parser.add_argument("--callers", type=int, default=32, help="(default: 32)")
    parser.add_argument("--seconds", type=float, default=120, help="(default: 120)")
    parser.add_argument("--warm-up", type=float, default=5, help="seconds before those that count (default: 5)")
    parser.add_argument("--requests", type=int, default=512, help="different requests (default: 512)")
    parser.add_argument("--output", default="outputs/benchmarks/serving_load.json", metavar="FILE")
    options = parser.parse_args()
    before = environment(torch.device(options.device or "cpu"))
    process, address = (None, options.url.rstrip("/")) if options.url else started(options)
    token = os.environ.get("MILCO_API_KEY")
    try:
        choices = requests(options.requests, bool(options.index), seed=0)
        run(address, choices, Load(), options.callers, options.warm_up, token)
        load = Load()
        seconds = run(address, choices, load, options.callers, options.seconds, token)
    finally:
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait(120)
    report(load, seconds, options, before)
    sys.exit(1 if load.errors else 0)


def run(
    address: str, choices: list[tuple[str, bytes]], load: Load, callers: int, seconds: float, token: str | None
) -> float:
    """All callers for some seconds; returns how long it really took."""
    start = time.monotonic()
    until = start + seconds
    threads = [
        threading.Thread(target=call, args=(address, choices, load, until, seed, token)) for seed in range(callers)
    ]
    threads.append(threading.Thread(target=watch, args=(address, load, until, max(1.0, seconds / 12), token)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - start


def report(load: Load, seconds: float, options: argparse.Namespace, before: dict) -> None:
    """Prints the tables and writes the file."""
    paths = {**load.seconds, "all": [time for times in load.seconds.values() for time in times]}
    rows, numbers = [], {}
    for path, times in paths.items():
        cuts = statistics.quantiles(times, n=100) if len(times) > 1 else times * 99
        numbers[path] = {
            "requests": len(times),
            "requests_per_s": len(times) / seconds,
            "p50_ms": 1000 * cuts[49] if times else None,
            "p95_ms": 1000 * cuts[94] if times else None,
            "highest_ms": 1000 * max(times, default=0),
        }
        found = numbers[path]
        latencies = [f"{found[name]:.0f}" if times else "" for name in ("p50_ms", "p95_ms", "highest_ms")]
        rows.append([path, str(len(times)), f"{found['requests_per_s']:.1f}", *latencies])
    title = f"{options.callers} callers, {seconds:.0f} s, {sum(load.errors.values())} errors"
    print_table(title, ["endpoint", "requests", "requests/s", "p50 ms", "p95 ms", "highest ms"], rows)
    for error, count in load.errors.most_common():
        print(f"error: {error} ({count} times)")
    print_table(
        "the server's resident memory", ["second", "MiB"], [[f"{at:.0f}", f"{mib:.0f}"] for at, mib in load.memory]
    )
    content = {
        "what": "serving_load",
        "settings": vars(options),
        "environment": before,
        "seconds": seconds,
        "errors": dict(load.errors),
        "endpoints": numbers,
        "resident_mib": load.memory,
    }
    write_json(options.output, content)
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
