"""Bad input, too much input and strangers: each gets its answer, and the server lives on."""

from __future__ import annotations

import asyncio
import json
import socket
import threading

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

import milco_hf
from helpers_serving import Gate, StandInIndex
from milco_hf.encoding.rows import encode_batch
from milco_hf.serving import Limits, Settings, create_app, serve
from milco_hf.serving.running import read_api_key

JSON = {"content-type": "application/json"}
MANY = json.dumps({"inputs": ["a"] * 100_000}).encode()
DEEP = b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BIG = json.dumps({"inputs": "a" * 10_000_000}).encode()


@pytest.fixture(scope="module")
def model(checkpoint):
    return milco_hf.load(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def client(model):
    with TestClient(create_app(index=StandInIndex(model), settings=Settings(Limits(max_characters=5000)))) as opened:
        yield opened


BAD = [
    # path, body, status, error_type, part of the message
    ("/embed_sparse", b"", 422, "Validation", "Field required"),
    ("/embed_sparse", b"{", 400, "Validation", "no JSON"),
    ("/embed_sparse", b'{"inputs": "a"', 400, "Validation", "no JSON"),
    ("/embed_sparse", b"\xff\xfe\xfa", 400, "Validation", "no JSON in UTF-8"),
    ("/embed_sparse", DEEP, 400, "Validation", "nested too deeply"),
    ("/embed_sparse", b'{"inputs": ' + b"1" * 5000 + b"}", 400, "Validation", "no JSON"),
    ("/embed_sparse", b"null", 422, "Validation", ""),
    ("/embed_sparse", b"[1, 2]", 422, "Validation", ""),
    ("/embed_sparse", b"{}", 422, "Validation", "`inputs`: Field required"),
    ("/embed_sparse", b'{"inputs": null}', 422, "Validation", "string or a list of strings, got null"),
    ("/embed_sparse", b'{"inputs": 3}', 422, "Validation", "got a number"),
    ("/embed_sparse", b'{"inputs": NaN}', 422, "Validation", "got a number"),
    ("/embed_sparse", b'{"inputs": {"a": "b"}}', 422, "Validation", "got an object"),
    (
        "/embed_sparse",
        b'{"inputs": ["a", 3]}',
        422,
        "Validation",
        "`inputs[1]` has to be a string, got a number.",
    ),
    ("/embed_sparse", b'{"inputs": [["a"]]}', 422, "Validation", "got a list"),
    ("/embed_sparse", b'{"inputs": []}', 400, "Empty", "`inputs` cannot be empty"),
    ("/embed_sparse", b'{"inputs": "a", "truncate": "perhaps"}', 422, "Validation", "`truncate`"),
    ("/embed_sparse", b'{"inputs": "a", "truncation_direction": "up"}', 422, "Validation", "`truncation_direction`"),
    ("/embed_sparse", b'{"inputs": "a", "prompt_name": "\\ud800"}', 413, "Validation", "`prompt_name`"),
    ("/embed_sparse", b'{"inputs": "ab\\ud800"}', 422, "Tokenizer", "lone surrogate (U+D800) at character 2"),
    ("/embed_sparse", b'{"inputs": ["a", "\xed\xa0\x80"]}', 422, "Tokenizer", "`inputs[1]`"),
    ("/embed_sparse", MANY, 413, "Validation", "batch size 100000 > maximum allowed batch size 32"),
    ("/embed_sparse", BIG, 413, "Validation", "more than 2000000 bytes"),
    ("/embed_sparse", json.dumps({"inputs": ["a" * 600] * 10}).encode(), 413, "Validation", "Given: 6000"),
    ("/embed_query", b'{"inputs": "a", "prompt_name": "query"}', 422, "Validation", "no field of this request"),
    ("/embed_query", b'{"inputs": "a", "\\ud800": 1}', 422, "Validation", "no field of this request"),
    ("/embed_query", b'{"inputs": "a", "prune": "nix"}', 422, "Validation", "Pruning reads"),
    ("/embed_query", b'{"inputs": "a", "prune": 3}', 422, "Validation", "`prune` has to be a string"),
    ("/embed_query", b'{"inputs": "a", "prune": {"german": "mass:0.9"}}', 422, "Validation", "'german'"),
    ("/embed_query", b'{"inputs": "a", "format": "xml"}', 422, "Validation", "`format`"),
    ("/embed_query", b'{"inputs": "a", "language": "de"}', 422, "Validation", "'de': the xlm-roberta encoder has no"),
    ("/embed_sparse", b'{"inputs": "a", "language": "\\ud800"}', 422, "Validation", "`language`: Input should be"),
    ("/embed_document", b'{"inputs": "a", "language": ["de"]}', 422, "Validation", "`language`"),
    ("/embed_document", b'{"inputs": "a", "language": "' + b"a" * 101 + b'"}', 422, "Validation", "at most 100"),
    ("/search", b'{"query": "a", "query_language": "de"}', 422, "Validation", "has no language adapters"),
    ("/search", b'{"query": ""}', 422, "Validation", "`query` is empty"),
    ("/search", b'{"query": " \\n"}', 422, "Validation", "`query` is empty"),
    ("/search", b'{"query": ["a"]}', 422, "Validation", "`query`"),
    ("/search", b'{"query": "a", "k": 0}', 422, "Validation", "`k`"),
    ("/search", b'{"query": "a", "k": 100000}', 413, "Validation", "at most 1000"),
    ("/search", b'{"query": "a", "k": 33, "terms": 1}', 413, "Validation", "With `terms`, `k` may be at most 32"),
    ("/search", b'{"query": "a", "filter": [1]}', 422, "Validation", "`filter`"),
    ("/search", b'{"query": "\\udfff"}', 422, "Tokenizer", "`query`"),
    ("/search", b'{"query": "' + b"a" * 5001 + b'"}', 413, "Validation", "Given: 5001"),
    ("/explain", b'{"query": "a"}', 422, "Validation", "either `document` or `id`"),
    ("/explain", b'{"query": "a", "document": "\\ud800"}', 422, "Tokenizer", "`document`"),
    ("/explain", b'{"query": "a", "id": "nix"}', 404, "NotFound", "no document 'nix'"),
    ("/explain", b'{"query": "a", "id": "en-1", "passage": [1]}', 422, "Validation", "`passage"),
    ("/nix", b"{}", 404, "NotFound", "There is no /nix"),
    ("/health", b"{}", 405, "NotFound", "Not Allowed"),
]


@pytest.mark.parametrize(
    ("path", "body", "status", "error_type", "message"),
    BAD,
    ids=[f"{number}{path}-{status}" for number, (path, _, status, _, _) in enumerate(BAD)],  # bodies may be long
)
def test_bad_input_is_answered(client, path, body, status, error_type, message):
    answer = client.post(path, content=body, headers=JSON)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "error_type"}
    assert answer.json()["error_type"] == error_type
    assert message in answer.json()["error"]
    assert len(answer.content) < 1000
    assert client.get("/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    "text",
    ["", " ", "\x00", "\x1b[31m\x07\x7f\x85", "\u202e\u2066", "\ufffe\uffff", "👩🏽‍💻", "ก" * 500, "\ud83d\ude00"],
)
def test_odd_texts_are_encoded(client, text):
    for path, name in (("/embed_sparse", "inputs"), ("/embed_query", "inputs"), ("/embed_document", "inputs")):
        answer = client.post(path, content=json.dumps({name: text, "truncate": True}), headers=JSON)
        assert answer.status_code == 200, answer.text
    if text.strip():
        answer = client.post("/search", content=json.dumps({"query": text, "terms": 5, "truncate": True}), headers=JSON)
        assert answer.status_code == 200, answer.text


def test_only_json_is_read(client):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = client.post("/embed_sparse", content=b'{"inputs": "a"}', headers={"content-type": kind})
        assert (answer.status_code, answer.json()["error_type"]) == (415, "Validation")
    declared = {"content-type": "Application/JSON; charset=utf-8"}
    assert client.post("/embed_sparse", content=b'{"inputs": "a"}', headers=declared).status_code == 200


def test_a_body_without_a_length_is_counted_as_it_comes(client):
    def parts():
        for _ in range(50):
            yield b" " * 50_000

    answer = client.post("/embed_sparse", content=parts(), headers=JSON)
    assert (answer.status_code, answer.json()["error_type"]) == (413, "Validation")
    assert answer.headers["connection"] == "close"


def test_a_body_that_does_not_come_keeps_no_place(model):
    app = create_app(model, settings=Settings(Limits(body_timeout=0.05)))
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/embed_sparse",
        "raw_path": b"/embed_sparse",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"100")],
    }
    sent, parts = [], [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive():
        return parts.pop() if parts else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    asyncio.run(asyncio.wait_for(app(scope, receive, send), 60))
    start, body = sent
    assert start["status"] == 408
    assert (b"connection", b"close") in start["headers"]
    assert json.loads(body["body"])["error"] == "The body did not come within 0.05 s; send less at a time."
    assert "milco_requests_in_flight 0.0" in app.state.engine.metrics.text().decode()
    app.state.engine.close()


def test_errors_of_our_own_say_nothing_of_the_inside(model, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("secret")

    with TestClient(create_app(model), raise_server_exceptions=False) as client:
        monkeypatch.setattr("milco_hf.serving.routes.sparse_values", broken)
        answer = client.post("/embed_sparse", json={"inputs": "a"})
        assert (answer.status_code, answer.json()["error_type"]) == (500, "Backend")
        assert "secret" not in answer.text
        assert client.post("/embed_query", json={"inputs": "a"}).status_code == 200
    monkeypatch.setattr("milco_hf.serving.engine.encode_batch", broken)
    with TestClient(create_app(model)) as client:
        answer = client.post("/embed_sparse", json={"inputs": "a"})
        assert (answer.status_code, answer.json()["error_type"]) == (424, "Backend")
        assert "secret" not in answer.text
        assert "secret" in caplog.text
        assert client.get("/health").status_code == 200


def _limited(model, monkeypatch, **limits):
    """An application whose model waits until its gate is open."""
    gate = Gate(encode_batch)
    monkeypatch.setattr("milco_hf.serving.engine.encode_batch", gate)
    return create_app(model, settings=Settings(Limits(**limits))), gate


async def _client(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


def test_a_full_queue_and_too_many_requests_are_refused_at_once(model, monkeypatch):
    app, gate = _limited(model, monkeypatch, max_queue=4, max_client_batch_size=4, max_concurrent_requests=3)

    async def ask():
        async with await _client(app) as client:
            first = asyncio.ensure_future(client.post("/embed_query", json={"inputs": "a"}))
            while not gate.entered.is_set():
                await asyncio.sleep(0.01)
            second = asyncio.ensure_future(client.post("/embed_query", json={"inputs": ["a"] * 3}))
            while app.state.engine.waiting < 3:
                await asyncio.sleep(0.01)
            full = await client.post("/embed_query", json={"inputs": ["a", "b"]})
            third = asyncio.ensure_future(client.post("/embed_query", json={"inputs": "a"}))
            while app.state.engine.waiting < 4:
                await asyncio.sleep(0.01)
            crowded = await client.post("/embed_query", json={"inputs": "a"})
            health, metrics = await client.get("/health"), await client.get("/metrics")
            gate.free.set()
            return full, crowded, health, metrics, await asyncio.gather(first, second, third)

    full, crowded, health, metrics, answers = asyncio.run(asyncio.wait_for(ask(), 120))
    assert (full.status_code, full.json()["error_type"]) == (429, "Overloaded")
    assert "3 texts wait and 2 more" in full.json()["error"]
    assert full.headers["retry-after"]
    assert crowded.status_code == 429
    assert "3 requests are being answered" in crowded.json()["error"]
    assert (health.status_code, metrics.status_code) == (200, 200)
    assert "milco_queue_texts 4.0" in metrics.text
    assert [answer.status_code for answer in answers] == [200] * 3
    app.state.engine.close()


def test_who_waits_too_long_is_told_so(model, monkeypatch):
    app, gate = _limited(model, monkeypatch, queue_timeout=1.0)

    async def ask():
        async with await _client(app) as client:
            first = asyncio.ensure_future(client.post("/embed_query", json={"inputs": "a"}))
            while not gate.entered.is_set():
                await asyncio.sleep(0.01)
            late = await client.post("/embed_query", json={"inputs": "a"})
            gate.free.set()
            return late, await first

    late, first = asyncio.run(asyncio.wait_for(ask(), 120))
    assert (late.status_code, late.json()["error_type"]) == (503, "Overloaded")
    assert "in the queue" in late.json()["error"]
    assert first.status_code == 200  # it was begun in time
    assert app.state.engine.waiting == 0
    app.state.engine.close()


def test_explanations_wait_in_a_line_of_their_own(model, monkeypatch):
    free, entered = threading.Event(), threading.Event()

    def slow(*_, **__):
        entered.set()
        assert free.wait(120)
        raise RuntimeError("never looked at")

    monkeypatch.setattr("milco_hf.explanation.explain", slow)
    app = create_app(model, settings=Settings(Limits(max_explanations=2, queue_timeout=2.0)))
    body = {"query": "a", "document": "b"}

    async def ask():
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            first = asyncio.ensure_future(client.post("/explain", json=body))
            while not entered.is_set():
                await asyncio.sleep(0.01)
            # one of them has the last place, and waits too long in it; the other has none
            both = await asyncio.gather(*(client.post("/explain", json=body) for _ in range(2)))
            embedded = await client.post("/embed_query", json={"inputs": "a"})
            free.set()
            return sorted(answer.status_code for answer in both), embedded, await first

    both, embedded, first = asyncio.run(asyncio.wait_for(ask(), 120))
    assert (both, embedded.status_code, first.status_code) == ([429, 503], 200, 500)
    app.state.engine.close()


def test_a_server_that_ends_says_so(model):
    app = create_app(model)
    with TestClient(app) as client:
        app.state.engine.close()
        answer = client.post("/embed_query", json={"inputs": "a"})
        assert (answer.status_code, answer.json()["error_type"]) == (503, "Unhealthy")
        assert (client.get("/health").status_code, client.get("/health").json()["error_type"]) == (503, "Unhealthy")


def test_the_token(model):
    app = create_app(index=StandInIndex(model), settings=Settings(api_key="hunter-2"))
    with TestClient(app) as client:
        for path in ("/", "/page.js", "/page.css", "/docs", "/openapi.json", "/health"):
            assert client.get(path).status_code == 200
        for token in (None, "", "Bearer", "Bearer ", "Bearer hunter", "Bearer hunter-22", "Basic hunter-2", "hunter-2"):
            headers = {} if token is None else {"authorization": token}
            for answer in (
                client.post("/embed_query", json={"inputs": "a"}, headers=headers),
                client.post("/search", json={"query": "a"}, headers=headers),
                client.get("/info", headers=headers),
                client.get("/metrics", headers=headers),
            ):
                assert (answer.status_code, answer.json()["error_type"]) == (401, "Unauthorized")
                assert answer.headers["www-authenticate"] == "Bearer"
        for token in ("Bearer hunter-2", "bearer  hunter-2"):
            assert client.get("/info", headers={"authorization": token}).status_code == 200
        # before the body is read: strangers cannot make the server read ten megabytes
        assert client.post("/embed_query", content=BIG, headers=JSON).status_code == 401


def test_where_the_token_comes_from(tmp_path, monkeypatch):
    monkeypatch.delenv("MILCO_API_KEY", raising=False)
    assert read_api_key(None) is None
    monkeypatch.setenv("MILCO_API_KEY", " from-the-environment ")
    assert read_api_key(None) == "from-the-environment"
    file = tmp_path / "key"
    file.write_text("from-the-file\nand a note\n")
    assert read_api_key(file) == "from-the-file"
    file.write_text("\n")
    with pytest.raises(ValueError, match="holds no token"):
        read_api_key(file)
    monkeypatch.setenv("MILCO_API_KEY", "")
    with pytest.raises(ValueError, match="set but empty"):
        read_api_key(None)
    with pytest.raises(ValueError, match="ASCII"):
        Settings(api_key="schlüssel")
    assert "hunter" not in repr(Settings(api_key="hunter-2"))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"payload_limit": 0}, "payload_limit has to be above 0, got 0"),
        ({"queue_timeout": float("nan")}, "queue_timeout has to be above 0"),
        ({"max_queue": 8}, r"max_queue \(8\) has to hold one request"),
    ],
)
def test_limits_that_cannot_work(limits, message):
    with pytest.raises(ValueError, match=message):
        Limits(**limits)


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"Cannot listen on 127.0.0.1, port {port}: .*Another --port"):
            serve(FastAPI(), port=port)


def test_addresses_that_cannot_be():
    with pytest.raises(OSError, match="Cannot listen on no.such.host.invalid: .*--host takes an address"):
        serve(FastAPI(), "no.such.host.invalid", 0)
    for port in (70000, -1):
        with pytest.raises(ValueError, match=f"between 0 and 65535, got {port}"):
            serve(FastAPI(), port=port)
