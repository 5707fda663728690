"""`milco index` and `milco search`."""

from __future__ import annotations

import io
import json
import sys

import pytest

from helpers_index import DOCUMENTS, QUERIES, command
from milco_hf.index import Index
from milco_hf.index.filters import parse_filters


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    rows = [{"_id": row["id"], "body": row["text"], **{k: row[k] for k in ("language", "year")}} for row in DOCUMENTS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def path(corpus, checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "index"
    command("index", corpus, "--output", folder, "--model", checkpoint, "--device", "cpu", "--field", "text=body")
    return folder


def test_index_says_what_there_is(corpus, checkpoint, tmp_path, capsys):
    options = [
        "--passages",
        4,
        "--prune-documents",
        "english=top_k:5",
        "source=mass:0.9",
        "--prune-queries",
        "top_k:20",
    ]
    where = ["--output", tmp_path / "i", "--model", checkpoint, "--devices", "cpu", "--field", "text=body"]
    command("index", corpus, *where, *options, "--query-length", 20, "--shard-size", 9, "--views", "both")
    said = capsys.readouterr()
    assert said.out == ""
    index = Index.load(tmp_path / "i")
    info = index.info
    assert f"{len(DOCUMENTS)} documents in {info['passages']} passages" in said.err
    assert "engine: exact" in said.err
    assert f"index fingerprint {info['fingerprint'][:16]}" in said.err
    assert info["pruning"] == {
        "documents": {"english": "top_k:5", "source": "mass:0.9"},
        "queries": {"both": "top_k:20"},
    }
    assert info["lengths"] == {"max_length": None, "query_length": 20, "passage_length": 4}
    with pytest.raises(FileExistsError, match="--overwrite"):
        command("index", corpus, *where)
    (tmp_path / "more.txt").write_text("one more text\n", encoding="utf-8")
    command("index", tmp_path / "more.txt", "--output", tmp_path / "i", "--add", "--device", "cpu", "--language", "en")
    assert "added 1 documents" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--prune does not go with --add"):
        command("index", corpus, "--output", tmp_path / "i", "--add", "--prune", "top_k:3")
    command("index", tmp_path / "more.txt", *where[:-2], "--overwrite", "--engine", "exact")
    assert len(Index.load(tmp_path / "i")) == 1


def test_search_prints_for_people(path, capsys):
    command("search", path, QUERIES[0], QUERIES[1], "-k", 2, "--device", "cpu")
    said = capsys.readouterr().out
    hits = Index.load(path, device="cpu").search(QUERIES[:2], 2)
    first = said.split("\n\n")[0].splitlines()
    assert first[0] == QUERIES[0]
    assert f"{hits[0][0].score:7.3f}" in first[1]
    assert hits[0][0].id in first[1]
    assert hits[0][0].text.split()[0] in first[1]
    command("search", path, QUERIES[0], "--filter", "year=1", "--device", "cpu")
    assert "nothing found" in capsys.readouterr().out


def test_search_reads_standard_input_and_prints_json(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("old city\nmusic\n"))
    asked = ["--language", "de", "ru", "--filter", "year>=2001", "--prune-queries", "english=top_k:3"]
    command("search", path, "--json", "--device", "cpu", "-k", 3, *asked)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["query"] for row in rows] == ["old city", "music"]
    wanted = Index.load(path, device="cpu").search(
        "music", 3, language=["de", "ru"], filter={"year": {"gte": 2001}}, prune="english=top_k:3"
    )
    assert [hit["id"] for hit in rows[1]["hits"]] == [hit.id for hit in wanted]


def test_search_writes_runs(path, tmp_path, capsys):
    (tmp_path / "queries.tsv").write_text("id\ttext\nq1\told city\nq2\tmusic\n", encoding="utf-8")
    where = ["--queries", tmp_path / "queries.tsv", "--device", "cpu", "-k", 3]
    command("search", path, *where, "--output", tmp_path / "run.trec")
    rows = [line.split() for line in (tmp_path / "run.trec").read_text(encoding="utf-8").splitlines()]
    hits = Index.load(path, device="cpu").search("music", 3)
    assert [row[2] for row in rows if row[0] == "q2"] == [hit.id for hit in hits]
    assert [row[3] for row in rows if row[0] == "q1"] == ["1", "2", "3"]
    assert f"{len(rows)} lines" in capsys.readouterr().err
    command("search", path, *where, "--output", tmp_path / "hits.jsonl.gz")
    (tmp_path / "spaces.jsonl").write_text('{"id": "a query", "text": "old city"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="holds whitespace"):
        command(
            "search", path, "--queries", tmp_path / "spaces.jsonl", "--output", tmp_path / "b.trec", "--device", "cpu"
        )
    assert not (tmp_path / "b.trec").exists()


def test_filters_as_words():
    assert parse_filters(["source=news", "source=tico", "year>=2000", "year<2010"]) == {
        "source": ["news", "tico"],
        "year": {"gte": 2000, "lt": 2010},
    }
    assert parse_filters(["a=true", "b=null", "c=1.5", 'd="1"', "e=[1]", "f=a=b", "g>x"]) == {
        "a": [True],
        "b": [None],
        "c": [1.5],
        "d": ["1"],
        "e": ["[1]"],
        "f": ["a=b"],
        "g": {"gt": "x"},
    }
    for words in (["year"], ["=3"], ["year=1", "year>2"], ["year>2", "year=1"]):
        with pytest.raises(ValueError, match="--filter"):
            parse_filters(words)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "no-such-index", "a"], "no-such-index holds no index.json"),
        (["search", "i", "a", "--queries", "file"], "not both"),
        (["search", "i", "a", "--json", "--output", "x"], "--json is for what is printed"),
        (["index", "no-such-file.jsonl", "--output", "i"], "no-such-file.jsonl"),
        (["index", "a.txt", "--output", "i", "--field", "body"], "--field takes NAME=KEY"),
        (["index", "a.txt", "--output", "i", "--add", "--overwrite"], "--overwrite does not go with --add"),
    ],
)
def test_commands_that_cannot_be(checkpoint, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("a\n", encoding="utf-8")
    if arguments[0] == "index":
        arguments = [*arguments, "--model", str(checkpoint)]
    with pytest.raises((ValueError, OSError), match=message):
        command(*arguments)
