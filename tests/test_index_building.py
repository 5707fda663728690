"""Builds that die, are done again, or cannot be; and where documents come from."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import signal
import subprocess
import sys

import pytest

import milco_hf
import tiny
from helpers_index import DOCUMENTS, QUERIES
from milco_hf.encoding import run as run_module
from milco_hf.index import Document, Index, read_documents
from milco_hf.index import building as building_module

ROWS = [
    {"_id": "d1", "title": "Музыка", "text": "old city", "language": "ru", "year": 2001},
    {"_id": "d2", "title": "", "text": "quiet\tshop"},
]
READ = [Document("old city", "d1", "Музыка", "ru", {"year": 2001}), Document("quiet\tshop", "d2")]


@pytest.fixture(scope="module")
def model(checkpoint):
    return milco_hf.load(checkpoint, device="cpu")


def build(model, path, documents=DOCUMENTS, **options):
    return Index.build(model, documents, path, **{"progress": False, "shard_size": 7, **options})


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", ["reading", "encoding", "finishing"])
@pytest.mark.parametrize("there", [False, True])
def test_a_build_that_dies_leaves_the_old_index_and_goes_on(model, tmp_path, monkeypatch, at, there):
    path = tmp_path / "i"
    if there:
        build(model, path, ["the old one"])
    original = run_module.write_shard

    def write_shard(file, *rest):
        if file.name == "shard-00001.safetensors":
            raise Killed
        original(file, *rest)

    def read():
        yield from DOCUMENTS[:4]
        raise Killed

    with monkeypatch.context() as patch:
        if at == "encoding":
            patch.setattr(run_module, "write_shard", write_shard)
        if at == "finishing":
            patch.setattr(building_module, "write_manifest", write_shard_never)
        with pytest.raises(Killed):
            build(model, path, read() if at == "reading" else DOCUMENTS, overwrite=there)
    if there:
        assert Index.load(path, model).texts(["0"]) == ["the old one"]
    else:
        with pytest.raises(FileNotFoundError, match="Run the same build again"):
            Index.load(path, model)
    written = []
    monkeypatch.setattr(run_module, "write_shard", lambda *rest: (written.append(rest[0].name), original(*rest)))
    index = build(model, path, overwrite=there)
    assert len(index) == len(DOCUMENTS)
    assert ("shard-00000.safetensors" in written) == (at != "encoding")
    fresh = build(model, tmp_path / "fresh")
    assert index.search(QUERIES) == fresh.search(QUERIES)
    assert len(list(path.glob("segment-*"))) == 1
    assert not (path / "building").exists()


def write_shard_never(*_):
    raise Killed


def test_adding_leaves_a_build_that_waits_to_go_on(model, tmp_path, monkeypatch):
    path = tmp_path / "i"
    index = build(model, path, ["the old one"])
    original = run_module.write_shard

    def write_shard(file, *rest):
        if file.name == "shard-00001.safetensors":
            raise Killed
        original(file, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "write_shard", write_shard)
        with pytest.raises(Killed):
            build(model, path, overwrite=True)
    assert index.add(["a new one"], progress=False) == 1
    written = []
    monkeypatch.setattr(run_module, "write_shard", lambda *rest: (written.append(rest[0].name), original(*rest)))
    assert len(build(model, path, overwrite=True)) == len(DOCUMENTS)
    assert "shard-00000.safetensors" not in written


def test_a_build_with_other_settings_does_not_go_on(model, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(run_module.Run, "finish", write_shard_never)
        with pytest.raises(Killed):
            build(model, tmp_path / "i")
    with pytest.raises(ValueError, match="prune .* there and .*top_k:3.*resume=False"):
        build(model, tmp_path / "i", prune="top_k:3")
    with pytest.raises(ValueError, match="was made of other texts"):
        build(model, tmp_path / "i", [{**DOCUMENTS[0], "text": "changed"}, *DOCUMENTS[1:]])
    other = milco_hf.load(tiny.checkpoint(tmp_path / "other", seed=1), device="cpu")
    with pytest.raises(ValueError, match="another model: .*[0-9a-f]{64}.*[0-9a-f]{64}"):
        build(other, tmp_path / "i")
    assert build(model, tmp_path / "i", prune="top_k:3", resume=False).info["pruning"]["documents"] == {
        "both": "top_k:3"
    }


KILLED = """
import os, signal, sys
from milco_hf.index import Index
checkpoint, path, file = sys.argv[1:]
from milco_hf.encoding import run

original = run.write_shard
def write_shard(file, *rest):
    if file.name == "shard-00002.safetensors":
        os.kill(os.getpid(), signal.SIGKILL)
    original(file, *rest)
run.write_shard = write_shard
Index.build(checkpoint, file, path, shard_size=7, devices="cpu", overwrite=True, progress=False)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_process_that_is_killed_lets_go_of_the_index(checkpoint, model, tmp_path):
    path, file = tmp_path / "i", tmp_path / "corpus.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in DOCUMENTS), encoding="utf-8")
    build(model, path, ["the old one"])
    command = [sys.executable, "-c", KILLED, str(checkpoint), str(path), str(file)]
    assert subprocess.run(command, timeout=300, check=False).returncode == -signal.SIGKILL
    assert Index.load(path, model).texts(["0"]) == ["the old one"]
    begun = (path / "building" / "vectors" / "shard-00001.safetensors").stat().st_mtime_ns
    index = Index.build(checkpoint, file, path, shard_size=7, devices="cpu", overwrite=True, progress=False)
    assert len(index) == len(DOCUMENTS)
    (segment,) = path.glob("segment-*")
    assert (segment / "vectors" / "shard-00001.safetensors").stat().st_mtime_ns == begun


def test_two_builds_at_once_are_refused(model, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "i" / "building").mkdir(parents=True)
    with (tmp_path / "i" / "building.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="Another process is building"):
            build(model, tmp_path / "i")
    assert len(build(model, tmp_path / "i", ["a text"])) == 1


def test_an_index_or_anything_else_is_not_replaced_unasked(model, tmp_path):
    build(model, tmp_path / "i", ["the old one"])
    with pytest.raises(FileExistsError, match=r"overwrite=True \(--overwrite\)"):
        build(model, tmp_path / "i")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds no index"):
        build(model, tmp_path / "other", overwrite=True)
    with pytest.raises(NotADirectoryError, match="is a file"):
        build(model, tmp_path / "other" / "thesis.txt", overwrite=True)
    (tmp_path / "other" / "index.json").write_text('{"format": "something"}')
    for action in (lambda: Index.load(tmp_path / "other"), lambda: build(model, tmp_path / "other", overwrite=True)):
        with pytest.raises(ValueError, match="'something'"):
            action()
    with pytest.raises(FileNotFoundError, match=r"holds no index\.json"):
        Index.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"documents": []}, ValueError, "There are no documents"),
        ({"documents": {"text": "a"}}, TypeError, "documents are several"),
        ({"documents": 3}, TypeError, "documents are several"),
        ({"documents": ["a", 3]}, TypeError, "number 1: a document is a text"),
        (
            {"documents": [{"text": "a", "id": "x"}, {"text": "b", "id": "x"}]},
            ValueError,
            "Two documents are called 'x'",
        ),
        ({"documents": [{"text": "a", "id": "x"}, {"text": "b"}]}, ValueError, "number 1: no id, but"),
        ({"documents": [{"body": "a"}]}, ValueError, "number 0: needs a `text`.*it also has body.*--field"),
        ({"documents": [{"text": None, "id": 1}]}, ValueError, "needs a `text` that is a string, got None"),
        ({"documents": [{"text": "a", "title": 3}]}, ValueError, "`title` has to be a string, got 3"),
        ({"documents": [{"text": "a", "id": " "}]}, ValueError, "its id is empty"),
        ({"documents": ["a\ud800"]}, ValueError, "number 0: `text` holds half a surrogate pair"),
        ({"documents": [{"text": "a", "by": ["\ud800"]}]}, ValueError, "number 0: `metadata` holds half a surrogate"),
        ({"documents": ["a"], "fields": {"body": "text"}}, ValueError, "fields names id, title, text, language"),
        ({"documents": "no/such/file.jsonl"}, FileNotFoundError, "no file, folder or data set 'no/such/file.jsonl'"),
        ({"engine": "faiss"}, ValueError, "engine has to be one of auto, exact, seismic, got 'faiss'"),
        ({"views": "german"}, ValueError, "views has to be"),
        ({"passage_length": 0}, ValueError, "at least 1 word, got 0"),
        ({"recall": 1.5}, ValueError, "recall has to be above 0"),
        ({"prune": "half"}, ValueError, "got 'half'"),
        ({"prune_queries": "mass:2"}, ValueError, "got 'mass:2'"),
        ({"query_length": 10_000}, ValueError, "max_length has to be between"),
        ({"max_length": 1}, ValueError, "max_length has to be between"),
        ({"revision": "main"}, ValueError, "loaded already"),
    ],
)
def test_builds_that_cannot_be(model, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        build(model, tmp_path / "i", **options)
    with pytest.raises(FileNotFoundError):
        Index.load(tmp_path / "i")
    assert len(build(model, tmp_path / "i", ["a text"], resume=False)) == 1


def write(path, text):
    opener = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}.get(path.suffix, open)
    path.parent.mkdir(parents=True, exist_ok=True)
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return path


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize("ending", ["", ".gz", ".xz", ".bz2"])
def test_files_of_each_kind(tmp_path, ending):
    assert list(read_documents(write(tmp_path / f"c.jsonl{ending}", lines(ROWS)))) == READ
    csv = 'text,title,id,language,year\nold city,Музыка,d1,ru,2001\n"quiet\tshop",,d2,,\n'
    table = list(read_documents(str(write(tmp_path / f"c.csv{ending}", csv))))
    assert [document.text for document in table] == ["old city", "quiet\tshop"]
    assert table[0] == Document("old city", "d1", "Музыка", "ru", {"year": "2001"})
    tsv = 'id\tbody\turl\nd1\tsaid "old" city\thttps://example.org\n'
    (row,) = read_documents(
        write(tmp_path / f"c.tsv{ending}", tsv), fields={"text": "body", "id": "url"}, language="en"
    )
    assert row == Document('said "old" city', "https://example.org", "", "en", {"id": "d1"})
    (bare,) = read_documents(write(tmp_path / f"bare.tsv{ending}", "d1\told city\n"))
    assert bare == Document("old city", "d1")
    texts = list(read_documents(write(tmp_path / f"c.txt{ending}", "a\n\nb\n")))
    assert texts == [Document("a"), Document(""), Document("b")]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{**row, "title": row["title"] or None, "year": row.get("year")} for row in ROWS]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "c.parquet")
    found = list(read_documents(tmp_path / "c.parquet"))
    assert [document.text for document in found] == ["old city", "quiet\tshop"]
    assert found[0] == READ[0]
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="is no Parquet file"):
        list(read_documents(tmp_path / "bad.parquet"))


def test_folders(tmp_path):
    write(tmp_path / "beir" / "corpus.jsonl.gz", lines(ROWS))
    write(tmp_path / "beir" / "queries.jsonl", lines([{"_id": "q", "text": "a query"}]))
    assert list(read_documents(tmp_path / "beir")) == READ
    for language in ("de", "ru"):
        write(tmp_path / "parallel" / language / "corpus.jsonl", lines([{"_id": "p1", "text": language}]))
    assert list(read_documents(tmp_path / "parallel")) == [
        Document("de", "de:p1", "", "de"),
        Document("ru", "ru:p1", "", "ru"),
    ]
    write(tmp_path / "files" / "a.jsonl", lines(ROWS[:1]))
    write(tmp_path / "files" / "b.csv", "id,text\nd2,quiet\tshop\n")
    write(tmp_path / "files" / "notes.md", "not this")
    assert list(read_documents(tmp_path / "files")) == READ
    several = [tmp_path / "files" / "b.csv", tmp_path / "files" / "a.jsonl"]
    assert list(read_documents(several)) == READ[::-1]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no corpus\.jsonl"):
        list(read_documents(tmp_path / "empty"))


def test_a_data_set_of_the_hub(monkeypatch):
    datasets = pytest.importorskip("datasets")
    calls = []

    def load_dataset(name, subset, **options):
        calls.append((name, subset, options))
        return {"train": iter(ROWS), "test": iter(ROWS[:1])}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(read_documents("someone/corpus", subset="de", revision="v1")) == READ
    assert calls == [("someone/corpus", "de", {"revision": "v1", "streaming": True})]
    assert list(read_documents("someone/corpus", split="test")) == READ[:1]
    with pytest.raises(ValueError, match="has no split 'dev'; name one of train, test"):
        list(read_documents("someone/corpus", split="dev"))

    def unreachable(*_, **__):
        raise OSError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(FileNotFoundError, match="data set 'someone/corpus'; the Hub gave: Couldn't reach"):
        list(read_documents("someone/corpus"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\nno json\n', "line 2: no JSON"),
        ("a.jsonl", b'{"text": "a", "id": 1}\n{"text": "b"}\n', "line 2: no id, but documents before have one"),
        ("a.jsonl", b"[1]\n", "line 1: has to be an object"),
        ("a.jsonl", b'{"text": "\xff"}\n', "is not UTF-8"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1: `text` holds half a surrogate pair"),
        ("a.tsv", b"1\ta\n2\tb\tc\n", "line 2: has 3 columns, not 2"),
        ("a.csv", b"1,a,a\n", "line 1: the first row has to name each column, once"),
        ("a.csv", b"id,body,year\n1,b,2\n", "line 2: needs a `text`"),
        ("a.md", b"text", "of no kind that can be read"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 100, mtime=0)[:-9], "ends too early"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_documents(tmp_path / name))
