"""StageTrainer: what SAP's and SCT's trainers share over transformers' Trainer."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedTokenizerFast, Trainer
from transformers.trainer_utils import seed_worker

from milco_hf.allocator import GivesBack
from milco_hf.training.checkpoints import WholeCheckpoints
from milco_hf.training.data.steps import StepSampler
from milco_hf.training.stage_arguments import TRAINABLE, StageArguments
from milco_hf.training.time_limit import Clock, timed_schedule
from milco_hf.training.tokenizer_lengths import without_lengths
from milco_hf.training.trained_parts import trained_parameters

logger = logging.getLogger(__name__)

WARNING_INTERVAL = 200
# Seconds between two times that free memory goes back. Each costs: a step touches gigabytes, then page by page anew.
GIVE_BACK_INTERVAL = 20.0


def choose_trained(model: nn.Module, train: list[str], echo_layer: bool = False) -> None:
    """Let only some parts learn, by name.

    Args:
        model: a MilcoForSparseEncoding.
        train: out of encoder, connector and head, or parts of the encoder (see `trained_parameters`). The decoder's
            [ECHO] row is one of the head's.
        echo_layer: whether [ECHO]'s own layer, where the release has one, learns with the head. In SAP it never does.

    Raises:
        ValueError: an unknown part, one that the model does not have, or none.
    """
    learning = trained_parameters(model, train)
    for name, parameter in model.named_parameters():
        is_echo = echo_layer and name.split(".")[0] == "echo" and "head" in train
        parameter.requires_grad_(name in learning or is_echo)


class StageTrainer(WholeCheckpoints, Trainer):
    """Batches from a step sampler, learning rates by part, schedules on a clock, whole checkpoints, and logged sums.

    `compute_loss` of a subclass divides by the items of the whole accumulated step itself, over processes too, so that
    the loss does not depend on how the step was divided.

    Args:
        model: a MilcoForSparseEncoding.
        args: the arguments.
        sampler: cuts an epoch of `train_dataset` into batches; None where the dataset is a stream of batches' items.
        clock: the time that the run may take, where it is limited.
        **kwargs: `Trainer`'s: train_dataset, eval_dataset, data_collator, processing_class, callbacks.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: nn.Module,
        args: StageArguments,
        sampler: StepSampler | None = None,
        clock: Clock | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, args=args, **kwargs)
        self.model_accepts_loss_kwargs = True  # what loss_is_scaled_for_ga says to newer versions of transformers
        self.sampler = sampler
        self.clock = clock
        self.pivot_vocab_size = self.model.config.pivot_vocab_size
        self._sums: dict[str, Tensor] = {}
        self._since = time.perf_counter()
        self._next_warning = 0
        self._give_back = GivesBack(GIVE_BACK_INTERVAL) if self.args.device.type == "cpu" else None

    # ---- steps ----

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """A step of `Trainer`; on a CPU free memory goes back now and then, which batches of other sizes leave."""
        loss = super().training_step(*args, **kwargs)
        if self._give_back is not None:
            self._give_back()
        return loss

    # ---- data ----

    def get_train_dataloader(self) -> DataLoader:
        """Batches of this process; the sampler already divides them among processes, so accelerate does not."""
        options: dict[str, Any] = {
            "collate_fn": self.data_collator,
            "num_workers": self.args.dataloader_num_workers,
            "pin_memory": self.args.dataloader_pin_memory and self.args.device.type == "cuda",
            "persistent_workers": self.args.dataloader_persistent_workers and self.args.dataloader_num_workers > 0,
            "prefetch_factor": self.args.dataloader_prefetch_factor,
        }
        if isinstance(self.train_dataset, IterableDataset):
            return DataLoader(self.train_dataset, batch_size=self._train_batch_size, drop_last=True, **options)

        options["worker_init_fn"] = partial(
            seed_worker, num_workers=self.args.dataloader_num_workers, rank=self.args.process_index
        )
        return DataLoader(self.train_dataset, batch_sampler=self.sampler, **options)

    def num_examples(self, dataloader: DataLoader) -> int:
        """Rows that all processes see in an epoch."""
        if self.sampler is None:
            return super().num_examples(dataloader)
        return min(len(dataloader.dataset), len(self.sampler) * self.sampler.batch_size * self.args.world_size)  # type: ignore[arg-type]

    # ---- optimizer ----

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW, or what `optim` says, with a learning rate for each part that has one."""
        opt_model = self.model if model is None else model
        rates = {
            "embeddings": self.args.embeddings_learning_rate,
            "encoder": self.args.encoder_learning_rate,
            "connector": self.args.connector_learning_rate,
            "head": self.args.head_learning_rate,
            "echo": getattr(self.args, "echo_learning_rate", None),
        }
        if self.optimizer is not None or all(rate is None for rate in rates.values()):
            return super().create_optimizer(model)
        decaying = set(self.get_decay_parameter_names(opt_model))
        embeddings = {id(weight) for weight in self._embedding_weights(opt_model)}
        groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
        for name, parameter in opt_model.named_parameters():
            if parameter.requires_grad:
                part = _part_of(name)
                if id(parameter) in embeddings and rates["embeddings"] is not None:
                    part = "embeddings"
                groups.setdefault((part, name in decaying), []).append(parameter)
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, opt_model)
        options.pop("lr", None)
        rates["echo"] = rates["head"] if rates["echo"] is None else rates["echo"]
        self.optimizer = optimizer_class(
            [
                {
                    "params": parameters,
                    "weight_decay": self.args.weight_decay if decays else 0.0,
                    "lr": self.args.learning_rate if rates[part] is None else rates[part],
                }
                for (part, decays), parameters in groups.items()
            ],
            lr=self.args.learning_rate,
            **options,
        )
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The schedule of `lr_scheduler_type`, over steps or, in a run of limited time, over time."""
        if self.clock is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = timed_schedule(
            self.optimizer if optimizer is None else optimizer,
            str(getattr(self.args.lr_scheduler_type, "value", self.args.lr_scheduler_type)),
            self.args.get_warmup_steps(num_training_steps),
            num_training_steps,
            self.clock,
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _embedding_weights(self, model: nn.Module) -> list[nn.Parameter]:
        unwrapped = self.accelerator.unwrap_model(model)
        return list(unwrapped.get_input_embeddings().parameters())

    # ---- saving ----

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if isinstance(self.processing_class, PreTrainedTokenizerFast):
            without_lengths(self.processing_class)  # the next batch sets them again
        super()._save(output_dir, state_dict)

    # ---- logging ----

    @torch.no_grad()
    def count(self, **sums: Tensor | float) -> None:
        """Add this batch's sums to those that the next log line reports."""
        for name, value in sums.items():
            value = torch.as_tensor(value, device=self.args.device).detach().double().sum()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def take_sums(self) -> dict[str, float]:
        """The sums since the last time, over all processes, and start again from zero."""
        names = list(self._sums)
        if not names:
            return {}
        totals = torch.stack([self._sums[name] for name in names])
        totals = self.accelerator.reduce(totals, reduction="sum") if self.args.world_size > 1 else totals
        self._sums = {}
        return dict(zip(names, totals.tolist(), strict=True))

    def components(self, sums: dict[str, float], seconds: float) -> dict[str, float]:
        """What a log line says beside loss and learning rate.

        Args:
            sums: what was counted since the last line.
            seconds: the time since then, evaluations left out.
        """
        raise NotImplementedError

    def warn(self, logs: dict[str, float]) -> None:
        """Look at a log line for what should be warned about; called every `WARNING_INTERVAL` steps at most."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss's parts, active terms and speed since the last time."""
        if "loss" in logs:
            now = time.perf_counter()
            seconds, self._since = now - self._since, now
            logs.update(self.components(self.take_sums(), max(seconds, 1e-9)))
            if self.clock is not None:
                logs["minutes_left"] = self.clock.minutes_left
            if self.state.global_step >= self._next_warning:
                self._next_warning = self.state.global_step + WARNING_INTERVAL
                if self.is_world_process_zero():
                    self.warn(logs)
        super().log(logs, start_time)

    # ---- evaluation ----

    def measure(self, model: nn.Module, dataset: Any) -> tuple[list[Any], dict[str, float]]:
        """Evaluate on dev data.

        Args:
            model: in evaluation mode, under autocast.
            dataset: the dev data.

        Returns:
            Results by language, and metrics by name.
        """
        raise NotImplementedError

    def show(self, results: list[Any], metrics: dict[str, float]) -> None:
        """Log an evaluation, and warn of what it shows; called on the first process."""

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The stage's own measures by language on the dev data.

        Raises:
            ValueError: there are no dev data.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise ValueError("There are no dev data; set dev_data, or eval_strategy: no.")
        began = time.perf_counter()
        wrapped = self.model_wrapped if self.is_fsdp_enabled or self.is_deepspeed_enabled else self.model
        training = wrapped.training
        wrapped.eval()
        try:
            with self.accelerator.autocast():
                results, found = self.measure(wrapped, dataset)
        finally:
            wrapped.train(training)
        seconds = time.perf_counter() - began
        self._since += seconds  # texts_per_second is training's
        if self.is_world_process_zero():
            self.show(results, found)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in {**found, "runtime": seconds}.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _part_of(name: str) -> str:
    """Which part a parameter belongs to; the release's [ECHO] layer is one of its own."""
    path = name.split(".")
    return next((part for part in ("echo", *TRAINABLE) if part in path), "encoder")
