"""Files for Pyserini, Seismic and Vespa, and the command that writes them and uploads."""

from __future__ import annotations

import argparse
import gzip
import json
from collections import Counter

import numpy as np
import pytest
from scipy import sparse

from engine_stand_ins import Lucene
from helpers_engines import (
    DOCUMENTS,
    EMPTY,
    IDS,
    WIDTH,
    assert_rankings,
    exact,
    matrix,
    queries,
    write_folder,
    write_texts,
)
from milco_hf.cli import export as verb
from milco_hf.engines import ENGINES, write_application, write_pyserini, write_seismic


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("engines") / "vectors")


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    names = [f"q{i}" for i in range(20)]
    return write_folder(tmp_path_factory.mktemp("engines") / "queries", queries(), names, kind="query")


@pytest.fixture
def texts(tmp_path):
    write_texts(tmp_path / "texts.jsonl")
    return tmp_path / "texts.jsonl"


def rows_of(folder) -> list[dict]:
    rows = []
    for path in sorted(folder.glob("docs-*")):
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            rows += [json.loads(line) for line in lines]
    return rows


def as_matrix(rows: list[dict[str, float]]) -> sparse.csr_array:
    counts = np.cumsum([0] + [len(row) for row in rows])
    columns = np.array([int(term) for row in rows for term in row])
    values = np.array([weight for row in rows for weight in row.values()], dtype=np.float64)
    return sparse.csr_array((values, columns, counts), shape=(len(rows), WIDTH))


# Pyserini


def test_pyserini_documents_and_topics_score_as_the_vectors_do(folder, asked, texts, tmp_path):
    note = write_pyserini(folder, tmp_path / "docs", texts, factor=100, documents_a_file=300)
    rows = rows_of(tmp_path / "docs")
    assert [row["id"] for row in rows] == IDS
    assert len(list((tmp_path / "docs").glob("docs-*.jsonl.gz"))) == 4
    assert rows[2]["contents"] == "Text 2: Straße, 図書館, كتاب"
    assert rows[EMPTY]["vector"] == {}
    assert all(type(weight) is int and weight > 0 for row in rows for weight in row["vector"].values())
    kept = as_matrix([row["vector"] for row in rows])
    assert abs(kept / 100 - matrix()).max() <= 0.005 + 1e-6
    assert note["factor"] == 100
    assert note["entries"] + note["entries_rounded_to_zero"] == matrix().nnz
    assert note["entries_rounded_to_zero"] == int((matrix().data * 100 < 0.5).sum()) > 0
    assert json.loads((tmp_path / "docs" / "quantization.json").read_text()) == note

    # Anserini's searcher: the sum over a topic's words of the document's whole weight
    write_pyserini(asked, tmp_path / "topics", factor=50)
    with gzip.open(tmp_path / "topics" / "topics.tsv.gz", "rt") as lines:
        topics = [line.rstrip("\n").split("\t") for line in lines]
    assert [topic[0] for topic in topics] == [f"q{i}" for i in range(20)]
    words = as_matrix([Counter(topic[1].split()) for topic in topics])
    found = exact(kept, words, 10)
    wanted = exact(matrix(), queries(), 10)
    together = [len({n for n, _ in a} & {n for n, _ in b}) for a, b in zip(found, wanted) if b]
    assert np.mean(together) > 9.5
    for ours, theirs in zip(found, wanted):
        if theirs:
            assert ours[0][1] / (100 * 50) == pytest.approx(theirs[0][1], rel=0.02)


def test_pyserini_keeps_what_is_there_and_what_it_cannot_write(folder, asked, texts, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        write_pyserini(folder, tmp_path / "there")
    for factor in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="factor has to be above 0"):
            write_pyserini(folder, tmp_path / "x", factor=factor)
    with pytest.raises(ValueError, match="as large as"):
        write_pyserini(folder, tmp_path / "x", factor=1e8)
    with pytest.raises(ValueError, match="hold no texts"):
        write_pyserini(asked, tmp_path / "x", texts)
    blank = write_folder(tmp_path / "blank", queries()[:2], ["a b", "c"], kind="query")
    with pytest.raises(ValueError, match="white space"):
        write_pyserini(blank, tmp_path / "x")
    with pytest.raises(ValueError, match="documents_a_file"):
        write_pyserini(folder, tmp_path / "x", documents_a_file=0)
    assert not list(tmp_path.glob("x*"))  # nothing half done stays
    (tmp_path / "empty").mkdir()
    write_pyserini(folder, tmp_path / "empty", compress=False)
    assert len(rows_of(tmp_path / "empty")) == DOCUMENTS


# Seismic


def test_seismic_file_holds_the_vectors_exactly(folder, texts, tmp_path):
    assert write_seismic(folder, tmp_path / "docs.jsonl", texts) == {"rows": DOCUMENTS, "entries": matrix().nnz}
    rows = [json.loads(line) for line in (tmp_path / "docs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == IDS
    assert (as_matrix([row["vector"] for row in rows]).astype(np.float32) != matrix()).nnz == 0
    assert rows[0]["content"].startswith("Text 0:")
    with pytest.raises(FileExistsError, match="there already"):
        write_seismic(folder, tmp_path / "docs.jsonl")
    with pytest.raises(ValueError, match=r"\.jsonl"):
        write_seismic(folder, tmp_path / "docs.json")


def test_seismic_reads_its_file(folder, tmp_path):
    seismic = pytest.importorskip("seismic", reason="pyseismic-lsr is not installed")
    write_seismic(folder, tmp_path / "docs.jsonl")
    index = seismic.SeismicIndex.build(str(tmp_path / "docs.jsonl"), n_postings=DOCUMENTS, num_threads=1)
    assert index.len == DOCUMENTS
    found = []
    for start, end in zip(queries().indptr, queries().indptr[1:]):
        terms = queries().indices[start:end].astype("U").astype(seismic.get_seismic_string())
        weights = queries().data[start:end].astype(np.float32)
        hits = index.search("q", terms, weights, k=10, query_cut=len(terms), heap_factor=0.0) if len(terms) else []
        found.append([(name, score) for _, score, name in hits])
    wanted = exact(matrix(), queries())
    together = [len({n for n, _ in a} & {n for n, _ in b}) / len(b) for a, b in zip(found, wanted) if b]
    assert np.mean(together) > 0.9  # weights are halves there
    assert found[0][0][1] == pytest.approx(wanted[0][0][1], rel=0.01)
    assert {name for ranking in found for name, _ in ranking} <= set(IDS)


# Vespa's application


def test_an_application_is_written_whole_or_not_at_all(tmp_path):
    write_application(tmp_path / "app", "docs", wand=True)
    assert "weightedset<string>" in (tmp_path / "app" / "schemas" / "docs.sd").read_text()
    write_application(tmp_path / "app2", "docs")
    assert "weightedset" not in (tmp_path / "app2" / "schemas" / "docs.sd").read_text()
    with pytest.raises(FileExistsError, match="not empty"):
        write_application(tmp_path / "app", "docs")
    with pytest.raises(ValueError, match="no digit; got '1docs'"):
        write_application(tmp_path / "other", "1docs")
    assert not (tmp_path / "other").exists()


# The command


def milco_export(*arguments):
    parser = argparse.ArgumentParser()
    verb.add_parser(parser.add_subparsers(), [])
    options = parser.parse_args(["export", *map(str, arguments)])
    options.run(options)


def test_the_command_knows_every_engine():
    assert tuple(ENGINES) == verb.ENGINES


def test_the_command_uploads_and_compares(folder, texts, tmp_path, capsys):
    with Lucene("opensearch") as server:
        arguments = [folder.folder, "--to", "opensearch", "--url", server.url, "--collection", "docs"]
        arguments += [
            "--journal",
            tmp_path / "j",
            "--option",
            "timeout=60",
            "--option",
            'settings={"number_of_shards": 2}',
        ]
        milco_export(*arguments, "--texts", texts, "--check", 5)
        shown = capsys.readouterr().err
        assert f"1000 documents in docs at {server.url}" in shown
        assert "exact results found" in shown
        assert server.indices["docs"]["settings"]["index"] == {"number_of_shards": 2}
        sent = len(server.bulk_sizes)
        milco_export(*arguments, "--texts", texts)  # nothing is left to send
        assert len(server.bulk_sizes) == sent
        milco_export(*arguments, "--replace", "--batch-size", 100)
        assert len(server.bulk_sizes) == sent + 10


def test_the_command_uploads_to_a_folder_of_qdrant(tmp_path, capsys):
    pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
    few = write_folder(tmp_path / "few", matrix(100), IDS[:100])
    where, journal = tmp_path / "qdrant", tmp_path / "j"
    milco_export(
        few.folder, "--to", "qdrant", "--collection", "docs", "--option", f"path={where}", "--journal", journal
    )
    assert "100 documents in docs" in capsys.readouterr().err
    from milco_hf.engines import connect

    with connect("qdrant", "docs", path=where) as engine:
        assert_rankings(engine.search(queries()[:3]), exact(matrix(100), queries()[:3], ids=IDS[:100]))


def test_the_command_writes_files(folder, asked, tmp_path, capsys):
    milco_export(folder.folder, "--to", "pyserini", "--output", tmp_path / "p")
    assert "Weights × 100, rounded;" in capsys.readouterr().err
    assert len(rows_of(tmp_path / "p")) == DOCUMENTS
    milco_export(asked.folder, "--to", "pyserini", "--output", tmp_path / "t", "--factor", 20)
    assert (tmp_path / "t" / "topics.tsv.gz").is_file()
    milco_export(folder.folder, "--to", "seismic", "--output", tmp_path / "s.jsonl")
    milco_export(folder.folder, "--to", "vespa-app", "--output", tmp_path / "a", "--collection", "news")
    assert (tmp_path / "a" / "schemas" / "news.sd").is_file()
    assert "vespa deploy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "qdrant"], "needs --collection"),
        (["--to", "pyserini"], "needs --output"),
        (["--to", "pyserini", "--output", "x", "--url", "http://a"], "--url has no meaning with --to pyserini"),
        (["--to", "seismic", "--output", "x.jsonl", "--factor", "3"], "--factor has no meaning"),
        (["--to", "seismic", "--output", "x.jsonl", "--no-resume"], "--no-resume has no meaning"),
        (["--to", "pyserini", "--output", "x", "--collection", "c"], "--collection has no meaning"),
        (["--to", "vespa-app", "--output", "x", "--texts", "t"], "--texts has no meaning"),
        (["--to", "qdrant", "--collection", "c", "--output", "x"], "--output has no meaning"),
        (["--to", "qdrant", "--collection", "c", "--option", "path"], "NAME=VALUE"),
        (["--to", "qdrant", "--collection", "c", "--option", "path=a", "--option", "path=b"], "twice"),
        (["--to", "qdrant", "--collection", "c", "--option", "replace=true"], "replace is --replace"),
        (["--to", "qdrant", "--collection", "c", "--option", "nothing=1"], "no option nothing; it has"),
    ],
)
def test_the_command_refuses(arguments, message, folder):
    with pytest.raises(ValueError, match=message):
        milco_export(folder.folder, *arguments)


def test_the_command_refuses_numbers_below_one(folder, capsys):
    with pytest.raises(SystemExit):
        milco_export(folder.folder, "--to", "qdrant", "--collection", "c", "--batch-size", "0")
    assert "at least 1" in capsys.readouterr().err
