"""The endpoints against what the library gives, without a socket."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

import milco_hf
import tiny
from helpers_serving import DOCUMENTS, Gate, StandInIndex
from milco_hf.encoding.rows import encode_batch
from milco_hf.fingerprint import model_fingerprint
from milco_hf.index import Index
from milco_hf.serving import Settings, create_app
from milco_hf.serving.reading import TextReader
from milco_hf.terms import split_views

LONG = " ".join(tiny.TEXTS)


@pytest.fixture(scope="module")
def model(checkpoint):
    return milco_hf.load(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def client(model):
    app = create_app(model, query_prune="top_k:4", document_prune="mass:0.8", query_length=12)
    with TestClient(app) as opened:
        yield opened


@pytest.fixture(scope="module")
def search_client(model):
    with TestClient(create_app(index=StandInIndex(model))) as opened:
        yield opened


def encoded(model, texts, **options):
    return milco_hf.encode_corpus(model, texts, progress=False, **options)


def assert_rows(vectors, matrix):
    assert len(vectors) == matrix.shape[0]
    for row, vector in enumerate(vectors):
        part = slice(matrix.indptr[row], matrix.indptr[row + 1])
        assert vector["indices"] == matrix.indices[part].tolist()
        np.testing.assert_allclose(vector["values"], matrix.data[part], atol=1e-5)


def post(client, path, **body):
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_embed_sparse_has_the_shape_of_text_embeddings_inference(model, client):
    texts = [*tiny.TEXTS[:9], ""]
    answer = client.post("/embed_sparse", json={"inputs": texts, "normalize": True})  # unknown fields are ignored there
    found = answer.json()
    assert all(set(value) == {"index", "value"} for vector in found for value in vector)
    vectors = [{"indices": [v["index"] for v in vec], "values": [v["value"] for v in vec]} for vec in found]
    assert_rows(vectors, encoded(model, texts, prune="mass:0.8"))
    assert int(answer.headers["x-compute-characters"]) == sum(map(len, texts))
    assert post(client, "/embed_sparse", inputs=texts[0]) == [found[0]]


def test_queries_and_documents_have_their_own_pruning_and_length(model, client):
    texts = [text[:30] for text in tiny.TEXTS[:3]]
    query = post(client, "/embed_query", inputs=texts, truncate=True)
    assert_rows(query["embeddings"], encoded(model, texts, kind="query", prune="top_k:4", max_length=12))
    assert query["cut_tokens"] > 0
    assert query["fingerprint"] == model_fingerprint(model)
    document = post(client, "/embed_document", inputs=texts, truncate=True)
    assert_rows(document["embeddings"], encoded(model, texts, prune="mass:0.8"))
    named = post(client, "/embed_sparse", inputs=texts, truncate=True, prompt_name="query")
    assert [[v["index"] for v in vector] for vector in named] == [v["indices"] for v in query["embeddings"]]


def test_prompts_are_the_checkpoints(checkpoint):
    model = milco_hf.load(checkpoint, device="cpu")
    model.prompts = {"query": "who wrote ", "document": "book: ", "other": "city "}
    with TestClient(create_app(model)) as client:
        for path, prompt in (("/embed_query", "who wrote "), ("/embed_document", "book: ")):
            assert_rows(post(client, path, inputs="Musik")["embeddings"], _bare(checkpoint, prompt + "Musik"))
        other = post(client, "/embed_sparse", inputs="Musik", prompt_name="other")[0]
        bare = _bare(checkpoint, "city Musik")
        assert [value["index"] for value in other] == bare.indices.tolist()
        refused = client.post("/embed_sparse", json={"inputs": "Musik", "prompt_name": "nix"})
        assert (refused.status_code, refused.json()["error_type"]) == (413, "Validation")
        assert "'query', 'document', 'other'" in refused.json()["error"]


def _bare(checkpoint, text):
    return encoded(milco_hf.load(checkpoint, device="cpu"), [text])


def test_what_is_too_long_is_refused_or_cut_where_it_is_asked(model, client):
    refused = client.post("/embed_document", json={"inputs": ["short", LONG]})
    assert (refused.status_code, refused.json()["error_type"]) == (413, "Validation")
    tokens = len(model.tokenizer(LONG, truncation=False)["input_ids"])
    assert f"less than 62 tokens. Given: {tokens}" in refused.json()["error"]
    right = post(client, "/embed_document", inputs=LONG, truncate=True)
    assert_rows(right["embeddings"], encoded(model, [LONG], prune="mass:0.8"))
    assert (right["tokens"], right["cut_tokens"]) == (62, tokens - 62)
    for direction in ("Left", "left"):
        left = post(client, "/embed_document", inputs=LONG, truncate=True, truncation_direction=direction)
        assert left["embeddings"] != right["embeddings"]


def test_auto_truncate_cuts_unless_a_request_says_otherwise(model):
    with TestClient(create_app(model, settings=Settings(auto_truncate=True))) as client:
        assert post(client, "/embed_document", inputs=LONG)["cut_tokens"] > 0
        assert client.post("/embed_document", json={"inputs": LONG, "truncate": False}).status_code == 413
        assert client.get("/info").json()["auto_truncate"] is True


@pytest.mark.parametrize("direction", ["left", "right"])
def test_the_reader_cuts_as_the_tokenizer_does(direction):
    tokenizer = tiny.tokenizer()
    side = tokenizer.truncation_side
    reader = TextReader(tokenizer)
    try:
        tokenizer.truncation_side = direction
        for length in (3, 9, 62):
            expected = tokenizer(tiny.TEXTS, truncation=True, max_length=length)["input_ids"]
            read = reader.read(tiny.TEXTS, "", length, True, direction)
            assert [ids.tolist() for ids in read.tokens] == expected
    finally:
        tokenizer.truncation_side = side


def test_terms_in_place_of_dimensions(model, client):
    text = tiny.TEXTS[2]
    (found,) = post(client, "/embed_document", inputs=text, format="terms", prune=None)["embeddings"]
    matrix = encoded(model, [text], prune="mass:0.8")
    order = np.argsort(-matrix.data, kind="stable")
    names = model.tokenizer.convert_ids_to_tokens(matrix.indices[order].tolist())
    english, source = split_views(zip(names, matrix.data[order].tolist()))
    assert list(found["english"]) == [name for name, _ in english]
    assert list(found["source"]) == [name for name, _ in source]
    assert list(found["source"].values()) == pytest.approx([weight for _, weight in source], abs=1e-4)


def test_a_request_may_prune_otherwise(model, client):
    text = tiny.TEXTS[0]
    for prune in ("top_k:3", {"english": "top_k:2", "source": "mass:0.5"}):
        found = post(client, "/embed_document", inputs=text, prune=prune)
        assert_rows(found["embeddings"], encoded(model, [text], prune=prune))
    whole = post(client, "/embed_document", inputs=text, prune="none")
    assert_rows(whole["embeddings"], encoded(model, [text]))


def test_info_says_what_is_served(model, client):
    info = client.get("/info").json()
    assert info["fingerprint"] == model_fingerprint(model)
    assert info["query"] == {
        "prompt": "",
        "max_length": 12,
        "views": "both",
        "prune": {"both": "top_k:4"},
        "autocast": None,
    }
    assert info["document"]["prune"] == {"both": "mass:0.8"}
    assert info["dimensions"] == {"english": len(tiny.TERMS), "source": len(tiny.tokenizer()) - len(tiny.TERMS)}
    assert info["devices"] == ["cpu"]
    assert info["index"] is None
    # what clients of text-embeddings-inference read
    assert {"model_id", "model_dtype", "model_type", "max_input_length", "max_client_batch_size", "version"} <= set(
        info
    )


def test_metrics_count(client):
    before = _metrics(client)
    post(client, "/embed_query", inputs=["music", "city"])
    client.get("/nix")
    after = _metrics(client)
    for name, more in (
        ('milco_requests_total{path="/embed_query",status="200"}', 1),
        ('milco_requests_total{path="other",status="404"}', 1),
        ('milco_texts_total{kind="query"}', 2),
        ('milco_batch_texts_sum{device="cpu"}', 2),
    ):
        assert after[name] - before.get(name, 0) == more, name
    assert after["milco_queue_texts"] == 0
    assert after["process_resident_memory_bytes"] > 1e6


def _metrics(client):
    lines = client.get("/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def test_many_callers_at_once_get_their_own_vectors_from_few_batches(model, monkeypatch):
    gate = Gate(encode_batch)
    monkeypatch.setattr("milco_hf.serving.engine.encode_batch", gate)
    app = create_app(model)
    texts = [f"{tiny.TEXTS[n % len(tiny.TEXTS)][:20]} {n}" for n in range(30)]

    async def ask():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            asking = [asyncio.ensure_future(client.post("/embed_document", json={"inputs": text})) for text in texts]
            while app.state.engine.waiting + (len(gate.batches[0].ids) if gate.batches else 0) < len(texts):
                await asyncio.sleep(0.01)
            gate.free.set()
            return await asyncio.gather(*asking)

    answers = asyncio.run(asyncio.wait_for(ask(), 120))
    assert len(gate.batches) <= 3
    matrix = encoded(model, texts)
    for row, answer in enumerate(answers):
        assert_rows(answer.json()["embeddings"], matrix[[row]])
    app.state.engine.close()


def test_explain_is_the_librarys(model, client):
    query, document = "Musik der alten Stadt", tiny.TEXTS[0]
    found = post(client, "/explain", query=query, document=document)
    expected = milco_hf.explanation.explain(
        model, query, document, query_prune="top_k:4", document_prune="mass:0.8", query_length=12
    )
    assert found["score"] == pytest.approx(expected.score, rel=1e-5)
    assert [part["term"] for part in found["contributions"]] == [part.term for part in expected.contributions]
    page = client.post("/explain", json={"query": query, "document": document, "format": "html"})
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"].startswith("sandbox")
    for body, reason in (
        ({"query": query}, "either `document` or `id`"),
        ({"query": query, "document": "a", "id": "b"}, "either `document` or `id`"),
        ({"query": query, "id": "b"}, "No index is served"),
    ):
        refused = client.post("/explain", json=body)
        assert refused.status_code == 422
        assert reason in refused.json()["error"]


def test_search_and_its_matched_terms(model, search_client):
    found = post(search_client, "/search", query="alte Musik", k=3, terms=50)
    assert len(found["hits"]) == 3
    index = StandInIndex(model)
    (expected,) = index.search_vectors(encoded(model, ["alte Musik"], kind="query"), 3)
    assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in expected]
    for hit, other in zip(found["hits"], expected):
        assert hit["score"] == pytest.approx(other.score, rel=1e-5)
        products = [term["query"] * term["document"] for term in hit["terms"]]
        assert sum(products) == pytest.approx(hit["score"], rel=1e-2)
        assert sum(term["share"] for term in hit["terms"]) == pytest.approx(1, abs=0.01)
        assert [term["share"] for term in hit["terms"]] == sorted((t["share"] for t in hit["terms"]), reverse=True)
    assert "terms" not in post(search_client, "/search", query="alte Musik")["hits"][0]


def test_a_search_can_prune_its_query_and_ask_for_a_language(search_client):
    whole = post(search_client, "/search", query="alte Musik")["query"]
    assert whole["searched"] == whole["dimensions"]
    pruned = post(search_client, "/search", query="alte Musik", prune="mass:0.5")["query"]
    assert pruned["dimensions"] == whole["dimensions"]
    assert 0 < pruned["searched"] < whole["dimensions"]
    german = post(search_client, "/search", query="alte Musik", language="de")["hits"]
    assert [hit["id"] for hit in german] == ["de-1"]
    filtered = post(search_client, "/search", query="alte Musik", filter={"year": 2002})["hits"]
    assert [hit["id"] for hit in filtered] == ["en-1"]
    refused = search_client.post("/search", json={"query": "alte Musik", "filter": {"nix": 1}})
    assert (refused.status_code, refused.json()["error"]) == (422, "no document has ['nix']")


def test_a_folder_of_an_index_is_searched_as_the_library_does(model, tmp_path):
    documents = [{"id": str(n), "text": text, "language": "xx"} for n, text in enumerate(tiny.TEXTS)]
    built = Index.build(model, documents, tmp_path / "index", prune="mass:0.9", prune_queries="top_k:6", progress=False)
    with TestClient(create_app(index=tmp_path / "index", devices="cpu")) as client:
        info = client.get("/info").json()
        assert info["index"]["fingerprint"] == built.info["fingerprint"]
        assert info["index"]["model"] == info["model_id"] == Path(built.info["model"]).name  # no path of this machine
        assert str(tmp_path.parent) not in json.dumps(info)
        assert post(client, "/search", query="alte Musik", filter={"year": 10**30})["hits"] == []
        refused = client.post("/search", json={"query": "alte Musik", "filter": {"year": [1] * 10_001}})
        assert (refused.status_code, refused.json()["error_type"]) == (422, "Validation")
        assert (info["query"]["prune"], info["document"]["prune"]) == ({"both": "top_k:6"}, {"both": "mass:0.9"})
        for query in ("alte Musik", tiny.TEXTS[5]):
            for options in ({}, {"prune": "mass:0.6"}, {"language": "xx"}):
                found = post(client, "/search", query=query, k=5, terms=100, **options)
                expected = built.search(query, 5, **options)
                assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in expected]
                for hit, other in zip(found["hits"], expected):
                    assert hit["score"] == pytest.approx(other.score, rel=1e-4)
                    named = sum(term["query"] * term["document"] for term in hit["terms"])
                    assert named == pytest.approx(hit["score"], rel=1e-2)
                    why = post(client, "/explain", query=query, id=hit["id"], prune=options.get("prune"))
                    assert why["score"] == pytest.approx(other.score, rel=1e-4)
    other = tiny.checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="fingerprint"):
        create_app(other, index=tmp_path / "index", devices="cpu")
    app = create_app(other, index=tmp_path / "index", devices="cpu", check_fingerprint=False)
    assert app.state.engine.fingerprint != built.info["model_fingerprint"]


def test_explain_takes_documents_of_the_index(search_client):
    by_id = post(search_client, "/explain", query="Musik", id="en-1")
    assert by_id["document"]["text"] == "Shop The old shop sells music books."
    assert by_id["score"] == post(search_client, "/explain", query="Musik", document=by_id["document"]["text"])["score"]
    part = post(search_client, "/explain", query="Musik", id="en-1", passage=[4, 12])
    assert part["document"]["text"] == "Shop old shop"
    missing = search_client.post("/explain", json={"query": "Musik", "id": "nix"})
    assert (missing.status_code, missing.json()) == (
        404,
        {"error": "The index has no document 'nix'.", "error_type": "NotFound"},
    )


def test_the_index_says_how_texts_are_encoded(model):
    index = StandInIndex(
        model,
        views="english",
        pruning={"documents": "mass:0.9", "queries": "top_k:3"},
        lengths={"max_length": 20, "query_length": 10, "passage_length": None},
    )
    with TestClient(create_app(index=index)) as client:
        info = client.get("/info").json()
        assert info["index"]["documents"] == len(DOCUMENTS)
        assert (info["query"]["max_length"], info["document"]["max_length"]) == (10, 20)
        text = tiny.TEXTS[0][:20]
        found = post(client, "/embed_query", inputs=text, truncate=True)
        expected = encoded(model, [text], kind="query", views="english", prune="top_k:3", max_length=10)
        assert_rows(found["embeddings"], expected)
    with pytest.raises(ValueError, match="query_length: an index says itself"):
        create_app(index=index, query_length=5)
    with pytest.raises(ValueError, match="has its model: leave model and devices"):
        create_app("milco-mini", index=index)


def test_the_api_is_described(client, search_client):
    api = client.get("/openapi.json").json()
    assert {"/embed_sparse", "/embed_query", "/embed_document", "/explain", "/health", "/info", "/metrics"} == set(
        api["paths"]
    )
    assert "/search" in search_client.get("/openapi.json").json()["paths"]
    request = api["components"]["schemas"]["EmbedSparseRequest"]
    assert request["required"] == ["inputs"]
    assert set(request["properties"]) == {"inputs", "truncate", "truncation_direction", "prompt_name", "language"}
    page = client.get("/docs").text
    for path in api["paths"]:
        assert path in page
    assert not re.search(r"(?:src|href)=[\"'](?:https?:)?//", page)
    json.dumps(api)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query_length": 1000}, "max_length has to be between 3"),
        ({"document_prune": "nix:1"}, "Pruning reads"),
        ({"dtype": "int8"}, "dtype has to be"),
        ({"devices": ["cpu", "cpu"]}, "one device twice"),
        ({"devices": "nix"}, "devices has to name devices"),
    ],
)
def test_settings_that_cannot_work(model, options, message):
    with pytest.raises(ValueError, match=message):
        create_app(model, **options)
