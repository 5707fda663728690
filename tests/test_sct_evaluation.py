import numpy as np
import pytest
import torch

import helpers_sct as s
import tiny
from milco_hf.training.retrieval.evaluation import evaluate_retrieval, ranking_metrics, summarize
from milco_hf.training.retrieval.loading import load_rows
from milco_hf.training.retrieval.sources import RetrievalSource


def test_ranking_metrics_by_hand():
    scores = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    found = ranking_metrics(scores, [np.array([0]), np.array([2]), np.array([0, 1])])
    assert found["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 2) / 3)
    assert found["accuracy"] == pytest.approx(1 / 3)
    gain = 1 / np.log2([2, 3, 4])
    assert found["ndcg"] == pytest.approx((1 + gain[2] + (gain[1] + gain[2]) / (gain[0] + gain[1])) / 3)


def test_equal_scores_and_zeros_find_nothing():
    assert ranking_metrics(np.ones((1, 4)), [np.array([0])])["mrr"] == pytest.approx(1 / 4)
    assert set(ranking_metrics(np.zeros((2, 3)), [np.array([0])] * 2).values()) == {0.0}
    many = ranking_metrics(np.arange(1.0, 13.0)[None], [np.array([0])])  # at rank 12
    assert set(many.values()) == {0.0}


def test_evaluation_by_language_is_a_search_with_the_embeddings(tmp_path):
    model = tiny.model()
    records = s.rows()
    data = load_rows([RetrievalSource(str(s.write(tmp_path / "dev.jsonl", records)))], progress=False)

    def evaluate(**options):
        return evaluate_retrieval(
            model,
            tiny.tokenizer(),
            model.config,
            data,
            batch_size=4,
            query_length=62,
            document_length=62,
            device=torch.device("cpu"),
            **options,
        )

    results = evaluate()
    assert [(result.language, result.queries, result.passages) for result in results] == [
        ("de", 15, 15),
        ("en", 15, 15),
    ]
    for result in results:
        own = [record for record in records if record["language"] == result.language]
        with torch.no_grad():
            queries, documents = (
                model(**tiny.batch([text for record in own for text in texts(record)])).embeddings.numpy()
                for texts in (lambda record: [record["query"]], lambda record: record["pos"])
            )
        expected = ranking_metrics(queries @ documents.T, [np.array([row]) for row in range(15)])
        for name, value in expected.items():
            assert getattr(result, name) == pytest.approx(value, abs=1e-6), name
        assert result.active_dims_query == pytest.approx((queries[:, : len(tiny.TERMS)] > 0).sum(axis=1).mean())
        assert result.active_source_document == pytest.approx((documents[:, len(tiny.TERMS) :] > 0).sum(axis=1).mean())
    metrics = summarize(results)
    assert metrics["mrr_mean"] == pytest.approx((metrics["de_mrr"] + metrics["en_mrr"]) / 2)
    assert {"ndcg_mean", "accuracy_mean", "pivot_mrr_mean", "active_dims_document_mean", "mrr_min"} <= set(metrics)
    assert [(few.queries, few.passages) for few in evaluate(queries_per_language=4)] == [(4, 4), (4, 4)]
    with pytest.raises(ValueError, match="No dev rows to evaluate"):
        summarize([])
