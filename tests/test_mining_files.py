"""Files of rows and passages: what is read, what is refused, and that outputs are whole or absent."""

from __future__ import annotations

import pytest

import helpers_mining as h
from milco_hf.mining.files import file_digest, find_jsonl, output_paths, stem, write_lines
from milco_hf.mining.passages import Passages, corpus_beside, read_passages
from milco_hf.mining.rows import read_row_set


@pytest.mark.parametrize("ending", ["", ".gz", ".xz", ".bz2"])
def test_lines_come_back_from_every_compression(tmp_path, ending):
    path = tmp_path / f"x.jsonl{ending}"
    records = [{"query": "où\u2028?", "n": number} for number in range(3)]
    h.write(path, records)
    assert h.read(path) == records
    assert stem(path) == "x"


def test_a_file_that_fails_half_way_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.jsonl"
    write_lines(path, ["1"])

    def lines():
        yield "2"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_lines(path, lines())
    assert path.read_text() == "1\n"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_are_their_files_without_subfolders(tmp_path):
    h.questions(tmp_path, ("en", "de"))
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".en.jsonl.123").write_text("half a line of a run that was killed")
    assert [path.name for path in find_jsonl([tmp_path])] == ["de.jsonl", "en.jsonl"]
    with pytest.raises(FileNotFoundError, match="no-such"):
        find_jsonl([tmp_path / "no-such"])
    with pytest.raises(ValueError, match=r"notes\.txt is no JSONL"):
        find_jsonl([tmp_path / "notes.txt"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no file"):
        find_jsonl([tmp_path / "empty"])


def test_the_corpus_beside(tmp_path):
    h.questions(tmp_path, ("en", "de"))
    assert [path.name for path in corpus_beside([tmp_path])] == ["de.jsonl.gz", "en.jsonl.gz"]
    assert [path.name for path in corpus_beside([tmp_path / "de.jsonl"])] == ["de.jsonl.gz"]
    assert corpus_beside([tmp_path / "passages"]) == []


def test_where_outputs_go(tmp_path):
    h.questions(tmp_path, ("en", "de"))
    inputs = find_jsonl([tmp_path])
    assert output_paths(inputs, tmp_path / "out") == [tmp_path / "out" / path.name for path in inputs]
    assert output_paths(inputs[:1], tmp_path / "one.jsonl.xz") == [tmp_path / "one.jsonl.xz"]
    with pytest.raises(ValueError, match="2 input files cannot go into one file"):
        output_paths(inputs, tmp_path / "one.jsonl")
    with pytest.raises(ValueError, match="is an input"):
        output_paths(inputs, tmp_path, overwrite=True)
    with pytest.raises(ValueError, match=r"Several inputs are called en\.jsonl"):
        output_paths([tmp_path / "en.jsonl", tmp_path / "other" / "en.jsonl"], tmp_path / "out")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"rows\.jsonl, line 2: no JSON"),
        ("[1]", "line 2: has to be an object, got list"),
        ('{"pos": ["a"]}', "line 2: a row needs a query, got None"),
        ('{"query": "a"}', r"line 2: a row needs positives, as texts \(pos\) or as ids"),
        ('{"query": "a", "pos": [3]}', "have to be texts, got 3"),
        ('{"query": "a", "pos": ["b"], "neg_pid": ["p1"]}', "line 2: positives and negatives have to be named alike"),
        ('{"query": "a", "pos_pid": ["p7"]}', "line 2: no passage is called 'p7'. Give the files"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path, line, message):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"query": "who", "pos": ["the book"]}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_row_set([path], tmp_path / "out.jsonl")


def test_passages_that_cannot_be_used_are_named(tmp_path):
    path = h.write(tmp_path / "corpus.jsonl", [{"pid": "a", "text": "x"}, {"pid": "a", "text": "y"}])
    with pytest.raises(ValueError, match="line 2: Two passages of different text are called 'a'"):
        read_passages([path])
    h.write(path, [{"pid": "a", "body": "x"}])
    with pytest.raises(ValueError, match="line 1: a passage needs an id"):
        read_passages([path])


def test_passages_of_equal_text_are_one():
    passages = Passages(titles=True)
    first = passages.add("text", "a", "Title", "en")
    assert passages.add("text", "b", None, "de") == first == passages.number("b")
    assert passages.texts == ["Title text"]
    assert passages.pids == ["a"]
    assert passages.candidates == [first]
    untitled = Passages()
    untitled.add("text", "a", "Title")
    assert untitled.texts == ["text"]


def test_languages_are_the_key_or_the_files_name(tmp_path):
    rows = [{"query": "a", "pos": ["x"]}, {"query": "b", "pos": "y", "language": "fr", "neg": "x"}]
    h.write(tmp_path / "en.jsonl", rows)
    first, second = read_row_set([tmp_path / "en.jsonl"], tmp_path / "out").rows
    assert (first.language, second.language) == ("en", "fr")
    assert second.negatives == first.positives  # a single text is a list of one


def test_digests_tell_files_apart(tmp_path):
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).write_text(text)
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b") != file_digest(tmp_path / "c")
