"""Shards on disk: what is written, read back, continued, and refused; and the files that corpora come in."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import signal
import subprocess
import sys

import numpy as np
import pytest

import milco_hf
import tiny
from helpers_encoding import MIXED, assert_identical
from milco_hf import encode_corpus, load_vectors
from milco_hf.cli import main
from milco_hf.encoding import VectorFolder, shards
from milco_hf.encoding import run as run_module
from milco_hf.encoding.files import Text, read_texts

NAMES = [f"dokument-{row}-книга" for row in range(len(MIXED))]


@pytest.fixture(scope="module")
def model(checkpoint):
    return milco_hf.load(checkpoint, device="cpu")


def encode(model, output, **options):
    return encode_corpus(model, **{"texts": MIXED, "output": output, "shard_size": 9, "progress": False, **options})


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_gives_back_the_matrix(model, tmp_path):
    expected = encode_corpus(model, MIXED, shard_size=9, progress=False)
    folder = encode(model, tmp_path / "new" / "vectors", ids=NAMES)
    assert isinstance(folder, VectorFolder)
    assert (len(folder), folder.shape) == (40, expected.shape)
    matrix, ids, manifest = load_vectors(tmp_path / "new" / "vectors")
    assert_identical(matrix, expected)
    assert ids == NAMES
    assert manifest["complete"]
    assert manifest["rows"] == 40
    assert manifest["entries"] == expected.nnz
    assert manifest["dimensions"] == {"english": len(tiny.TERMS), "source": expected.shape[1] - len(tiny.TERMS)}
    assert manifest["settings"]["kind"] == "document"
    parts = list(folder.shards())
    assert [part.matrix.shape[0] for part in parts] == [9, 9, 9, 9, 4]
    assert [name for part in parts for name in part.ids] == NAMES
    assert not parts[0].matrix.data.flags.writeable  # mapped, not read


def test_without_ids_and_without_texts(model, tmp_path):
    assert encode(model, tmp_path / "some").load()[1] is None
    matrix, ids, manifest = load_vectors(encode(model, tmp_path / "none", texts=[], ids=[]).folder)
    assert matrix.shape == (0, model.transformers_model.config.projection_dim)
    assert ids == []
    assert manifest["complete"]


def test_rows_without_entries(model, tmp_path):
    folder = encode(model, tmp_path / "vectors", views="source", texts=["", ""])
    assert folder.load()[0].nnz == 0


@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_run_that_was_killed_goes_on(model, tmp_path, monkeypatch, at):
    whole = encode(model, tmp_path / "whole", ids=NAMES)

    class Killed(Exception):
        pass

    original = run_module.write_shard

    def write_shard(path, *rest):
        if path.name == f"shard-{at:05d}.safetensors":
            path.with_name(f"{path.name}.partial").write_bytes(b"half")
            raise Killed
        original(path, *rest)

    monkeypatch.setattr(run_module, "write_shard", write_shard)
    with pytest.raises(Killed):
        encode(model, tmp_path / "killed", ids=NAMES)
    begun = VectorFolder(tmp_path / "killed")
    assert len(begun.manifest["shards"]) == at
    with pytest.raises(ValueError, match="did not finish"):
        begun.load()
    written = []
    monkeypatch.setattr(run_module, "write_shard", lambda path, *rest: (written.append(path), original(path, *rest)))
    encode(model, tmp_path / "killed", ids=NAMES)
    assert len(written) == 5 - at
    assert content(tmp_path / "killed") == content(whole.folder)


KILLED = """
import json, os, signal, sys
from milco_hf import encode_corpus
checkpoint, output, file = sys.argv[1:]

def texts():
    for row, text in enumerate(json.load(open(file, encoding="utf-8"))):
        if row == 39:
            os.kill(os.getpid(), signal.SIGKILL)
        yield text

encode_corpus(checkpoint, texts(), output=output, shard_size=9, devices="cpu", progress=False)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_process_that_was_killed_goes_on(checkpoint, model, tmp_path):
    (tmp_path / "texts.json").write_text(json.dumps(MIXED), encoding="utf-8")
    command = [sys.executable, "-c", KILLED, str(checkpoint), str(tmp_path / "v"), str(tmp_path / "texts.json")]
    assert subprocess.run(command, timeout=300, check=False).returncode == -signal.SIGKILL
    begun = VectorFolder(tmp_path / "v").manifest
    assert not begun["complete"]
    assert 0 < len(begun["shards"]) < 5
    found = encode(model, tmp_path / "v").load()[0]
    expected = encode_corpus(model, MIXED, shard_size=9, progress=False)
    np.testing.assert_allclose(found.toarray(), expected.toarray(), atol=1e-5)


def test_a_finished_run_encodes_nothing_again(model, tmp_path, monkeypatch):
    encode(model, tmp_path / "vectors")
    monkeypatch.setattr(shards.Pending, "add", None)
    assert encode(model, tmp_path / "vectors").manifest["complete"]


def test_a_lost_shard_is_made_again(model, tmp_path):
    folder = encode(model, tmp_path / "vectors").folder
    before = content(folder)
    (folder / "shard-00001.safetensors").unlink()
    encode(model, folder)
    assert content(folder) == before


def test_another_run_is_refused(model, tmp_path):
    folder = encode(model, tmp_path / "vectors", ids=NAMES).folder
    mine = VectorFolder(folder).manifest["fingerprint"]
    before = content(folder)
    with pytest.raises(ValueError, match=f"prune .* there and .*'mass:0.5'.*{mine}.*--no-resume"):
        encode(model, folder, ids=NAMES, prune="mass:0.5")
    with pytest.raises(ValueError, match="kind 'document' there and 'query' now"):
        encode(model, folder, ids=NAMES, kind="query")
    with pytest.raises(ValueError, match="ids True there and False now"):
        encode(model, folder)
    with pytest.raises(ValueError, match="shard-00002.safetensors was made of other texts"):
        encode(model, folder, ids=NAMES, texts=[*MIXED[:20], "another", *MIXED[21:]])
    with pytest.raises(ValueError, match="holds 5 shards, but the texts given now fill 2"):
        encode(model, folder, ids=NAMES[:18], texts=MIXED[:18])
    other = milco_hf.load(tiny.checkpoint(tmp_path / "other", seed=1), device="cpu")
    with pytest.raises(ValueError, match=f"another model: .*{mine}.*[0-9a-f]{{64}}"):
        encode(other, folder, ids=NAMES)
    assert content(folder) == before  # a refusal leaves what was there
    replaced = encode(other, folder, resume=False, shard_size=30)
    assert_identical(replaced.load()[0], encode_corpus(other, MIXED, shard_size=30, progress=False))
    assert len(content(folder)) == 3


def test_a_folder_of_something_else_is_left_alone(model, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for resume in (True, False):
        with pytest.raises(FileExistsError, match="holds no vectors"):
            encode(model, tmp_path, resume=resume)
    with pytest.raises(FileNotFoundError, match=r"holds no manifest\.json"):
        load_vectors(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": "something"}')
    with pytest.raises(ValueError, match="'something'"):
        load_vectors(tmp_path)
    with pytest.raises(ValueError, match="'something'"):
        encode(model, tmp_path, resume=False)
    assert len(content(tmp_path)) == 2


ROWS = [{"_id": "d1", "title": "Музыка", "text": "old city"}, {"_id": "d2", "title": "", "text": ""}]
READ = [Text("Музыка old city", "d1"), Text("", "d2")]


def write(path, text):
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return path


@pytest.mark.parametrize("ending", ["", ".gz", ".xz"])
def test_files_of_each_kind(tmp_path, ending):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    assert list(read_texts(write(tmp_path / f"corpus.jsonl{ending}", lines))) == READ
    table = "text\ttitle\tid\nold city\tМузыка\td1\n\t\td2\n"
    assert list(read_texts(write(tmp_path / f"corpus.tsv{ending}", table))) == READ
    bare = 'd1\tsaid "old" city\nd2\t\n'
    assert list(read_texts(write(tmp_path / f"bare.tsv{ending}", bare))) == [
        Text('said "old" city', "d1"),
        Text("", "d2"),
    ]
    quoted = 'id,title,text\nd1,Музыка,"old\ncity, ""quoted"""\n'
    assert list(read_texts(write(tmp_path / f"c.csv{ending}", quoted))) == [Text('Музыка old\ncity, "quoted"', "d1")]
    marked = write(
        tmp_path / f"marked.csv{ending}", "\ufefftext,id\nold city,d1\n"
    )  # as spreadsheets begin their files
    assert list(read_texts(marked)) == [Text("old city", "d1")]
    assert list(read_texts(write(tmp_path / f"corpus.txt{ending}", "a\n\nb\n"))) == [Text("a"), Text(""), Text("b")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"text": "a"}\nno json\n', "line 2: no JSON"),
        ("a.jsonl", '{"text": "a"}\n\n{"title": "b"}\n', "line 3: needs a `text`; it has title"),
        ("a.jsonl", '{"text": "a", "title": 3}\n', "line 1: `title` has to be a string"),
        ("a.jsonl", '{"text": "a", "id": 1}\n{"text": "b"}\n', "line 2: no id, but lines before have one"),
        ("a.jsonl", '{"text": "a"}\n{"text": "b", "id": 1}\n', "line 2: an id, but lines before have none"),
        ("a.tsv", "1\ta\n2\tb\tc\n", "line 2: has 3 columns, not 2"),
        ("a.csv", "1,a,b\n", "line 1: 3 columns without names"),
    ],
)
def test_errors_name_the_line(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        list(read_texts(write(tmp_path / name, text)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "où".encode("latin-1"), r"a\.txt is not UTF-8"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 100, mtime=0)[:-9], r"a\.jsonl\.gz ends too early"),
        ("a.csv", b"text\na\rb\n", r"a\.csv, line 2: new-line character"),
    ],
)
def test_errors_name_the_file(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_texts(tmp_path / name))


def test_the_command_writes_a_corpus(checkpoint, model, tmp_path, capsys):
    corpus = write(tmp_path / "corpus.jsonl.gz", "".join(json.dumps(row) + "\n" for row in ROWS))
    command = ["encode", "--model", str(checkpoint), "--device", "cpu", "--file", str(corpus)]
    options = ["--output", str(tmp_path / "v"), "--prune", "english=top_k:2", "source=mass:0.9", "--shard-size", "1"]
    assert main([*command, *options, "--max-length", "20", "--batch-tokens", "64"]) == 0
    assert f"2 texts, {load_vectors(tmp_path / 'v')[0].nnz / 2:.0f} dimensions" in capsys.readouterr().err
    matrix, ids, manifest = load_vectors(tmp_path / "v")
    assert ids == ["d1", "d2"]
    assert len(manifest["shards"]) == 2
    expected = encode_corpus(
        model, [text.text for text in READ], prune={"english": "top_k:2", "source": "mass:0.9"}, progress=False
    )
    np.testing.assert_allclose(matrix.toarray(), expected.toarray(), atol=1e-5)
    assert main([*command, "--output", str(tmp_path / "v")]) == 2
    assert "begun with other settings" in capsys.readouterr().err
    assert main([*command, "--output", str(tmp_path / "v"), "--no-resume", "--top-k", "3"]) == 0
    assert load_vectors(tmp_path / "v")[2]["settings"]["prune"] == {"both": "top_k:3"}


def test_the_command_writes_what_it_reads_from_a_pipe(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("old city\nmusic\n"))
    assert main(["encode", "--model", str(checkpoint), "--as", "query", "--output", str(tmp_path / "v")]) == 0
    matrix, ids, manifest = load_vectors(tmp_path / "v")
    assert (matrix.shape[0], ids, manifest["settings"]["kind"]) == (2, None, "query")


def test_the_command_prints_texts_of_tables_with_their_ids(checkpoint, tmp_path, capsys):
    corpus = write(tmp_path / "corpus.tsv", "d1\told city\n")
    assert main(["encode", "--model", str(checkpoint), "--file", str(corpus)]) == 0
    row = json.loads(capsys.readouterr().out)
    assert list(row) == ["id", "text", "english", "source"]
    assert (row["id"], row["text"]) == ("d1", "old city")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prune", "mass:0.9"], "--prune needs --output"),
        (["--shard-size", "5"], "--shard-size needs --output"),
        (["--no-resume"], "--no-resume needs --output"),
        (["--output", "v", "--ids"], "--ids is for printed vectors"),
        (["--output", "v", "--batch-size", "2"], "--batch-tokens"),
        (["--output", "v", "--top-k", "2", "--prune", "mass:0.9"], "not both"),
        (["--output", "v", "--device", "cpu", "--devices", "cpu", "cpu"], "not both"),
        (["--output", "v", "--prune", "english=mass:0.9", "mass:0.9"], "takes one HOW"),
    ],
)
def test_flags_that_do_not_go_together(capsys, arguments, message):
    assert main(["encode", "text", *arguments]) == 2
    assert message in capsys.readouterr().err
