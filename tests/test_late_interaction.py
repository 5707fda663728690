"""A late-interaction baseline in the evaluation: a MultiVectorEncoder made in memory, and MaxSim by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

from helpers_evaluation import QRELS, encoder_folder, parallel, texts
from milco_hf.evaluation import evaluate


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """ColBERT's shape: token states, projected, masked, each of unit length."""
    torch.manual_seed(0)
    transformer = Transformer(str(encoder_folder(tmp_path_factory.mktemp("colbert") / "encoder")))
    names = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    dense = Dense(32, 16, bias=False, activation_function=torch.nn.Identity(), **names)
    return MultiVectorEncoder(
        modules=[transformer, dense, MultiVectorMask(), Normalize(**names)],
        device="cpu",
    )


def by_hand(model, queries: dict[str, str], documents: dict[str, str]) -> np.ndarray:
    """Σ over a query's tokens of the largest inner product with any token of a document, text by text: [Q, D]."""
    asked = [model.encode_query([text])[0].float().numpy() for text in queries.values()]
    read = [model.encode_document([text])[0].float().numpy() for text in documents.values()]
    for vectors in (*asked, *read):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    return np.array([[sum(max(float(q @ d) for d in doc) for q in query) for doc in read] for query in asked])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_evaluation_ranks_by_maxsim(model, tmp_path, language):
    documents, queries = texts(language)
    scores = by_hand(model, queries, documents)
    report = evaluate(model, parallel(languages=[language]), output=tmp_path, cache=None)
    (run,) = (tmp_path / "runs").rglob("*.trec")
    found: dict[str, dict[str, float]] = {}
    for line in run.read_text(encoding="utf-8").splitlines():
        query, _, document, _, score, _ = line.split()
        found.setdefault(query, {})[document] = float(score)
    for row, query in zip(scores, queries, strict=True):
        assert list(found[query]) == sorted(documents, key=lambda name: -row[list(documents).index(name)])
        np.testing.assert_allclose([found[query][name] for name in documents], row, rtol=1e-4)
    # one relevant document a query: nDCG@10 is 1 / log2(1 + its rank)
    ranks = [1 + sum(row > row[list(documents).index(next(iter(QRELS[query])))]) for row, query in zip(scores, queries)]
    wanted = np.mean([1 / math.log2(1 + rank) for rank in ranks])
    (name,) = [system["name"] for system in report.systems]
    assert report.value(name, language, language) == pytest.approx(wanted, abs=1e-4)
