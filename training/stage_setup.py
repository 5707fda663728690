"""What every training stage does before and around its trainer."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import EarlyStoppingCallback, Trainer, set_seed

from milco_hf.encoding.opening import fast_in_bf16
from milco_hf.modeling import MilcoForSparseEncoding
from milco_hf.training.checkpoints import checkpoint_to_resume
from milco_hf.training.stage_arguments import StageArguments
from milco_hf.training.time_limit import Clock, TimeLimit

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=Trainer)


def set_up(args: StageArguments, script: str, **required: Any) -> None:
    """Set logging, threads and seed, and refuse settings that no stage can work with.

    Args:
        args: the run's.
        script: the script that runs it, for messages.
        **required: settings that must be given, by name.

    Raises:
        ValueError: a required setting is missing, or one process sees several GPUs.
    """
    level = logging.INFO if args.process_index == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("milco_hf").setLevel(level)
    if args.max_threads is not None:
        torch.set_num_threads(args.max_threads)
    for name, value in required.items():
        if not value:
            raise ValueError(f"{name} is not set; give it in the recipe or as --{name}.")
    if args.n_gpu > 1:
        raise ValueError(
            f"One process sees {args.n_gpu} GPUs. Launch one process a GPU: accelerate launch --config_file "
            f"training/accelerate/ddp.yaml {script} …, or let it see one, with CUDA_VISIBLE_DEVICES=0."
        )
    if args.bf16 and args.device.type == "cpu" and not fast_in_bf16("cpu"):
        logger.warning(
            "bf16 is on, but this CPU has no arithmetic for it (AVX512-BF16 or AMX): steps may take several times as "
            "long as in fp32. Set bf16: false, or --bf16 false."
        )
    set_seed(args.seed)


def load_model(checkpoint: str, attn_implementation: str | None = None) -> MilcoForSparseEncoding:
    """The student in fp32: mixed precision keeps master weights."""
    options = {"attn_implementation": attn_implementation} if attn_implementation else {}
    return MilcoForSparseEncoding.from_pretrained(checkpoint, dtype=torch.float32, **options)


def add_stage(model: MilcoForSparseEncoding, stage: str) -> None:
    """Write into the configuration that a stage made these weights."""
    if stage not in model.config.training_stages:
        model.config.training_stages = [*model.config.training_stages, stage]


def shared_callbacks(args: StageArguments) -> tuple[Clock | None, list[Any]]:
    """The clock of a run of limited time, and the callbacks for that and for early stopping."""
    callbacks: list[Any] = []
    clock = None if args.max_minutes is None else Clock(args.max_minutes)
    if clock is not None:
        callbacks.append(TimeLimit(clock))
    if args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(args.early_stopping_patience, args.early_stopping_threshold))
    return clock, callbacks


def data_seed(args: StageArguments) -> int:
    """What the order of the data is seeded with."""
    return args.seed if args.data_seed is None else args.data_seed


def data_cache(folder: str | None, args: StageArguments) -> Path:
    """Where data is kept as memory-mapped tables: a folder given, or `cache` in output_dir."""
    return Path(folder or os.path.join(str(args.output_dir), "cache"))


def resume_from(args: StageArguments) -> str | None:
    """The checkpoint that `resume_from_checkpoint` means: a path; the last complete one in output_dir; or none.

    Raises:
        ValueError: it is incomplete, or there is none.
    """
    return checkpoint_to_resume(args.resume_from_checkpoint, args.output_dir)


def train_and_save(trainer: T, args: StageArguments) -> T:
    """Train, from a checkpoint where that is asked for, and leave the result in `output_dir`; returns the trainer.

    Raises:
        ValueError: the checkpoint is incomplete, or there is none.
    """
    trainer.train(resume_from_checkpoint=resume_from(args))
    trainer.save_model()
    trainer.save_state()
    return trainer


def end(trainer: Trainer) -> None:
    """Leave the process group, once every process is here.

    DDP goes first: its reducer holds the process group, and the last one to let go of that joins the group's threads. A
    reducer does so without giving up Python's lock, which such a thread may be waiting for, and the process never ends.
    """
    accelerator = trainer.accelerator
    accelerator.wait_for_everyone()
    trainer.model_wrapped = trainer.model
    accelerator.free_memory()
    accelerator.end_training()
