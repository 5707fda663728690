"""Every way to prune: against a plain loop, on the device, by views, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

import milco_hf
import tiny
from helpers_encoding import MIXED, assert_identical
from milco_hf import encode_corpus, pruning
from milco_hf.pruning import Pruning, max_ratio, parse, prune, prune_entries, threshold

FORMS = ["mass:0.5", "mass:0.9", "mass:1", "top_k:4", "max_ratio:0.3", "max_ratio:1", "threshold:0.5", "threshold:0.7"]


def random_matrix(rows: int = 60, columns: int = 40, seed: int = 0) -> sparse.csr_array:
    generator = np.random.default_rng(seed)
    dense = generator.random((rows, columns)) * (generator.random((rows, columns)) < 0.3)
    dense = np.round(dense * 10) / 10  # many ties, also with the thresholds
    dense[7] = dense[-1] = 0
    return sparse.csr_array(dense.astype(np.float32))


def plain(form: str, matrix: sparse.csr_array) -> np.ndarray:
    """Row by row and entry by entry."""
    method, amount = form.split(":")
    result = np.zeros(matrix.shape, dtype=np.float32)
    for number, row in enumerate(matrix.toarray()):
        held, total, largest = 0.0, row.astype(np.float64).sum(), float(row.max())
        for count, column in enumerate(sorted(np.flatnonzero(row), key=lambda place: (-row[place], place))):
            weight = float(row[column])
            kept = {
                "mass": held < float(amount) * total or amount == "1",
                "top_k": count < float(amount),
                "max_ratio": weight >= float(amount) * largest,
                "threshold": row[column] >= np.float32(amount),
            }[method]
            if not kept:
                break
            result[number, column] = row[column]
            held += weight
    return result


def on_device(form: str, matrix: sparse.csr_array) -> np.ndarray:
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    keys = torch.from_numpy(rows * matrix.shape[1] + matrix.indices)
    kept, values = prune_entries(keys, torch.from_numpy(matrix.data), *matrix.shape, Pruning.parse(form))
    dense = np.zeros(matrix.shape, dtype=np.float32)
    dense.reshape(-1)[kept.numpy()] = values.numpy()
    return dense


@pytest.mark.parametrize("form", FORMS)
def test_each_way_equals_a_plain_loop_here_and_on_the_device(form, monkeypatch):
    matrix = random_matrix()
    expected = plain(form, matrix)
    assert 0 < np.count_nonzero(expected) <= matrix.nnz
    found = Pruning.parse(form)(matrix)
    assert found.has_canonical_format
    np.testing.assert_array_equal(found.toarray(), expected)
    np.testing.assert_array_equal(on_device(form, matrix), expected)
    monkeypatch.setattr(pruning, "_BLOCK_ENTRIES", 50)
    assert_identical(Pruning.parse(form)(matrix), found)


@pytest.mark.parametrize("form", FORMS)
def test_order_duplicates_and_stored_zeros_are_no_matter(form):
    tidy = sparse.csr_array(np.array([[0.5, 1, 0, 0.7], [0, 0, 0, 0]], dtype=np.float32))
    untidy = sparse.csr_array(
        (np.array([0.7, 0, 0.5, 0.5, 0.5], np.float32), np.array([3, 2, 1, 0, 1]), np.array([0, 5, 5])), shape=(2, 4)
    )
    before = untidy.copy()
    np.testing.assert_array_equal(Pruning.parse(form)(untidy).toarray(), Pruning.parse(form)(tidy).toarray())
    assert_identical(untidy, before)
    assert Pruning.parse(form)(sparse.csr_array((0, 5), dtype=np.float32)).shape == (0, 5)
    assert Pruning.parse(form)(sparse.csr_array((3, 5), dtype=np.float32)).nnz == 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("views", ["both", "english", "source", "english source"])
def test_views_are_pruned_by_themselves(form, views):
    matrix = random_matrix(seed=1)
    terms = 15
    how = dict.fromkeys(views.split(), form)
    found = prune(matrix, how, terms)
    expected = matrix.toarray()
    spans = {"both": slice(None), "english": slice(terms), "source": slice(terms, None)}
    for view in how:
        expected[:, spans[view]] = plain(form, sparse.csr_array(matrix.toarray()[:, spans[view]]))
    np.testing.assert_array_equal(found.toarray(), expected)
    assert found.dtype == np.float32
    assert found.has_canonical_format
    assert prune(matrix, None, terms) is matrix


@pytest.mark.parametrize("form", FORMS)
def test_encoding_prunes_in_the_same_way(checkpoint, form):
    model = milco_hf.load(checkpoint, device="cpu")
    whole = encode_corpus(model, MIXED, progress=False)
    assert_identical(encode_corpus(model, MIXED, prune=form, progress=False), Pruning.parse(form)(whole))
    by_view = encode_corpus(model, MIXED, prune={"english": form, "source": "top_k:2"}, progress=False)
    assert_identical(by_view, prune(whole, {"english": form, "source": "top_k:2"}, len(tiny.TERMS)))


def test_what_a_form_may_look_like():
    both = {"english": Pruning("mass", 0.9), "source": Pruning("top_k", 16)}
    assert parse("english=mass:0.9 source=top_k:16") == both
    assert parse("english=mass:0.9,source=top_k:16") == both
    assert parse(["english=mass:0.9", "source=top_k:16"]) == both
    assert parse(["english=mass:0.9,source=top_k:16"]) == both
    assert parse({"english": "mass:0.9", "source": Pruning("top_k", 16)}) == both
    assert parse("source=max_ratio:0.1") == {"source": Pruning("max_ratio", 0.1)}
    assert parse("threshold:0.25") == parse(["threshold:0.25"]) == {"both": Pruning("threshold", 0.25)}
    assert parse(Pruning("top_k", 3)) == {"both": Pruning("top_k", 3)}
    assert parse(None) == parse("none") == parse({}) == {}
    for form in ("mass:0.1234567", "top_k:2000000", "max_ratio:0.05", "threshold:1.5", "mass:1"):
        assert str(Pruning.parse(form)) == form


@pytest.mark.parametrize(
    "how",
    ["", "half:3", "max_ratio:0", "max_ratio:1.1", "threshold:0", "threshold:-1", "threshold:inf", "threshold:nan"],
)
def test_unknown_forms_are_refused(how):
    with pytest.raises(ValueError, match=f"got '{how}'"):
        parse(how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("german=mass:0.5", "got 'german'"),
        ("english=mass:0.5 english=mass:0.6", "takes one HOW"),
        ("english=mass:0.5 mass:0.6", "takes one HOW"),
        ({"both": "mass:0.5", "source": "top_k:1"}, "not all of them"),
        ([], "takes one HOW"),
    ],
)
def test_views_that_do_not_go_together_are_refused(how, message):
    with pytest.raises(ValueError, match=message):
        parse(how)


def test_bad_amounts_and_weights_are_refused():
    matrix = random_matrix()
    with pytest.raises(ValueError, match="ratio has to be above 0 and at most 1, got 1.5"):
        max_ratio(matrix, 1.5)
    with pytest.raises(ValueError, match="weight has to be above 0 and finite, got 0"):
        threshold(matrix, 0)
    with pytest.raises(ValueError, match="Max-ratio pruning needs weights that are not negative"):
        max_ratio(-matrix, 0.5)
    with pytest.raises(ValueError, match="Max-ratio pruning needs weights that are not negative"):
        on_device("max_ratio:0.5", -matrix)
    with pytest.raises(ValueError, match="terms has to be between 0 and the 40 columns there are, got 41"):
        prune(matrix, "english=top_k:1", 41)
