"""Teacher scores of English questions for their translations: which rows and passages carry, and that scores agree."""

from __future__ import annotations

import pytest

import helpers_mining as h

# en2 and ur2 are translations, and so on; ur8 and en9 have no counterpart; en5 was cut in two in the translation
EN = [
    {"query": "who wrote the book", "pos_pid": ["en1"], "neg_pid": ["en2", "en9", "en3"], "parallel_id": "a"},
    {"query": "where is the city", "pos_pid": ["en2"], "neg_pid": ["en1", "en3"], "parallel_id": "b"},
    {"query": "old music", "pos_pid": ["en3"], "neg_pid": ["en5", "en2"], "parallel_id": "c"},
    {"query": "great shop", "pos_pid": ["en5"], "neg_pid": ["en1"], "parallel_id": "d"},
    {"query": "the great shop", "pos_pid": ["en5"], "neg_pid": ["en1"], "parallel_id": "e"},
    {"query": "is the shop great", "pos_pid": ["en5"], "neg_pid": ["en3"], "parallel_id": "f"},
    {"query": "quiet music", "pos_pid": ["en9"], "neg_pid": ["en1"], "parallel_id": None},
    {"query": "who is quiet", "pos_pid": ["en1", "en2"], "neg_pid": ["en3"], "parallel_id": "g"},
]
UR = [
    {"query": "A", "pos_pid": ["ur1"], "neg_pid": ["ur2", "ur8", "ur3"], "miner_scores": [3, 2, 1], "parallel_id": "a"},
    {"query": "B", "pos_pid": ["ur2"], "parallel_id": "b"},  # not mined: gets its twin's
    {"query": "C", "pos_pid": ["ur3"], "neg_pid": ["ur8", "ur51"], "parallel_id": "c"},
    {"query": "D", "pos_pid": ["ur50"], "neg_pid": ["ur51"], "parallel_id": "d"},
    {"query": "E", "pos_pid": ["ur51"], "neg_pid": ["ur50"], "parallel_id": "e"},
    {"query": "F", "pos_pid": ["ur51"], "neg_pid": ["ur8"], "parallel_id": "f"},
    {"query": "G", "pos_pid": ["ur1", "ur8"], "neg_pid": ["ur2", "ur3"], "parallel_id": "g"},
    {"query": "H", "pos_pid": ["ur8"], "neg_pid": ["ur1"], "parallel_id": "nowhere"},
]


@pytest.fixture
def folder(tmp_path):
    numbers = {"en": [1, 2, 3, 5, 9], "ur": [1, 2, 3, 8, 50, 51]}
    for seed, (language, rows) in enumerate((("en", EN), ("ur", UR))):
        texts = h.texts(len(numbers[language]), seed)
        passages = [{"pid": f"{language}{number}", "text": text} for number, text in zip(numbers[language], texts)]
        h.write(tmp_path / "in" / "passages" / f"{language}.jsonl", passages)
        h.write(tmp_path / "in" / f"{language}.jsonl", rows)
    return tmp_path


def scored(folder, *flags):
    h.run("score", folder / "in", "--model", "bm25", "--carry", "parallel_id", *flags, "--output", folder / "out")
    return {name: h.read(folder / "out" / f"{name}.jsonl") for name in ("en", "ur")}


def english_scores(folder, query, passages):
    """BM25's scores of English texts, from rows written for that."""
    h.write(folder / "one.jsonl", [{"query": query, "pos_pid": passages}])
    # document frequencies are counted in all passages
    corpus = [folder / "in" / "passages" / f"{name}.jsonl" for name in ("en", "ur")]
    flags = ["--corpus", *corpus, "--overwrite", "--model", "bm25"]
    h.run("score", folder / "one.jsonl", *flags, "--output", folder / "one-scored.jsonl")
    return h.read(folder / "one-scored.jsonl")[0]["pos_scores"]


def test_translations_get_the_scores_of_their_twins_texts(folder, capsys):
    rows = scored(folder)["ur"]
    told = capsys.readouterr().err
    assert [row["query"] for row in rows] == ["A", "B", "C", "D", "E", "F", "G", "H"]
    # (negatives, what they are scored by)
    expected = {
        "A": (["ur2", "ur3"], ["en1", "en2", "en3"]),  # ur8 is of unknown origin
        "B": (["ur1", "ur3"], ["en2", "en1", "en3"]),  # its twin's, translated
        "C": (["ur51", "ur2"], ["en3", "en5", "en2"]),  # one of its own, one of its twin's
        "D": (["ur1"], ["en5", "en1"]),  # ur51 is a translation of the twin's positive
        "E": (["ur1"], ["en5", "en1"]),
        "F": (["ur3"], ["en5", "en3"]),
        "G": (["ur3"], ["en1", "en3"]),  # ur2 is a translation of the twin's other positive
    }
    by_query = {row["query"]: row for row in rows}
    english = {row["parallel_id"]: row["query"] for row in EN}
    for name, (negatives, passages) in expected.items():
        row = by_query[name]
        assert row["neg_pid"] == negatives, name
        found = english_scores(folder, english[row["parallel_id"]], passages)
        assert [*row["pos_scores"], *row["neg_scores"]] == found, name
    assert by_query["G"]["pos_pid"] == ["ur1"]  # the positive without counterpart has no score
    assert by_query["A"]["miner_scores"] == [3, 1]
    assert by_query["H"] == UR[-1]  # no twin: as it was, without scores
    assert "7 rows carry the scores of their en twins, 8 are en, 1 have no twin" in told
    assert "4 of 10 negatives have a counterpart; 6 are translations of the twins'" in told


def test_english_rows_are_scored_as_ever(folder):
    rows = scored(folder)["en"]
    h.run("score", folder / "in", "--model", "bm25", "--output", folder / "plain")
    assert rows == h.read(folder / "plain" / "en.jsonl")


def test_rows_without_a_twin_may_go_or_be_scored(folder):
    assert [row["query"] for row in scored(folder, "--without-twin", "drop")["ur"]] == list("ABCDEFG")
    last = scored(folder, "--without-twin", "score", "--overwrite")["ur"][-1]
    assert len(last["pos_scores"]) == len(last["neg_scores"]) == 1


def test_crossed_rows_have_the_twins_passages_and_scores(folder):
    rows = scored(folder, "--cross")
    crossed = {row["query"]: row for row in rows["ur"] if row.get("language") == "ur-en"}
    assert list(crossed) == list("ABCDEFG")
    by_id = {row["parallel_id"]: row for row in rows["en"]}
    for row in crossed.values():
        twin = by_id[row["parallel_id"]]
        for key in ("pos_pid", "neg_pid", "pos_scores", "neg_scores"):
            assert row[key] == twin[key]


def test_the_other_way_round(folder):
    rows = scored(folder, "--from-language", "ur")
    first = rows["en"][0]
    assert first["neg_pid"] == ["en2", "en3"]
    assert [row["query"] for row in rows["en"] if "pos_scores" not in row] == ["quiet music"]
