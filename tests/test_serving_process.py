"""`milco serve` as a process: a real socket, bad input over it, and an end that loses nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

# the verb by itself, however the command is put together
RUN = """
import argparse, sys
from milco_hf.cli import serve
parent = argparse.ArgumentParser(add_help=False)
parent.add_argument("--verbose", action="store_true")
verbs = (root := argparse.ArgumentParser()).add_subparsers()
serve.add_parser(verbs, [parent])
options = root.parse_args(["serve", *sys.argv[1:]])
options.run(options)
"""


@pytest.fixture
def served(checkpoint):
    environment = {**os.environ, "MILCO_API_KEY": "hunter-2", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, "--model", str(checkpoint), "--port", "0", "--device", "cpu"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    line = ""
    while "http://" not in line:
        line = process.stderr.readline()
        assert line, "the server ended before it was ready"
    yield process, re.search(r"http://127\.0\.0\.1:(\d+)", line).group(0)
    process.kill()
    process.wait()


def ask(address, path, body, timeout=60):
    """Status and parsed body."""
    headers = {"Content-Type": "application/json", "Authorization": "Bearer hunter-2"}
    request = urllib.request.Request(address + path, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
def test_a_server_answers_everything_and_ends_when_it_is_told(served):
    process, address = served
    good = json.dumps({"inputs": ["Musik der alten Stadt", ""]}).encode()
    status, first = ask(address, "/embed_sparse", good)
    assert (status, len(first)) == (200, 2)
    with ThreadPoolExecutor(8) as pool:
        many = list(pool.map(lambda _: ask(address, "/embed_sparse", good), range(40)))
    assert all(answer == (200, first) for answer in many)
    for body, expected in (
        (json.dumps({"inputs": "a" * 10_000_000}).encode(), 413),
        (json.dumps({"inputs": ["a"] * 100_000}).encode(), 413),
        (b'{"inputs": "\\ud800"}', 422),
        (b"\xff", 400),
        (b"{", 400),
    ):
        assert ask(address, "/embed_sparse", body)[0] == expected
    assert ask(address, "/embed_sparse", good) == (200, first)
    _raw(address, b"\x00\x01\x02 nonsense\r\n\r\n")
    _raw(address, b"POST /embed_sparse HTTP/1.1\r\nContent-Length: -5\r\n\r\n")
    assert ask(address, "/embed_sparse", good) == (200, first)

    # a request whose body is half sent when the signal comes is still answered
    head = (
        "POST /embed_sparse HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer hunter-2\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(good)}\r\n\r\n"
    ).encode()
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(head + good[:10])
        ask(address, "/embed_sparse", good)  # by now the first has been seen
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        connection.sendall(good[10:])
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200")
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1]) == first
    assert process.wait(120) == 0
    assert "Traceback" not in process.stderr.read()


def _raw(address, content):
    """Sends what is no request, and reads whatever comes back."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(content)
        assert b" 400 " in connection.recv(65536)
