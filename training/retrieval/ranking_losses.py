"""Losses on the scores of a question's passages: KL, MarginMSE, InfoNCE."""

from __future__ import annotations

import torch
from torch import Tensor


def kl_divergence(teacher: Tensor, student: Tensor, tau_teacher: float = 1.0, tau_student: float = 1.0) -> Tensor:
    """KL(softmax(teacher / τ_t) ‖ softmax(student / τ_s)) over each question's candidates, SCT's loss in the paper.

    Args:
        teacher: scores, [Q, K]; NaN for what is no candidate, or was not scored.
        student: scores, [Q, K].
        tau_teacher: temperature of the teacher.
        tau_student: temperature of the student.

    Returns:
        One divergence a question, [Q]; 0 where it has one scored candidate or none.
    """
    known = ~torch.isnan(teacher)
    lowest = torch.finfo(student.dtype).min
    wanted = torch.log_softmax((teacher / tau_teacher).masked_fill(~known, lowest), dim=1)
    found = torch.log_softmax((student / tau_student).masked_fill(~known, lowest), dim=1)
    return torch.where(known, wanted.exp() * (wanted - found), 0.0).sum(dim=1)


def margin_mse(teacher: Tensor, student: Tensor) -> Tensor:
    """Squared difference between the student's and the teacher's margin of the positive over each negative.

    Args:
        teacher: scores, [Q, K], the positive's first; NaN for what is no candidate, or was not scored.
        student: scores, [Q, K].

    Returns:
        The mean over a question's scored negatives, [Q]; 0 where it has none.
    """
    known = ~torch.isnan(teacher[:, 1:] + teacher[:, :1])  # [Q, K - 1]
    margins = (student[:, :1] - student[:, 1:]) - (teacher[:, :1] - teacher[:, 1:])
    squares = torch.where(known, margins, 0.0).square()
    return squares.sum(dim=1) / known.sum(dim=1).clamp(min=1)


def infonce(student: Tensor, targets: Tensor, excluded: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of each question's positive among all passages at hand.

    Args:
        student: scores, [Q, P].
        targets: place of each question's positive, [Q].
        excluded: passages that are no negatives of a question, [Q, P]; the target never is.
        temperature: divides the scores.

    Returns:
        One loss a question, [Q].
    """
    own = torch.zeros_like(excluded).scatter(1, targets.unsqueeze(1), True)
    masked = (student / temperature).masked_fill(excluded & ~own, float("-inf"))
    return torch.nn.functional.cross_entropy(masked, targets, reduction="none")


def not_negatives(numbers: Tensor, answers: Tensor) -> Tensor:
    """Passages that InfoNCE leaves out: a question's own answers, repetitions, and padding.

    Args:
        numbers: which passage each of P is, [P]; below -1 for padding.
        answers: numbers of what is no negative of each question, [Q, M], padded with -1.

    Returns:
        [Q, P] booleans.
    """
    order = torch.argsort(numbers, stable=True)
    again = torch.zeros_like(numbers, dtype=torch.bool)
    again[order[1:]] = numbers[order[1:]] == numbers[order[:-1]]
    return answered(numbers, answers) | again | (numbers < 0)


def answered(numbers: Tensor, answers: Tensor) -> Tensor:
    """Which passages answer which questions, [Q, P] booleans; arguments as in `not_negatives`."""
    found = torch.zeros(len(answers), len(numbers), dtype=torch.bool, device=numbers.device)
    for column in answers.unbind(1):  # one after the other: [Q, P, M] may be large
        found |= numbers.unsqueeze(0) == column.unsqueeze(1)
    return found


@torch.no_grad()
def score_statistics(teacher: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """How a teacher's scores are spread over each question's candidates.

    Args:
        teacher: scores, [Q, K], NaN where there is none.
        temperature: of the softmax whose entropy is taken.

    Returns:
        Mean, variance and entropy (in nats) of each question that has two scores or more, three times [Q'].
    """
    teacher = teacher[(~torch.isnan(teacher)).sum(dim=1) > 1].double()
    known = ~torch.isnan(teacher)
    counts = known.sum(dim=1)
    mean = teacher.nansum(dim=1) / counts
    variance = (teacher - mean.unsqueeze(1)).square().nansum(dim=1) / counts
    logs = torch.log_softmax((teacher / temperature).masked_fill(~known, float("-inf")), dim=1)
    entropy = -torch.where(known, logs.exp() * logs, 0.0).sum(dim=1)
    return mean, variance, entropy
