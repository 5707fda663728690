"""mteb's own SparseEncoder wrapper runs a checkpoint on a tiny local task."""

import pytest
import torch
from datasets import Dataset
from sentence_transformers import SparseEncoder

import tiny

mteb = pytest.importorskip("mteb")

from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402

QUERIES = tiny.TEXTS[:8:2]


class TinyRetrieval(AbsTaskRetrieval):
    """Every query has one relevant text, whichever the test names."""

    metadata = TaskMetadata(
        name="TinyMilcoRetrieval",
        description="Eighteen sentences in nine scripts.",
        dataset={"path": "not/on-the-hub", "revision": "1"},
        reference=None,
        type="Retrieval",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_1",
        date=("2026-01-01", "2026-01-02"),
        domains=["Web"],
        task_subtypes=[],
        license="cc0-1.0",
        annotations_creators="derived",
        dialect=[],
        sample_creation="created",
        bibtex_citation="",
    )

    def load_data(self, **kwargs):
        self.dataset = {
            "default": {
                "test": {
                    "corpus": Dataset.from_dict({"id": [f"d{i}" for i in range(18)], "text": tiny.TEXTS}),
                    "queries": Dataset.from_dict({"id": [f"q{i}" for i in range(4)], "text": QUERIES}),
                    "relevant_docs": self.relevant,
                    "top_ranked": None,
                }
            }
        }
        self.data_loaded = True


def test_mteb_scores_what_the_model_ranks(checkpoint, tmp_path):
    # under the cosine a random model ranks a text before others; its inner products favour one long text throughout
    encoder = SparseEncoder(str(checkpoint), similarity_fn_name="cosine")
    best = encoder.similarity(encoder.encode_query(QUERIES), encoder.encode_document(tiny.TEXTS)).argmax(1)
    task = TinyRetrieval()
    # two queries whose best document is the relevant one, two for which it is another
    task.relevant = {f"q{i}": {f"d{(int(best[i]) + (i % 2)) % 18}": 1} for i in range(4)}
    model = mteb.models.SparseEncoderWrapper(encoder)
    results = mteb.evaluate(model, task, cache=None, show_progress_bar=False)
    (scores,) = results.task_results[0].scores["test"]
    assert scores["main_score"] == pytest.approx(0.5)
    assert torch.unique(best).numel() > 1, "one document that wins every query would prove little"
