"""SMSE, the loss of sparse alignment pretraining."""

import torch
from torch import Tensor


def smse(student: Tensor, teacher: Tensor, normalize: str = "union", extra_weight: float = 1.0) -> Tensor:
    """Sparse mean squared error between pooled logits, one number per text (paper, section 3.2).

    Σ_j m_j (t̃_j − t̃*_j)² / max(1, Σ_j m_j) with m_j = 1 where either side is positive: coordinates that are inactive
    on both sides cost nothing. Computed in fp32 on logits, before LogSat.

    Args:
        student: Pooled logits t̃ of the student, shape [batch, V_e].
        teacher: Pooled logits t̃* of the frozen teacher, shape [batch, V_e].
        normalize: "union" divides by Σ_j m_j, as in the paper; "teacher" by the number of the teacher's own positive
            coordinates, which does not fall when many tiny activations join the union.
        extra_weight: Weight of the squares of terms that only the student has active; 1 in the paper. Below 1 an
            unsure translation keeps more of its weight: the best answer for a term that is right with probability p is
            p / (p + extra_weight · (1 − p)) of the teacher's weight.

    Returns:
        Losses of the texts, shape [batch], fp32.

    Raises:
        ValueError: The shapes differ, or `normalize` is neither of the two.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student logits have shape {tuple(student.shape)} and teacher logits {tuple(teacher.shape)}; both score "
            "the same English terms, so the shapes must be equal."
        )
    if normalize not in ("union", "teacher"):
        raise ValueError(f'normalize must be "union" or "teacher", got {normalize!r}.')
    student, teacher = student.float(), teacher.float()
    taught = teacher > 0
    active = taught | (student > 0)
    # where, not a product with the mask: the teacher may hold -inf or the dtype's minimum where it is inactive
    squares = torch.where(active, student - teacher, 0.0).square()
    if extra_weight != 1.0:
        squares = torch.where(taught, squares, extra_weight * squares)
    counted = active if normalize == "union" else taught
    return squares.sum(-1) / counted.sum(-1).clamp(min=1)


__all__ = ["smse"]
