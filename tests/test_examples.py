"""The examples run as they stand, on a tiny checkpoint."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

import helpers_mining as h
from milco_hf import load

EXAMPLES = Path(__file__).parents[1] / "examples"
RELEASE = Path(__file__).parent / "data" / "research-checkpoint"


def example(name: str):
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested():
    tested = {
        "encode_and_decode",
        "cross_lingual_search",
        "train_with_sparse_encoder_trainer",
        "convert_release",
        "train_cross_encoder_teacher",
        "language_shift",  # in test_debias_evaluation.py
    }
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_encode_and_decode(checkpoint, capsys):
    example("encode_and_decode").main(["--model", str(checkpoint)])
    text = capsys.readouterr().out
    assert "en: " in text
    assert "Nani aliandika" in text
    assert "dimensions are active" in text


def test_cross_lingual_search(checkpoint, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("quiet old city\n\nКто написал эту книгу?\n本\n", encoding="utf-8")
    command = ["--model", str(checkpoint), "--texts", str(tmp_path / "texts.txt"), "quiet old city"]
    example("cross_lingual_search").main(command)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "quiet old city"
    assert len(lines) == 1 + 2 * 3
    example("cross_lingual_search").main(["--model", str(checkpoint), "--count", "2"])
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 * 2


@pytest.mark.slow
def test_train_with_sparse_encoder_trainer(checkpoint, tmp_path):
    before = load(checkpoint, device="cpu").encode(["quiet old city"], convert_to_sparse_tensor=False)
    command = ["--model", str(checkpoint), "--output", str(tmp_path / "trained"), "--steps", "3", "--batch-size", "4"]
    example("train_with_sparse_encoder_trainer").main([*command, "--learning-rate", "1e-3"])
    after = load(tmp_path / "trained", device="cpu").encode(["quiet old city"], convert_to_sparse_tensor=False)
    assert before.shape == after.shape
    assert (before - after).abs().max() > 1e-4


def test_train_cross_encoder_teacher(tmp_path, capsys):
    from sentence_transformers import CrossEncoder

    data, base, teacher = h.questions(tmp_path / "data"), h.cross_folder(tmp_path / "base"), tmp_path / "teacher"
    module, corpus = example("train_cross_encoder_teacher"), str(data / "passages")
    with pytest.raises(SystemExit, match=r"No row of .*en.jsonl has negatives: write them with milco mine"):
        module.main([str(data / "en.jsonl"), "--corpus", corpus, "--model", str(base), "--output", str(teacher)])
    mined = tmp_path / "mined.jsonl"
    h.run("mine", data / "en.jsonl", "--model", h.dense_folder(tmp_path), "--num-negatives", 4, "--output", mined)
    answers = {row["query"]: row for row in h.read(mined)}
    texts = {record["pid"]: record["text"] for record in h.read(data / "passages" / "en.jsonl.gz")}
    pairs = module.labelled_pairs([str(mined)], [corpus], questions=5, negatives=3, seed=0)
    assert len(pairs) == 5 * 4
    for pair in pairs:
        side = "pos_pid" if pair["label"] else "neg_pid"
        assert pair["passage"] in [texts[pid] for pid in answers[pair["query"]][side]]

    flags = ["--learning-rate", "1e-2", "--max-length", "32", "--batch-size", "4"]
    command = [str(mined), "--corpus", corpus, "--model", str(base), "--output", str(teacher), *flags]
    module.main(command)
    assert "now: milco score" in capsys.readouterr().out
    h.run(
        "score", mined, "--corpus", corpus, "--model", teacher, "--device", "cpu", "--output", tmp_path / "scored.jsonl"
    )
    row = h.read(tmp_path / "scored.jsonl")[0]
    asked = [(row["query"], texts[pid]) for pid in row["neg_pid"]]
    trained, before = (CrossEncoder(str(folder), device="cpu").predict(asked) for folder in (teacher, base))
    assert row["neg_scores"] == pytest.approx(trained.tolist(), abs=1e-5)
    assert abs(trained - before).max() > 1e-3


def test_convert_release(tmp_path, capsys):
    released = Path(shutil.copytree(RELEASE, tmp_path / "release"), "released")
    example("convert_release").main([str(released), "--output", str(tmp_path / "converted")])
    assert "m_" in capsys.readouterr().out
    assert (tmp_path / "converted" / "model.safetensors").is_file()
