"""Runs of limited time: the learning rate falls with the clock, and training stops when the time is up."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
import torch.distributed
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SHAPES = {
    "linear": lambda share: 1 - share,
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
    "constant": lambda share: 1.0,
    "constant_with_warmup": lambda share: 1.0,
}


class Clock:
    """How much of the time is gone; every process goes by the first one's clock, or their learning rates would differ.

    Args:
        minutes: the time there is, from the moment training begins.
    """

    def __init__(self, minutes: float) -> None:
        self.seconds = minutes * 60
        self.began: float | None = None
        self.share = 0.0

    @property
    def minutes_left(self) -> float:
        """Minutes until the time is up, by the last reading."""
        return self.seconds * (1 - self.share) / 60

    def tick(self, device: torch.device | str = "cpu") -> float:
        """Read the clock; call it on every process at the same moment. Returns the share of the time that is gone."""
        now = time.monotonic()
        self.began = now if self.began is None else self.began
        share = torch.tensor((now - self.began) / self.seconds, dtype=torch.float64, device=device)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.broadcast(share, src=0)
        self.share = min(1.0, share.item())
        return self.share


class TimeLimit(TrainerCallback):
    """Ends training when the clock has run out.

    Args:
        clock: the run's.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self.clock.began = None
        self.clock.tick(args.device)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read the clock before the schedule goes on."""
        self.clock.tick(args.device)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop, with a last evaluation and checkpoint where the run has any, when the time is up."""
        if self.clock.share >= 1:
            control.should_training_stop = True
            control.should_log = True
            control.should_evaluate = str(getattr(args.eval_strategy, "value", args.eval_strategy)) != "no"
            control.should_save = str(getattr(args.save_strategy, "value", args.save_strategy)) in ("steps", "epoch")


def timed_schedule(
    optimizer: torch.optim.Optimizer, shape: str, warmup_steps: int, total_steps: int, clock: Clock
) -> LambdaLR:
    """A learning rate that warms up by steps, then falls by whichever is further on, the clock or the steps.

    Raises:
        ValueError: a shape that cannot follow the clock.
    """
    if shape not in SHAPES:
        raise ValueError(f"lr_scheduler_type must be one of {', '.join(SHAPES)} with max_minutes, got {shape!r}.")

    def factor(step: int) -> float:
        warm = min(1.0, step / warmup_steps) if warmup_steps else 1.0
        return warm * max(0.0, SHAPES[shape](max(clock.share, min(1.0, step / max(1, total_steps)))))

    return LambdaLR(optimizer, factor)
