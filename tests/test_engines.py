"""Engines that run in this process, and what all engines share: batches, journal, resuming, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import sparse

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
from milco_hf.encoding.folder import VectorFolder
from milco_hf.engines import BusyError, Engine, EngineError, agreement, connect, export
from milco_hf.engines.batches import Batch, checked_rows, read_batches, shortest
from milco_hf.engines.retry import Backoff, TooLargeError, retry


class Memory(Engine):
    """The smallest engine there can be: a dictionary."""

    name = "memory"
    batch_size = 100

    def __init__(self, collection="docs"):
        super().__init__(collection)
        self.there = None
        self.note = None
        self.sizes = []
        self.break_after = None

    @property
    def address(self):
        return "memory"

    def exists(self):
        return self.there is not None

    def count(self):
        return len(self.there)

    def delete(self):
        self.there = self._about = None

    def close(self):
        pass

    def _create(self, dimensions, about):
        self.there, self.note = {}, about

    def _read_about(self):
        return self.note

    def write(self, batch):
        if self.break_after is not None and len(self.sizes) == self.break_after:
            raise EngineError("the disk is full")
        self.sizes.append(len(batch.ids))
        self.there.update((document.id, document) for document in batch.documents())

    def _search(self, asked, k):
        names = list(self.there)
        rows = [self.there[name] for name in names]
        ends = np.cumsum([0] + [len(row.indices) for row in rows])
        data = np.array([value for row in rows for value in row.values])
        columns = np.array([index for row in rows for index in row.indices])
        return exact(sparse.csr_array((data, columns, ends), shape=(len(rows), WIDTH)), asked, k, names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """1,000 documents in three shards, one of them empty."""
    return write_folder(tmp_path_factory.mktemp("engines") / "vectors")


@pytest.fixture
def texts(tmp_path):
    write_texts(tmp_path / "texts.jsonl")
    return tmp_path / "texts.jsonl"


def uploaded(engine, folder, tmp_path, **kwargs):
    engine.create(folder)
    return engine.upload(folder, journal=tmp_path / "journal.json", progress=False, **kwargs)


# Batches


def test_batches_hold_every_row_once_and_exactly(folder, texts):
    batches = list(read_batches(folder, texts, batch_size=150))
    assert [name for batch in batches for name in batch.ids] == IDS
    assert max(len(batch.ids) for batch in batches) == 150
    together = sparse.vstack([batch.matrix for batch in batches], format="csr")
    assert (together != matrix()).nnz == 0
    assert batches[1].texts[0] == "Text 150: Straße, 図書館, كتاب"
    document = list(batches[0].documents())[EMPTY]
    assert document.indices == document.values == []


def test_batches_start_at_any_row(folder, texts):
    for start in (0, 399, 400, 401, 999, 1000):
        batches = list(read_batches(folder, texts, start=start, batch_size=300))
        assert [name for batch in batches for name in batch.ids] == IDS[start:]
        assert [batch.start for batch in batches[:1]] == ([start] if start < 1000 else [])
        assert [text for batch in batches for text in batch.texts][:1] == [
            f"Text {start}: Straße, 図書館, كتاب" for _ in range(start < 1000)
        ]


def test_batches_stay_below_their_bytes(folder):
    batches = list(read_batches(folder, batch_size=500, batch_bytes=20_000))
    sizes = [len(json.dumps([document._asdict() for document in batch.documents()])) for batch in batches]
    assert max(sizes) < 40_000
    assert len(batches) > 10
    assert sum(len(batch.ids) for batch in list(read_batches(folder, batch_bytes=1))) == DOCUMENTS


def test_weights_are_shortest_decimals_that_are_the_same_fp32():
    weights = np.random.default_rng(0).gamma(2, 0.4, 1000).astype(np.float32)
    found = shortest(weights)
    np.testing.assert_array_equal(np.array(found, dtype=np.float32), weights)
    assert len(json.dumps(found)) < 0.75 * len(json.dumps(weights.tolist()))


@pytest.mark.parametrize("bad", [-0.5, np.nan, np.inf])
def test_weights_that_no_engine_takes_are_named(bad, tmp_path):
    vectors = matrix(20)
    row = np.flatnonzero(np.diff(vectors.indptr))[12]
    vectors.data[vectors.indptr[row] + 1] = bad
    spoilt = write_folder(tmp_path / "v", vectors, IDS[:20])
    with pytest.raises(ValueError, match=f"row {row} of .* is {bad}"):
        list(read_batches(spoilt))


def test_zeros_and_denormal_numbers_are_left_out():
    row = sparse.csr_array(np.array([[0.0, 1e-40, 0.5]], dtype=np.float32))
    row.data[0] = 1e-40
    found = checked_rows(row, str)
    assert found.indices.tolist() == [2]


def test_characters_that_engines_do_not_store_become_replacement_characters(tmp_path):
    lines = [json.dumps({"_id": name, "text": "a\x00b\ud800c\td"}) for name in IDS[:3]]
    (tmp_path / "t.jsonl").write_text("\n".join(lines), encoding="utf-8")
    small = write_folder(tmp_path / "v", matrix(3), IDS[:3])
    (batch,) = read_batches(small, tmp_path / "t.jsonl")
    assert batch.texts == ["a\ufffdb\ufffdc\td"] * 3


def test_texts_of_another_corpus_are_refused(folder, tmp_path):
    for ids, message in (
        (IDS[:999], "only 999 texts"),
        ([*IDS, "more"], "more texts than the 1000 rows"),
        ([*IDS[:10], "other", *IDS[11:]], "Text number 10 .* 'other', but the vector's is 'd10'"),
    ):
        write_texts(tmp_path / "t.jsonl", ids)
        with pytest.raises(ValueError, match=message):
            list(read_batches(folder, tmp_path / "t.jsonl"))


# What every engine does


def test_an_upload_and_a_search(folder, texts, tmp_path):
    engine = Memory()
    engine.create(folder)
    assert engine.upload(folder, texts, journal=tmp_path / "j", progress=False) == DOCUMENTS
    assert engine.count() == DOCUMENTS
    assert engine.there["d5"].text.startswith("Text 5:")
    assert_rankings(engine.search(queries()), exact(matrix(), queries()))
    assert engine.search(queries())[EMPTY] == []
    assert engine.about()["model"] == "tiny"


def test_documents_without_ids_are_named_by_their_rows(tmp_path):
    engine = Memory()
    assert uploaded(engine, write_folder(tmp_path / "v", matrix(500), None), tmp_path) == 500
    assert list(engine.there) == [str(row) for row in range(500)]


def test_an_upload_that_broke_goes_on_after_the_last_batch(folder, texts, tmp_path):
    engine = Memory()
    engine.break_after = 5
    engine.create(folder)
    journal = tmp_path / "journal.json"
    with pytest.raises(EngineError, match="disk is full"):
        engine.upload(folder, texts, journal=journal, progress=False)
    assert json.loads(journal.read_text())["rows"] == len(engine.there) == 500
    engine.break_after = None
    assert engine.upload(folder, texts, journal=journal, progress=False) == 500
    assert list(engine.there) == IDS
    assert engine.upload(folder, texts, journal=journal, progress=False) == 0  # all there
    assert engine.upload(folder, texts, journal=journal, progress=False, resume=False) == DOCUMENTS


def test_a_journal_of_something_else_starts_anew(folder, texts, tmp_path):
    engine, journal = Memory(), tmp_path / "journal.json"
    uploaded(engine, folder, tmp_path)
    # with texts now; into a collection made anew; other vectors of the same model
    assert engine.upload(folder, texts, journal=journal, progress=False) == DOCUMENTS
    engine.create(folder, replace=True)
    assert engine.upload(folder, texts, journal=journal, progress=False) == DOCUMENTS
    other = write_folder(tmp_path / "other", matrix(30), [f"o{i}" for i in range(30)])
    assert engine.upload(other, journal=journal, progress=False) == 30
    journal.write_text("[]")
    with pytest.raises(ValueError, match="no journal of an upload"):
        engine.upload(folder, journal=journal, progress=False)


def test_the_journal_lies_beside_the_vectors_unless_told_otherwise(tmp_path):
    own = write_folder(tmp_path / "v", matrix(20), IDS[:20])
    engine = Memory()
    engine.create(own)
    engine.upload(own, progress=False)
    (path,) = (tmp_path / "v").glob("upload-memory-*.json")
    assert json.loads(path.read_text())["rows"] == 20
    VectorFolder(tmp_path / "v").load()  # still a folder of vectors
    with pytest.raises(OSError, match="--journal"):
        engine.upload(own, journal=tmp_path / "no" / "such" / "folder.json", progress=False)


def test_a_batch_that_is_too_large_is_halved(folder, tmp_path):
    class Narrow(Memory):
        def write(self, batch):
            if len(batch.ids) > 30:
                raise TooLargeError("413", 413)
            super().write(batch)

    engine = Narrow()
    assert uploaded(engine, folder, tmp_path) == DOCUMENTS
    assert list(engine.there) == IDS
    assert max(engine.sizes) <= 30
    engine = Narrow()
    engine.write = lambda batch: (_ for _ in ()).throw(TooLargeError("413", 413))
    with pytest.raises(TooLargeError):
        uploaded(engine, folder, tmp_path)


def test_empty_documents_are_left_out_where_the_engine_keeps_none(folder, tmp_path, caplog):
    engine = Memory()
    engine.stores_empty = False
    uploaded(engine, folder, tmp_path)
    assert engine.count() == DOCUMENTS - 1
    assert IDS[EMPTY] not in engine.there
    assert "1 documents have no dimension" in caplog.text


def test_documents_that_vanish_are_noticed(folder, tmp_path):
    class Forgetful(Memory):
        def finish(self):
            self.there.popitem()

    with pytest.raises(EngineError, match="has 999 documents after an upload of 1000"):
        uploaded(Forgetful(), folder, tmp_path)


def test_other_models_are_refused_with_both_fingerprints(folder, tmp_path):
    engine = Memory()
    uploaded(engine, folder, tmp_path)
    other = write_folder(tmp_path / "q", queries(), IDS[:20], kind="query", fingerprint="e" * 64)
    for call in (lambda: engine.search(other), lambda: engine.upload(other, journal=tmp_path / "j2")):
        with pytest.raises(ValueError, match=f"{'f' * 64}.*{'e' * 64}"):
            call()
    same = write_folder(tmp_path / "q2", queries(), IDS[:20], kind="query")
    assert_rankings(engine.search(same), exact(matrix(), queries()))


def test_refusals(folder, tmp_path):
    engine = Memory()
    with pytest.raises(FileNotFoundError, match="create it first"):
        engine.upload(folder)
    engine.create(folder)
    with pytest.raises(FileExistsError, match="--replace"):
        engine.create(folder)
    with pytest.raises(ValueError, match="499 dimensions"):
        engine.search(sparse.csr_array(np.ones((1, 499), dtype=np.float32)))
    with pytest.raises(ValueError, match="k has to be at least 1"):
        engine.search(queries(), 0)
    with pytest.raises(ValueError, match="query number 1 is -1"):
        engine.search(sparse.csr_array(np.vstack([np.ones(WIDTH), -np.ones(WIDTH)])))
    engine.most_results = 100
    with pytest.raises(ValueError, match="at most 100"):
        engine.search(queries(), 101)
    engine.most_entries = 12
    with pytest.raises(ValueError, match="dimensions; memory takes at most 12.*--prune"):
        engine.upload(folder)
    engine.most_entries, engine.longest_id = None, 20
    with pytest.raises(ValueError, match="Row 3 .* this engine takes 20"):
        engine.upload(folder)
    assert engine.sizes == []
    engine.longest_id = None
    with pytest.raises(ValueError, match="did not finish"):
        engine.upload(write_folder(tmp_path / "half", complete=False))
    twice = write_folder(tmp_path / "twice", matrix(450), [*IDS[:449], IDS[12]])
    with pytest.raises(ValueError, match="Rows 12 and 449"):
        engine.upload(twice)
    for number, bad in enumerate(["", "a\x00", "\ufffe"]):
        odd = write_folder(tmp_path / f"odd{number}", matrix(3), ["x", bad, "y"])
        with pytest.raises(ValueError, match="Row 1 .* cannot store"):
            engine.upload(odd)
    with pytest.raises(ValueError, match="name of a collection"):
        Memory("")


# Trying again


def test_backoff_grows_and_is_bounded(monkeypatch):
    backoff = Backoff(attempts=8, first=1.0, longest=10.0)
    monkeypatch.setattr("random.random", lambda: 1.0)
    assert [backoff.wait(n) for n in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    assert backoff.wait(1, asked=7.0) == 7
    assert backoff.wait(1, asked=3600.0) == 10
    monkeypatch.setattr("random.random", lambda: 0.0)
    assert backoff.wait(2) == 1
    for bad in ({"attempts": 0}, {"first": -1}):
        with pytest.raises(ValueError, match="at least 1 attempt"):
            Backoff(**bad)


def test_retry_gives_up_after_its_attempts():
    calls = []

    def busy():
        calls.append(1)
        if len(calls) < 3:
            raise BusyError("busy")
        return "done"

    assert retry(busy, QUICK) == "done"
    calls.clear()
    with pytest.raises(BusyError):
        retry(busy, Backoff(attempts=2, first=0.0))
    assert len(calls) == 2

    def broken():
        calls.append(1)
        raise EngineError("no")

    calls.clear()
    with pytest.raises(EngineError):
        retry(broken, QUICK)
    assert len(calls) == 1


# The registry


def test_unknown_engines_and_options_are_named():
    with pytest.raises(ValueError, match="no engine 'solr'; there are elasticsearch, milvus"):
        connect("solr", "docs")
    with pytest.raises(ValueError, match="qdrant has no option index; it has url, path"):
        connect("qdrant", "docs", index=1)
    with pytest.raises(ValueError, match="opensearch has no option headers; it has url, .*, backoff, approximate, "):
        connect("opensearch", "docs", headers={})


@pytest.mark.parametrize("name", ["elasticsearch", "milvus", "opensearch", "qdrant", "vespa"])
def test_an_engine_without_an_address_says_so(name):
    with pytest.raises(ValueError, match="--url"):
        connect(name, "docs")


# Qdrant, in this process


@pytest.fixture
def qdrant():
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
    with connect("qdrant", "docs", url=":memory:") as engine:
        yield engine


def test_qdrant_ranks_as_the_products_do(qdrant, folder, texts, tmp_path):
    qdrant.create(folder)
    assert qdrant.upload(folder, texts, journal=tmp_path / "j", progress=False) == DOCUMENTS
    assert qdrant.count() == DOCUMENTS
    assert_rankings(qdrant.search(queries()), exact(matrix(), queries()))
    assert qdrant.about()["fingerprint"] == "f" * 64
    found = agreement(qdrant, folder, sample=10)
    assert found.recall == 1
    assert found.error < 1e-5
    assert found.queries in (9, 10)
    (point,), _ = qdrant._client.scroll("docs", limit=1)
    assert set(point.payload) == {"id", "text"}


def test_qdrant_takes_documents_again_without_doubling_them(qdrant, folder, tmp_path):
    uploaded(qdrant, folder, tmp_path)
    assert qdrant.upload(folder, journal=tmp_path / "j2", progress=False) == DOCUMENTS
    assert qdrant.count() == DOCUMENTS
    qdrant.delete()
    assert not qdrant.exists()


def test_sentence_transformers_searches_our_qdrant_collection(qdrant, folder, tmp_path):
    """Its helper finds the vector by its name, and gives Qdrant's own ids."""
    import torch
    from sentence_transformers.sparse_encoder.search_engines import semantic_search_qdrant

    from milco_hf.engines.qdrant import point_id

    uploaded(qdrant, folder, tmp_path)
    asked = queries()[:3].tocoo()
    tensor = torch.sparse_coo_tensor(np.stack(asked.coords), asked.data, asked.shape, check_invariants=True)
    found, _ = semantic_search_qdrant(tensor, corpus_index=(qdrant._client, "docs"), top_k=5)
    expected = exact(matrix(), queries()[:3], 5)
    assert [[hit["corpus_id"] for hit in hits] for hits in found] == [
        [point_id(name) for name, _ in ranking] for ranking in expected
    ]


def test_qdrant_on_disk_goes_on_in_another_process(tmp_path):
    """Two clients, one after the other, as two runs of the command."""
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
    few = write_folder(tmp_path / "few", matrix(100), IDS[:100])
    where, journal = tmp_path / "qdrant", tmp_path / "journal.json"
    with connect("qdrant", "docs", path=where) as engine:
        engine.create(few)
        write, sizes = engine.write, []

        def breaks(batch):
            if len(sizes) == 2:
                raise EngineError("killed")
            sizes.append(len(batch.ids))
            write(batch)

        engine.write = breaks
        with pytest.raises(EngineError, match="killed"):
            engine.upload(few, batch_size=30, journal=journal, progress=False)
    with export(few, "qdrant", "docs", path=where, journal=journal, batch_size=30, progress=False) as engine:
        assert json.loads(journal.read_text())["rows"] == 100
        assert engine.count() == 100
        assert sizes == [30, 30]
        assert_rankings(engine.search(queries()[:4]), exact(matrix(100), queries()[:4], ids=IDS[:100]))


def test_qdrant_errors_are_ours(qdrant, monkeypatch):
    import httpx
    from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    monkeypatch.setattr(qdrant, "_backoff", QUICK)

    def answers(*errors):
        left = list(errors)

        def call():
            if left:
                raise left.pop(0)
            return "done"

        return call

    def response(status):
        return UnexpectedResponse(status, "", b'{"status": "x"}', httpx.Headers())

    refused = ResponseHandlingException(httpx.ConnectError("refused"))
    assert qdrant._call(answers(refused, response(503), ResourceExhaustedResponse("slow", 0))) == "done"
    with pytest.raises(TooLargeError):
        qdrant._call(answers(response(413)))
    with pytest.raises(EngineError, match="400"):
        qdrant._call(answers(response(400)))
    with pytest.raises(BusyError):
        qdrant._call(answers(*[response(429)] * 4))
    with pytest.raises(EngineError, match="does not read"):
        qdrant._call(answers(ResponseHandlingException(ValueError("no field"))))


def test_qdrant_arguments():
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
    with pytest.raises(ValueError, match="either a url"):
        connect("qdrant", "docs", url="http://localhost:6333", path="x")
    with pytest.raises(ValueError, match="no user and password"):
        connect("qdrant", "docs", url="http://me:secret@localhost:6333")
    with pytest.raises(ValueError, match="http://HOST:PORT") as error:
        connect("qdrant", "docs", url="ftp://me:secret@localhost")
    assert "secret" not in str(error.value)


def test_halves_of_a_batch_are_the_batch(folder):
    (batch, *_) = read_batches(folder, batch_size=7)
    left, right = batch.halves()
    assert left.ids + right.ids == batch.ids
    assert right.start == batch.start + len(left.ids)
    assert isinstance(right, Batch)
