"""Language adapters (X-MOD) where texts are evaluated, searched and served: each in its own language."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from starlette.testclient import TestClient

import helpers_language as h
import milco_hf
from helpers_index import assert_found
from milco_hf import MilcoForSparseEncoding, encode_corpus
from milco_hf.cli.main import main
from milco_hf.evaluation import Collection, EvaluationError, evaluate, evaluate_mteb, open_system
from milco_hf.evaluation.systems.sparse import SparseSystemEncoder
from milco_hf.index import Index
from milco_hf.serving import create_app

QUERIES = ["Buch", "old music", "wer hat"]
DOCUMENTS = [{"id": f"d{n}", "text": t, "language": name} for n, (t, name) in enumerate(zip(h.TEXTS, h.LANGUAGES))]
QRELS = {"q0": {"d3": 1}, "q1": {"d0": 1}, "q2": {"d1": 1}}
NO_FRENCH = r"language='fr' is not among the encoder's adapters: \['en_XX', 'de_DE'\]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return h.checkpoint(tmp_path_factory.mktemp("xmod") / "tiny")


@pytest.fixture(scope="module")
def model(folder):
    return milco_hf.load(folder, device="cpu")


@pytest.fixture(scope="module")
def index(folder, tmp_path_factory):
    return Index.build(str(folder), DOCUMENTS, tmp_path_factory.mktemp("index") / "i", devices="cpu", progress=False)


def collection(language: str, **changes) -> Collection:
    """The same texts whatever the language is said to be, so that nothing but the adapters tells two apart."""
    documents = {f"d{n}": text for n, text in enumerate(h.TEXTS)}
    made = Collection.from_texts("pair", language, documents, {f"q{n}": text for n, text in enumerate(QUERIES)}, QRELS)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def scores(model, queries: str, documents: str) -> np.ndarray:
    """By the model itself, [queries, documents]."""
    asked = model.encode_query(QUERIES, language=queries).to_dense()
    return (asked @ model.encode_document(h.TEXTS, language=documents).to_dense().T).cpu().numpy()


def read_run(path) -> dict[tuple[str, str], float]:
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    return {(query, document): float(score) for query, _, document, _, score, _ in rows}


def assert_run(path, wanted: dict[str, np.ndarray]) -> None:
    """A run file holds these scores, by what goes before the documents' ids; those of zero are not ranked."""
    expected = {
        (f"q{query}", f"{prefix}d{document}"): score
        for prefix, matrix in wanted.items()
        for query, row in enumerate(matrix)
        for document, score in enumerate(row)
        if score > 0
    }
    found = read_run(path)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[pair] for pair in expected], list(expected.values()), rtol=1e-4)


# Evaluation


@pytest.mark.parametrize("setting", ["monolingual", "matrix", "mixed"])
def test_collections_are_read_in_their_languages(model, setting, tmp_path):
    assert not np.allclose(scores(model, "en", "en"), scores(model, "de", "en"), rtol=1e-2), "adapters that are alike"
    report = evaluate(model, [collection("en"), collection("de")], setting=setting, output=tmp_path, cache=None)
    assert len(report.results) == (4 if setting == "matrix" else 2)
    for result in report.results:
        parts = {"": result.documents} if setting != "mixed" else {"en:": "en", "de:": "de"}
        wanted = {prefix: scores(model, result.queries, code) for prefix, code in parts.items()}
        assert_run(tmp_path / result.run, wanted)
    assert report.systems[0]["settings"]["language"] == "each collection's"


def test_documents_may_be_in_another_language_than_queries(model, tmp_path):
    report = evaluate(model, collection("de-AT", document_language="en"), output=tmp_path, cache=None)
    assert_run(tmp_path / report.results[0].run, {"": scores(model, "de", "en")})
    report = evaluate(model, collection("und"), output=tmp_path, cache=None)
    assert_run(tmp_path / report.results[0].run, {"": scores(model, "en", "en")})


def test_vectors_are_cached_by_adapter(model, checkpoint, monkeypatch, tmp_path):
    encoder = open_system(model).encoder
    prints = {name: encoder.routed(name).fingerprint for name in ("en", "en_XX", "und", None, "de", "de-AT")}
    assert len({prints[name] for name in ("en", "en_XX", "und", None)}) == len({prints["de"], prints["de-AT"]}) == 1
    assert len({encoder.fingerprint, *prints.values()}) == 3
    plain = open_system(str(checkpoint)).encoder
    assert plain.routed("xx") is plain
    pair = [collection("en"), collection("de")]
    before = evaluate(model, pair, setting="matrix", cache=tmp_path, pruning_curve=[3])
    assert len(list(tmp_path.rglob("shard-*.npz"))) == len(list(tmp_path.rglob("queries-*.npz"))) == 2
    assert before.curve[0].means == before.means(before.systems[0]["name"], "pair")
    monkeypatch.setattr(SparseSystemEncoder, "_encode", None)
    assert evaluate(model, pair, setting="matrix", cache=tmp_path, pruning_curve=[3]).results == before.results


def test_a_language_without_an_adapter_stops_before_anything_is_encoded(model, tmp_path):
    for collections in ([collection("de"), collection("fr")], [collection("de", document_language="fr")]):
        name = collections[-1].language
        with pytest.raises(EvaluationError, match=rf"failed on pair \[{name}\]: {NO_FRENCH}"):
            evaluate(model, collections, cache=tmp_path)
    assert not list(tmp_path.rglob("*.npz"))


def test_mteb_warns_that_it_reads_all_in_one_language(folder, checkpoint, monkeypatch, caplog):
    stand_in = SimpleNamespace(
        get_task=lambda name, **_: name, evaluate=lambda *_, **__: SimpleNamespace(task_results=[])
    )
    monkeypatch.setitem(sys.modules, "mteb", stand_in)
    for place, warned in ((checkpoint, False), (folder, True)):
        with pytest.raises(ValueError, match="mteb gave no results"):
            evaluate_mteb([place], ["NanoSciFactRetrieval"])
        assert ("reads everything in its default language, en_XX" in caplog.text) == warned


# Indexes


@pytest.mark.parametrize(
    ("language", "adapters"),
    [
        (None, ["en_XX"] * 3),
        ("de", ["de_DE"] * 3),
        (["de", None, "en-GB"], ["de_DE", "en_XX", "en_XX"]),
    ],
)
def test_an_index_reads_queries_in_their_languages(folder, index, language, adapters):
    bare = MilcoForSparseEncoding.from_pretrained(folder)
    products = (h.by_hand(bare, QUERIES, adapters) @ h.by_hand(bare).T).numpy()
    ids = [document["id"] for document in DOCUMENTS]
    wanted = []
    for row in products:
        order = [place for place in np.argsort(-row, kind="stable") if row[place] > 0]
        wanted.append((order, row[order]))
    assert_found(index.search(QUERIES, 5, query_language=language), wanted, ids)
    if isinstance(language, str):
        assert_found([index.search(QUERIES[0], 5, query_language=language)], wanted[:1], ids)


def test_languages_that_an_index_refuses(index, checkpoint, tmp_path):
    for language, message in (
        ("fr", NO_FRENCH),
        (["de", "fr", "en"], f"Text number 1: {NO_FRENCH}"),
        (["de"], "There are 1 languages, but more texts"),
        (["de"] * 4, "There are 3 texts, but more languages"),
    ):
        with pytest.raises(ValueError, match=message):
            index.search(QUERIES, query_language=language)
    plain = Index.build(str(checkpoint), DOCUMENTS, tmp_path / "i", devices="cpu", progress=False)
    assert plain.search(QUERIES, query_language=["de", "xx", None]) == plain.search(QUERIES)
    with pytest.raises(ValueError, match="'de': the xlm-roberta encoder has no language adapters; leave"):
        plain.search(QUERIES, query_language="de")


def test_the_command_searches_in_a_language(index, tmp_path, capsys):
    path = tmp_path / "queries.jsonl"
    rows = [{"text": text, "language": name} for text, name in zip(QUERIES, ["de", None, "en"])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = ["--json", "--device", "cpu"]
    for more, language in (
        (["--queries", str(path)], ["de", None, "en"]),
        (["--queries", str(path), "--query-language", "de"], "de"),
        ([*QUERIES, "--query-language", "de_DE"], ["de", "de", "de"]),
        (QUERIES, None),
    ):
        assert main(["search", str(index.path), *more, *options]) == 0
        found = [json.loads(line)["hits"] for line in capsys.readouterr().out.splitlines()]
        wanted = index.search(QUERIES, query_language=language)
        assert [[hit["id"] for hit in hits] for hits in found] == [[hit.id for hit in hits] for hits in wanted]
        np.testing.assert_allclose(
            [hit["score"] for hits in found for hit in hits], [hit.score for hits in wanted for hit in hits], rtol=1e-5
        )
    assert main(["search", str(index.path), "Buch", "--query-language", "fr", *options]) == 2
    assert "language='fr' is not among the encoder's adapters" in capsys.readouterr().err


# Explanations


def test_pairs_are_explained_in_their_languages(folder, model, checkpoint):
    bare = MilcoForSparseEncoding.from_pretrained(folder)
    products = (h.by_hand(bare, ["Buch"], ["de_DE"]) @ h.by_hand(bare).T)[0].tolist()
    found = milco_hf.explain(model, "Buch", h.TEXTS, query_language="de", document_language=h.LANGUAGES)
    assert [why.score for why in found] == pytest.approx(products, rel=1e-4, abs=1e-5)
    why = milco_hf.explain(model, "Buch", h.TEXTS[3], query_language="de", document_language="de")
    assert why.score == pytest.approx(products[3], rel=1e-4)
    for plain, names, message in (
        (model, {"query_language": "fr"}, NO_FRENCH),
        (model, {"document_language": ["de", "en"]}, "names 2 languages for 1 documents"),
        (str(checkpoint), {"document_language": "de"}, "has no language adapters"),
    ):
        with pytest.raises(ValueError, match=message):
            milco_hf.explain(plain, "Buch", "music", **names)


def test_the_command_explains_in_a_language(folder, model, capsys):
    arguments = ["explain", "Buch", h.TEXTS[0], "--model", str(folder), "--json", "--device", "cpu"]
    assert main([*arguments, "--query-language", "de", "--document-language", "en"]) == 0
    score = json.loads(capsys.readouterr().out)["score"]
    wanted = model.encode_query("Buch", language="de").to_dense() @ model.encode_document(h.TEXTS[0]).to_dense()
    assert score == pytest.approx(wanted.item(), rel=1e-4)


# The server


@pytest.fixture(scope="module")
def client(index):
    with TestClient(create_app(index=index.path, devices="cpu")) as opened:
        yield opened


def post(client, path, **body):
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("language", [None, "en", "de", "de-AT"])
def test_the_server_encodes_in_a_language(model, client, language):
    for kind in ("query", "document"):
        wanted = encode_corpus(model, h.TEXTS, kind=kind, language=language, progress=False).toarray()
        found = post(client, f"/embed_{kind}", inputs=h.TEXTS, language=language)["embeddings"]
        pairs = [list(zip(vector["indices"], vector["values"])) for vector in found]
        sparse = post(client, "/embed_sparse", inputs=h.TEXTS, language=language, prompt_name=kind)
        for vectors in (pairs, [[(v["index"], v["value"]) for v in row] for row in sparse]):
            for row, vector in zip(wanted, vectors, strict=True):
                np.testing.assert_allclose(row[[column for column, _ in vector]], [v for _, v in vector], atol=1e-5)
                assert len(vector) == np.count_nonzero(row)


def test_the_server_searches_in_a_language(index, client):
    for language in (None, "de"):
        found = post(client, "/search", query="Buch music", query_language=language, terms=100)["hits"]
        wanted = index.search("Buch music", query_language=language)
        assert [hit["id"] for hit in found] == [hit.id for hit in wanted]
        for hit, other in zip(found, wanted, strict=True):
            assert hit["score"] == pytest.approx(other.score, rel=1e-4)
            # the terms of a document are those of its own language
            named = sum(term["query"] * term["document"] for term in hit["terms"])
            assert named == pytest.approx(other.score, rel=1e-2)
            why = post(client, "/explain", query="Buch music", id=hit["id"], query_language=language)
            assert why["score"] == pytest.approx(other.score, rel=1e-4)
            text = {"document": other.text, "document_language": other.language}
            assert (
                post(client, "/explain", query="Buch music", query_language=language, **text)["score"] == why["score"]
            )
    german = post(client, "/search", query="Buch", query_language="en", language="de_DE")["hits"]
    assert {hit["language"] for hit in german} == {"de_DE"}, "the language of documents is another matter"


def test_the_server_refuses_languages_without_an_adapter(client):
    for path, body in (
        ("/embed_query", {"inputs": ["a", "b"], "language": "fr"}),
        ("/embed_sparse", {"inputs": "a", "language": "fr"}),
        ("/search", {"query": "a", "query_language": "fr"}),
        ("/explain", {"query": "a", "document": "b", "query_language": "fr"}),
        ("/explain", {"query": "a", "id": "d0", "document_language": "fr"}),
    ):
        answer = client.post(path, json=body)
        message = "language='fr' is not among the encoder's adapters: ['en_XX', 'de_DE']."
        assert (answer.status_code, answer.json()) == (422, {"error": message, "error_type": "Validation"})
    assert client.get("/info").json()["language_adapters"] == ["en_XX", "de_DE"]
