"""Checkpoints that are complete or absent: written under a passing name, renamed when every process is done.

transformers' Trainer (5.23) writes `checkpoint-N` in place, file by file, each process its own, and deletes older ones
before the others have finished: a job that dies in between leaves a folder that cannot be resumed from, maybe the only
one. `WholeCheckpoints` lets it write into `unfinished/checkpoint-N` instead.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from torch import nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

if TYPE_CHECKING:
    from transformers import Trainer as _Base
else:
    _Base = object

logger = logging.getLogger(__name__)

UNFINISHED = "unfinished"
STATE = "trainer_state.json"
WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin", "pytorch_model_fsdp_*/.metadata", "global_step*")


class WholeCheckpoints(_Base):
    """A Trainer whose checkpoints are complete or absent; goes before `Trainer` among a class's bases.

    Output folders have to be on a file system that all machines share.
    """

    _unfinished = False

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, UNFINISHED) if self._unfinished else folder

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # uploads go on in the background, and the folder is about to be renamed
        if not self._unfinished:
            super()._push_from_checkpoint(checkpoint_folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._unfinished = True
        try:
            # older checkpoints lie elsewhere, so the limit of their number deletes none yet
            super()._save_checkpoint(model, trial)
        finally:
            self._unfinished = False
        self.accelerator.wait_for_everyone()  # every process has written its part
        written = folder / UNFINISHED / name
        best = self.state.best_model_checkpoint
        if best is not None and Path(best) == written:
            self.state.best_model_checkpoint = str(folder / name)
            if self.args.should_save:
                self.state.save_to_json(str(written / STATE))
        if self.args.should_save:
            _publish(written, folder / name)
            if self.args.push_to_hub:
                self._push_from_checkpoint(str(folder / name))
            rotate_checkpoints(
                output_dir=str(folder),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.accelerator.wait_for_everyone()


def _publish(written: Path, final: Path) -> None:
    """Give a folder its name, after its files have reached the disk."""
    for path in [*written.rglob("*"), written]:
        _flush(path)
    if final.exists():  # an earlier run got here too
        os.rename(final, written.with_name(f"{final.name}-before"))
    os.rename(written, final)
    _flush(final.parent)
    shutil.rmtree(written.parent, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some file systems cannot do this for folders
        logger.debug("%s cannot be flushed", path)
    finally:
        os.close(descriptor)


def what_is_missing(folder: str | Path) -> str | None:
    """Why a checkpoint cannot be resumed from, None where it can.

    Finds missing and cut-off files: the trainer's state is written last, safetensors say how long they are, and
    torch's files end with their table of contents.

    Args:
        folder: a checkpoint of transformers' Trainer, from us or from elsewhere.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return "there is no such folder"
    try:
        json.loads((folder / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"it has no {STATE}"
    except ValueError:
        return f"{STATE} is cut off"
    if not any(any(folder.glob(pattern)) for pattern in WEIGHTS):
        return "it has no weights"
    for index in folder.glob("*.index.json"):
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError):
            return f"{index.name} is cut off"
        absent = sorted(shard for shard in shards if not (folder / shard).is_file())
        if absent:
            return f"{absent[0]} is missing"
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".safetensors" and not _is_whole_safetensors(path):
            return f"{path.name} is cut off"
        if path.suffix in (".pt", ".pth", ".bin") and not zipfile.is_zipfile(path):
            return f"{path.name} is cut off"
    return None


def _is_whole_safetensors(path: Path) -> bool:
    """Whether a file is as long as its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 + length:
            return False
        header = json.loads(file.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return size == 8 + length + max(ends, default=0)


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """The checkpoint of the most steps that can be resumed from, None where there is none.

    Those that cannot are passed over with a warning.
    """
    found: list[tuple[int, Path]] = []
    for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        steps = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if steps.isdecimal() and path.is_dir():
            found.append((int(steps), path))
    for _, path in sorted(found, reverse=True):
        problem = what_is_missing(path)
        if problem is None:
            return str(path)
        logger.warning("%s is passed over: %s.", path, problem)
    return None


def checkpoint_to_resume(value: str | bool | None, output_dir: str | Path | None) -> str | None:
    """The checkpoint that `resume_from_checkpoint` means; the same one on all processes.

    Args:
        value: a checkpoint's folder; "last" or true for the last complete one in `output_dir`; "auto" for that where
            there is one, and a fresh start otherwise; false or None for a fresh start.
        output_dir: the run's folder.

    Raises:
        ValueError: no complete checkpoint where one was asked for.
    """
    word = "" if value is None else str(value).lower()
    if word in ("", "false", "no", "none"):
        return None
    if word in ("auto", "last", "true", "yes"):
        found = last_complete_checkpoint(output_dir or ".")
        if found is None and word != "auto":
            raise ValueError(
                f"There is no complete checkpoint in {output_dir} to resume from; resume_from_checkpoint: auto starts "
                "afresh then."
            )
    else:
        found = str(value)
        problem = what_is_missing(found)
        if problem is not None:
            raise ValueError(f"{found} cannot be resumed from: {problem}.")
    return _of_first_process(found)


def _of_first_process(value: str | None) -> str | None:
    """What the first process found: on a shared file system the others may not see the same yet."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
