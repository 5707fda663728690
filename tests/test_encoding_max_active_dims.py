"""`max_active_dims` of SparseEncoder and the configuration's pruning: what is asked for wins, on every path."""

from __future__ import annotations

import numpy as np
import pytest

import milco_hf
import tiny
from helpers_encoding import MIXED
from milco_hf.evaluation.systems.sparse import to_csr

HOW = {"query_pruning": "top_k:2", "document_pruning": {"english": "top_k:1", "source": "top_k:1"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.checkpoint(tmp_path_factory.mktemp("pruned") / "tiny", **HOW)


def heaviest(matrix, k):
    """Each row's k largest weights, largest first, padded with zeros."""
    return -np.sort(-matrix.toarray(), axis=1)[:, :k]


@pytest.mark.parametrize("kind", ["query", "document"])
def test_what_is_asked_for_wins_in_sparse_encoder(checkpoint, folder, kind):
    plain = milco_hf.load(checkpoint, device="cpu")
    whole = to_csr(getattr(plain, f"encode_{kind}")(MIXED))
    pruned = milco_hf.load(folder, device="cpu")
    encode = getattr(pruned, f"encode_{kind}")
    assert np.diff(to_csr(encode(MIXED)).indptr).max() == 2
    asked = to_csr(encode(MIXED, max_active_dims=5))
    assert np.diff(asked.indptr).max() == 5
    np.testing.assert_allclose(heaviest(asked, 5), heaviest(whole, 5), atol=1e-5)
    pruned.max_active_dims = 5
    np.testing.assert_allclose(to_csr(encode(MIXED)).toarray(), asked.toarray(), atol=1e-5)
