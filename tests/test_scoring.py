"""`milco score`: scores are the models' own, a run that was cut short ends as one that was not, ensembles add up."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import helpers_mining as h
from milco_hf.mining import scoring
from milco_hf.mining.bm25 import Bm25, words
from milco_hf.mining.encoders import open_encoder
from milco_hf.mining.rows import read_row_set
from milco_hf.mining.scoring import ScoringOptions, scaled, score
from milco_hf.mining.teachers import Bm25Teacher, open_teacher
from milco_hf.mining.vectors import encode_into


@pytest.fixture(scope="module")
def models(tmp_path_factory, checkpoint):
    root = tmp_path_factory.mktemp("teachers")
    return {
        "cross-encoder": h.cross_folder(root / "cross"),
        "dense": h.dense_folder(root / "dense"),
        "sparse": checkpoint,
    }


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    """Two files of questions with negatives, some without, and their passages beside."""
    root = tmp_path_factory.mktemp("mined")
    h.questions(root, ("en", "de"))
    for language in ("en", "de"):
        rows = h.read(root / f"{language}.jsonl")
        for place, row in enumerate(rows):
            row["neg_pid"] = [f"{language}{(place + step) % 9 + 9 * (place % 2)}" for step in range(1, place % 5)]
            row["neg_scores"] = [0.0]  # of another teacher
        h.write(root / f"{language}.jsonl", rows)
    return root


def pairs_of(rows, folder):
    """Queries and passages of each row, positives first."""
    passages = {record["pid"]: record["text"] for path in (folder / "passages").iterdir() for record in h.read(path)}
    return [(row["query"], [passages[pid] for pid in [*row["pos_pid"], *row.get("neg_pid", [])]]) for row in rows]


def expected_scores(kind, path, query, passages):
    """What the model itself says, one row at a time."""
    if kind == "cross-encoder":
        from sentence_transformers import CrossEncoder

        return CrossEncoder(str(path), device="cpu").predict([(query, passage) for passage in passages])
    model = open_encoder(str(path), devices=["cpu"]).model
    return model.similarity(model.encode_query([query]), model.encode_document(passages))[0].numpy()


@pytest.mark.parametrize("kind", ["cross-encoder", "dense", "sparse"])
def test_scores_are_the_models_own(models, mined, tmp_path, kind, capsys):
    h.run("score", mined, "--model", models[kind], "--part", 4, "--device", "cpu", "--output", tmp_path / "out")
    assert "18 of 18 rows scored" in capsys.readouterr().err
    for name in ("en.jsonl", "de.jsonl"):
        rows = h.read(tmp_path / "out" / name)
        before = h.read(mined / name)
        for place, (row, (query, passages)) in enumerate(zip(rows, pairs_of(before, mined))):
            assert len(row["pos_scores"]) == len(row["pos_pid"])
            found = [*row["pos_scores"], *row["neg_scores"]]
            assert len(found) == len(passages)
            if place < 3:
                assert found == pytest.approx(expected_scores(kind, models[kind], query, passages).tolist(), abs=1e-5)
            kept = {key: value for key, value in row.items() if not key.endswith("_scores")}
            assert kept == {key: value for key, value in before[place].items() if not key.endswith("_scores")}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # no parts are left


def test_a_cross_encoders_logits(models, mined, tmp_path):
    h.run("score", mined / "en.jsonl", "--model", models["cross-encoder"], "--output", tmp_path / "own.jsonl")
    options = ["--activation", "none", "--kind", "cross-encoder"]
    h.run("score", mined / "en.jsonl", "--model", models["cross-encoder"], *options, "--output", tmp_path / "raw.jsonl")
    for own, raw in zip(h.read(tmp_path / "own.jsonl"), h.read(tmp_path / "raw.jsonl")):
        logits = np.array(raw["pos_scores"])
        assert own["pos_scores"] == pytest.approx((1 / (1 + np.exp(-logits))).tolist(), abs=1e-6)


def test_a_dot_product_model_is_not_normalized(models, tmp_path):
    teacher = open_teacher(str(models["dense"]))
    teacher.similarity = teacher.encoder.model.similarity_fn_name = "dot"
    texts = h.texts(5, 1)
    teacher.prepare(texts, texts, tmp_path)
    vectors = teacher.encoder.model.encode(texts)
    found = teacher.scores(np.array([0, 1, 4]), np.array([2, 2, 3]))
    np.testing.assert_allclose(found, (vectors[[0, 1, 4]] * vectors[[2, 2, 3]]).sum(1), rtol=1e-5)


def test_a_cosine_of_sparse_vectors(models, tmp_path):
    encoder = open_encoder(str(models["sparse"]))
    encoder.model.similarity_fn_name = "cosine"
    from milco_hf.mining.teachers import BiEncoderTeacher

    teacher, texts = BiEncoderTeacher(encoder), h.texts(5, 1)
    teacher.prepare(texts, texts, tmp_path)
    vectors = encoder.model.encode_document(texts).to_dense().numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = teacher.scores(np.array([0, 1, 4]), np.array([2, 2, 4]))
    np.testing.assert_allclose(found, [vectors[0] @ vectors[2], vectors[1] @ vectors[2], 1.0], atol=1e-5)
    encoder.model.similarity_fn_name = "euclidean"
    with pytest.raises(ValueError, match="got 'euclidean'"):
        BiEncoderTeacher(encoder)


def test_bm25_is_bm25s(tmp_path):
    import bm25s

    corpus, queries = h.texts(30, 1), [*h.texts(6, 2), "city city city music", "nothing known here"]
    index = bm25s.BM25(method="lucene")
    index.index([words(text) for text in corpus], show_progress=False)
    teacher = Bm25Teacher(corpus)
    teacher.prepare(queries, corpus[::-1], tmp_path)
    grid = np.meshgrid(np.arange(len(queries)), np.arange(len(corpus)), indexing="ij")
    found = teacher.scores(grid[0].ravel(), grid[1].ravel()).reshape(len(queries), len(corpus))
    for row, query in zip(found, queries):
        known = [word for word in words(query) if word in index.vocab_dict]
        expected = index.get_scores(known)[::-1] if known else np.zeros(len(corpus))
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)
    assert found[:6].max() > 0
    assert not found[-1].any()


def test_words_of_many_scripts():
    assert words("The OLD book's, 2nd") == ["the", "old", "book", "s", "2nd"]
    assert words("東京都に住む a1") == ["東京", "京都", "都に", "に住", "住む", "a1"]
    assert words("हिन्दी में") == ["हिन्दी", "में"]
    assert words("กาแฟ") == ["กา", "าแ", "แฟ"]
    assert words("日") == ["日"]
    assert Bm25(["東京都", "大阪府"]).queries(["東京"]).sum() == 1


@pytest.mark.parametrize("scale", ["minmax", "zscore", "none", None])
def test_an_ensemble_is_the_weighted_mean_of_scaled_scores(models, mined, tmp_path, scale):
    names = [models["cross-encoder"], "bm25", models["sparse"]]
    source = mined / "en.jsonl"
    single = []
    for number, name in enumerate(names):
        h.run("score", source, "--model", name, "--output", tmp_path / f"{number}.jsonl")
        single.append(h.read(tmp_path / f"{number}.jsonl"))
    flags = ["--scale", scale] if scale else []
    h.run("score", source, "--model", *names, "--weight", 1, 0.5, 2, *flags, "--output", tmp_path / "all.jsonl")
    for row, *each in zip(h.read(tmp_path / "all.jsonl"), *single):
        total = 0
        for weight, other in zip((1, 0.5, 2), each):
            values = np.array([*other["pos_scores"], *other["neg_scores"]])
            if scale == "zscore":
                values = (values - values.mean()) / (values.std() or 1)
            elif scale != "none":
                values = (values - values.min()) / (np.ptp(values) or 1)
            total = total + weight * values / 3.5
        assert [*row["pos_scores"], *row["neg_scores"]] == pytest.approx(total.tolist(), abs=1e-4)


def test_scales():
    assert scaled([1, 3, 2], "minmax").tolist() == [0, 1, 0.5]
    assert scaled([2, 2], "minmax").tolist() == [0, 0]
    assert scaled([0, 2], "zscore").tolist() == [-1, 1]
    assert scaled([], "zscore").tolist() == []
    with pytest.raises(ValueError, match="got 'log'"):
        scaled([1.0], "log")


class Killed(BaseException):
    """As a signal would: nothing catches it."""


class Failing:
    """A teacher that works for some calls, and says how many there were."""

    def __init__(self, teacher, calls):
        self.teacher, self.left, self.calls = teacher, calls, 0

    def prepare(self, *args):
        self.teacher.prepare(*args)

    def scores(self, *args):
        if self.left is not None and self.calls == self.left:
            raise Killed
        self.calls += 1
        return self.teacher.scores(*args)

    def close(self):
        self.teacher.close()


@pytest.mark.parametrize("kind", ["cross-encoder", "dense", "sparse"])
def test_a_run_that_was_cut_short_ends_as_one_that_was_not(models, mined, tmp_path, kind):
    options = ScoringOptions(part=2)
    opened = []

    def opening(left=None):
        opened.append(Failing(open_teacher(str(models[kind])), left))
        return opened[-1]

    score(read_row_set([mined], tmp_path / "whole"), [opening], tmp_path / "whole.parts", options)
    assert opened[0].calls == 10  # two files of 9 rows, 2 a part
    for left in (3, 4):
        row_set = read_row_set([mined], tmp_path / "cut")
        with pytest.raises(Killed):
            score(row_set, [partial(opening, left)], tmp_path / "cut.parts", options)
        assert not (tmp_path / "cut").exists()
    score(read_row_set([mined], tmp_path / "cut"), [opening], tmp_path / "cut.parts", options)
    assert opened[-1].calls == 3
    for name in ("en.jsonl", "de.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "cut.parts").exists()


def test_parts_of_another_run_are_refused(models, mined, tmp_path):
    def run(left, restart=False, **options):
        row_set = read_row_set([mined], tmp_path / "out")
        opening = lambda: Failing(open_teacher("bm25"), left)  # noqa: E731
        return score(row_set, [opening], tmp_path / "parts", ScoringOptions(part=2, **options), restart=restart)

    with pytest.raises(Killed):
        run(2)
    with pytest.raises(ValueError, match="give --restart"):
        run(None, scale="zscore")
    assert len(list((tmp_path / "parts").glob("*.jsonl"))) == 2
    assert run(None, restart=True, scale="zscore")["rows"] == 18


def test_nothing_is_loaded_when_nothing_is_left(mined, tmp_path, monkeypatch):
    row_set = read_row_set([mined], tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(scoring.shutil, "rmtree", lambda _: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            score(row_set, [lambda: open_teacher("bm25")], tmp_path / "parts")
    counts = score(row_set, [lambda: pytest.fail("loaded")], tmp_path / "parts")
    assert counts["scored"] == 18


def test_vectors_are_encoded_once_whatever_was_there(models, tmp_path):
    encoder = open_encoder(str(models["sparse"]))
    texts = h.texts(11, 5)
    whole = encoder.encode(texts, "document").toarray()
    encode_into(tmp_path, encoder, texts, "document", block=4)
    (tmp_path / "000001.block").rename(tmp_path / "000001.partial")  # as if cut short there
    seen = []
    encode = encoder.encode
    encoder.encode = lambda some, task: seen.append(some) or encode(some, task)
    stored = encode_into(tmp_path, encoder, texts, "document", block=4)
    assert seen == [texts[4:8]]
    numbers = np.array([9, 0, 5, 5, 3])
    np.testing.assert_allclose(stored.rows(numbers).toarray(), whole[numbers], atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "bm25", "--weight", "1", "2"], "2 weights for 1 teachers"),
        (["--model", "bm25", "--weight", "-1"], "must be positive, got"),
        (["--model", "bm25", "bm25", "bm25", "--kind", "bm25", "auto"], "2 kinds for 3 models"),
        (["--model", "bm25", "--part", "0"], "at least 1 row, got 0"),
        (["--model", "no-such-model"], "say --kind cross-encoder or --kind bi-encoder"),
        (["--model", "bm25", "--carry", "parallel_id"], "No row of language 'en' has a 'parallel_id'"),
    ],
)
def test_wrong_settings_are_explained(mined, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        h.run("score", mined, *flags, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_classifier_is_no_teacher(tmp_path):
    folder = h.cross_folder(tmp_path / "three", labels=3)
    with pytest.raises(ValueError, match="gives 3"):
        open_teacher(str(folder))
    with pytest.raises(ValueError, match="got 'oracle'"):
        open_teacher(str(folder), "oracle")


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import helpers_mining as h
from milco_hf.mining import teachers
predict = teachers.CrossEncoderTeacher.scores
calls = []
def scores(self, *args):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return predict(self, *args)
teachers.CrossEncoderTeacher.scores = scores
h.run("score", *sys.argv[2:])
"""


@pytest.mark.slow
def test_a_killed_process_goes_on(models, mined, tmp_path):
    line = [str(mined), "--model", str(models["cross-encoder"]), "--part", "3", "--device", "cpu", "--output"]
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", KILLED, here, *line, str(tmp_path / "out")]
    assert subprocess.run(command, capture_output=True, timeout=300).returncode == -9
    assert len(list((tmp_path / "out.parts").glob("*.jsonl"))) == 2
    h.run("score", *line, tmp_path / "out")
    h.run("score", *line, tmp_path / "whole")
    for name in ("en.jsonl", "de.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cross-encoder", "sparse"])
def test_two_devices_give_the_same_scores(models, mined, tmp_path, kind):
    for name, device in (("one", "cpu"), ("two", "cpu,cpu")):
        target = tmp_path / f"{name}.jsonl"
        h.run("score", mined / "en.jsonl", "--model", models[kind], "--device", device, "--output", target)
    for one, two in zip(h.read(tmp_path / "one.jsonl"), h.read(tmp_path / "two.jsonl")):
        assert one["pos_scores"] == pytest.approx(two["pos_scores"], abs=1e-5)
        assert one["neg_scores"] == pytest.approx(two["neg_scores"], abs=1e-5)
