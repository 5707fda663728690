import json

import numpy as np
import pytest
import torch
from scipy import sparse

import helpers_training as h
import tiny
from milco_hf.training import evaluation
from milco_hf.training.data.pairs import load_pairs
from milco_hf.training.data.sources import SourceSpec
from milco_hf.training.evaluate_translation import evaluate_checkpoint, main
from milco_hf.training.evaluation import (
    batch_views,
    encode_texts,
    evaluate_translation,
    retrieval_accuracy,
    score_language,
    similarities,
    summarize,
    warn_about_activity,
)


def csr(rows):
    return sparse.csr_array(np.array(rows, dtype=np.float32))


def dev_pairs():
    return load_pairs([SourceSpec(str(h.PARALLEL / "dev"))], progress=False)


@pytest.mark.parametrize("pooling", ["sum", "max"])
def test_views_are_the_model_s_embeddings(pooling):
    model = tiny.model(echo_pooling=pooling)
    batch = tiny.batch(["the old city of the old city", "книга", "music music"])
    with torch.no_grad():
        embeddings = model(**batch).embeddings.numpy()
        pivot, source = batch_views(model, batch, model.config)
    source = source.toarray()
    assert (source[:, : len(tiny.TERMS)] == 0).all()
    np.testing.assert_allclose(pivot.toarray(), embeddings[:, : len(tiny.TERMS)], rtol=1e-6)
    np.testing.assert_allclose(source[:, len(tiny.TERMS) :], embeddings[:, len(tiny.TERMS) :], rtol=1e-5)


def test_encoding_keeps_the_texts_order():
    model = tiny.model()
    pivot, _ = encode_texts(model, tiny.tokenizer(), model.config, tiny.TEXTS, 3, 62, torch.device("cpu"))
    for row, text in enumerate(tiny.TEXTS):
        with torch.no_grad():
            expected = model(**tiny.batch([text])).pivot_view[0].numpy()
        np.testing.assert_allclose(pivot[[row]].toarray()[0], expected, atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_similarities_are_the_same_in_blocks_dense_or_sparse(monkeypatch, share):
    monkeypatch.setattr(evaluation, "ROWS", 4)
    monkeypatch.setattr(evaluation, "DENSE_SHARE", share)
    rng = np.random.default_rng(0)
    left, right = (sparse.random_array((size, 20), density=0.3, rng=rng, format="csr") for size in (11, 7))
    found = np.concatenate([scores for _, scores in similarities(left, right)])
    np.testing.assert_allclose(found, left.toarray() @ right.toarray().T)


def test_accuracy_needs_a_score():
    assert retrieval_accuracy(np.array([[2.0, 1.0], [3.0, 1.0]])) == 0.5
    assert retrieval_accuracy(np.zeros((2, 2))) == 0.0


def test_scores_of_a_language():
    english = csr([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    other = csr([[2, 0, 0, 0], [1, 0, 0, 3], [0, 0, 0, 0]])  # the second points to the first, the third nowhere
    echo = csr([[0, 0], [0, 1], [0, 0]])
    teacher = [
        (np.array([0, 1]), np.array([1.0, 2.0])),
        (np.array([3]), np.array([1.0])),
        (np.array([], int), np.array([])),
    ]
    scores = score_language("de", (english, echo), (other, echo * 5), teacher)
    assert scores.accuracy_other_to_english == pytest.approx(1 / 3)
    assert scores.full_accuracy_other_to_english == pytest.approx(2 / 3)
    assert (scores.active_dims, scores.active_dims_english) == (1.0, 1.0)
    assert scores.empty_share == pytest.approx(1 / 3)
    assert scores.teacher_top10 == pytest.approx((0.5 + 1.0) / 2)


def test_evaluation_by_language(monkeypatch):
    model = tiny.model()
    results = evaluate_translation(
        model,
        tiny.tokenizer(),
        model.config,
        dev_pairs(),
        batch_size=4,
        max_length=30,
        device=torch.device("cpu"),
        teacher=h.static_teacher(),
        pairs_per_language=5,
        samples=1,
    )
    assert [(result.language, result.pairs) for result in results] == [("de", 5), ("ru", 5)]
    english, other, terms = results[0].samples[0]
    assert (english, other) == ("where is the old city", "wo ist alt Stadt")
    assert terms.split()[0] in tiny.TERMS
    metrics = summarize(results)
    both = [result.accuracy_other_to_english for result in results]
    assert metrics["accuracy_other_to_english_mean"] == pytest.approx(np.mean(both))
    assert metrics["accuracy_other_to_english_min"] == min(both)
    assert {"de_accuracy", "ru_accuracy", "de_active_dims", "teacher_top10_mean"} <= set(metrics)


def test_processes_share_the_batches(monkeypatch):
    """Two processes' halves, put together as `gather_object` does, are one process's whole."""
    model, texts = tiny.model(), tiny.TEXTS[:7]
    gathered = []

    class Half:
        num_processes = 2

        def __init__(self, rank):
            self.process_index = rank

    def encode(processes=None):
        return encode_texts(model, tiny.tokenizer(), model.config, texts, 3, 30, torch.device("cpu"), processes)

    monkeypatch.setattr("accelerate.utils.gather_object", lambda found: gathered.extend(found) or found)
    encode(Half(0))
    monkeypatch.setattr("accelerate.utils.gather_object", lambda found: gathered + found)
    for part, expected in zip(encode(Half(1)), encode(), strict=True):
        np.testing.assert_array_equal(part.toarray(), expected.toarray())


def test_warnings_when_nothing_or_too_much_is_active(caplog):
    assert "no English term is active" in warn_about_activity(0.0, 100, "step 3")
    assert "over 20%" in warn_about_activity(21.0, 100, "step 3")
    assert warn_about_activity(5.0, 100, "step 3") is None
    assert len(caplog.records) == 2


def test_a_checkpoint_s_table(checkpoint, tmp_path, capsys):
    data, teacher = str(h.PARALLEL / "dev"), str(h.static_folder(tmp_path / "teacher"))
    files = ["--markdown", str(tmp_path / "t.md"), "--json", str(tmp_path / "t.json")]
    main([str(checkpoint), "--data", data, "--device", "cpu", "--samples", "1", "--teacher", teacher, *files])
    scores = json.loads((tmp_path / "t.json").read_text())
    assert set(scores["languages"]) == {"de", "ru"}
    assert scores["languages"]["de"]["pairs"] == 6
    accuracies = [row["accuracy_other_to_english"] for row in scores["languages"].values()]
    assert scores["mean"]["accuracy_other_to_english"] == pytest.approx(np.mean(accuracies))
    table = (tmp_path / "t.md").read_text()
    assert table.splitlines()[0].startswith("| language | pairs | → English |")
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == ["de", "ru", "**mean**"]
    assert table in capsys.readouterr().out
    results = evaluate_checkpoint(str(checkpoint), [data], languages=["ru"], device="cpu", pairs_per_language=2)
    assert [(result.language, result.pairs) for result in results] == [("ru", 2)]
