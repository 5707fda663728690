"""Arguments that every training stage shares: transformers' TrainingArguments, learning rates by part, limited time."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

TRAINABLE = ("encoder", "connector", "head")


def read_mapping(value: Any, name: str) -> dict[str, Any]:
    """A mapping from a recipe, or the JSON text of one from a flag.

    Raises:
        ValueError: it is neither.
    """
    if value is None:
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(f'{name} must be a mapping such as {{"te": 2.0}}, got {value!r}.') from None
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a mapping, got {value!r}.")
    return value


@dataclass
class StageArguments(TrainingArguments):
    """Everything of transformers' TrainingArguments, and what is added to it for each stage."""

    encoder_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the encoder where it differs from learning_rate."}
    )
    embeddings_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the encoder's token embeddings where it differs."}
    )
    connector_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the connector where it differs."}
    )
    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the head where it differs."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this many evaluations without a better metric_for_best_model."}
    )
    early_stopping_threshold: float = field(
        default=0.0, metadata={"help": "How much better the metric must be to count."}
    )
    lr_scheduler_type: str = field(
        default="cosine", metadata={"help": "Schedule of the learning rate after the warm-up."}
    )
    # HfArgumentParser reads the first member of the union, so None must come first
    report_to: None | str | list[str] = field(  # noqa: RUF036
        default="tensorboard", metadata={"help": "Where metrics go: tensorboard, wandb, none, or several."}
    )
    logging_steps: float = field(default=50, metadata={"help": "Log every so many steps."})
    ddp_find_unused_parameters: bool | None = field(
        default=False,
        metadata={
            "help": "Whether DDP looks for parameters that a step did not use (encoders with language adapters)."
        },
    )
    max_minutes: float | None = field(
        default=None,
        metadata={
            "help": "Stop after this many minutes, the learning rate falling with the time that has passed (linear or "
            "cosine); such a run cannot be repeated exactly."
        },
    )
    max_threads: int | None = field(
        default=None, metadata={"help": "CPU threads of torch; as many as there are cores by default."}
    )

    # a metric that load_best_model_at_end can go by, named in the message that asks for one
    best_metric_example = "accuracy_other_to_english_mean"

    def __post_init__(self) -> None:
        """Finish TrainingArguments' own checks, then ours."""
        if self.report_to == "tensorboard" and not _has_tensorboard():
            self.report_to = "none"
        super().__post_init__()
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise ValueError(f"max_minutes must be positive, got {self.max_minutes}.")
        if self.early_stopping_patience is not None and not self.load_best_model_at_end:
            raise ValueError(
                "early_stopping_patience needs load_best_model_at_end: true, eval_strategy and metric_for_best_model "
                f"(for example {self.best_metric_example})."
            )

    def check_not_negative(self, *names: str) -> None:
        """Refuse settings below zero, by name."""
        for name in names:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")


def steps_of(setting: float, total_steps: int) -> int:
    """A number of steps, or, below 1, a share of all of them."""
    return int(setting * total_steps if setting < 1 else setting)


def _has_tensorboard() -> bool:
    from transformers.integrations import is_tensorboard_available

    return is_tensorboard_available()
