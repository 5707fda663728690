"""`Index`: what is found, by filter, in passages, after adding, saving and loading; and what is refused."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

import fresh
import milco_hf
import tiny
from helpers_index import DOCUMENTS, QUERIES, TEXTS, assert_found, expected
from milco_hf import encode_corpus, load_vectors, pruning
from milco_hf.index import Document, Hit, Index
from milco_hf.index import exact as exact_module
from milco_hf.scripts import split_passages

IDS = [document["id"] for document in DOCUMENTS]


@pytest.fixture(scope="module")
def model(checkpoint):
    return milco_hf.load(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def index(model, tmp_path_factory):
    return Index.build(model, DOCUMENTS, tmp_path_factory.mktemp("index") / "index", progress=False)


def build(model, path, documents=DOCUMENTS, **options):
    return Index.build(model, documents, path, progress=False, **options)


def test_search_is_the_dense_product(model, index):
    hits = index.search(QUERIES, k=7)
    assert_found(hits, expected(model, TEXTS, QUERIES, 7), IDS)
    one = index.search(QUERIES[0], k=7)
    assert_found([one], [([IDS.index(hit.id) for hit in hits[0]], [hit.score for hit in hits[0]])], IDS)
    assert isinstance(one[0], Hit)
    document = DOCUMENTS[IDS.index(one[0].id)]
    assert (one[0].text, one[0].language) == (document["text"], document["language"])
    assert one[0].metadata == {"year": document["year"], "tags": document["tags"]}
    assert json.loads(json.dumps(one[0].to_dict()))["id"] == one[0].id
    assert index.search([], k=3) == []
    everything = index.search(QUERIES[0], k=10_000)
    assert len(everything) <= len(index) == len(DOCUMENTS)


def test_blocks_and_shards_change_nothing(model, index, tmp_path, monkeypatch):
    monkeypatch.setattr(exact_module, "_ROWS", 3)
    monkeypatch.setattr(exact_module, "_QUERIES", 2)
    other = build(model, tmp_path / "i", shard_size=4)
    for found, wanted in zip(other.search(QUERIES), index.search(QUERIES), strict=True):
        assert [hit.id for hit in found] == [hit.id for hit in wanted]
        np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in wanted], rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{"views": "english"}, {"views": "source"}, {"max_length": 6}, {"prune": "top_k:3"}]
)
def test_settings_are_those_of_the_vectors(model, tmp_path, options):
    index = build(model, tmp_path / "i", **options, **({"query_length": 6} if "max_length" in options else {}))
    if "prune" in options:
        vectors = encode_corpus(model, QUERIES, kind="query", progress=False).toarray()
        scores = vectors @ encode_corpus(model, TEXTS, progress=False, **options).toarray().T
        np.testing.assert_allclose([hits[0].score for hits in index.search(QUERIES, 1)], scores.max(axis=1), rtol=1e-5)
    else:
        assert_found(index.search(QUERIES), expected(model, TEXTS, QUERIES, **options), IDS)
    assert index.info["views"] == options.get("views", "both")


def test_queries_are_pruned_as_the_index_says_or_as_asked(model, tmp_path):
    how = {"english": "top_k:2", "source": "mass:0.5"}
    index = build(model, tmp_path / "i", prune_queries=how)
    assert index.info["pruning"] == {"documents": {}, "queries": how}
    documents = encode_corpus(model, TEXTS, progress=False)
    queries = encode_corpus(model, QUERIES, kind="query", progress=False)
    for asked, form in ((None, how), ("none", None), ("max_ratio:0.9", "max_ratio:0.9")):
        scores = (pruning.prune(queries, form, len(tiny.TERMS)) @ documents.T).toarray()
        found = index.search(QUERIES, 1, prune=asked)
        best = [hits[0].score if hits else 0.0 for hits in found]  # a pruned query may share no term with any text
        assert max(best) > 0
        np.testing.assert_allclose(best, scores.max(axis=1), rtol=1e-5)


def test_the_models_own_pruning_is_recorded(checkpoint, tmp_path):
    model = milco_hf.load(checkpoint, device="cpu", max_active_dims=4)
    index = build(model, tmp_path / "i")
    assert index.info["pruning"] == {"documents": {"both": "top_k:4"}, "queries": {"both": "top_k:4"}}
    assert index.info["dimensions_a_passage"] == 4


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ({"language": "de"}, lambda d: d["language"] == "de"),
        ({"language": ["de", "ru", "xx"]}, lambda d: d["language"] in ("de", "ru")),
        ({"filter": {"year": 2001}}, lambda d: d["year"] == 2001),
        ({"filter": {"year": [2001, 2003]}}, lambda d: d["year"] in (2001, 2003)),
        ({"filter": {"year": {"gte": 2002, "lt": 2005}}}, lambda d: 2002 <= d["year"] < 2005),
        ({"filter": {"tags": 1}}, lambda d: 1 in d["tags"]),
        ({"filter": {"tags": 1, "year": {"gt": 2002}}}, lambda d: 1 in d["tags"] and d["year"] > 2002),
        ({"language": "de", "filter": {"tags": 0}}, lambda d: d["language"] == "de" and 0 in d["tags"]),
        ({"filter": {"year": "2001"}}, lambda d: False),
        ({"filter": {"year": {"gte": "2000"}}}, lambda d: False),
        ({"filter": {"nothing": 1}}, lambda d: False),
        ({"filter": {}}, lambda d: True),
    ],
)
def test_filters(model, index, asked, fits):
    kept = [place for place, document in enumerate(DOCUMENTS) if fits(document)]
    found = index.search(QUERIES, 100, **asked)
    assert {hit.id for hits in found for hit in hits} <= {IDS[place] for place in kept}
    if kept:
        wanted = expected(model, [TEXTS[place] for place in kept], QUERIES, 100)
        assert_found(found, wanted, [IDS[place] for place in kept])


def test_filters_on_odd_metadata(model, tmp_path):
    documents = [
        {"text": "old city", "id": "a", "a key": True, "größe": 1.5, "empty": None},
        {"text": "old city", "id": "b", "a key": 1, "größe": float("nan"), "deep": {"x": [1, {"y": 2}]}},
        {"text": "old city", "id": "c", "a key": "true", "when": np.datetime64("2020-01-02"), "count": np.int64(3)},
    ]
    index = build(model, tmp_path / "i", documents)

    def ids(filter):
        return {hit.id for hit in index.search("old city", filter=filter)}

    assert ids({"a key": True}) == {"a"}
    assert ids({"a key": 1}) == {"b"}
    assert ids({"a key": "true"}) == {"c"}
    assert ids({"a key": [True, "true"]}) == {"a", "c"}
    assert ids({"größe": {"gt": 1}}) == {"a"}
    assert ids({"empty": None}) == {"a"}
    assert ids({"count": 3}) == {"c"}
    (found,) = index.documents(["b"])
    assert found.metadata == {"a key": 1, "größe": None, "deep": {"x": [1, {"y": 2}]}}


@pytest.mark.parametrize("shard_size", [3, 16384])
def test_a_document_is_as_good_as_its_best_passage(model, tmp_path, shard_size, monkeypatch):
    monkeypatch.setattr(exact_module, "_ROWS", 5)
    long = [" ".join(TEXTS[place : place + 1 + place % 5]) for place in range(len(TEXTS))] + [""]
    documents = [{"id": f"long {place}", "title": "quiet shop", "text": text} for place, text in enumerate(long)]
    index = build(model, tmp_path / "i", documents, passage_length=4, shard_size=shard_size)
    pieces = [split_passages(text, 4) for text in long]
    assert index.info["passages"] == sum(map(len, pieces)) > len(long)
    flat = [f"quiet shop {piece}".strip() for part in pieces for piece in part]
    owner = np.repeat(np.arange(len(long)), list(map(len, pieces)))
    vectors = encode_corpus(model, flat, progress=False).toarray()
    for query in QUERIES:
        scores = encode_corpus(model, [query], kind="query", progress=False).toarray()[0] @ vectors.T
        best = np.array([scores[owner == place].max() for place in range(len(long))])
        hits = index.search(query, 6)
        np.testing.assert_allclose([hit.score for hit in hits], -np.sort(-best)[: len(hits)], rtol=1e-5)
        for hit in hits:
            place = int(hit.id.split()[1])
            assert hit.score == pytest.approx(best[place], rel=1e-5)
            start, end = hit.passage
            piece = pieces[place].index(hit.text[start:end])
            assert scores[owner == place][piece] == pytest.approx(hit.score, rel=1e-5)
            assert hit.text == long[place]


def test_adding_is_building_with_all(model, index, tmp_path):
    grown = build(model, tmp_path / "i", DOCUMENTS[:9], passage_length=3)
    assert grown.add(DOCUMENTS[9:15], progress=False) == 6
    assert grown.add(DOCUMENTS[15:], progress=False) == len(DOCUMENTS) - 15
    whole = build(model, tmp_path / "whole", passage_length=3)
    for other in (grown, Index.load(tmp_path / "i", model)):
        assert len(other) == len(DOCUMENTS)
        for asked in ({}, {"language": "de"}, {"filter": {"tags": 1}}):
            for found, wanted in zip(other.search(QUERIES, **asked), whole.search(QUERIES, **asked), strict=True):
                np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in wanted], rtol=1e-5)
                assert sorted(hit.id for hit in found) == sorted(hit.id for hit in wanted)
    assert grown.info["languages"] == whole.info["languages"]
    assert grown.texts([IDS[16], IDS[0]]) == [TEXTS[16], TEXTS[0]]
    before = sorted(path.name for path in (tmp_path / "i").iterdir())
    with pytest.raises(ValueError, match=f"has a document '{IDS[3]}' already"):
        grown.add([{"id": "new", "text": "a"}, DOCUMENTS[3]], progress=False)
    assert len(Index.load(tmp_path / "i", model)) == len(DOCUMENTS)
    assert [name for name in before if name.startswith("segment")] == sorted(
        path.name for path in (tmp_path / "i").glob("segment*")
    )
    assert grown.add(["old city"], progress=False) == 1  # what was refused is no hindrance
    assert grown.texts([str(len(DOCUMENTS))]) == ["old city"]


def test_texts_and_documents(index):
    assert index.texts([IDS[4], IDS[2]]) == [TEXTS[4], TEXTS[2]]
    (document,) = index.documents([IDS[0]])
    assert isinstance(document, Document)
    assert document.metadata["year"] == 2000
    with pytest.raises(KeyError, match="no document 'nobody'"):
        index.texts(["nobody"])
    with pytest.raises(TypeError, match="got one string"):
        index.texts(IDS[0])


def test_info(checkpoint, model, index):
    info = index.info
    assert info["documents"] == info["passages"] == len(DOCUMENTS)
    assert info["model"] == str(checkpoint)
    assert info["engine"] == "exact"
    assert sum(info["languages"].values()) == len(DOCUMENTS)
    assert len(info["fingerprint"]) == 64
    assert "exact" in repr(index)
    assert json.loads(json.dumps(info)) == info


def test_vectors_that_were_encoded_before(model, index, tmp_path):
    folder = encode_corpus(model, QUERIES, kind="query", output=tmp_path / "q", progress=False).folder
    vectors, _, manifest = load_vectors(folder)
    found = index.search_vectors(vectors, 5, made_by=manifest)
    assert [[hit.id for hit in hits] for hits in found] == [
        [hit.id for hit in hits] for hits in index.search(QUERIES, 5)
    ]
    with pytest.raises(ValueError, match="takes queries with kind 'query', but these were encoded with 'document'"):
        index.search_vectors(vectors, made_by={**manifest, "settings": {**manifest["settings"], "kind": "document"}})
    with pytest.raises(ValueError, match=f"{info_of(index)}.*fingerprint feed.*Encode the queries again"):
        index.search_vectors(vectors, made_by={**manifest, "fingerprint": "feed"})
    with pytest.raises(ValueError, match=r"has to be \[queries, 238\] for this index, got \(4, 7\)"):
        index.search_vectors(vectors[:, :7])


def info_of(index):
    return index.info["model_fingerprint"]


def test_another_model_is_refused_with_both_fingerprints(model, index, tmp_path):
    other = milco_hf.load(tiny.checkpoint(tmp_path / "other", seed=1), device="cpu")
    opened = Index.load(index.path, other)
    with pytest.raises(ValueError, match=f"{info_of(index)}.*[0-9a-f]{{64}}.*--overwrite.*--any-model"):
        opened.search("old city")
    shorter = milco_hf.load(tiny.checkpoint(tmp_path / "shorter", query_length=8), device="cpu")
    with pytest.raises(ValueError, match="weights, tokenizer, lengths"):
        Index.load(index.path, shorter).search("old city")
    with pytest.raises(ValueError, match="fingerprint"):
        opened.add(["a text"])
    assert Index.load(index.path, other, check_fingerprint=False).search("old city")


def test_an_index_that_was_replaced_takes_no_documents_of_the_model_before(model, tmp_path):
    old = build(model, tmp_path / "i", ["the old one"])
    other = milco_hf.load(tiny.checkpoint(tmp_path / "other", seed=1), device="cpu")
    new = build(other, tmp_path / "i", ["the new one"], overwrite=True)
    with pytest.raises(ValueError, match="was replaced since it was opened: its fingerprint was .*Open it again"):
        old.add(["another"], progress=False)
    assert new.add(["another"], progress=False) == 1
    assert Index.load(tmp_path / "i", other).texts(["0", "1"]) == ["the new one", "another"]


def test_filters_of_many_or_large_values(index):
    everything = {hit.id for hit in index.search("old city", 100)}
    many = {"filter": {"year": [*range(2000, 2000 + len(DOCUMENTS)), *range(10_000, 15_000), 10**30, None, True]}}
    assert {hit.id for hit in index.search("old city", 100, **many)} == everything
    tags = [f"nobody {number}" for number in range(5000)]
    assert index.search("old city", filter={"tags": tags}) == []
    assert {hit.id for hit in index.search("old city", 100, filter={"year": {"lt": 10**30}})} == everything
    assert index.search("old city", filter={"year": 10**30}) == []


def test_save_copies_and_replaces_only_when_asked(model, index, tmp_path):
    copy = index.save(tmp_path / "copy")
    assert Index.load(copy, model).search(QUERIES) == index.search(QUERIES)
    assert index.save(index.path) == index.path
    other = build(model, tmp_path / "other", ["one text"])
    with pytest.raises(FileExistsError, match="overwrite=True"):
        other.save(copy)
    other.save(copy, overwrite=True)
    assert len(Index.load(copy, model)) == 1
    assert len(list(copy.glob("segment-*"))) == 1
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds no index"):
        index.save(tmp_path / "thesis", overwrite=True)


def test_an_index_that_is_searched_may_be_replaced(model, tmp_path):
    old = build(model, tmp_path / "i")
    before = old.search(QUERIES)
    build(model, tmp_path / "i", ["another text"], overwrite=True)
    assert old.search(QUERIES) == before
    assert len(Index.load(tmp_path / "i")) == 1


def test_threads_share_an_index(index):
    wanted, found = index.search(QUERIES, language="de"), []
    again = Index.load(index.path, index.model)
    threads = [threading.Thread(target=lambda: found.append(again.search(QUERIES, language="de"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 6


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"k": 0}, ValueError, "k has to be at least 1, got 0"),
        ({"queries": ["a", 3]}, TypeError, "got 3"),
        ({"language": []}, ValueError, "language has to be"),
        ({"language": [3]}, ValueError, "language has to be"),
        ({"filter": "year"}, TypeError, "filter has to be a dictionary"),
        ({"filter": {"year": []}}, ValueError, "'year' has an empty list"),
        ({"filter": {"year": {"above": 3}}}, ValueError, "takes the bounds gt, gte, lt, lte"),
        ({"filter": {"year": {"gt": None}}}, ValueError, "bounded by a number or a string"),
        ({"filter": {"year": [[1]]}}, ValueError, "'year' has to be a string"),
        ({"filter": {'a"b': 1}}, ValueError, "quote"),
        ({"filter": {"year": 10**400}}, ValueError, "'year' has a number of 1329 bits, which is too large"),
        ({"filter": {"year": [*range(10_001)]}}, ValueError, "at most 10,000 values, got 10,002"),
        ({"filter": {str(number): 1 for number in range(101)}}, ValueError, "at most 100 keys, got 101"),
        ({"prune": "half"}, ValueError, "got 'half'"),
    ],
)
def test_searches_that_cannot_be(index, asked, error, message):
    with pytest.raises(error, match=message):
        index.search(**{"queries": "old city", **asked})


@pytest.mark.slow
def test_a_fresh_process_opens_model_and_index(index, tmp_path):
    code = """
    import sys
    from milco_hf.index import Index
    index = Index.load(sys.argv[1], device="cpu")
    result = [[[hit.id, hit.score] for hit in hits] for hits in index.search(sys.argv[2:], 5)]
    """
    found = fresh.run(code, index.path, *QUERIES, cwd=tmp_path, milco_hf=True)
    for hits, wanted in zip(found, index.search(QUERIES, 5), strict=True):
        assert [name for name, _ in hits] == [hit.id for hit in wanted]
        np.testing.assert_allclose([score for _, score in hits], [hit.score for hit in wanted], rtol=1e-5)
