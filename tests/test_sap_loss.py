import pytest
import torch

import helpers_training as h
from milco_hf.modeling.alignment_loss import smse
from milco_hf.modeling.lexecho_head import log_sat
from milco_hf.training.losses import alignment_terms, dense_alignment_terms, l1_weight_at
from milco_hf.training.teachers.targets import SparseTargets


def logits_and_targets(texts=7, pairs=4, width=50):
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(texts, width, generator=generator) - 1
    student[2] = -1.0  # a text without any active term
    teacher = (torch.randn(pairs, width, generator=generator) - 1.2).clamp(min=0)
    teacher[1] = 0.0  # a target without any term
    return student, teacher, torch.randint(0, pairs, (texts,), generator=generator)


@pytest.mark.parametrize("extra_weight", [1.0, 0.1])
@pytest.mark.parametrize("normalize", ["union", "teacher"])
def test_sparse_loss_and_gradient_match_the_dense_ones(normalize, extra_weight):
    student, teacher, rows = logits_and_targets()
    rows[2], rows[3] = 1, 1
    dense, sparse = student.clone().requires_grad_(), student.clone().requires_grad_()
    expected = smse(dense, teacher[rows], normalize, extra_weight) + 0.3 * log_sat(dense).sum(dim=1)
    # √(x² + ε) as the loss has it: a text without any active term would have no slope otherwise
    lengths = (log_sat(dense).square().sum(1) + 1e-12).sqrt() - log_sat(teacher[rows]).norm(dim=1)
    expected = expected + 0.7 * lengths.square()
    terms = alignment_terms(sparse, SparseTargets.from_dense(teacher), rows, normalize, extra_weight)
    torch.testing.assert_close(terms.norm, lengths.square())
    found = terms.smse + 0.3 * terms.l1 + 0.7 * terms.norm
    torch.testing.assert_close(found, expected)
    weights = torch.arange(1.0, len(rows) + 1)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    torch.testing.assert_close(sparse.grad, dense.grad)
    assert terms.active.tolist() == (student > 0).sum(dim=1).tolist()


@pytest.mark.parametrize("normalize", ["union", "teacher"])
def test_dense_terms_keep_negative_teacher_logits(normalize):
    student, _, rows = logits_and_targets()
    teacher = torch.randn(4, 50) - 0.5
    terms = dense_alignment_terms(student, teacher, rows, normalize)
    torch.testing.assert_close(terms.smse, smse(student, teacher[rows], normalize))
    assert not torch.allclose(
        terms.smse, alignment_terms(student, SparseTargets.from_dense(teacher), rows, normalize).smse
    )


def by_hand(student, teacher, rows, temperature):
    """InfoNCE over the targets, text by text: equal targets count once, texts with nothing to find are left out."""
    losses = []
    for text, row in enumerate(rows.tolist()):
        cosines = torch.nn.functional.cosine_similarity(log_sat(student[text])[None], log_sat(teacher), eps=1e-12)
        others = [p for p in range(len(teacher)) if p == row or not torch.equal(teacher[p], teacher[row])]
        chances = torch.softmax(cosines[others] / temperature, dim=0)
        found = -chances[others.index(row)].log()
        losses.append(found if teacher[row].any() else torch.zeros(()))
    return torch.stack(losses)


def test_contrast_finds_the_own_target_among_the_batchs():
    student, teacher, rows = logits_and_targets()
    rows[0] = 1  # nothing to find
    teacher = torch.cat([teacher, teacher[:1]])  # the first target twice
    rows[1] = 4
    sparse, dense = student.clone().requires_grad_(), student.clone().requires_grad_()
    found = alignment_terms(sparse, SparseTargets.from_dense(teacher), rows, temperature=0.2).contrast
    also = dense_alignment_terms(dense, teacher, rows, temperature=0.2).contrast
    torch.testing.assert_close(found, also)
    torch.testing.assert_close(found, by_hand(student, teacher, rows, 0.2))
    found.sum().backward()
    also.sum().backward()
    torch.testing.assert_close(sparse.grad, dense.grad)
    assert sparse.grad.abs().sum() > 0
    assert not alignment_terms(student, SparseTargets.from_dense(teacher), rows).contrast.any()


def test_half_precision_logits_are_scored_in_fp32():
    student, teacher, rows = logits_and_targets()
    terms = alignment_terms(student.bfloat16(), SparseTargets.from_dense(teacher), rows)
    assert terms.smse.dtype == terms.l1.dtype == torch.float32
    torch.testing.assert_close(terms.smse, smse(student.bfloat16(), teacher[rows]))


def test_targets_of_other_widths_are_refused():
    with pytest.raises(ValueError, match=r"50 English terms, its teacher's targets 14"):
        alignment_terms(torch.zeros(1, 50), h.static_teacher().targets(["book"]), torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match="normalize must be one of"):
        alignment_terms(torch.zeros(1, 14), h.static_teacher().targets(["book"]), torch.zeros(1).long(), "mean")


def test_sparse_targets_round_trip():
    _, teacher, rows = logits_and_targets()
    targets = SparseTargets.from_dense(teacher)
    torch.testing.assert_close(targets.dense(), teacher)
    torch.testing.assert_close(SparseTargets.from_rows(targets.rows(), 50).dense(), teacher)
    texts, columns, values = targets.expand(rows)
    expanded = torch.zeros(len(rows), 50)
    expanded[texts, columns] = values
    torch.testing.assert_close(expanded, teacher[rows])


def test_l1_weight_rises_to_its_value():
    weights = [l1_weight_at(step, 0.1, 10) for step in (0, 5, 10, 20)]
    assert weights == pytest.approx([0.0, 0.025, 0.1, 0.1])
    assert l1_weight_at(0, 0.1, 0) == 0.1
