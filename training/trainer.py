"""SapTrainer: transformers' Trainer with the alignment loss, exact over batches, accumulation and processes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from milco_hf.training.arguments import SapArguments
from milco_hf.training.data.pairs import PairDataset
from milco_hf.training.evaluation import LanguageScores, evaluate_translation, summarize, warn_about_activity
from milco_hf.training.losses import AlignmentTerms, alignment_terms, dense_alignment_terms, l1_weight_at
from milco_hf.training.stage_trainer import StageTrainer, choose_trained
from milco_hf.training.teachers.cache import CachedTeacher, Teacher
from milco_hf.training.teachers.mlm import MlmTeacher

__all__ = ["SapCallback", "SapTrainer", "choose_trained"]

logger = logging.getLogger(__name__)


class SapTrainer(StageTrainer):
    """Trains a MILCO model to give its teacher's pooled logits for texts of all languages.

    The loss is the sum over all texts of an optimizer step, over micro-batches and processes, divided by their number:
    (Σ SMSE + λ · Σ L1) / texts. So it does not depend on how the step was divided.

    Args:
        model: a MilcoForSparseEncoding.
        args: the arguments.
        teacher: gives targets for English texts; it is no part of the saved model.
        max_length: dev texts are cut to this many tokens.
        dense_targets: keep the teacher's negative logits (neural teachers only).
        eval_samples: dev texts whose strongest terms each evaluation logs.
        eval_pairs: dev pairs per language in an evaluation; all where None.
        **kwargs: `StageTrainer`'s; eval_dataset is a PairDataset.
    """

    def __init__(
        self,
        model: nn.Module,
        args: SapArguments,
        teacher: Teacher,
        max_length: int = 512,
        dense_targets: bool = False,
        eval_samples: int = 0,
        eval_pairs: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, args=args, **kwargs)
        self.teacher = teacher.to(args.device)
        self.max_length = max_length
        self.dense_targets = dense_targets
        self.eval_samples, self.eval_pairs = eval_samples, eval_pairs
        self._l1_warmup: int | None = None
        if dense_targets and not isinstance(teacher, MlmTeacher):
            raise ValueError("teacher_targets: dense needs a neural teacher; a static one has no negative logits.")

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
            lang_ids=inputs.get("lang_ids"),
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

    # ---- logging ----

    def _count(self, terms: AlignmentTerms, is_english: Tensor) -> None:
        self.count(
            texts=len(terms.active),
            english_texts=is_english,
            smse=terms.smse,
            norm=terms.norm,
            contrast=terms.contrast,
            l1=terms.l1,
            active=terms.active,
            active_english=terms.active * is_english,
            empty=terms.active == 0,
        )

    def components(self, sums: dict[str, float], seconds: float) -> dict[str, float]:
        """The loss's parts, active terms and speed."""
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
            "texts_per_second": sums["texts"] / seconds,
        }

    def warn(self, logs: dict[str, float]) -> None:
        """Warn when nothing or too much is active."""
        warn_about_activity(logs["active_dims"], self.pivot_vocab_size, f"step {self.state.global_step}")

    # ---- evaluation ----

    def measure(self, model: nn.Module, dataset: PairDataset) -> tuple[list[LanguageScores], dict[str, float]]:
        """Translation retrieval by language on the dev pairs."""
        results = evaluate_translation(
            model,
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
        return results, summarize(results)

    def show(self, results: list[LanguageScores], metrics: dict[str, float]) -> None:
        """Log the means, each language, and a few texts with their strongest terms."""
        step = self.state.global_step
        logger.info(
            "step %d: accuracy other→English %.3f (lowest %.3f), English→other %.3f, %.0f active terms",
            step,
            metrics["accuracy_other_to_english_mean"],
            metrics["accuracy_other_to_english_min"],
            metrics["accuracy_english_to_other_mean"],
            metrics["active_dims_mean"],
        )
        by_language = (f"{result.language} {result.accuracy_other_to_english:.3f}" for result in results)
        logger.info("by language: %s", ", ".join(by_language))
        for result in results:
            for english, other, terms in result.samples:
                logger.info("%s | %s (%s) | %s", result.language, other, english, terms)
        warn_about_activity(metrics["active_dims_mean"], self.pivot_vocab_size, f"evaluation at step {step}")


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
