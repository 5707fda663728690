"""The `milco` command: its help, what each verb calls, what it prints, and how it fails."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys

import pytest
from transformers.utils import logging as transformers_logging

import milco_hf
from milco_hf import head_scale
from milco_hf.cli import main

VERBS = (
    *("demo", "encode", "explain", "index", "search", "serve", "export"),
    *("evaluate", "build", "convert", "mine", "score", "push"),
)


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    """The command sets up logging for its process; here other tests share that process."""
    root, package = logging.getLogger(), logging.getLogger("milco_hf")
    before = root.handlers[:], root.level, package.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    package.setLevel(before[2])
    transformers_logging.enable_progress_bar()


def lines(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_help_shows_examples_and_every_verb(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "milco build --encoder BAAI/bge-m3-unsupervised --pivot naver/splade-v3 --output milco-560m" in text
    for verb in VERBS:
        with pytest.raises(SystemExit) as stop:
            main([verb, "--help"])
        assert stop.value.code == 0
        assert f"milco {verb}" in capsys.readouterr().out


def test_no_verb_prints_the_help(capsys):
    assert main([]) == 0
    assert "usage: milco" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert milco_hf.__version__ in capsys.readouterr().out


def test_encode_prints_terms_heaviest_first(checkpoint, capsys):
    assert main(["encode", "--model", str(checkpoint), "Кто написал эту книгу?", ""]) == 0
    rows = lines(capsys)
    assert [row["text"] for row in rows] == ["Кто написал эту книгу?", ""]
    weights = list(rows[0]["english"].values())
    assert weights == sorted(weights, reverse=True)
    model = milco_hf.load(checkpoint, device="cpu")
    decoded = model.decode(model.encode_document(["Кто написал эту книгу?"])[0])
    english = {name.removeprefix("en: "): weight for name, weight in decoded if name.startswith("en: ")}
    assert rows[0]["english"] == pytest.approx(english, abs=1e-4)
    assert len(rows[0]["english"]) + len(rows[0]["source"]) == len(decoded)


def test_encode_ids_are_dimensions(checkpoint, capsys):
    assert main(["encode", "--model", str(checkpoint), "--ids", "--as", "query", "quiet old city"]) == 0
    (row,) = lines(capsys)
    model = milco_hf.load(checkpoint, device="cpu")
    vector = model.encode_query(["quiet old city"], convert_to_sparse_tensor=False)[0]
    assert row["indices"] == vector.nonzero().flatten().tolist()
    assert row["values"] == pytest.approx(vector[row["indices"]].tolist(), abs=1e-5)


def test_encode_keeps_the_lines_of_a_file(checkpoint, tmp_path, capsys):
    texts = [f"quiet city {i}" if i % 7 else "" for i in range(150)]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    command = ["encode", "--model", str(checkpoint), "--file", str(tmp_path / "texts.txt"), "--batch-size", "2"]
    assert main([*command, "--top-k", "3"]) == 0
    rows = lines(capsys)
    assert [row["text"] for row in rows] == texts
    assert all(len(row["english"]) + len(row["source"]) <= 3 for row in rows)


def test_encode_reads_standard_input(checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("old city\nmusic\n"))
    assert main(["encode", "--model", str(checkpoint)]) == 0
    assert [row["text"] for row in lines(capsys)] == ["old city", "music"]


def test_build_and_convert_hand_their_options_on(monkeypatch):
    calls = []
    monkeypatch.setattr(milco_hf, "build", lambda *args, **kwargs: calls.append((args, kwargs)), raising=False)
    monkeypatch.setattr(head_scale, "head_norms", lambda folder: calls.append(folder))
    monkeypatch.setattr(milco_hf, "convert", lambda *args, **kwargs: calls.append((args, kwargs)), raising=False)
    build = ["build", "--encoder", "a/encoder", "--pivot", "a/pivot", "--output", "out", "--seed", "3"]
    assert main([*build, "--set", "echo=false", "--set", "query_length=64"]) == 0
    assert main(["convert", "released", "--output", "out", "--encoder", "a/encoder", "--overwrite"]) == 0
    assert calls == [
        (
            ("a/encoder", "a/pivot", "out"),
            {"dtype": "float32", "seed": 3, "overwrite": False, "echo": False, "query_length": 64},
        ),
        "out",
        (("released", "out"), {"encoder": "a/encoder", "pivot": None, "revision": None, "overwrite": True}),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode", "--model", "no/such/folder", "text"], "no/such/folder"),
        (["encode", "--file", "no-such-file.txt", "text"], "not both"),
        (["push", "no-such-folder", "someone/model"], "no-such-folder is not a folder"),
        (["build", "--encoder", "no-such-encoder", "--pivot", "no-such-pivot", "--output", "out"], "no-such-"),
        (["convert", "no-such-checkpoint", "--output", "out"], "no-such-checkpoint"),
    ],
)
def test_errors_are_one_message_without_a_traceback(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"milco {arguments[0]}: ")
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_named(checkpoint, capsys):
    assert main(["encode", "--model", str(checkpoint), "--file", "no-such-file.txt"]) == 2
    assert "no-such-file.txt" in capsys.readouterr().err


def test_an_unexpected_error_names_its_type(checkpoint, capsys):
    assert main(["encode", "--model", str(checkpoint), "--device", "nonsense", "text"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("milco encode: RuntimeError: ")
    assert "nonsense" in error
    assert "--debug" in error


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="not both"):
        main(["encode", "--debug", "--file", "a.txt", "text"])


@pytest.mark.parametrize(
    "arguments", [["encode", "--top-k", "0", "a"], ["nope"], ["build", "--encoder", "a"], ["build", "--set", "echo"]]
)
def test_wrong_usage_exits_with_2(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


def test_demo_runs_with_any_checkpoint(checkpoint, capsys):
    assert main(["demo", "--model", str(checkpoint), "--device", "cpu"]) == 0
    assert "One sentence, six languages" in capsys.readouterr().out


def test_verbose_shows_what_the_package_logs(capsys, monkeypatch):
    def say(*_, **__):
        logging.getLogger("milco_hf.convert").info("said at level info")

    monkeypatch.setattr(milco_hf, "convert", say, raising=False)
    assert main(["convert", "released", "--output", "out"]) == 0
    assert "said at level info" not in capsys.readouterr().err
    assert main(["convert", "released", "--output", "out", "-v"]) == 0
    assert "said at level info" in capsys.readouterr().err


@pytest.mark.slow
def test_the_reader_of_a_pipe_may_leave_early(checkpoint, tmp_path):
    (tmp_path / "texts.txt").write_text("old city\n" * 5000, encoding="utf-8")
    command = f"{sys.executable} -m milco_hf.cli encode --model {checkpoint} --file {tmp_path}/texts.txt | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=300)
    assert json.loads(result.stdout)["text"] == "old city"
    assert "BrokenPipe" not in result.stderr
