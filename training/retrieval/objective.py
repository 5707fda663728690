"""SCT's objective on the views of one batch: ranking losses and sparsity, divided by the items of the whole step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from milco_hf.training.losses import l1_weight_at
from milco_hf.training.retrieval.arguments import SctArguments
from milco_hf.training.retrieval.processes import gather_views
from milco_hf.training.retrieval.ranking_losses import infonce, kl_divergence, margin_mse, not_negatives
from milco_hf.training.retrieval.sparsity import flops, l1
from milco_hf.training.retrieval.views import ViewChoice, Views, scores


@dataclass
class Parts:
    """The parts of the objective on one process's batch.

    Attributes:
        rankings: losses of each question by name (kl, margin_mse, infonce), each [Q].
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
        ValueError: the source view alone is asked for, but the model has none.
    """

    def __init__(self, args: SctArguments, dimensions: int, echo: bool) -> None:
        self.args, self.dimensions = args, dimensions
        self.score_views = self._available("score_views", args.score_views, echo)
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

        InfoNCE's negatives are all passages of all processes' batches, so it depends on how many questions are in a
        batch; the other losses are each question's own.
        """
        args, candidates = self.args, batch["candidates"]
        pool, numbers, start = documents, batch["document_numbers"], 0
        if args.infonce_weight:
            pool, numbers, start = gather_views(documents, numbers)
        every = scores(queries, pool, self.score_views)  # [Q, P']
        student = every.gather(1, candidates.clamp(min=0) + start)  # [Q, K]
        teacher = batch["teacher_scores"]
        rankings = {}
        if args.kl_weight:
            rankings["kl"] = kl_divergence(teacher, student, args.tau_teacher, args.tau_student)
        if args.margin_mse_weight:
            rankings["margin_mse"] = margin_mse(teacher, student)
        if args.infonce_weight:
            excluded = not_negatives(numbers, batch["answers"])
            rankings["infonce"] = infonce(every, candidates[:, 0] + start, excluded, args.infonce_temperature)
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
