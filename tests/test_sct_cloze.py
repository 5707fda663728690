import json

import pytest

import helpers_sct as s
from milco_hf.training import cloze_rows
from milco_hf.training.retrieval.cloze import ClozeSettings, Sentences, read_sentences, write_rows

LANGUAGES = ("de", "fr", "zh")
TAGS = ("news", "talk", "secret")


def tag(number):
    return TAGS[number // 6 % 3]


def sentence(number, language):
    """One of a hundred made-up sentences; none is part of another."""
    if language == "zh":
        return "".join(chr(0x4E00 + 40 * number + place) for place in range(30 + number % 9)) + "。"
    return " ".join(f"{language}{number}w{place}" for place in range(6 + number % 12)) + "."


@pytest.fixture
def parallel(tmp_path):
    """en-XX.tsv: each language has the sentences that its number divides, of three tags."""
    folder = tmp_path / "parallel"
    folder.mkdir()
    for place, language in enumerate(LANGUAGES, 1):
        lines = [
            f"{sentence(number, 'en')}\t{sentence(number, language)}\t{tag(number)}\n"
            for number in range(0, 100, place)
        ]
        (folder / f"en-{language}.tsv").write_text("".join(lines))
    return folder


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def numbers_in(text, language, of=range(100)):
    return [number for number in of if sentence(number, language) in text]


def test_a_question_is_part_of_a_translation_of_a_sentence_of_its_passage(parallel, tmp_path):
    sentences = read_sentences([str(parallel)], ["secret"])
    settings = ClozeSettings(rows=300, question_words=8, shortest=30, longest=400)
    assert write_rows(tmp_path / "rows.jsonl", sentences, settings) == 300
    seen = set()
    for row in rows_of(tmp_path / "rows.jsonl"):
        asked, spoken = row["query_language"], row["language"]
        seen.add((asked, spoken))
        assert asked != spoken
        inside = numbers_in(row["pos"][0], spoken)
        assert [number for number in inside if row["query"] in sentence(number, asked)]
        assert {tag(number) for number in inside} == {row["source"]} != {"secret"}
        assert len(row["query"]) <= 16 if asked == "zh" else len(row["query"].split()) <= 8
        between = "" if spoken == "zh" else " "
        assert len(row["pos"][0]) == sum(len(sentence(n, spoken)) for n in inside) + len(between) * (len(inside) - 1)
    assert seen == {(one, two) for one in ("en", *LANGUAGES) for two in ("en", *LANGUAGES) if one != two}


def test_the_share_of_english(parallel, tmp_path):
    sentences = read_sentences([str(parallel)])
    for share, expected in ((1.0, {"en"}), (0.0, set(LANGUAGES))):
        write_rows(tmp_path / "rows.jsonl", sentences, ClozeSettings(rows=60, english_share=share))
        assert {row["language"] for row in rows_of(tmp_path / "rows.jsonl")} == expected


def test_tags_are_drawn_by_weight(parallel, tmp_path):
    weights = {"news": 0.0, "talk": 0.0}
    write_rows(tmp_path / "rows.jsonl", read_sentences([str(parallel)]), ClozeSettings(rows=50, tag_weights=weights))
    assert {row["source"] for row in rows_of(tmp_path / "rows.jsonl")} == {"secret"}


def test_the_seed_decides(parallel, tmp_path):
    sentences = read_sentences([str(parallel)])
    drawn = []
    for seed in (0, 0, 1):
        write_rows(tmp_path / "rows.jsonl", sentences, ClozeSettings(rows=20, seed=seed))
        drawn.append((tmp_path / "rows.jsonl").read_text())
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_command_writes_rows_that_sct_reads(parallel, tmp_path):
    output = tmp_path / "rows.jsonl"
    cloze_rows.main(["--data", str(parallel), "--output", str(output), "--rows", "24", "--exclude-sources", "secret"])
    flags = ("--kl_weight", "0", "--infonce_weight", "1", "--negatives", "0", "--max_steps", "1")
    trainer = s.train(s.student(tmp_path / "student"), output, tmp_path / "out", *flags)
    assert len(trainer.train_dataset.data) == 24


def test_what_cannot_work(tmp_path):
    for values, message in (
        ({"rows": 0}, "rows must be a positive number, got 0"),
        ({"shortest": 9, "longest": 8}, "0 < shortest <= longest, got 9, 8"),
        ({"english_share": 1.5}, "english_share must lie between 0 and 1, got 1.5"),
        ({"tag_weights": {"news": -1}}, "tag_weights must not be negative"),
    ):
        with pytest.raises(ValueError, match=message):
            ClozeSettings(**values)
    with pytest.raises(ValueError, match="No sentence has 25 English characters or more"):
        write_rows(tmp_path / "rows.jsonl", Sentences(["short"], ["x"], [{"de": "kurz"}]), ClozeSettings())
    weightless = Sentences(["long enough to be drawn from"], ["x"], [{"de": "lang genug für alles hier"}])
    with pytest.raises(ValueError, match="tag_weights leave nothing to draw in 'en'"):
        write_rows(tmp_path / "rows.jsonl", weightless, ClozeSettings(tag_weights={"x": 0}))
    assert not (tmp_path / "rows.jsonl").exists()
