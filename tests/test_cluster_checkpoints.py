"""Checkpoints are complete or absent: what saving leaves behind at any moment, and what the next start goes on from."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, Trainer, TrainingArguments

from milco_hf.training.checkpoints import (
    UNFINISHED,
    WholeCheckpoints,
    checkpoint_to_resume,
    last_complete_checkpoint,
    what_is_missing,
)


class Line(PreTrainedModel):
    """A line through points, with dropout so that random states matter."""

    config_class = PreTrainedConfig

    def __init__(self, config):
        super().__init__(config)
        self.line = nn.Linear(3, 1)
        self.post_init()

    def forward(self, x, labels):
        found = self.line(nn.functional.dropout(x, 0.3, self.training))[:, 0]
        return {"loss": (found - labels).square().mean(), "logits": found}


class WholeTrainer(WholeCheckpoints, Trainer):
    """What the tests train with."""


def trainer(output, kind=WholeTrainer, **options):
    torch.manual_seed(0)
    points = torch.randn(24, 3)
    data = [{"x": x, "labels": x.sum()} for x in points]
    settings = {
        "max_steps": 6,
        "save_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_steps": 1,
    }
    args = TrainingArguments(output_dir=str(output), **{**settings, **options})
    return kind(model=Line(PreTrainedConfig()), args=args, train_dataset=data, eval_dataset=data[:8])


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir() if path.is_dir() and path.name != "runs")


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")["line.weight"]


def test_a_checkpoint_holds_what_trainer_writes(tmp_path):
    trainer(tmp_path / "ours").train()
    trainer(tmp_path / "theirs", Trainer).train()
    assert names(tmp_path / "ours") == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    for name in names(tmp_path / "ours"):
        ours, theirs = tmp_path / "ours" / name, tmp_path / "theirs" / name
        assert sorted(path.name for path in ours.iterdir()) == sorted(path.name for path in theirs.iterdir())
        assert torch.equal(weights(ours), weights(theirs))
        assert what_is_missing(ours) is None


def test_nothing_has_the_name_before_everything_is_written(tmp_path):
    seen = []

    class Watched(WholeTrainer):
        def _save_rng_state(self, output_dir):
            super()._save_rng_state(output_dir)
            seen.append((Path(output_dir).parent.name, Path(output_dir).name, names(tmp_path)))

    trainer(tmp_path, Watched, save_total_limit=1).train()
    assert seen == [
        (UNFINISHED, "checkpoint-2", [UNFINISHED]),
        (UNFINISHED, "checkpoint-4", ["checkpoint-2", UNFINISHED]),
        (UNFINISHED, "checkpoint-6", ["checkpoint-4", UNFINISHED]),
    ]
    assert names(tmp_path) == ["checkpoint-6"]


def test_a_save_that_fails_leaves_the_older_checkpoint(tmp_path):
    class Full(WholeTrainer):
        def _save_scaler(self, output_dir):
            if self.state.global_step == 4:
                raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        trainer(tmp_path, Full, save_total_limit=1).train()
    assert names(tmp_path) == ["checkpoint-2", UNFINISHED]
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    again = trainer(tmp_path, save_total_limit=1)
    again.train(resume_from_checkpoint=checkpoint_to_resume("auto", tmp_path))
    assert names(tmp_path) == ["checkpoint-6"]  # and no leftover
    trainer(tmp_path / "whole").train()
    assert torch.equal(weights(tmp_path / "checkpoint-6"), weights(tmp_path / "whole" / "checkpoint-6"))


def test_the_best_checkpoint_is_known_by_its_own_name(tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "save_total_limit": 1}
    done = trainer(
        tmp_path, metric_for_best_model="loss", learning_rate=3.0, **options
    )  # so that later steps are worse
    done.train()
    best = done.state.best_global_step
    assert done.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    assert f"checkpoint-{best}" in names(tmp_path)
    for name in names(tmp_path):
        state = json.loads((tmp_path / name / "trainer_state.json").read_text())
        assert UNFINISHED not in state["best_model_checkpoint"]
    assert torch.equal(done.model.line.weight.data, weights(tmp_path / f"checkpoint-{best}"))


def test_a_folder_of_the_same_name_is_replaced(tmp_path):
    trainer(tmp_path, max_steps=2).train()
    trainer(tmp_path, max_steps=2, learning_rate=0.5).train()
    trainer(tmp_path / "other", max_steps=2, learning_rate=0.5).train()
    assert names(tmp_path) == ["checkpoint-2", "other"]
    assert torch.equal(weights(tmp_path / "checkpoint-2"), weights(tmp_path / "other" / "checkpoint-2"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    trainer(folder).train()
    return folder


def cut(path, share=0.6):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda folder: cut(folder / "model.safetensors"), "model.safetensors is cut off"),
        (lambda folder: cut(folder / "model.safetensors", 0), "model.safetensors is cut off"),
        (lambda folder: (folder / "model.safetensors").unlink(), "it has no weights"),
        (lambda folder: cut(folder / "optimizer.pt"), "optimizer.pt is cut off"),
        (lambda folder: cut(folder / "rng_state.pth"), "rng_state.pth is cut off"),
        (lambda folder: cut(folder / "trainer_state.json"), "trainer_state.json is cut off"),
        (lambda folder: (folder / "trainer_state.json").unlink(), "it has no trainer_state.json"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x-1-of-2"}}'),
            "x-1-of-2 is missing",
        ),
        (lambda folder: (folder / "model.safetensors.index.json").write_text('{"wei'), "index.json is cut off"),
    ],
)
def test_half_written_folders_are_passed_over(saved, tmp_path, caplog, harm, told):
    shutil.copytree(saved, tmp_path / "run")
    harm(tmp_path / "run" / "checkpoint-6")
    with caplog.at_level(logging.WARNING):
        assert checkpoint_to_resume("last", tmp_path / "run") == str(tmp_path / "run" / "checkpoint-4")
    assert "checkpoint-6 is passed over" in caplog.text
    assert told in caplog.text
    with pytest.raises(ValueError, match="cannot be resumed from"):
        checkpoint_to_resume(str(tmp_path / "run" / "checkpoint-6"), tmp_path / "run")


def test_the_most_steps_win_not_the_latest_name(saved, tmp_path):
    for steps in (9, 10):
        shutil.copytree(saved / "checkpoint-6", tmp_path / f"checkpoint-{steps}")
    (tmp_path / "checkpoint-final").mkdir()
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_what_resume_from_checkpoint_may_say(saved, tmp_path):
    last = str(saved / "checkpoint-6")
    for word in ("auto", "last", "true", True, "Yes", last):
        assert checkpoint_to_resume(word, saved) == last
    for word in (None, "", "false", "no", False):
        assert checkpoint_to_resume(word, saved) is None
    assert checkpoint_to_resume("auto", tmp_path) is None
    assert checkpoint_to_resume("auto", tmp_path / "absent") is None
    with pytest.raises(ValueError, match="resume_from_checkpoint: auto starts afresh"):
        checkpoint_to_resume("last", tmp_path)
    with pytest.raises(ValueError, match="there is no such folder"):
        checkpoint_to_resume(str(tmp_path / "absent"), tmp_path)


def train_and_die(output, at):
    """In a process of its own: is killed while it writes the checkpoint of a step."""

    class Dying(WholeTrainer):
        def _save_optimizer_and_scheduler(self, output_dir):
            if self.state.global_step == at:
                os.kill(os.getpid(), signal.SIGKILL)
            super()._save_optimizer_and_scheduler(output_dir)

    trainer(output, Dying, save_total_limit=1).train()


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path):
    code = "import sys, test_cluster_checkpoints as t; t.train_and_die(sys.argv[1], 4)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parent, capture_output=True, timeout=300
    )
    assert done.returncode == -signal.SIGKILL
    assert names(tmp_path) == ["checkpoint-2", UNFINISHED]
    assert names(tmp_path / UNFINISHED) == ["checkpoint-4"]  # half of it
    trainer(tmp_path).train(resume_from_checkpoint=checkpoint_to_resume("last", tmp_path))
    trainer(tmp_path / "whole").train()
    assert torch.equal(weights(tmp_path / "checkpoint-6"), weights(tmp_path / "whole" / "checkpoint-6"))
