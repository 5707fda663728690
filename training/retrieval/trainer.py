"""SctTrainer: sparse contrastive training, exact over padding, accumulation and processes."""

from __future__ import annotations

import contextlib
import logging
import math
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from milco_hf.training.retrieval.arguments import SctArguments
from milco_hf.training.retrieval.collapse import collapse_warnings, top_term_overlap
from milco_hf.training.retrieval.dataset import RetrievalDataset
from milco_hf.training.retrieval.echo import EchoRate, check_echo_rate
from milco_hf.training.retrieval.evaluation import LanguageRetrieval, evaluate_retrieval, summarize
from milco_hf.training.retrieval.gradcache import CachedTexts, Encode
from milco_hf.training.retrieval.lora import has_lora, load_adapter, merged_state, save_adapter
from milco_hf.training.retrieval.objective import RANKINGS, Objective, Parts
from milco_hf.training.retrieval.ranking_losses import score_statistics
from milco_hf.training.retrieval.translations import TranslationParts
from milco_hf.training.retrieval.views import Views
from milco_hf.training.stage_trainer import StageTrainer

logger = logging.getLogger(__name__)

SIDES = ("query", "document")


class SctTrainer(StageTrainer):
    """Trains a MILCO model to rank passages as a teacher does, or its positives first.

    KL, MarginMSE and L1 are sums over the questions and candidates of an optimizer step, divided by their numbers, and
    so is SMSE over its pairs of parallel text: they do not depend on how the step was divided. InfoNCE, of questions or
    of parallel text, depends on what one micro-batch of all processes holds, CLEAR and FLOPS likewise; none of them
    depends on the number of processes.

    Args:
        model: a MilcoForSparseEncoding.
        args: the arguments.
        query_length, document_length: dev texts are cut to so many tokens.
        eval_queries: dev questions per language in an evaluation; all where None.
        **kwargs: `StageTrainer`'s; eval_dataset is a RetrievalDataset.
    """

    def __init__(
        self,
        model: nn.Module,
        args: SctArguments,
        query_length: int = 64,
        document_length: int = 512,
        eval_queries: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=model, args=args, **kwargs)
        self.query_length, self.document_length = query_length, document_length
        self.eval_queries = eval_queries
        self.objective = Objective(args, self.model.config.projection_dim, self.model.config.echo)
        self.lora = has_lora(self.model)

    # ---- optimizer ----

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """`StageTrainer`'s, with [ECHO]'s own learning rate where `echo_learning_rate` is set.

        Raises:
            ValueError: that cannot be, see `check_echo_rate`; or parameters are flattened.
        """
        made = self.optimizer is None
        optimizer = super().create_optimizer(model)
        rate = self.args.echo_learning_rate
        unwrapped = self.accelerator.unwrap_model(self.model if model is None else model)
        if made and rate is not None:
            check_echo_rate(unwrapped, rate, self.args.head_rate)
            if unwrapped.echo is None:  # a row of the decoder; as a layer it is a parameter group
                self._check_rows_are_whole(rate)
                EchoRate(unwrapped, rate, self.args.head_rate).attach(optimizer)
        return optimizer

    def _check_rows_are_whole(self, rate: float) -> None:
        fsdp = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        if self.is_deepspeed_enabled or (fsdp is not None and fsdp.fsdp_version == 1):
            raise ValueError(
                f"echo_learning_rate is {rate}, but DeepSpeed and FSDP 1 flatten the decoder, and [ECHO]'s row is "
                "then out of reach. Use FSDP 2 (training/accelerate/fsdp2.yaml) or DDP, or leave it out."
            )

    # ---- loss ----

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor | None:
        """(questions, candidates, pairs) of the whole optimizer step, over its micro-batches and all processes: [3]."""
        if not batch_samples:
            return None
        counts = torch.tensor([_items(batch) for batch in batch_samples], device=device).sum(dim=0)
        return self.accelerator.reduce(counts, reduction="sum") if self.args.world_size > 1 else counts

    def encode(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        lang_ids: Tensor | None = None,
        logits: bool = False,
    ) -> Views:
        """Run the model over some texts; with `logits`, `pivot` holds those in place of the pivot view."""
        outputs = model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            lang_ids=lang_ids,
            return_embeddings=False,
            source_view=self.objective.source_view and not logits,
        )
        if logits:
            return Views(outputs.pivot_logits, input_ids, None)
        return Views(outputs.pivot_view, input_ids, outputs.source_weights, self.model.config.echo_pooling)

    def _texts(self, model: nn.Module, inputs: dict[str, Any]) -> list[tuple[Encode, Tensor, Tensor, Tensor | None]]:
        """How questions, passages and, where there are some, parallel texts are encoded, their tokens and adapters."""
        names = (*SIDES, "parallel") if "parallel_ids" in inputs else SIDES
        return [
            (
                partial(self.encode, model, logits=name == "parallel"),
                *(inputs[f"{name}_ids"], inputs[f"{name}_mask"], inputs.get(f"{name}_lang_ids")),
            )
            for name in names
        ]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """This micro-batch's part of the step's loss, times the number of processes, whose gradients DDP averages."""
        views = [encode(*texts) for encode, *texts in self._texts(model, inputs)]
        loss = self.batch_loss(*views[:2], inputs, num_items_in_batch, *views[2:])
        return (loss, views) if return_outputs else loss

    def batch_loss(
        self,
        queries: Views,
        documents: Views,
        inputs: dict[str, Any],
        items: Tensor | None,
        parallel: Views | None = None,
    ) -> Tensor:
        """The loss on views, and what is logged of it."""
        parts = self.objective.parts(queries, documents, inputs)
        self._count(parts, queries, documents, inputs)
        questions, passages, pairs = torch.tensor(_items(inputs)) if items is None else items
        loss = self.objective.loss(parts, questions, passages, self.sparsity_weights)
        if parallel is not None:
            found = self.objective.translations(parallel.pivot, inputs["parallel_numbers"])
            self._count_translations(found)
            loss = loss + self.objective.translation_loss(found, pairs)
        return loss * self.args.world_size

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        """One micro-batch forward and backward; with `gradcache_minibatch`, in chunks."""
        if self.args.gradcache_minibatch is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()
        inputs = self._prepare_inputs(inputs)
        groups = [CachedTexts(*texts, self.args.gradcache_minibatch) for texts in self._texts(model, inputs)]
        views = [group.views for group in groups]
        with self.compute_loss_context_manager():
            loss = self.batch_loss(*views[:2], inputs, num_items_in_batch, *views[2:])
        leaves = [leaf for group in groups for leaf in group.leaves]
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        gradients = [
            torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, gradients, strict=True)
        ]
        remaining = iter(gradients)
        own = [list(islice(remaining, len(group.leaves))) for group in groups]
        surrogates = chain.from_iterable(group.surrogates(some) for group, some in zip(groups, own, strict=True))
        last = sum(len(group) for group in groups) - 1
        for number in range(last + 1):
            # gradients travel between processes once, with the last chunk
            waits = self.accelerator.sync_gradients and number < last
            with self.accelerator.no_sync(model) if waits else contextlib.nullcontext():
                self.accelerator.backward(next(surrogates))
        return loss.detach()

    @property
    def sparsity_weights(self) -> dict[str, float]:
        """λ of each side at the current step."""
        steps = self.state.global_step, self.state.max_steps
        return {side: self.objective.sparsity_weight(side, *steps) for side in SIDES}

    # ---- logging ----

    def _count(self, parts: Parts, queries: Views, documents: Views, inputs: dict[str, Any]) -> None:
        with torch.no_grad():
            ones = torch.ones_like(parts.l1["query"])
            sums: dict[str, Tensor | float] = dict(parts.rankings)
            for side, views, times in (("query", queries, ones), ("document", documents, parts.occurrences)):
                active = (views.pivot > 0).sum(dim=1)
                sums[f"{side}_texts"] = times
                sums[f"{side}_l1"] = parts.l1[side] * times
                sums[f"{side}_active"] = active * times
                sums[f"{side}_empty"] = (active == 0) * times
                sums[f"{side}_source"] = torch.bincount(views.entries()[0], minlength=len(views)) * times
                if parts.flops:
                    sums[f"{side}_flops"] = parts.flops[side][0]
            mean, variance, entropy = score_statistics(inputs["teacher_scores"], self.args.tau_teacher)
            sums.update(scored=len(mean), teacher_mean=mean, teacher_variance=variance, teacher_entropy=entropy)
            sums.update(batches=1.0, encoded=len(queries) + len(documents))
            if "clear" in parts.rankings:
                sums["bridged"] = inputs["bridged"]
            if self.state.global_step % max(1, int(self.state.logging_steps or 1)) == 0:
                overlap = top_term_overlap(documents.pivot)
                if overlap == overlap:
                    sums.update(overlap=overlap, overlaps=1.0)
                else:
                    sums.update(overlap=0.0, overlaps=0.0)
        self.count(**sums)

    def _count_translations(self, parts: TranslationParts) -> None:
        closeness, compared = parts.closeness
        sums = {"alignment_smse": parts.smse, "alignment_infonce": parts.infonce, "alignment": parts.distances}
        sums = {name: value for name, value in sums.items() if value is not None}
        pairs = len(parts.smse)
        self.count(**sums, pairs=pairs, closeness=closeness, compared=compared, encoded=2 * pairs)

    @staticmethod
    def _translation_components(sums: dict[str, float]) -> dict[str, float]:
        pairs = max(1.0, sums["pairs"])
        texts = {"alignment_smse": pairs, "alignment_infonce": 2 * pairs, "alignment": pairs}
        found = {name: sums[name] / number for name, number in texts.items() if name in sums}
        if sums["closeness"] > 0:
            found["uniformity"] = math.log(sums["closeness"] / sums["compared"])
        return found

    def components(self, sums: dict[str, float], seconds: float) -> dict[str, float]:
        """Each loss, the sparsity and active dimensions of each side and view, what was sampled, and speed."""
        questions, passages = max(1.0, sums["query_texts"]), max(1.0, sums["document_texts"])
        found = {name: sums[name] / questions for name in RANKINGS if name in sums}
        if "bridged" in sums:
            found["bridged_share"] = sums["bridged"] / questions
        if "pairs" in sums:
            found.update(self._translation_components(sums))
        for side, number in (("query", questions), ("document", passages)):
            found[f"l1_{side}"] = sums[f"{side}_l1"] / number
            if f"{side}_flops" in sums:
                found[f"flops_{side}"] = sums[f"{side}_flops"] / sums["batches"]
            found[f"sparsity_weight_{side}"] = self.sparsity_weights[side]
            found[f"active_dims_{side}"] = sums[f"{side}_active"] / number
            found[f"active_source_{side}"] = sums[f"{side}_source"] / number
            found[f"empty_share_{side}"] = sums[f"{side}_empty"] / number
        if sums["scored"]:
            for name in ("mean", "variance", "entropy"):
                found[f"teacher_{name}"] = sums[f"teacher_{name}"] / sums["scored"]
        found["candidates"] = passages / questions
        if sums.get("overlaps"):
            found["top_term_overlap"] = sums["overlap"] / sums["overlaps"]
        found["texts_per_second"] = sums["encoded"] / seconds
        return found

    def warn(self, logs: dict[str, float]) -> None:
        """Warn of collapse."""
        collapse_warnings(
            logs["active_dims_query"],
            logs["active_dims_document"],
            logs.get("top_term_overlap", float("nan")),
            self.pivot_vocab_size,
            f"step {self.state.global_step}",
        )

    # ---- evaluation ----

    def measure(self, model: nn.Module, dataset: RetrievalDataset) -> tuple[list[LanguageRetrieval], dict[str, float]]:
        """Retrieval by language on the dev rows."""
        results = evaluate_retrieval(
            model,
            self.processing_class,
            self.accelerator.unwrap_model(self.model).config,
            dataset,
            batch_size=self.args.per_device_eval_batch_size,
            query_length=self.query_length,
            document_length=self.document_length,
            device=self.args.device,
            queries_per_language=self.eval_queries,
            processes=self.accelerator,
        )
        return results, summarize(results)

    def show(self, results: list[LanguageRetrieval], metrics: dict[str, float]) -> None:
        """Log the means, and each language's MRR@10."""
        logger.info(
            "step %d: MRR@10 %.3f (lowest %.3f), nDCG@10 %.3f, first right %.3f; %.0f terms a query, %.0f a text",
            self.state.global_step,
            *(metrics[name] for name in ("mrr_mean", "mrr_min", "ndcg_mean", "accuracy_mean")),
            *(metrics[f"active_dims_{side}_mean"] for side in SIDES),
        )
        logger.info("MRR@10 by language: %s", ", ".join(f"{result.language} {result.mrr:.3f}" for result in results))

    # ---- checkpoints with low-rank updates ----

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """With LoRA, merged weights, which open in `SparseEncoder`, and beside them the updates alone."""
        if self.lora:
            model = self.accelerator.unwrap_model(self.model)
            state = model.state_dict() if state_dict is None else state_dict
            if self.args.should_save:
                save_adapter(model, state, output_dir or self.args.output_dir)
                state_dict = merged_state(model, state)
        super()._save(output_dir, state_dict=state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.lora and not self.is_fsdp_enabled:  # sharded checkpoints hold the updates themselves
            load_adapter(self.accelerator.unwrap_model(self.model), resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.lora and not self.is_fsdp_enabled:
            load_adapter(self.accelerator.unwrap_model(self.model), self.state.best_model_checkpoint)


def _items(batch: dict[str, Tensor]) -> list[int]:
    """Questions, candidates and parallel pairs of a batch."""
    pairs = len(batch["parallel_numbers"]) if "parallel_numbers" in batch else 0
    return [len(batch["query_ids"]), int((batch["candidates"] >= 0).sum()), pairs]
