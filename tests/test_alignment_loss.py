"""SMSE on numbers worked by hand (DESIGN section 1; paper, section 3.2)."""

import pytest
import torch

from milco_hf.modeling.alignment_loss import smse


def test_union_and_teacher_by_hand():
    student = torch.tensor([[2.0, -1.0, 0.5, -3.0], [-1.0, -1.0, -1.0, -1.0]])
    teacher = torch.tensor([[1.0, 2.0, -0.5, -9.0], [-1.0, -2.0, -3.0, -4.0]])
    # active: 0 (both), 1 (teacher), 2 (student); squares 1, 9, 1. The second text has nothing active.
    assert smse(student, teacher).tolist() == pytest.approx([11 / 3, 0.0])
    assert smse(student, teacher, "teacher").tolist() == pytest.approx([11 / 2, 0.0])


def test_extra_weight_counts_only_what_the_student_alone_has_active():
    student, teacher = torch.tensor([[2.0, -1.0, 0.5, -3.0]]), torch.tensor([[1.0, 2.0, -0.5, -9.0]])
    assert smse(student, teacher, extra_weight=0.1).tolist() == pytest.approx([(1 + 9 + 0.1 * 1) / 3])
    # a term that is right in p of the texts: p / (p + extra_weight (1 - p)) of the teacher's weight, here 1/4 → 10/13
    guess = torch.full((1,), 10 / 13, requires_grad=True)
    taught = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    smse(guess.expand(4, 1), taught, extra_weight=0.1).sum().backward()
    assert guess.grad.item() == pytest.approx(0.0, abs=1e-6)


def test_inactive_on_both_sides_has_no_gradient_even_at_minus_infinity():
    student = torch.tensor([[-1.0, 1.0]], requires_grad=True)
    smse(student, torch.tensor([[-torch.inf, 3.0]])).sum().backward()
    assert student.grad.tolist() == [[0.0, -4.0]]


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"\(1, 2\).*\(1, 3\)"):
        smse(torch.zeros(1, 2), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="'mean'"):
        smse(torch.zeros(1, 2), torch.zeros(1, 2), "mean")
