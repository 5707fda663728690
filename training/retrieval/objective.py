"""SCT's objective on the views of one batch: ranking losses and sparsity, divided by the items of the whole step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from milco_hf.training.losses import l1_weight_at
from milco_hf.training.retrieval.arguments import SctArguments
from milco_hf.training.retrieval.processes import gather_views
from milco_hf.training.retrieval.ranking_losses import infonce, kl_divergence, margin_mse, not_negatives
from milco_hf.training.retrieval.reverse import batch_reverse_training
from milco_hf.training.retrieval.sparsity import flops, l1
from milco_hf.training.retrieval.translations import TranslationParts, translation_parts
from milco_hf.training.retrieval.views import ViewChoice, Views, scores, shortened

RANKINGS = ("kl", "margin_mse", "infonce", "pivot_infonce", "short_infonce", "clear")


@dataclass
class Parts:
    """The parts of the objective on one process's batch.

    Attributes:
        rankings: losses of each question by name (`RANKINGS`, those that have a weight), each [Q].
        occurrences: for how many questions each passage is a candidate, [P].
        l1: of each question [Q] and of each passage [P], over the regularised views.
        flops: by side, (FLOPS, texts over all processes); empty with L1.
    """

    rankings: dict[str, Tensor]
    occurrences: Tensor
    l1: dict[str, Tensor]
    flops: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class Objective:
    """Computes the parts, and weighs them.

    Args:
        args: weights, temperatures, views.
        dimensions: V_e + V_s.
        echo: whether the model has a source view.

    Raises:
        ValueError: the source view alone is asked for, or the pivot view beside it, but the model has none.
    """

    def __init__(self, args: SctArguments, dimensions: int, echo: bool) -> None:
        self.args, self.dimensions = args, dimensions
        self.score_views = self._available("score_views", args.score_views, echo)
        if args.pivot_infonce_weight and self.score_views == "pivot":
            raise ValueError(
                f"pivot_infonce_weight is {args.pivot_infonce_weight}, but this model has no other view "
                "(config.echo is false); use infonce_weight."
            )
        self.sparsity_views = self._available("sparsity_views", args.sparsity_views, echo)

    @staticmethod
    def _available(name: str, views: ViewChoice, echo: bool) -> ViewChoice:
        if views == "source" and not echo:
            raise ValueError(f"{name}: source needs a source view, and this model has none (config.echo is false).")
        return views if echo else "pivot"

    @property
    def source_view(self) -> bool:
        """Whether any part looks at the source view."""
        return self.score_views != "pivot" or self.sparsity_views != "pivot"

    def parts(self, queries: Views, documents: Views, batch: dict[str, Tensor]) -> Parts:
        """All parts of one batch, as `CandidateCollator` makes it.

        The negatives of InfoNCE, on either views, and of CLEAR are all passages of all processes' batches, so these
        depend on how many questions are in a batch; the other losses are each question's own.
        """
        args, candidates = self.args, batch["candidates"]
        pool, numbers, start = documents, batch["document_numbers"], 0
        if args.in_batch:
            pool, numbers, start = gather_views(documents, numbers)
        every = scores(queries, pool, self.score_views)  # [Q, P']
        student = every.gather(1, candidates.clamp(min=0) + start)  # [Q, K]
        teacher = batch["teacher_scores"]
        rankings = {}
        if args.kl_weight:
            rankings["kl"] = kl_divergence(teacher, student, args.tau_teacher, args.tau_student)
        if args.margin_mse_weight:
            rankings["margin_mse"] = margin_mse(teacher, student)
        if args.in_batch:
            targets, excluded = candidates[:, 0] + start, not_negatives(numbers, batch["answers"])
        if args.infonce_weight or args.clear_weight:
            found = infonce(every, targets, excluded, args.infonce_temperature)
        if args.infonce_weight:
            rankings["infonce"] = found
        if args.clear_weight:
            shares = {"alpha": args.clear_reverse, "beta": args.clear_kl, "temperature": args.infonce_temperature}
            rankings["clear"] = batch_reverse_training(
                queries, documents, batch, every, targets, found, self.score_views, **shares
            )
        if args.pivot_infonce_weight:
            english = scores(queries, pool, "pivot")
            rankings["pivot_infonce"] = infonce(english, targets, excluded, args.infonce_temperature)
        if args.short_infonce_weight:
            short = scores(queries, shortened(pool, args.short_dimensions), self.score_views)
            rankings["short_infonce"] = infonce(short, targets, excluded, args.infonce_temperature)
        occurrences = torch.bincount(candidates[candidates >= 0], minlength=len(documents))
        parts = Parts(rankings, occurrences, {
            "query": l1(queries, self.sparsity_views), "document": l1(documents, self.sparsity_views)
        })  # fmt: skip
        if args.sparsity == "flops":
            once = torch.ones_like(queries.input_ids[:, 0])
            parts.flops = {
                side: flops(views, counts, self.dimensions, self.sparsity_views)
                for side, views, counts in (("query", queries, once), ("document", documents, occurrences))
            }
        return parts

    def sparsity_weight(self, side: str, step: int, total_steps: int) -> float:
        """λ of a side, `query` or `document`, at an optimizer step."""
        weight = getattr(self.args, f"{side}_sparsity_weight")
        return l1_weight_at(step, weight, self.args.warmup(side, total_steps))

    def translations(self, logits: Tensor, numbers: Tensor) -> TranslationParts:
        """What a batch's parallel texts give, see `translation_parts`."""
        args = self.args
        temperature = args.alignment_temperature if args.alignment_infonce_weight else None
        return translation_parts(logits, numbers, args.alignment_extra_weight, temperature)

    def translation_loss(self, parts: TranslationParts, pairs: Tensor) -> Tensor:
        """This batch's part of what parallel text adds to the step's loss.

        Args:
            parts: the batch's.
            pairs: pairs in the whole step.
        """
        total = self.args.alignment_weight * parts.smse.sum() / pairs
        if parts.infonce is None:
            return total
        return total + self.args.alignment_infonce_weight * parts.infonce.sum() / (2 * pairs)

    def loss(self, parts: Parts, questions: Tensor, passages: Tensor, weights: dict[str, float]) -> Tensor:
        """This batch's part of the step's loss, such that the parts of all batches and processes add up to it.

        Args:
            parts: the batch's.
            questions: questions in the whole step.
            passages: candidates of them.
            weights: λ by side.
        """
        total = parts.l1["query"].new_zeros(())
        for name, losses in parts.rankings.items():
            total = total + getattr(self.args, f"{name}_weight") * losses.sum() / questions
        for side, items in (("query", questions), ("document", passages)):
            if not weights[side]:
                continue
            if parts.flops:
                value, texts = parts.flops[side]  # the same on each process, so each adds its share of it
                total = total + weights[side] * value * texts / items / self.args.world_size
            else:
                masses = parts.l1[side]
                total = (
                    total + weights[side] * (masses if side == "query" else masses * parts.occurrences).sum() / items
                )
        return total
