"""Mass and top-k pruning: against a plain loop, on ties, empty rows and odd input; the curve made of them."""

import numpy as np
import pytest
from scipy import sparse

from helpers_evaluation import parallel, sparse_model
from milco_hf import pruning
from milco_hf.evaluation import evaluate
from milco_hf.pruning import Pruning, mass, top_k


def random_matrix(rows: int = 60, columns: int = 40, density: float = 0.3, seed: int = 0) -> sparse.csr_array:
    generator = np.random.default_rng(seed)
    dense = generator.random((rows, columns)) * (generator.random((rows, columns)) < density)
    dense = np.round(dense * 8) / 8  # many ties, and sums that are exact
    dense[7] = 0
    return sparse.csr_array(dense.astype(np.float32))


def plain(matrix: sparse.csr_array, keep) -> np.ndarray:
    """Row by row and entry by entry; `keep` sees how many are kept, what they hold, and the row's sum."""
    result = np.zeros(matrix.shape, dtype=np.float32)
    for number, row in enumerate(matrix.toarray()):
        held = 0.0
        for count, column in enumerate(sorted(np.flatnonzero(row), key=lambda place: (-row[place], place))):
            if not keep(count, held, row.astype(np.float64).sum()):
                break
            result[number, column] = row[column]
            held += float(row[column])
    return result


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5, 0.9, 0.999, 1.0])
def test_mass_equals_a_plain_loop(share):
    matrix = random_matrix()
    expected = plain(matrix, lambda count, held, total: held < share * total)
    np.testing.assert_array_equal(mass(matrix, share).toarray(), expected)


@pytest.mark.parametrize("k", [1, 3, 12, 100])
def test_top_k_equals_a_plain_loop(k):
    matrix = random_matrix(seed=1)
    np.testing.assert_array_equal(top_k(matrix, k).toarray(), plain(matrix, lambda count, held, total: count < k))


@pytest.mark.parametrize("prune", [lambda m: mass(m, 0.7), lambda m: top_k(m, 4)])
def test_blocks_change_nothing(prune, monkeypatch):
    matrix = random_matrix(seed=2)
    whole = prune(matrix).toarray()
    monkeypatch.setattr(pruning, "_BLOCK_ENTRIES", 50)
    np.testing.assert_array_equal(prune(matrix).toarray(), whole)


def test_the_crossing_entry_is_kept_and_smaller_columns_win_ties():
    matrix = sparse.csr_array(np.array([[1, 2, 1, 0], [4, 0, 0, 0]], dtype=np.float32))
    np.testing.assert_array_equal(mass(matrix, 0.5).toarray(), [[0, 2, 0, 0], [4, 0, 0, 0]])
    np.testing.assert_array_equal(mass(matrix, 0.51).toarray(), [[1, 2, 0, 0], [4, 0, 0, 0]])
    np.testing.assert_array_equal(top_k(matrix, 2).toarray(), [[1, 2, 0, 0], [4, 0, 0, 0]])


def test_input_stays_as_it_is_and_unsorted_columns_are_no_matter():
    matrix = sparse.csr_array(
        (np.array([1, 3, 3], dtype=np.float32), np.array([2, 1, 0]), np.array([0, 3])), shape=(1, 3)
    )
    before = matrix.copy()
    np.testing.assert_array_equal(top_k(matrix, 1).toarray(), [[3, 0, 0]])
    np.testing.assert_array_equal(matrix.indices, before.indices)
    np.testing.assert_array_equal(matrix.data, before.data)
    assert mass(sparse.csr_array((0, 5), dtype=np.float32), 0.5).shape == (0, 5)
    assert top_k(sparse.csr_array((3, 5), dtype=np.float32), 2).nnz == 0


def test_bad_amounts_are_refused():
    matrix = random_matrix()
    for share in (0, -0.1, 1.5):
        with pytest.raises(ValueError, match="share has to be above 0"):
            mass(matrix, share)
    with pytest.raises(ValueError, match="k has to be at least 1, got 0"):
        top_k(matrix, 0)
    with pytest.raises(ValueError, match="not negative"):
        mass(-matrix, 0.5)
    for text in ("mass", "mass:0", "mass:1.1", "top_k:0", "top_k:2.5", "half:3", "mass:x"):
        with pytest.raises(ValueError, match=f"got '{text}'"):
            Pruning.parse(text)
    assert str(Pruning.parse("mass:0.9")) == "mass:0.9"
    assert str(Pruning.parse("top_k:30")) == "top_k:30"


@pytest.mark.parametrize("setting", ["monolingual", "matrix"])
def test_the_curve_is_what_pruned_evaluations_give(tmp_path, setting):
    model = sparse_model(tmp_path / "m")
    options = {"setting": setting, "cache": tmp_path / "cache"}
    report = evaluate(["bm25", model], parallel(), pruning_curve=[3, 1, 1000], output=tmp_path / "out", **options)
    name = report.systems[1]["name"]
    whole, *points = report.curve
    assert (whole.method, whole.means) == ("none", report.means(name, "tiny"))
    assert [(p.method, p.amount) for p in points if p.method == "top_k"] == [("top_k", 1), ("top_k", 3)]
    assert len(points) == 4, "a thousand dimensions is more than any document has"
    for point in points:
        alone = evaluate(model, parallel(), prune=Pruning(point.method, point.amount), **options)
        assert alone.means(name, "tiny") == pytest.approx(point.means)
        kept = {result.documents: result.statistics["document_dimensions"] for result in alone.results}
        assert np.mean(list(kept.values())) == pytest.approx(point.document_dimensions)
    by_mass = [point for point in points if point.method == "mass"]
    # at least one dimension of each document stays, so the mean cannot come closer to 1 than that
    assert by_mass[0].document_dimensions == pytest.approx(1, abs=0.5)
    assert by_mass[1].document_dimensions == pytest.approx(3, abs=0.5)
    for suffix in ("png", "svg"):
        assert (tmp_path / "out" / "plots" / f"tiny.pruning.{suffix}").stat().st_size > 1000
    assert "| none |" in (tmp_path / "out" / "results.md").read_text(encoding="utf-8")


def test_the_curve_needs_a_sparse_model():
    with pytest.raises(ValueError, match="needs a sparse model"):
        evaluate("bm25", parallel(), pruning_curve=True, cache=None)
    with pytest.raises(ValueError, match="at least 1"):
        evaluate("bm25", parallel(), pruning_curve=[0], cache=None)
