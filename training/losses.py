"""SAP's loss on sparse teacher targets, and what is logged of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from milco_hf.training.teachers.targets import SparseTargets

Normalize = Literal["union", "teacher"]
NORMALIZE = ("union", "teacher")


@dataclass
class AlignmentTerms:
    """The parts of SAP's loss for B texts, each [B] in fp32.

    Attributes:
        smse: SMSE of each text.
        l1: sum of the text's pivot view, LogSat of its pooled logits.
        active: number of its active English terms (no gradient).
        norm: squared difference between the Euclidean lengths of the text's pivot view and of its teacher's.
        contrast: cross-entropy of the text's own target among all targets of its batch; 0 where it was not asked for.
    """

    smse: Tensor
    l1: Tensor
    active: Tensor
    norm: Tensor
    contrast: Tensor


def alignment_terms(
    student: Tensor,
    targets: SparseTargets,
    target_rows: Tensor,
    normalize: Normalize = "union",
    extra_weight: float = 1.0,
    temperature: float | None = None,
) -> AlignmentTerms:
    """SMSE and L1 of each text against sparse targets.

    Only the coordinates where the student or the teacher is positive matter, a percent of the vocabulary once training
    runs. They are gathered, and everything else happens on them; no other tensor of the logits' size is made, forward
    or backward, than their gradient. Gives what `milco_hf.modeling.alignment_loss.smse` gives on dense targets.

    Args:
        student: pooled logits before LogSat, [B, V].
        targets: teacher logits of P texts over V terms; unlisted ones are zero.
        target_rows: which target each text has, [B], values below P.
        normalize: divide by the size of the union of positives, or by the teacher's own number of positives.
        extra_weight: weight of the squares of terms that only the student has active.
        temperature: of `contrast`; None leaves it out.

    Raises:
        ValueError: the widths differ, or normalize is unknown.
    """
    if normalize not in NORMALIZE:
        raise ValueError(f"normalize must be one of {NORMALIZE}, got {normalize!r}.")
    batch, width = student.shape
    if width != targets.width:
        raise ValueError(f"The student has {width} English terms, its teacher's targets {targets.width}.")
    student = student.float()
    rows, columns, values = targets.expand(target_rows)  # [M]: entries of all B texts
    places = rows * width + columns
    with torch.no_grad():
        active = student > 0  # [B, V]
        counts = active.sum(dim=1)  # [B]
        union = active.view(-1).clone()
        union[places] = True
        entries = union.nonzero().squeeze(1)  # [K], sorted
        of_text = torch.div(entries, width, rounding_mode="floor")
        wanted = student.new_zeros(len(entries))
        wanted[torch.searchsorted(entries, places)] = values.to(student.dtype)
        sizes = torch.bincount(of_text, minlength=batch)
        if normalize == "teacher":
            positive = (values > 0).to(sizes.dtype)
            sizes = sizes.new_zeros(batch).index_add_(0, rows, positive)
    found = student.reshape(-1).index_select(0, entries)  # [K]
    zeros = student.new_zeros(batch)
    errors = (found - wanted).square()
    if extra_weight != 1.0:
        errors = torch.where(wanted > 0, errors, extra_weight * errors)
    squares = zeros.index_add(0, of_text, errors)
    view = torch.log1p(torch.relu(found))  # of the terms that count; elsewhere it is zero
    masses = zeros.index_add(0, of_text, view)
    taught = torch.log1p(torch.relu(wanted))
    lengths = _length(zeros.index_add(0, of_text, view.square()))
    norms = lengths - _length(zeros.index_add(0, of_text, taught.square()))
    contrast = zeros
    if temperature is not None:
        known, places = torch.unique(targets.columns, return_inverse=True)  # [U], [M]
        narrow = SparseTargets(targets.counts, places, targets.values, len(known)).dense()  # [P, U]
        views = torch.log1p(torch.relu(student.index_select(1, known))) / lengths.unsqueeze(1)  # [B, U]
        contrast = target_cross_entropy(views, torch.log1p(torch.relu(narrow)), target_rows, temperature)
    return AlignmentTerms(squares / sizes.clamp(min=1), masses, counts, norms.square(), contrast)


def target_cross_entropy(views: Tensor, taught: Tensor, target_rows: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each text's own target among all targets by cosine, InfoNCE over translations.

    Targets that equal the text's own, pairs with the same English side, are no negatives; a text without any target
    term costs nothing.

    Args:
        views: pivot views of unit length over some terms that hold all the targets', [B, U].
        taught: the targets' pivot views over the same terms, [P, U].
        target_rows: which target each text has, [B].
        temperature: divides the cosines.

    Returns:
        One loss a text, [B].
    """
    taught = torch.nn.functional.normalize(taught, dim=1)  # [P, U]
    scores = views @ taught.T / temperature  # [B, P]
    same = (taught @ taught.T)[target_rows] > 1 - 1e-4  # [B, P]
    own = torch.nn.functional.one_hot(target_rows, len(taught)).bool()
    losses = torch.nn.functional.cross_entropy(
        scores.masked_fill(same & ~own, float("-inf")), target_rows, reduction="none"
    )
    return losses * (taught > 0).any(dim=1)[target_rows]


def dense_alignment_terms(
    student: Tensor,
    teacher: Tensor,
    target_rows: Tensor,
    normalize: Normalize = "union",
    extra_weight: float = 1.0,
    temperature: float | None = None,
) -> AlignmentTerms:
    """SMSE and L1 of each text against dense teacher logits, negative ones included.

    Args:
        student: pooled logits before LogSat, [B, V].
        teacher: the teacher's pooled logits, [P, V].
        target_rows: which target each text has, [B].
        normalize: as in `alignment_terms`.
        extra_weight: as in `alignment_terms`.
        temperature: as in `alignment_terms`.
    """
    from milco_hf.modeling.alignment_loss import smse

    if student.shape[1] != teacher.shape[1]:
        raise ValueError(f"The student has {student.shape[1]} English terms, its teacher {teacher.shape[1]}.")
    student, teacher = student.float(), teacher.float()
    losses = smse(student, teacher[target_rows], normalize, extra_weight)
    view, taught = torch.log1p(torch.relu(student)), torch.log1p(torch.relu(teacher))
    lengths = _length(view.square().sum(dim=1))
    norms = lengths - _length(taught.square().sum(dim=1))[target_rows]
    contrast = torch.zeros_like(losses)
    if temperature is not None:
        contrast = target_cross_entropy(view / lengths.unsqueeze(1), taught, target_rows, temperature)
    return AlignmentTerms(losses, view.sum(dim=1), (student > 0).sum(dim=1), norms.square(), contrast)


def _length(squares: Tensor) -> Tensor:
    """Square root with a finite slope at zero, for texts without any active term."""
    return torch.sqrt(squares + 1e-12)


def l1_weight_at(step: int, weight: float, warmup_steps: int) -> float:
    """Weight of L1 at an optimizer step: rises with the square of the step until the warm-up ends, as SPLADE's does."""
    if warmup_steps <= 0 or step >= warmup_steps:
        return weight
    return weight * (step / warmup_steps) ** 2
