import json
import math
from pathlib import Path

import pytest
import torch

import tiny
from milco_hf.conversion import convert
from milco_hf.modeling import MilcoForSparseEncoding
from milco_hf.training.retrieval.arguments import SctArguments
from milco_hf.training.retrieval.collapse import collapse_warnings, top_term_overlap
from milco_hf.training.retrieval.objective import Objective
from milco_hf.training.retrieval.ranking_losses import (
    infonce,
    kl_divergence,
    margin_mse,
    not_negatives,
    score_statistics,
)
from milco_hf.training.retrieval.sparsity import flops, l1
from milco_hf.training.retrieval.views import Views, scores, source_scores

NAN = float("nan")
RESEARCH = Path(__file__).parent / "data" / "research-checkpoint"


def encode(texts, pooling="sum"):
    """(Views, embeddings) of some texts by the same tiny model."""
    model = tiny.model(echo_pooling=pooling)
    batch = tiny.batch(texts)
    output = model(**batch)
    return Views(output.pivot_view, batch["input_ids"], output.source_weights, pooling), output.embeddings


QUERIES = ["the old city of the old city", "Musik Musik book", "книга"]
PASSAGES = ["the old book the old shop the old city", "Musik Buch Musik", "книга где город", "quiet", "music music"]


@pytest.mark.parametrize("pooling", ["sum", "max"])
def test_scores_are_the_embeddings_products(pooling):
    (queries, q), (documents, d) = encode(QUERIES, pooling), encode(PASSAGES, pooling)
    terms = len(tiny.TERMS)
    torch.testing.assert_close(scores(queries, documents), q @ d.T)
    torch.testing.assert_close(scores(queries, documents, "pivot"), q[:, :terms] @ d[:, :terms].T)
    torch.testing.assert_close(source_scores(queries, documents), q[:, terms:] @ d[:, terms:].T)
    assert source_scores(queries, documents)[0, 0] > source_scores(queries, documents)[0, 3]


@pytest.mark.parametrize("pooling", ["sum", "max"])
def test_source_scores_gradients_are_the_embeddings(pooling):
    torch.manual_seed(1)
    ids = torch.tensor([[20, 21, 20, 30, 15], [22, 22, 31, 15, 15]])
    weights = torch.rand(2, 5)
    weights[0, 3] = 0.0
    outcomes = []
    for way in ("tokens", "dense"):
        w = weights.clone().requires_grad_()
        views = Views(torch.zeros(2, 3), ids, w, pooling)
        if way == "tokens":
            found = source_scores(views, views)
        else:
            reduce = "sum" if pooling == "sum" else "amax"
            dense = torch.zeros(2, 40).scatter_reduce(1, ids, w, reduce=reduce, include_self=True)
            found = dense @ dense.T
        (found * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
        outcomes.append((found.detach(), w.grad))
    torch.testing.assert_close(outcomes[0], outcomes[1])


def test_texts_without_source_tokens_score_zero():
    empty = Views(torch.ones(2, 3), torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 4))
    assert source_scores(empty, empty).tolist() == [[0, 0], [0, 0]]
    assert scores(empty, empty).tolist() == [[3, 3], [3, 3]]


def test_a_source_score_needs_a_source_view():
    without = Views(torch.ones(1, 3), torch.zeros(1, 4, dtype=torch.long), None)
    assert scores(without, without, "pivot").item() == 3
    with pytest.raises(ValueError, match="score_views: both needs a source view"):
        scores(without, without)
    with pytest.raises(ValueError, match="score_views must be one of pivot, source, both, got 'all'"):
        scores(without, without, "all")


def test_kl_by_hand():
    teacher = torch.tensor([[2.0, 0.0, NAN], [1.0, 1.0, 3.0]])
    student = torch.tensor([[1.0, 3.0, 99.0], [0.5, 0.0, 1.0]], requires_grad=True)
    found = kl_divergence(teacher, student, tau_teacher=2.0, tau_student=0.5)
    p = math.exp(1) / (math.exp(1) + 1)  # scores 2 and 0 over 2
    q = math.exp(2) / (math.exp(2) + math.exp(6))
    by_hand = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert found[0].item() == pytest.approx(by_hand, rel=1e-5)
    expected = torch.nn.functional.kl_div(
        torch.log_softmax(student[1] / 0.5, 0), torch.softmax(teacher[1] / 2, 0), reduction="sum"
    )
    assert found[1].item() == pytest.approx(expected.item(), rel=1e-5)
    found.sum().backward()
    assert student.grad[0, 2] == 0
    assert torch.isfinite(student.grad).all()


def test_the_research_release_s_loss(tmp_path):
    """KL, averaged over questions, and L1 on the pivot view with the weights of its configuration."""
    model = MilcoForSparseEncoding.from_pretrained(convert(RESEARCH / "released", tmp_path / "milco")).eval()
    expected = json.loads((RESEARCH / "expected.json").read_text(encoding="utf-8"))["sct"]
    release = json.loads((RESEARCH / "released" / "config.json").read_text())
    batch = {"candidates": torch.arange(6).view(2, 3), "teacher_scores": torch.tensor(expected["teacher_scores"])}
    batch.update(document_numbers=torch.arange(6), answers=torch.tensor([[0], [3]]))
    sides = []
    for texts in (expected["queries"], expected["passages"]):
        encoded = model.tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            output = model(**encoded)
        sides.append(Views(output.pivot_view, encoded["input_ids"], output.source_weights))
    objective = Objective(SctArguments(use_cpu=True, sparsity_views="pivot"), model.config.projection_dim, echo=True)
    parts = objective.parts(*sides, batch)
    assert parts.rankings["kl"].mean().item() == pytest.approx(expected["distillation_loss"], rel=1e-4)
    weights = {"query": release["lambda_q"], "document": release["lambda_d"]}
    total = objective.loss(parts, torch.tensor(2), torch.tensor(6), weights).item()
    assert total == pytest.approx(expected["loss"], rel=1e-4)
    active = [(side.pivot > 0).sum(dim=1).double().mean().item() for side in sides]
    assert active == [expected["q_length"], expected["d_length"]]


def test_a_teacher_that_agrees_costs_nothing():
    ranking = torch.randn(3, 5)
    torch.testing.assert_close(kl_divergence(ranking, ranking * 2, 1.0, 2.0), torch.zeros(3), atol=1e-6, rtol=0)
    assert kl_divergence(torch.tensor([[1.0, NAN]]), torch.randn(1, 2)).item() == pytest.approx(0)
    torch.testing.assert_close(margin_mse(ranking, ranking + 7), torch.zeros(3), atol=1e-10, rtol=0)


def test_margin_mse_by_hand():
    teacher = torch.tensor([[5.0, 3.0, NAN], [4.0, 1.0, 0.0], [NAN, 1.0, 2.0]])
    student = torch.tensor([[2.0, 1.0, 50.0], [1.0, 1.0, 3.0], [9.0, 9.0, 8.0]], requires_grad=True)
    found = margin_mse(teacher, student)
    # margins of the student 1 | 0, -2 and of the teacher 2 | 3, 4
    assert found.tolist() == pytest.approx([1.0, ((0 - 3) ** 2 + (-2 - 4) ** 2) / 2, 0.0])
    found.sum().backward()
    assert student.grad[0].tolist() == pytest.approx([-2.0, 2.0, 0.0])
    assert torch.isfinite(student.grad).all()


def test_infonce_by_hand():
    student = torch.tensor([[1.0, 2.0, 0.5], [0.0, 4.0, 1.0]])
    excluded = torch.tensor([[False, True, False], [False, True, False]])  # the second question's target is never
    found = infonce(student, torch.tensor([0, 1]), excluded, temperature=0.5)
    first = -math.log(math.exp(2) / (math.exp(2) + math.exp(1)))
    second = -math.log(math.exp(8) / (math.exp(0) + math.exp(8) + math.exp(2)))
    assert found.tolist() == pytest.approx([first, second], rel=1e-4)


def test_own_answers_repetitions_and_padding_are_no_negatives():
    numbers = torch.tensor([7, 3, -2, 7, 9])
    answers = torch.tensor([[3, 9], [7, -1]])
    assert not_negatives(numbers, answers).tolist() == [
        [False, True, True, True, True],
        [True, False, True, True, False],
    ]


def test_score_statistics():
    teacher = torch.tensor([[1.0, 3.0, NAN], [2.0, NAN, NAN], [0.0, 0.0, 0.0]])
    mean, variance, entropy = score_statistics(teacher, temperature=2.0)
    assert mean.tolist() == pytest.approx([2.0, 0.0])
    assert variance.tolist() == pytest.approx([1.0, 0.0])
    p = 1 / (1 + math.exp(-1))
    assert entropy.tolist() == pytest.approx([-p * math.log(p) - (1 - p) * math.log(1 - p), math.log(3)])


@pytest.mark.parametrize("views", ["pivot", "source", "both"])
@pytest.mark.parametrize("pooling", ["sum", "max"])
def test_l1_and_flops_are_the_embeddings_ones(views, pooling):
    documents, embeddings = encode(PASSAGES, pooling)
    terms, width = len(tiny.TERMS), embeddings.shape[1]
    part = {"pivot": slice(0, terms), "source": slice(terms, None), "both": slice(None)}[views]
    torch.testing.assert_close(l1(documents, views), embeddings[:, part].sum(dim=1))
    times = torch.tensor([1, 2, 1, 1, 3])
    found, total = flops(documents, times, width, views)
    repeated = embeddings[:, part].repeat_interleave(times, dim=0)
    assert total.item() == 8
    torch.testing.assert_close(found, repeated.mean(dim=0).square().sum())


def test_overlap_of_top_terms():
    same = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).repeat(4, 1)
    assert top_term_overlap(same, terms=2) == pytest.approx(1.0)
    assert top_term_overlap(torch.eye(4), terms=1) == 0.0
    two_and_two = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert top_term_overlap(two_and_two, terms=1) == pytest.approx(1 / 3)  # 2 of 6 pairs
    assert top_term_overlap(torch.zeros(5, 4), terms=2) == 0.0
    assert math.isnan(top_term_overlap(same[:3]))


def test_warnings_of_collapse(caplog):
    assert collapse_warnings(5, 9, 0.1, 100, "step 1") == []
    found = collapse_warnings(0.0, 21.0, 0.9, 100, "step 7")
    assert ["no English term of the questions" in found[0], "21 of 100 English terms" in found[1]] == [True, True]
    assert "two passages of a batch have 90% of their 10 strongest terms in common" in found[2]
    assert len(caplog.records) == 3
