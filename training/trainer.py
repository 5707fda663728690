"""SapTrainer: transformers' Trainer with the alignment loss, exact over batches, accumulation and processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import seed_worker

from milco_hf.training.arguments import TRAINABLE, SapArguments
from milco_hf.training.data.pairs import PairDataset
from milco_hf.training.data.steps import StepSampler
from milco_hf.training.evaluation import evaluate_translation, summarize, warn_about_activity
from milco_hf.training.losses import AlignmentTerms, alignment_terms, dense_alignment_terms, l1_weight_at
from milco_hf.training.teachers.cache import CachedTeacher, Teacher
from milco_hf.training.teachers.mlm import MlmTeacher
from milco_hf.training.time_limit import Clock, timed_schedule

logger = logging.getLogger(__name__)

TOTALS = ("texts", "english_texts", "smse", "norm", "contrast", "l1", "active", "active_english", "empty")
WARNING_INTERVAL = 200


def choose_trained(model: nn.Module, train: list[str]) -> None:
    """Let only some parts learn, by name.

    Args:
        model: a MilcoForSparseEncoding.
        train: out of encoder, connector and head. [ECHO]'s own layer, where the release has one, never learns in SAP.

    Raises:
        ValueError: an unknown part, or none.
    """
    unknown = sorted(set(train) - set(TRAINABLE))
    if unknown or not train:
        raise ValueError(f"train must name parts out of {', '.join(TRAINABLE)}, got {train}.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.split(".")[0] in train)


class SapTrainer(Trainer):
    """Trains a MILCO model to give its teacher's pooled logits for texts of all languages.

    The loss is the sum over all texts of an optimizer step, over micro-batches and processes, divided by their number:
    (Σ SMSE + λ · Σ L1) / texts. So it does not depend on how the step was divided.

    Args:
        model: a MilcoForSparseEncoding.
        args: the arguments.
        teacher: gives targets for English texts; it is no part of the saved model.
        sampler: cuts an epoch of `train_dataset` into batches; None where the dataset is a stream of batches' items.
        max_length: dev texts are cut to this many tokens.
        dense_targets: keep the teacher's negative logits (neural teachers only).
        eval_samples: dev texts whose strongest terms each evaluation logs.
        eval_pairs: dev pairs per language in an evaluation; all where None.
        clock: the time that the run may take, where it is limited.
        **kwargs: `Trainer`'s: train_dataset, eval_dataset (a PairDataset), data_collator, processing_class, callbacks.
    """

    # compute_loss divides by the texts of the whole accumulated step itself
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: nn.Module,
        args: SapArguments,
        teacher: Teacher,
        sampler: StepSampler | None = None,
        max_length: int = 512,
        dense_targets: bool = False,
        eval_samples: int = 0,
        eval_pairs: int | None = None,
        clock: Clock | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, args=args, **kwargs)
        self.model_accepts_loss_kwargs = True  # what loss_is_scaled_for_ga says to newer versions of transformers
        self.teacher = teacher.to(args.device)
        self.sampler = sampler
        self.max_length = max_length
        self.dense_targets = dense_targets
        self.eval_samples, self.eval_pairs = eval_samples, eval_pairs
        self.clock = clock
        self.pivot_vocab_size = self.model.config.pivot_vocab_size
        self._totals = torch.zeros(len(TOTALS), dtype=torch.float64)
        self._since = time.perf_counter()
        self._l1_warmup: int | None = None
        self._next_warning = 0
        if dense_targets and not isinstance(teacher, MlmTeacher):
            raise ValueError("teacher_targets: dense needs a neural teacher; a static one has no negative logits.")

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
        """Pairs that all processes see in an epoch."""
        if self.sampler is None:
            return super().num_examples(dataloader)
        return min(len(dataloader.dataset), len(self.sampler) * self.sampler.batch_size * self.args.world_size)  # type: ignore[arg-type]

    # ---- loss ----

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor | None:
        """Texts of the whole optimizer step: over its micro-batches and over all processes."""
        if not batch_samples:
            return None
        texts = torch.tensor(sum(len(batch["target_rows"]) for batch in batch_samples), device=device)
        return self.accelerator.gather(texts).sum() if self.args.world_size > 1 else texts

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """This micro-batch's part of the step's loss, times the number of processes, whose gradients DDP averages."""
        terms, outputs = self.alignment(model, inputs)
        self._count(terms, inputs["is_english"])
        losses = terms.smse + self.l1_weight * terms.l1 + self.args.norm_weight * terms.norm  # [B]
        losses = losses + self.args.contrast_weight * terms.contrast
        texts = len(losses) if num_items_in_batch is None else num_items_in_batch
        loss = losses.sum() * self.args.world_size / texts
        return (loss, outputs) if return_outputs else loss

    def alignment(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[AlignmentTerms, Any]:
        """Run the model once over both sides' texts, and compare with the teacher's targets of each pair."""
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            return_embeddings=False,
            source_view=False,
        )
        logits, rows = outputs.pivot_logits, inputs["target_rows"]
        temperature = self.args.contrast_temperature if self.args.contrast_weight else None
        shape = self.args.normalize, self.args.extra_weight, temperature
        if self.dense_targets:
            teacher = self.teacher.logits(inputs["english_texts"])  # type: ignore[attr-defined]
            return dense_alignment_terms(logits, teacher.to(logits.device), rows, *shape), outputs
        targets = self.teacher.targets(inputs["english_texts"]).to(logits.device)
        return alignment_terms(logits, targets, rows, *shape), outputs

    @property
    def l1_weight(self) -> float:
        """λ at the current step."""
        if self._l1_warmup is None:
            self._l1_warmup = self.args.l1_warmup(self.state.max_steps)
        return l1_weight_at(self.state.global_step, self.args.l1_weight, self._l1_warmup)

    # ---- optimizer ----

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW, or what `optim` says, with a learning rate for each part that has one."""
        opt_model = self.model if model is None else model
        rates = {
            "embeddings": self.args.embeddings_learning_rate,
            "encoder": self.args.encoder_learning_rate,
            "connector": self.args.connector_learning_rate,
            "head": self.args.head_learning_rate,
        }
        if self.optimizer is not None or all(rate is None for rate in rates.values()):
            return super().create_optimizer(model)
        decaying = set(self.get_decay_parameter_names(opt_model))
        embeddings = {id(weight) for weight in self._embedding_weights(opt_model)}
        groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
        for name, parameter in opt_model.named_parameters():
            if parameter.requires_grad:
                part = next((part for part in TRAINABLE if part in name.split(".")), "encoder")
                if id(parameter) in embeddings and rates["embeddings"] is not None:
                    part = "embeddings"
                groups.setdefault((part, name in decaying), []).append(parameter)
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, opt_model)
        options.pop("lr", None)
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

    # ---- logging ----

    def _count(self, terms: AlignmentTerms, is_english: Tensor) -> None:
        with torch.no_grad():
            active = terms.active.double()
            self._totals = self._totals.to(active.device)
            self._totals += torch.stack(
                [
                    active.new_tensor(len(active)),
                    is_english.sum().double(),
                    terms.smse.detach().double().sum(),
                    terms.norm.detach().double().sum(),
                    terms.contrast.detach().double().sum(),
                    terms.l1.detach().double().sum(),
                    active.sum(),
                    (active * is_english).sum(),
                    (active == 0).double().sum(),
                ]
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss's parts, active terms and speed since the last time."""
        if "loss" in logs:
            logs.update(self._components())
            if self.state.global_step >= self._next_warning:
                self._next_warning = self.state.global_step + WARNING_INTERVAL
                self._warn(logs["active_dims"], f"step {self.state.global_step}")
        super().log(logs, start_time)

    def _components(self) -> dict[str, float]:
        totals = self.accelerator.reduce(self._totals, reduction="sum") if self.args.world_size > 1 else self._totals
        sums = dict(zip(TOTALS, totals.tolist(), strict=True))
        self._totals = torch.zeros_like(self._totals)
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        texts, english = max(1.0, sums["texts"]), sums["english_texts"]
        return {
            "smse": sums["smse"] / texts,
            "norm": sums["norm"] / texts,
            **({"contrast": sums["contrast"] / texts} if self.args.contrast_weight else {}),
            "l1": sums["l1"] / texts,
            "l1_weight": self.l1_weight,
            "active_dims": sums["active"] / texts,
            "active_dims_english": sums["active_english"] / max(1.0, english),
            "active_dims_other": (sums["active"] - sums["active_english"]) / max(1.0, texts - english),
            "empty_share": sums["empty"] / texts,
            "texts_per_second": sums["texts"] / max(seconds, 1e-9),
            **({"minutes_left": self.clock.minutes_left} if self.clock is not None else {}),
        }

    def _warn(self, active: float, where: str) -> None:
        if self.is_world_process_zero():
            warn_about_activity(active, self.pivot_vocab_size, where)

    # ---- evaluation ----

    def evaluate(
        self,
        eval_dataset: PairDataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Translation retrieval by language on the dev pairs.

        Raises:
            ValueError: there are no dev pairs.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise ValueError("There are no dev pairs; set dev_data, or eval_strategy: no.")
        began = time.perf_counter()
        wrapped = self.model_wrapped if self.is_fsdp_enabled or self.is_deepspeed_enabled else self.model
        training = wrapped.training
        wrapped.eval()
        try:
            with self.accelerator.autocast():
                results = evaluate_translation(
                    wrapped,
                    self.processing_class,
                    self.accelerator.unwrap_model(self.model).config,
                    dataset,
                    batch_size=self.args.per_device_eval_batch_size,
                    max_length=self.max_length,
                    device=self.args.device,
                    teacher=self.teacher,
                    pairs_per_language=self.eval_pairs,
                    samples=self.eval_samples,
                    processes=self.accelerator,
                )
        finally:
            wrapped.train(training)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in summarize(results).items()}
        seconds = time.perf_counter() - began
        metrics[f"{metric_key_prefix}_runtime"] = seconds
        self._since += seconds  # texts_per_second is training's
        if self.is_world_process_zero():
            self._show(results, metrics, metric_key_prefix)
        self._warn(metrics[f"{metric_key_prefix}_active_dims_mean"], f"evaluation at step {self.state.global_step}")
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _show(self, results: list, metrics: dict[str, float], prefix: str) -> None:
        logger.info(
            "step %d: accuracy other→English %.3f (lowest %.3f), English→other %.3f, %.0f active terms",
            self.state.global_step,
            metrics[f"{prefix}_accuracy_other_to_english_mean"],
            metrics[f"{prefix}_accuracy_other_to_english_min"],
            metrics[f"{prefix}_accuracy_english_to_other_mean"],
            metrics[f"{prefix}_active_dims_mean"],
        )
        logger.info(
            "by language: %s",
            ", ".join(f"{result.language} {result.accuracy_other_to_english:.3f}" for result in results),
        )
        for result in results:
            for english, other, terms in result.samples:
                logger.info("%s | %s (%s) | %s", result.language, other, english, terms)


class SapCallback(TrainerCallback):
    """Writes the teacher's cache with every checkpoint and at the end, and passes the epoch to streams.

    Args:
        teacher: the trainer's.
        set_epoch: called with each epoch's number, where the training data is a stream.
    """

    def __init__(self, teacher: Teacher, set_epoch: Callable[[int], None] | None = None) -> None:
        self.teacher = teacher
        self.set_epoch = set_epoch

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell a stream which epoch begins."""
        if self.set_epoch is not None:
            self.set_epoch(int(state.epoch or 0))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep what the teacher computed."""
        if isinstance(self.teacher, CachedTeacher):
            self.teacher.flush()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep what the teacher computed."""
        self.on_save(args, state, control)
