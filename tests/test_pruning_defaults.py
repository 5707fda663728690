"""Pruning that a checkpoint's configuration asks for: the same vectors whichever way they are made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import fresh
import milco_hf
import tiny
from helpers_encoding import MIXED, assert_identical
from milco_hf import MilcoForSparseEncoding, encode_corpus
from milco_hf.evaluation.systems.sparse import SparseSystemEncoder, to_csr
from milco_hf.fingerprint import model_fingerprint
from milco_hf.pruning import default_pruning, prune

HOW = {"query_pruning": "top_k:4", "document_pruning": {"english": "mass:0.6", "source": "max_ratio:0.5"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.checkpoint(tmp_path_factory.mktemp("pruned") / "tiny", **HOW)


@pytest.fixture(scope="module")
def model(folder):
    return milco_hf.load(folder, device="cpu")


@pytest.fixture(scope="module")
def wanted(checkpoint):
    """The vectors of the same weights without defaults, pruned afterwards."""
    model = milco_hf.load(checkpoint, device="cpu")
    return {
        kind: prune(encode_corpus(model, MIXED, kind=kind, progress=False), HOW[f"{kind}_pruning"], len(tiny.TERMS))
        for kind in ("query", "document")
    }


def assert_close(found, expected):
    np.testing.assert_allclose(found.toarray(), expected.toarray(), atol=1e-5)


@pytest.mark.parametrize("kind", ["query", "document"])
def test_every_path_prunes_alike(folder, model, wanted, kind):
    assert_identical(encode_corpus(model, MIXED, kind=kind, progress=False), wanted[kind])
    encode = getattr(model, f"encode_{kind}")
    assert_close(to_csr(encode(MIXED, convert_to_sparse_tensor=True, save_to_cpu=True)), wanted[kind])
    bare = MilcoForSparseEncoding.from_pretrained(folder)
    assert_close(to_csr(getattr(bare, f"encode_{kind}")(MIXED)), wanted[kind])
    assert_identical(encode_corpus(bare, MIXED, kind=kind, progress=False), wanted[kind])


def test_without_a_task_nothing_is_pruned(checkpoint, model):
    plain = milco_hf.load(checkpoint, device="cpu")
    whole = plain.encode(MIXED, convert_to_sparse_tensor=True, save_to_cpu=True)
    assert_close(to_csr(model.encode(MIXED, convert_to_sparse_tensor=True, save_to_cpu=True)), to_csr(whole))


@pytest.mark.parametrize("asked", ["none", "top_k:2", {"source": "mass:0.5"}])
def test_what_is_asked_for_wins(checkpoint, model, asked):
    plain = milco_hf.load(checkpoint, device="cpu")
    found = encode_corpus(model, MIXED, prune=asked, progress=False)
    assert_identical(found, encode_corpus(plain, MIXED, prune=asked, progress=False))


def test_the_configuration_travels_with_the_checkpoint(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert {name: config[name] for name in HOW} == HOW
    assert json.loads((folder / "modules.json").read_text(encoding="utf-8"))[0]["kwargs"] == ["task", "max_active_dims"]
    milco_hf.load(folder, device="cpu").save_pretrained(str(tmp_path / "again"))
    again = milco_hf.load(tmp_path / "again", device="cpu")
    assert {kind: str(form) for kind, form in default_pruning(again, "query").items()} == {"both": "top_k:4"}
    assert len(again.encode_query("old city music").coalesce().values()) == 4


def test_evaluation_caches_whole_vectors_and_prunes_as_asked(checkpoint, model, wanted):
    system = SparseSystemEncoder(model, "tiny")
    plain = SparseSystemEncoder(milco_hf.load(checkpoint, device="cpu"), "tiny")
    vectors = system.encode_documents(MIXED)
    assert_close(vectors.matrix, plain.encode_documents(MIXED).matrix)
    assert_close(system.prepare_documents(vectors).content.T, wanted["document"])
    assert_close(system.prepare_queries(system.encode_queries(MIXED)).matrix, wanted["query"])
    assert system.settings["prune"] == "english=mass:0.6 source=max_ratio:0.5"
    assert system.settings["prune_queries"] == "top_k:4"
    other = SparseSystemEncoder(model, "tiny", prune="none")
    assert_close(other.prepare_documents(vectors).content.T, vectors.matrix)
    assert other.settings["prune"] is None
    english = SparseSystemEncoder(model, "tiny", view="english")
    assert_close(english.prepare_documents(vectors).content.T, wanted["document"][:, : len(tiny.TERMS)])
    source = SparseSystemEncoder(model, "tiny", view="source")
    assert_close(source.prepare_documents(vectors).content.T, wanted["document"][:, len(tiny.TERMS) :])
    assert model.transformers_model.config.document_pruning == HOW["document_pruning"]


def test_the_default_is_part_of_the_fingerprint(checkpoint, model):
    assert model_fingerprint(model) != model_fingerprint(milco_hf.load(checkpoint, device="cpu"))


def test_what_cannot_be_is_refused(folder):
    for how in ("half", "mass:2", {"german": "mass:0.5"}, {"both": "mass:0.5", "source": "top_k:2"}):
        with pytest.raises(ValueError, match="document_pruning: "):
            tiny.config(document_pruning=how)


def test_max_active_dims_wins_over_the_checkpoint_on_every_path(folder):
    both = milco_hf.load(folder, device="cpu", max_active_dims=2)
    assert {view: str(form) for view, form in default_pruning(both, "query").items()} == {"both": "top_k:2"}
    assert default_pruning(both, "query", max_active_dims=False) == {}
    found = encode_corpus(both, MIXED, kind="query", progress=False)
    assert np.diff(found.indptr).max() == 2
    assert_close(to_csr(both.encode_query(MIXED, convert_to_sparse_tensor=True, save_to_cpu=True)), found)


def test_checkpoints_of_before_prune_too(folder, wanted, tmp_path):
    old = Path(shutil.copytree(folder, tmp_path / "old"))
    modules = json.loads((old / "modules.json").read_text(encoding="utf-8"))
    assert modules[0].pop("kwargs") == ["task", "max_active_dims"]
    (old / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    model = milco_hf.load(old, device="cpu")
    found = model.encode_query(MIXED, convert_to_sparse_tensor=True, save_to_cpu=True)
    assert_close(to_csr(found), wanted["query"])


def test_gradients_pass_through_what_is_kept():
    model = tiny.model(document_pruning="top_k:3")
    model(**tiny.batch(), task="document").embeddings.sum().backward()
    assert model.head.decoder.weight.grad.abs().sum() > 0


@pytest.mark.slow
def test_remote_code_prunes_without_milco_hf(folder, wanted, tmp_path):
    code = """
    import json, sys
    from sentence_transformers import SparseEncoder
    model = SparseEncoder(sys.argv[1], device="cpu", trust_remote_code=True)
    result = model.encode_query(json.loads(sys.argv[2]), convert_to_sparse_tensor=False).tolist()
    """
    found = fresh.run(code, folder, json.dumps(MIXED[:6]), cwd=tmp_path, milco_hf=False)
    np.testing.assert_allclose(found, wanted["query"].toarray()[:6], atol=1e-5)
