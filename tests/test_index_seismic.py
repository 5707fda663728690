"""Seismic: how much it finds, with what scores, under filters, beside documents that came later."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from scipy import sparse

import milco_hf
from helpers_index import DOCUMENTS, QUERIES, TEXTS, assert_found, expected
from milco_hf.index import Index
from milco_hf.index import searching as searching_module
from milco_hf.index.exact import ExactSearch
from milco_hf.index.recall import measure_recall, sample_queries
from milco_hf.index.seismic import EFFORTS, SeismicSearch, build_seismic
from milco_hf.index.store import DocumentStore

pytest.importorskip("seismic")
IDS = [document["id"] for document in DOCUMENTS]


@pytest.fixture(scope="module")
def model(checkpoint):
    return milco_hf.load(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def index(model, tmp_path_factory):
    return Index.build(model, DOCUMENTS, tmp_path_factory.mktemp("index") / "index", engine="seismic", progress=False)


class Memory:
    """Vectors in memory that look like an index's, split into documents of several rows where asked."""

    def __init__(self, matrix, rows_a_document=1):
        self.matrix, self.width, self.split = matrix, matrix.shape[1], rows_a_document > 1
        self.documents = matrix.shape[0] // rows_a_document
        self.starts = np.arange(0, matrix.shape[0] + 1, rows_a_document) if self.split else None

    def __len__(self):
        return self.matrix.shape[0]

    def first_row(self, document):
        return document if self.starts is None else int(self.starts[document])

    def documents_of(self, rows):
        return rows if self.starts is None else np.searchsorted(self.starts, rows, side="right") - 1

    def rows_of(self, documents):
        rows = [np.arange(self.first_row(d), self.first_row(d + 1)) for d in documents]
        return np.concatenate(rows), np.cumsum([0, *map(len, rows[:-1])])

    def slice(self, first, last):
        return self.matrix[first:last]

    def take(self, rows):
        return self.matrix[rows]


def random_rows(rows, dimensions, active, seed=0):
    """Sparse rows whose dimensions are as unequally frequent as words are."""
    generator = np.random.default_rng(seed)
    columns = (dimensions * generator.random((rows, active)) ** 2).astype(np.int64)
    values = generator.random((rows, active)).astype(np.float32) ** 2 + 0.01
    matrix = sparse.csr_array(
        (values.ravel(), columns.ravel(), np.arange(0, rows * active + 1, active)), shape=(rows, dimensions)
    )
    matrix.sum_duplicates()
    return matrix


@pytest.mark.parametrize(("dimensions", "rows_a_document"), [(900, 1), (900, 4), (200_000, 1)])
def test_recall_on_random_vectors(tmp_path, dimensions, rows_a_document):
    rows = Memory(random_rows(1200, dimensions, 40), rows_a_document)
    queries = random_rows(30, dimensions, 25, seed=1)
    build_seismic(rows, tmp_path / "s")
    seismic, exact = SeismicSearch(rows, tmp_path / "s", EFFORTS[-1]), ExactSearch(rows)
    wanted, _ = exact.search(queries, 10)
    scores, places = seismic.search(queries, 10)
    kept = wanted > -np.inf
    assert (
        np.mean(scores[kept] >= wanted.min(axis=1, initial=np.inf, where=kept, keepdims=True).repeat(10, 1)[kept]) > 0.9
    )
    dense = (queries @ rows.matrix.T).toarray().reshape(30, rows.documents, rows_a_document).max(axis=2)
    for row in range(30):
        found = scores[row] > -np.inf
        np.testing.assert_allclose(scores[row][found], dense[row][places[row][found]], rtol=1e-5)
        assert len(set(places[row][found])) == found.sum()
    about = measure_recall(seismic, exact, queries, 0.9)
    assert about["recall"] == about["tried"][-1]["recall"] >= 0.9
    assert about["effort"] in [effort.to_dict() for effort in EFFORTS]


def test_a_recall_that_is_not_reached_is_said(tmp_path, caplog, monkeypatch):
    rows = Memory(random_rows(60, 50, 5))
    build_seismic(rows, tmp_path / "s")
    seismic = SeismicSearch(rows, tmp_path / "s", EFFORTS[0])
    original = seismic.search
    monkeypatch.setattr(seismic, "search", lambda queries, k, effort: original(queries, 1, effort=effort))
    about = measure_recall(seismic, ExactSearch(rows), random_rows(5, 50, 5, seed=1), 1.0)
    assert len(about["tried"]) == len(EFFORTS)
    assert about["recall"] < 1
    assert "less than the 100.0 % asked for" in caplog.text


def test_the_index_finds_what_exact_search_finds(model, index):
    info = index.info
    assert info["engine"] == "seismic"
    assert info["recall"]["recall"] >= 0.95
    assert info["recall"]["queries"] == len(DOCUMENTS)
    assert_found(index.search(QUERIES, 5), expected(model, TEXTS, QUERIES, 5), IDS)
    exact = Index.load(index.path, model, engine="exact")
    assert exact.info["engine"] == "exact"
    assert exact.info["recall"] is None
    assert_found(exact.search(QUERIES, 5), expected(model, TEXTS, QUERIES, 5), IDS)


def test_a_query_without_known_dimensions_finds_nothing(index):
    width = sum(index.info["dimensions"].values())
    assert index.search_vectors(sparse.csr_array((2, width), dtype=np.float32)) == [[], []]


@pytest.mark.parametrize("few", [0, 50_000])
@pytest.mark.parametrize("asked", [{"language": "de"}, {"filter": {"tags": 1}}, {"filter": {"year": {"gte": 2003}}}])
def test_filters(model, index, monkeypatch, few, asked):
    monkeypatch.setattr(searching_module, "EXACT_UP_TO", few)
    exact = Index.load(index.path, model, engine="exact")
    assert index.search(QUERIES, 20, **asked) == exact.search(QUERIES, 20, **asked)
    assert index.search(QUERIES, 3, filter={"year": 1}) == [[]] * len(QUERIES)


def test_what_is_added_is_found_beside_seismic_and_then_in_it(model, tmp_path, monkeypatch):
    index = Index.build(model, DOCUMENTS[:8], tmp_path / "i", engine="seismic", passage_length=3, progress=False)
    index.add(DOCUMENTS[8:14], progress=False)
    manifest = json.loads((tmp_path / "i" / "index.json").read_text(encoding="utf-8"))
    assert manifest["seismic"]["documents"] == 8
    exact = Index.load(tmp_path / "i", model, engine="exact")
    for asked in ({}, {"language": "de"}, {"filter": {"tags": 0}}):
        found, wanted = index.search(QUERIES, 6, **asked), exact.search(QUERIES, 6, **asked)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose([hit.score for hit in one], [hit.score for hit in other], rtol=1e-5)
    monkeypatch.setattr("milco_hf.index.building.EXACT_UP_TO", 3)
    index.add(DOCUMENTS[14:], progress=False)
    manifest = json.loads((tmp_path / "i" / "index.json").read_text(encoding="utf-8"))
    assert manifest["seismic"]["documents"] == len(DOCUMENTS)
    copy = index.save(tmp_path / "copy")
    assert Index.load(copy, model, engine="seismic").search(QUERIES) == index.search(QUERIES)


def test_ids_of_any_length_do_not_collide(model, tmp_path):
    documents = [{"id": "x" * 120 + str(place), "text": text} for place, text in enumerate(TEXTS)]
    index = Index.build(model, documents, tmp_path / "i", engine="seismic", progress=False)
    wanted = [document["id"] for document in documents]
    assert_found(index.search(QUERIES, 5), expected(model, TEXTS, QUERIES, 5), wanted)


def test_auto_takes_seismic_above_a_size(model, tmp_path, monkeypatch, caplog):
    assert Index.build(model, DOCUMENTS, tmp_path / "small", progress=False).info["engine"] == "exact"
    with pytest.raises(ValueError, match="has no Seismic lists"):
        Index.load(tmp_path / "small", engine="seismic")
    monkeypatch.setattr("milco_hf.index.building.EXACT_UP_TO", len(DOCUMENTS) - 1)
    assert Index.build(model, DOCUMENTS, tmp_path / "large", progress=False).info["engine"] == "seismic"
    monkeypatch.setattr("milco_hf.index.building.installed", lambda: False)
    assert Index.build(model, DOCUMENTS, tmp_path / "without", progress=False).info["engine"] == "exact"
    assert 'pip install "milco-hf[index]"' in caplog.text


def test_without_the_library(index, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "seismic", None)
    with pytest.raises(ImportError, match=r'pip install "milco-hf\[index\]"'):
        Index.load(index.path)
    assert Index.load(index.path, model, engine="exact").search("old city")


def test_a_file_of_seismic_that_is_broken_is_named(index, model, tmp_path):
    copy = index.save(tmp_path / "copy")
    (file,) = copy.glob("segment-*/seismic/*.seismic")
    file.write_bytes(b"broken")
    with pytest.raises(ValueError, match="cannot be read.*engine='exact'"):
        Index.load(copy)
    assert Index.load(copy, model, engine="exact").search("old city")


def test_building_prints_nothing(model, tmp_path, capfd):
    Index.build(model, DOCUMENTS, tmp_path / "i", engine="seismic", progress=False)
    assert capfd.readouterr().out == ""


def test_sample_queries_come_from_all_over(index):
    stores = [DocumentStore(path) for path in index.path.glob("segment-*/documents.sqlite")]
    assert len(sample_queries(stores, 5)) == 5
    assert sample_queries(stores, 1)[0] in TEXTS[0]
    assert {text in TEXTS[place] for place, text in enumerate(sample_queries(stores, 1000))} == {True}
