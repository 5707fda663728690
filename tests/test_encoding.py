"""`encode_corpus`: the same vectors as `SparseEncoder.encode`, in the order of the texts, pruned and cut as asked."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from scipy import sparse

import milco_hf
import tiny
from helpers_encoding import MIXED, assert_identical
from milco_hf import encode_corpus, pruning
from milco_hf.encoding import shards as shards_module
from milco_hf.evaluation.systems.sparse import to_csr


@pytest.fixture(scope="module")
def model(checkpoint):
    return milco_hf.load(checkpoint, device="cpu")


def reference(model, texts, kind="document") -> sparse.csr_array:
    encode = model.encode_query if kind == "query" else model.encode_document
    return to_csr(encode(texts, batch_size=7, convert_to_sparse_tensor=True, save_to_cpu=True))


def assert_same(found, expected, tolerance=1e-5):
    assert found.shape == expected.shape
    assert abs(found - expected).max() <= tolerance


@pytest.mark.parametrize("batch_tokens", [1, 90, 100_000])
def test_vectors_are_those_of_sparse_encoder(model, batch_tokens):
    found = encode_corpus(model, MIXED, batch_tokens=batch_tokens, progress=False)
    assert isinstance(found, sparse.csr_array)
    assert found.dtype == np.float32
    assert found.has_canonical_format
    assert (found.data > 0).all()
    assert_same(found, reference(model, MIXED))


@pytest.mark.parametrize("settings", [{"echo_pooling": "max"}, {"echo_special_tokens": True}, {"echo": False}])
def test_each_kind_of_echo(tmp_path, settings):
    model = milco_hf.load(tiny.checkpoint(tmp_path / "tiny", **settings), device="cpu")
    assert_same(encode_corpus(model, MIXED, progress=False), reference(model, MIXED))


@pytest.mark.parametrize("kind", ["bert", "modernbert", "eurobert"])
def test_each_kind_of_encoder(tmp_path, kind):
    model = milco_hf.load(tiny.checkpoint(tmp_path / "tiny", kind), device="cpu")
    assert_same(encode_corpus(model, MIXED[:12], progress=False), reference(model, MIXED[:12]))


def test_name_folder_and_transformers_model_are_models_too(checkpoint, model):
    expected = encode_corpus(model, MIXED, progress=False)
    assert_identical(encode_corpus(checkpoint, MIXED, devices="cpu", progress=False), expected)
    bare = milco_hf.MilcoForSparseEncoding.from_pretrained(checkpoint)
    bare.train()
    assert_identical(encode_corpus(bare, MIXED, progress=False), expected)
    assert bare.training


def test_windows_and_shards_change_nothing(model, monkeypatch):
    expected = encode_corpus(model, MIXED, progress=False)
    monkeypatch.setattr(shards_module, "WINDOW", 4)
    assert_same(encode_corpus(model, MIXED, shard_size=9, progress=False), expected)


def test_generators_are_read_no_further_than_needed(model, monkeypatch):
    monkeypatch.setattr(shards_module, "WINDOW", 4)
    read, most = 0, 0
    rows = iter(range(len(MIXED)))

    def texts():
        nonlocal read
        for text in MIXED:
            read += 1
            yield text

    original = shards_module.Pending.add

    def add(pending, batch, found):
        nonlocal most
        most = max(most, read - 8 * pending.number)
        return original(pending, batch, found)

    monkeypatch.setattr(shards_module.Pending, "add", add)
    found, ids = encode_corpus(model, texts(), ids=rows, shard_size=8, progress=False)
    assert_same(found, reference(model, MIXED))
    assert ids == [str(row) for row in range(len(MIXED))]
    assert most <= 16  # the shard that is being encoded and the one after it


def test_queries_have_their_prompt_and_length(tmp_path):
    model = milco_hf.load(tiny.checkpoint(tmp_path / "tiny", query_length=9, document_length=20), device="cpu")
    model.prompts = {"query": "who wrote ", "passage": "the book: "}
    for kind in ("query", "document"):
        assert_same(encode_corpus(model, MIXED, kind=kind, progress=False), reference(model, MIXED, kind))
    model.prompts, model.default_prompt_name = {"other": "quiet "}, "other"
    assert_same(encode_corpus(model, MIXED, progress=False), reference(model, MIXED))


def test_what_is_cut_is_said_once(model, caplog):
    tokens = [len(ids) for ids in model.tokenizer(MIXED, truncation=False, verbose=False)["input_ids"]]
    long = sum(count > 12 for count in tokens)
    lost = sum(max(0, count - 12) for count in tokens)
    with caplog.at_level(logging.WARNING, "milco_hf"):
        found = encode_corpus(model, MIXED, max_length=12, batch_tokens=50, progress=False)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"{long} of 40 texts are longer than max_length=12: {lost} of {sum(tokens)} tokens were cut off"
    )
    model[0].document_length = 12
    try:
        assert_same(found, reference(model, MIXED))
    finally:
        model[0].document_length = None


@pytest.mark.parametrize("form", ["mass:0.6", "mass:1", "top_k:3"])
def test_pruning_is_that_of_the_whole_matrix(model, form):
    whole = encode_corpus(model, MIXED, progress=False)
    assert_identical(encode_corpus(model, MIXED, prune=form, progress=False), pruning.Pruning.parse(form)(whole))


def test_views_are_pruned_by_themselves(model):
    whole = encode_corpus(model, MIXED, progress=False)
    found = encode_corpus(model, MIXED, prune={"english": "top_k:2", "source": "mass:0.5"}, progress=False)
    english, source = whole[:, : len(tiny.TERMS)], whole[:, len(tiny.TERMS) :]
    expected = sparse.hstack([pruning.top_k(english, 2), pruning.mass(source, 0.5)], format="csr")
    assert_identical(found, sparse.csr_array(expected))


def test_ties_are_broken_as_pruning_breaks_them():
    rng = np.random.default_rng(0)
    matrix = sparse.random_array((30, 50), density=0.3, rng=rng, format="csr", dtype=np.float32)
    matrix.data = np.ceil(matrix.data * 4) / 4
    matrix.sort_indices()
    rows = np.repeat(np.arange(30), np.diff(matrix.indptr))
    keys, values = torch.from_numpy(rows * 50 + matrix.indices), torch.from_numpy(matrix.data)
    for form in ("mass:0.5", "mass:0.9", "top_k:4"):
        how = pruning.Pruning.parse(form)
        kept, weights = pruning.prune_entries(keys, values, 30, 50, how)
        expected = how(matrix)
        np.testing.assert_array_equal(kept % 50, expected.indices)
        np.testing.assert_array_equal(weights, expected.data)


@pytest.mark.parametrize("views", ["english", "source"])
def test_one_view_keeps_the_columns(model, views):
    whole = reference(model, MIXED).toarray()
    terms = len(tiny.TERMS)
    whole[:, slice(terms, None) if views == "english" else slice(terms)] = 0
    assert_same(encode_corpus(model, MIXED, views=views, progress=False), sparse.csr_array(whole))


def test_the_models_own_max_active_dims(checkpoint):
    model = milco_hf.load(checkpoint, device="cpu", max_active_dims=4)
    found = encode_corpus(model, MIXED, progress=False)
    assert np.diff(found.indptr).max() == 4
    assert_same(found, reference(model, MIXED))


def test_bf16_is_near(model):
    whole = encode_corpus(model, MIXED, progress=False)
    found = encode_corpus(model, MIXED, dtype="bfloat16", progress=False)
    assert found.dtype == np.float32
    assert abs(found - whole).max() > 0
    assert abs(found - whole).max() < 0.1 * whole.max()


def test_empty_corpus(model):
    found = encode_corpus(model, [], progress=False)
    assert found.shape == (0, model.transformers_model.config.projection_dim)
    assert encode_corpus(model, iter([]), ids=[], progress=False)[1] == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"texts": "one text"}, TypeError, "got one string"),
        ({"texts": ["a", 3]}, TypeError, "number 1 is 3"),
        ({"ids": ["a"]}, ValueError, "There are 1 ids, but more texts"),
        ({"ids": ["a", "b", "c"]}, ValueError, "There are 2 texts, but more ids"),
        ({"kind": "passage"}, ValueError, "document, query, got 'passage'"),
        ({"views": "german"}, ValueError, "both, english, source, got 'german'"),
        ({"prune": "mass:2"}, ValueError, "mass:SHARE"),
        ({"prune": {"german": "mass:0.5"}}, ValueError, "'german'"),
        ({"prune": {"both": "mass:0.5", "source": "top_k:2"}}, ValueError, "not all of them"),
        ({"dtype": "int8"}, ValueError, "got 'int8'"),
        ({"batch_tokens": 0}, ValueError, "batch_tokens has to be at least 1"),
        ({"shard_size": 0}, ValueError, "shard_size has to be at least 1"),
        ({"max_length": 2}, ValueError, "between 3 .* and 62"),
        ({"max_length": 100}, ValueError, "between 3 .* and 62"),
        ({"model": 5}, TypeError, "got int"),
        ({"devices": ["abacus"]}, ValueError, "such as cpu or cuda:0, got .'abacus'"),
        ({"devices": "meta"}, ValueError, "The model is on cpu, not meta"),
    ],
)
def test_what_cannot_work_is_refused(model, options, error, message):
    arguments = {"model": model, "texts": ["a", "b"], "progress": False, **options}
    with pytest.raises(error, match=message):
        encode_corpus(**arguments)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(model):
    texts = MIXED * 3
    expected, ids = encode_corpus(model, texts, ids=range(120), batch_tokens=200, shard_size=50, progress=False)
    options = {"ids": range(120), "batch_tokens": 200, "shard_size": 50, "prune": "mass:0.8", "progress": False}
    found, names = encode_corpus(model, texts, devices=["cpu", "cpu"], **options)
    assert names == ids
    assert_same(found, pruning.mass(expected, 0.8))


@pytest.mark.slow
def test_an_error_in_a_process_reaches_the_caller(model, monkeypatch):
    monkeypatch.setattr(model.transformers_model.config, "pivot_vocab_size", 1 << 20)
    with pytest.raises(ValueError, match="English terms, which no text"):
        encode_corpus(model, MIXED, devices=["cpu", "cpu"], progress=False)
