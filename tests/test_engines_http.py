"""Elasticsearch, OpenSearch and Vespa over loopback: what is sent is checked as the real engines would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from scipy import sparse

from engine_stand_ins import Lucene, Vespa, basic, rounded
from helpers_engines import (
    DOCUMENTS,
    EMPTY,
    IDS,
    QUICK,
    WIDTH,
    assert_rankings,
    exact,
    matrix,
    queries,
    write_folder,
    write_texts,
)
from milco_hf.engines import BusyError, EngineError, agreement, connect, export
from milco_hf.engines.http import Http, split_credentials

KINDS = [
    ("elasticsearch", {}),
    ("elasticsearch", {"field_type": "rank_features"}),
    ("opensearch", {}),
    ("opensearch", {"approximate": True, "ceiling": 5.0, "method_parameters": {"top_n": 30}}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("engines") / "vectors")


@pytest.fixture
def texts(tmp_path):
    write_texts(tmp_path / "texts.jsonl")
    return tmp_path / "texts.jsonl"


def as_lucene_keeps_them() -> sparse.csr_array:
    kept = matrix().astype(np.float64)
    kept.data = np.array([rounded(weight) for weight in kept.data])
    return kept


# Elasticsearch and OpenSearch


@pytest.mark.parametrize(("name", "options"), KINDS, ids=lambda value: str(value))
def test_lucene_engines_rank_by_products_of_rounded_weights(name, options, folder, texts, tmp_path):
    with Lucene(name) as server:
        engine = export(
            folder, name, "docs", url=server.url, texts=texts, journal=tmp_path / "j", progress=False, **options
        )
        assert engine.count() == DOCUMENTS
        # all the documents and scores that the rounding allows, none else
        assert_rankings(engine.search(queries()), exact(as_lucene_keeps_them(), queries()))
        assert engine.about()["fingerprint"] == "f" * 64
        found = agreement(engine, folder, sample=10)
        assert found.recall > 0.9
        assert 1e-5 < found.error < 2**-8
        assert not engine.exact
        stored = server.documents["docs"][IDS[3]]
        assert stored["id"] == IDS[3]
        assert stored["text"].startswith("Text 3:")
        assert set(stored["tokens"]) == {str(i) for i in matrix()[3].tocoo().coords[-1]}
        assert server.documents["docs"][IDS[EMPTY]]["tokens"] == {}


def test_rounding_is_lucenes():
    weights = np.random.default_rng(0).gamma(2, 0.4, 1000).astype(np.float32)
    kept = np.array([rounded(weight) for weight in weights])
    assert (kept <= weights).all()
    assert ((weights - kept) / weights).max() < 2**-8
    assert len(np.unique(kept[(weights >= 1) & (weights < 2)])) <= 2**8


def test_busy_servers_are_tried_again(folder, tmp_path):
    with Lucene("elasticsearch") as server, connect("elasticsearch", "docs", url=server.url, backoff=QUICK) as engine:
        engine.create(folder)
        server.fail_next(429, 503, 0)  # the last one closes the connection without an answer
        assert engine.upload(folder, journal=tmp_path / "j", progress=False) == DOCUMENTS
        server.busy_items = 620  # a queue that is full for the rest of a bulk request, twice
        before = len(server.bulk_sizes)
        engine.upload(folder, journal=tmp_path / "j", resume=False, progress=False)
        assert engine.count() == DOCUMENTS
        # only what was refused is sent again
        assert server.bulk_sizes[before:] == [400, 400, 220, 200, 400] or sum(server.bulk_sizes[before:]) == 1620
        server.fail_next(503, 503, 503, 503)
        with pytest.raises(BusyError, match="503"):
            engine.search(queries())


def test_retry_after_is_obeyed(folder, monkeypatch):
    waits = []
    monkeypatch.setattr("milco_hf.engines.retry.time.sleep", waits.append)
    with Lucene("opensearch") as server, connect("opensearch", "docs", url=server.url) as engine:
        server.fail_next(429, Retry_After="7")
        server.fail_next(429, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT")
        assert not engine.exists()
    assert waits[0] == 7
    assert 0.5 <= waits[1] <= 1


def test_requests_that_are_too_large_are_halved(folder, tmp_path):
    with Lucene("elasticsearch") as server, connect("elasticsearch", "docs", url=server.url, backoff=QUICK) as engine:
        server.largest_body = 20_000
        engine.create(folder)
        engine.upload(folder, journal=tmp_path / "j", progress=False)
        assert engine.count() == DOCUMENTS
        assert max(server.bulk_sizes) < 60


def test_refused_documents_are_named_and_the_upload_goes_on_later(folder, tmp_path):
    with Lucene("opensearch") as server:
        engine = connect("opensearch", "docs", url=server.url, backoff=QUICK)
        engine.create(folder)
        fields = server.indices["docs"]["mappings"]["properties"]
        original, check = fields.pop("id"), server._check_source

        def picky(index, source):
            if source["id"] == "d555":
                check(index, {"unknown": 1})
            check(index, {name: value for name, value in source.items() if name != "id"})

        server._check_source = picky
        with pytest.raises(EngineError, match=r"refused 1 of \d+ documents: 'd555': strict_dynamic_mapping_exception"):
            engine.upload(folder, batch_size=100, journal=tmp_path / "j", progress=False)
        fields["id"], server._check_source = original, check
        assert engine.upload(folder, batch_size=100, journal=tmp_path / "j", progress=False) == 500
        assert engine.count() == DOCUMENTS


def test_credentials_are_sent_and_never_shown(folder, tmp_path, monkeypatch, caplog):
    with Lucene("elasticsearch") as server:
        server.authorization = basic("me", "s3cret!")
        host = server.url.removeprefix("http://")
        engine = export(
            folder, "elasticsearch", "docs", url=f"http://me:s3cret%21@{host}", journal=tmp_path / "j", progress=False
        )
        shown = f"{engine!r} {engine.address} {engine._http!r} {(tmp_path / 'j').read_text()} {caplog.text}"
        assert "s3cret" not in shown
        assert host in shown
        with pytest.raises(EngineError, match="credentials are missing"):
            connect("elasticsearch", "docs", url=server.url).exists()
        monkeypatch.setenv("ELASTICSEARCH_USERNAME", "me")
        monkeypatch.setenv("ELASTICSEARCH_PASSWORD", "s3cret!")
        assert connect("elasticsearch", "docs", url=server.url).exists()
        server.authorization = "ApiKey abc=="
        monkeypatch.setenv("ELASTICSEARCH_API_KEY", "abc==")
        assert connect("elasticsearch", "docs", url=server.url).exists()
        server.fail_next(500)
        with pytest.raises(EngineError) as error:
            connect("elasticsearch", "docs", url=f"http://me:s3cret%21@{host}").exists()
        assert "s3cret" not in str(error.value)


def test_urls_are_split():
    assert split_credentials("https://a%40b:c%2Fd@host:9200/x/") == ("https://host:9200/x", ("a@b", "c/d"))
    assert split_credentials("http://host") == ("http://host", None)
    for bad in ("host:9200", "redis://host", "http://"):
        with pytest.raises(ValueError, match="HOST:PORT"):
            split_credentials(bad)


def test_something_that_is_no_engine_is_recognised():
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(EngineError, match="no JSON.*<html>.*own address"):
            Http(f"http://127.0.0.1:{server.server_address[1]}").send("GET", "/docs")
    finally:
        server.shutdown()
        server.server_close()


def test_a_query_of_too_many_dimensions_is_refused_before_opensearch_does(tmp_path):
    wide = sparse.csr_array(np.ones((1, WIDTH), dtype=np.float32))
    with Lucene("opensearch") as server, connect("opensearch", "docs", url=server.url) as engine:
        with pytest.raises(ValueError, match="1025 dimensions.*--prune top_k:1024"):
            engine._check_query(1025)
        engine.create(write_folder(tmp_path / "v", matrix(20), IDS[:20]))
        assert engine.search(wide) == [[]]
    for name, options, message in (
        ("opensearch", {"ceiling": 0.0}, "ceiling"),
        ("elasticsearch", {"field_type": "dense_vector"}, "field_type"),
    ):
        with pytest.raises(ValueError, match=message):
            connect(name, "docs", url="http://localhost:1", **options)


def test_an_index_of_others_is_used_with_a_warning(folder, tmp_path, caplog):
    with Lucene("elasticsearch") as server, connect("elasticsearch", "docs", url=server.url) as engine:
        properties = {"id": {"type": "keyword"}, "tokens": {"type": "sparse_vector"}}
        server._create("docs", {"mappings": {"properties": properties}})
        assert engine.upload(folder, journal=tmp_path / "j", progress=False) == DOCUMENTS
        assert "does not say which model" in caplog.text
        # its documents are gone, though the journal says they are there
        server.documents["docs"].clear()
        assert engine.upload(folder, journal=tmp_path / "j", progress=False) == DOCUMENTS
        assert "sending all of them again" in caplog.text


@pytest.mark.slow
def test_a_killed_upload_goes_on_where_it_was(folder, tmp_path):
    """The process is killed for good while a request is under way; the next one sends what is missing."""
    script = textwrap.dedent("""
        import sys
        from milco_hf.engines import export
        url, vectors, journal = sys.argv[1:]
        export(vectors, "elasticsearch", "docs", url=url, batch_size=50, journal=journal, progress=False)
    """)
    with Lucene("elasticsearch") as server:
        bulk, arrived, killed = server._bulk, [], threading.Event()

        def slow(index, lines):
            arrived.append([action["index"]["_id"] for action in lines[::2]])
            if len(arrived) == 8:
                killed.wait(120)
            return bulk(index, lines)

        server._bulk = slow
        command = [sys.executable, "-c", script, server.url, str(folder.folder), str(tmp_path / "j")]
        process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        deadline = time.monotonic() + 120
        while len(arrived) < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.wait()
        killed.set()
        assert json.loads((tmp_path / "j").read_text())["rows"] == 350
        subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, timeout=120)
        sent = [name for batch in arrived for name in batch]
        assert set(sent) == set(IDS)
        assert len(sent) == DOCUMENTS + 50  # one batch twice
        assert len(server.documents["docs"]) == DOCUMENTS


# Vespa


def test_vespa_is_deployed_filled_and_ranks_as_the_products_do(folder, texts, tmp_path):
    with Vespa(starting=3) as server:
        options = {"url": server.url, "config_url": server.url, "backoff": QUICK, "start_timeout": 5.0}
        engine = connect("vespa", "docs", **options)
        server.schema = None
        server.starting = 0
        assert not engine.exists()
        deploy = server._deploy

        def restarting(body):
            server.starting = 3
            return deploy(body)

        server._deploy = restarting
        engine.create(folder)
        assert engine.upload(folder, texts, journal=tmp_path / "j", progress=False) == DOCUMENTS
        assert engine.count() == DOCUMENTS
        assert_rankings(engine.search(queries()), exact(matrix(), queries()))
        assert server.documents[IDS[3]]["text"].startswith("Text 3:")
        assert set(server.files) == {
            "services.xml",
            "hosts.xml",
            "schemas/docs.sd",
            "search/query-profiles/default.xml",
        }
        found = agreement(engine, folder, sample=10)
        assert (found.recall, found.error < 1e-5) == (1, True)
        engine.create(folder, replace=True)  # removes the documents in two visits
        assert engine.count() == 0


def test_vespa_with_candidates_finds_nearly_the_same(folder, tmp_path):
    with Vespa() as server:
        options = {"url": server.url, "config_url": server.url, "candidates": 50, "backoff": QUICK}
        engine = export(folder, "vespa", "docs", journal=tmp_path / "j", progress=False, **options)
        assert server.wand
        assert not engine.exact
        found = agreement(engine, folder, sample=10)
        assert found.recall > 0.95
        assert found.error < 1e-5  # the tensor ranks what wand found


def test_vespa_without_an_application_says_how_to_get_one(folder):
    with Vespa() as server, connect("vespa", "docs", url=server.url) as engine:
        with pytest.raises(EngineError, match=r"--to vespa-app --collection docs --output app.*vespa deploy"):
            engine.create(folder)
        server.schema = "docs"
        engine._create(WIDTH, {})  # deployed by hand: nothing to do


def test_vespa_resumes_and_is_tried_again(folder, tmp_path):
    with Vespa("docs") as server, connect("vespa", "docs", url=server.url, backoff=QUICK, threads=1) as engine:
        server.fail_next(200, 200, 200)  # what looks at the schema, and counts, may be anything
        server.failures.clear()
        check, full = server._check, True

        def storage(fields):
            if full and len(server.documents) >= 430:
                from engine_stand_ins import RefusedError

                raise RefusedError(507, "feed is blocked: disk")
            check(fields)

        server._check = storage
        with pytest.raises(EngineError, match="507.*feed is blocked"):
            engine.upload(folder, batch_size=100, journal=tmp_path / "j", progress=False)
        assert json.loads((tmp_path / "j").read_text())["rows"] == 400
        full = False
        assert engine.upload(folder, batch_size=100, journal=tmp_path / "j", progress=False) == 600
        assert engine.count() == DOCUMENTS
        # without a mark in the application, the number of documents is what tells that they are gone
        server.documents.clear()
        server.fail_next(503)
        assert engine.upload(folder, journal=tmp_path / "j", progress=False) == DOCUMENTS


def test_vespa_never_passes_off_a_part_as_the_whole(folder):
    with Vespa("docs") as server, connect("vespa", "docs", url=server.url) as engine:
        server.coverage = {"coverage": 81, "full": False, "degraded": {"timeout": True}}
        with pytest.raises(EngineError, match="81 % of the documents"):
            engine.search(queries())
        with pytest.raises(ValueError, match="at most 10000"):
            engine.search(queries(), 10_001)


def test_vespa_arguments():
    with pytest.raises(ValueError, match="letters, digits"):
        connect("vespa", "my-docs", url="http://localhost:8080")
    with pytest.raises(ValueError, match="candidates has to be at least 1"):
        connect("vespa", "docs", url="http://localhost:8080", candidates=0)


def test_a_deployment_that_never_answers_is_reported(folder):
    with Vespa() as server:
        options = {"url": server.url, "config_url": server.url, "backoff": QUICK, "start_timeout": 0.05}
        engine = connect("vespa", "docs", **options)
        server._deploy = lambda body: {"session-id": "2"}
        with pytest.raises(EngineError, match="did not answer for it within 0.05 seconds"):
            engine.create(folder)
