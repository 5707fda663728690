"""CLEAR's loss (Lee et al., ACL 2026, arXiv 2604.05821): English passages rank questions in other languages."""

from __future__ import annotations

import torch
from torch import Tensor

from milco_hf.training.retrieval.processes import PADDING, gather_rows, gather_views
from milco_hf.training.retrieval.ranking_losses import answered, infonce
from milco_hf.training.retrieval.views import ViewChoice, Views, scores


def reverse_training(
    forward: Tensor,
    ranking: Tensor,
    reverse: Tensor,
    own: Tensor,
    excluded: Tensor,
    alpha: float = 0.4,
    beta: float = 0.2,
    temperature: float = 1.0,
) -> Tensor:
    """(1 − α − β) · forward + α · backward + β · KL(p_b ‖ p_f), for each question.

    p_f is a question's distribution over the positives of all questions, p_b its positive's over all questions; the
    backward loss is InfoNCE of the latter. α and β are the published run's; so is KL's direction.

    Args:
        forward: InfoNCE of each question's positive among all passages at hand, [Q].
        ranking: score of each question and each positive, [Q, Q'].
        reverse: score of each question's positive and each question, [Q, Q'].
        own: each question's place among all of them, [Q].
        excluded: pairs that are no negatives of each other, in either direction, [Q, Q']; a question's own never is.
        alpha: weight of the backward loss.
        beta: weight of the divergence.
        temperature: divides the scores.

    Returns:
        One loss a question, [Q].
    """
    backward = infonce(reverse, own, excluded, temperature)
    hidden = excluded.scatter(1, own.unsqueeze(1), False)
    lowest = torch.finfo(ranking.dtype).min
    asked, answering = (
        torch.log_softmax((found / temperature).masked_fill(hidden, lowest), dim=1) for found in (ranking, reverse)
    )
    divergence = torch.where(hidden, 0.0, answering.exp() * (answering - asked)).sum(dim=1)
    return (1 - alpha - beta) * forward + alpha * backward + beta * divergence


def batch_reverse_training(
    queries: Views,
    documents: Views,
    batch: dict[str, Tensor],
    every: Tensor,
    targets: Tensor,
    forward: Tensor,
    views: ViewChoice,
    **settings: float,
) -> Tensor:
    """`reverse_training` over the questions of all processes' micro-batches; 0 for those that it does not concern.

    It concerns questions in another language whose passages are English (`bridged`). Like InfoNCE it depends on how
    many questions are in a micro-batch, and not on the number of processes.

    Args:
        queries: this process's questions, [Q].
        documents: its passages, [P].
        batch: as `CandidateCollator` makes it.
        every: scores of its questions and the passages of all processes, [Q, P'].
        targets: place of each question's positive among those, [Q].
        forward: InfoNCE of each question, [Q].
        views: what scores are made of.
        **settings: `reverse_training`'s alpha, beta and temperature.

    Returns:
        One loss a question, [Q].
    """
    firsts = batch["candidates"][:, 0]
    positives = batch["document_numbers"][firsts]  # [Q]
    everyone, numbers, start = gather_views(queries, positives)  # [Q'], PADDING between processes
    answers, _ = gather_rows(batch["answers"], -1)  # [Q', M]
    places, _ = gather_rows(targets.unsqueeze(1))  # [Q', 1]
    excluded = answered(numbers, batch["answers"]) | answered(positives, answers).T | (numbers == PADDING)
    losses = reverse_training(
        forward,
        every[:, places.squeeze(1)],
        scores(everyone, documents, views)[:, firsts].T,
        torch.arange(len(queries), device=every.device) + start,
        excluded,
        **settings,
    )
    return torch.where(batch["bridged"], losses, 0.0)
