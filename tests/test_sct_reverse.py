"""CLEAR's loss: English passages rank questions in other languages."""

import math

import pytest
import torch

import helpers_sct as s
from milco_hf.training.retrieval.ranking_losses import infonce, not_negatives
from milco_hf.training.retrieval.reverse import reverse_training

FLAGS = ("--kl_weight", "0", "--clear_weight", "0.8", "--infonce_temperature", "0.7")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("clear")
    records = s.bridged() + [{**record, "parallel_id": f"made-up {n}"} for n, record in enumerate(s.rows()[:12])]
    return s.student(root / "student"), s.write(root / "rows.jsonl", records)


def test_reverse_training_by_hand():
    ranking = torch.tensor([[2.0, 0.0, 9.0], [1.0, 3.0, 9.0]], requires_grad=True)  # questions × all positives
    reverse = torch.tensor([[2.0, 1.0, 9.0], [0.0, 3.0, 9.0]], requires_grad=True)  # positives × all questions
    excluded = torch.tensor([[True, False, True], [False, True, True]])  # own ones never are; the third is padding
    found = reverse_training(
        torch.tensor([0.3, 0.4]), ranking, reverse, torch.tensor([0, 1]), excluded, 0.5, 0.25, temperature=2.0
    )
    expected = []
    for forward, asked, answering in ((0.3, (2, 0), (2, 1)), (0.4, (3, 1), (3, 0))):
        p = 1 / (1 + math.exp((asked[1] - asked[0]) / 2))  # the own one's share among two
        b = 1 / (1 + math.exp((answering[1] - answering[0]) / 2))
        kl = b * math.log(b / p) + (1 - b) * math.log((1 - b) / (1 - p))
        expected.append(0.25 * forward - 0.5 * math.log(b) + 0.25 * kl)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    found.sum().backward()
    for scores in (ranking, reverse):
        assert torch.isfinite(scores.grad).all()
        assert not scores.grad[:, 2].any()


def test_the_loss_is_what_the_embeddings_give(places, tmp_path):
    """Question by question; negatives are no translations of the question, and no others' passages that answer it."""
    trainer = s.train(*places, tmp_path, *FLAGS, "--per_device_train_batch_size", "12", "--max_steps", "1",
                      "--learning_rate", "0", "--clear_reverse", "0.3", "--clear_kl", "0.1")  # fmt: skip
    trainer.sampler.set_epoch(0)
    batch, model = next(iter(trainer.get_train_dataloader())), trainer.model.eval()
    with torch.no_grad():
        queries, documents = (
            model(input_ids=batch[f"{side}_ids"], attention_mask=batch[f"{side}_mask"]).embeddings
            for side in ("query", "document")
        )
    firsts, numbers = batch["candidates"][:, 0], batch["document_numbers"]
    every = queries @ documents.T
    excluded = not_negatives(numbers, batch["answers"])
    forward = infonce(every, firsts, excluded, 0.7)
    square = every[:, firsts] / 0.7  # question i, positive j
    answers = [set(row.tolist()) for row in batch["answers"]]
    positives = numbers[firsts].tolist()
    losses, left_out = [], 0
    for i in range(12):
        kept = [
            j for j in range(12) if j == i or not (positives[j] in answers[i] or positives[i] in answers[j])
        ]  # fmt: skip
        left_out += 12 - len(kept)
        asked, answering = square[i, kept].softmax(0), square[kept, i].softmax(0)
        kl = (answering * (answering / asked).log()).sum()
        losses.append(0.6 * forward[i] - 0.3 * answering[kept.index(i)].log() + 0.1 * kl)
    bridged = batch["bridged"]
    assert 0 < bridged.sum() < 12
    assert left_out > 0  # translations met in the batch
    entry = trainer.state.log_history[0]
    expected = (torch.stack(losses) * bridged).sum().item() / 12
    assert entry["clear"] == pytest.approx(expected, rel=1e-4)
    assert entry["loss"] == pytest.approx(0.8 * expected, rel=1e-4)
    assert entry["bridged_share"] == pytest.approx(bridged.double().mean().item())


def test_it_learns_to_find_questions(places, tmp_path):
    trainer = s.train(*places, tmp_path, *FLAGS, "--max_steps", "30", "--per_device_train_batch_size", "12")
    losses = s.logged(trainer, "clear")
    assert losses[-1] < 0.5 * losses[0]


def test_rows_without_such_questions_are_refused(places, tmp_path):
    data = s.write(tmp_path / "rows.jsonl", s.rows())
    with pytest.raises(ValueError, match="clear_weight is 0.8, but no row has an English passage and a question in"):
        s.train(places[0], data, tmp_path / "out", *FLAGS)
