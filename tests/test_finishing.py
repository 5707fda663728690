"""What is done once to trained weights before they are shipped."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer

import milco_hf
import tiny
from milco_hf import MilcoForSparseEncoding
from milco_hf.training.finishing import finish


def test_half_the_bytes_and_the_same_vectors(checkpoint, tmp_path):
    report = finish(checkpoint, tmp_path / "tiny-milco")
    stored = load_file(tmp_path / "tiny-milco" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert report["parameters_in_millions"] * 1e6 == sum(tensor.numel() for tensor in stored.values())
    shipped, trained = milco_hf.load(tmp_path / "tiny-milco"), milco_hf.load(checkpoint)
    assert shipped.transformers_model.dtype == torch.float32
    torch.testing.assert_close(
        shipped.encode(tiny.TEXTS).to_dense(), trained.encode(tiny.TEXTS).to_dense(), rtol=0.02, atol=0.02
    )
    assert "tiny-milco" in (tmp_path / "tiny-milco" / "README.md").read_text()


@pytest.mark.parametrize(
    "load", [milco_hf.load, lambda path: milco_hf.load(path, model_kwargs={"dtype": torch.bfloat16})]
)
def test_vocabularies_of_one_byte(load, checkpoint, tmp_path):
    finish(checkpoint, tmp_path, vocabulary_dtype="float8_e4m3fn")
    stored = load_file(tmp_path / "model.safetensors")
    small = [name for name, tensor in stored.items() if tensor.dtype == torch.float8_e4m3fn]
    assert sorted(small) == ["encoder.embeddings.word_embeddings.weight", "head.decoder.weight"]
    assert {tensor.dtype for name, tensor in stored.items() if name not in small} == {torch.float16}
    shipped, trained = load(tmp_path), load(checkpoint)
    assert shipped.transformers_model.get_input_embeddings().weight.dtype == trained.transformers_model.dtype
    vectors = [model.encode(tiny.TEXTS).to_dense().float() for model in (shipped, trained)]
    assert 0 < (vectors[0] - vectors[1]).norm() < 0.15 * vectors[1].norm()


def test_an_unknown_dtype_of_the_vocabularies(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="vocabulary_dtype must be one of .*float8_e4m3fn.*, got 'int8'"):
        finish(checkpoint, tmp_path, vocabulary_dtype="int8")


def test_where_training_cut_its_texts_is_forgotten(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "trained")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "trained")
    tokenizer(tiny.TEXTS, truncation=True, max_length=4, padding=True)
    tokenizer.save_pretrained(tmp_path / "trained")
    assert len(Tokenizer.from_file(str(tmp_path / "trained" / "tokenizer.json")).encode("a " * 50)) == 4
    finish(tmp_path / "trained", tmp_path / "shipped")
    assert len(Tokenizer.from_file(str(tmp_path / "shipped" / "tokenizer.json")).encode("a " * 50)) > 50
    assert "max_length" not in json.loads((tmp_path / "shipped" / "tokenizer_config.json").read_text())


@torch.no_grad()
def test_the_bias_shift_moves_every_english_logit_and_no_echo(checkpoint, tmp_path):
    finish(checkpoint, tmp_path, dtype="float32", bias_shift=-0.25)
    before, after = (
        MilcoForSparseEncoding.from_pretrained(folder)(**tiny.batch()) for folder in (checkpoint, tmp_path)
    )
    torch.testing.assert_close(after.pivot_logits, before.pivot_logits - 0.25, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.source_weights, before.source_weights)


def test_pruning_becomes_the_checkpoints_own(checkpoint, tmp_path):
    finish(checkpoint, tmp_path / "a", query_pruning=["english=top_k:2"], document_pruning="mass:0.5")
    config = milco_hf.MilcoConfig.from_pretrained(tmp_path / "a")
    assert (config.query_pruning, config.document_pruning) == ({"english": "top_k:2"}, {"both": "mass:0.5"})
    query = milco_hf.load(tmp_path / "a").encode_query(tiny.TEXTS[0], convert_to_sparse_tensor=False)
    assert (query[: len(tiny.TERMS)] > 0).sum() == 2
    finish(tmp_path / "a", tmp_path / "b", query_pruning="none")
    config = milco_hf.MilcoConfig.from_pretrained(tmp_path / "b")
    assert (config.query_pruning, config.document_pruning) == (None, {"both": "mass:0.5"})
    with pytest.raises(ValueError, match="half"):
        finish(checkpoint, tmp_path / "c", query_pruning="half")
    assert not (tmp_path / "c").exists()


def test_wrong_dtypes_are_refused(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="dtype must be one of .* got 'int8'"):
        finish(checkpoint, tmp_path, dtype="int8")


def test_weights_that_half_precision_cannot_hold_are_refused(tmp_path):
    model = tiny.model()
    with torch.no_grad():
        model.head.norm.weight[0] = 1e6
    model.save_pretrained(tmp_path / "large")
    tiny.tokenizer().save_pretrained(tmp_path / "large")
    with pytest.raises(ValueError, match=r"float16 cannot hold the weights of head.norm.weight; choose"):
        finish(tmp_path / "large", tmp_path / "out")


def test_a_folder_without_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in 'nowhere': give a folder that"):
        finish("nowhere", tmp_path / "out")
