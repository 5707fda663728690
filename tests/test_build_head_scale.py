"""The head's scale: norms and the rule on numbers worked by hand, `build`, and masked language models in place."""

from __future__ import annotations

import argparse
import importlib
import logging
import math
from pathlib import Path

import pytest
import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.sparse_encoder.modules import SpladePooling
from transformers import AutoModelForMaskedLM, BertConfig, BertModel

import milco_hf
import tiny
from helpers_tokenizers import wordpiece_tokenizer
from milco_hf import MilcoForSparseEncoding
from milco_hf.building import build
from milco_hf.cli import build as build_verb
from milco_hf.head_scale import HeadNorms, head_norms, rescale_factor, rescale_mlm_head, rescaled_head
from milco_hf.pivot_heads import PivotHead
from test_build import mlm_logits, pivot_config, random_weights, save_encoder, save_pivot

HEAD = PivotHead(
    settings={},
    tensors={
        "decoder.weight": torch.tensor([[3.0, 4.0], [0.0, 1.0]]),
        "decoder.bias": torch.tensor([2.0, -1.0]),
        "norm.weight": torch.tensor([1.0, 2.0]),
    },
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An encoder, a pivot, and the same pivot with a projection sixteen times as large."""
    root = tmp_path_factory.mktemp("scale")
    save_encoder(root / "encoder")
    model = save_pivot(root / "pivot", tie_word_embeddings=False)
    model.cls.predictions.decoder.weight.data *= 16
    model.cls.predictions.decoder.bias.data *= 16
    model.save_pretrained(root / "large")
    wordpiece_tokenizer().save_pretrained(root / "large")
    return root


def test_norms_by_hand():
    norms = head_norms(HEAD)
    assert (norms.terms, norms.width, norms.smallest, norms.largest) == (2, 2, 1, 5)
    assert norms.mean == pytest.approx(3)
    assert norms.frobenius == pytest.approx(math.sqrt(26))
    # γ ⊙ w: (3, 8) and (0, 2), so √((73 + 4) / 2)
    assert norms.logit_scale == pytest.approx(math.sqrt(38.5))
    assert "row L2 norm 3 in the mean (1 to 5)" in str(norms)


def test_the_logit_scale_is_a_logit_s_deviation():
    """On normalised activations of unit variance, over many of them and all terms."""
    torch.manual_seed(0)
    weight, gamma = torch.randn(40, 24), torch.rand(24) + 0.5
    logits = (torch.randn(20_000, 24) * gamma) @ weight.T
    norms = head_norms(PivotHead({}, {"decoder.weight": weight, "norm.weight": gamma}))
    assert logits.square().mean().sqrt().item() == pytest.approx(norms.logit_scale, rel=0.01)


def test_the_factor(folders):
    norms = HeadNorms(1, 1, 1, 1, 1, 1, logit_scale=head_norms(folders / "pivot").logit_scale * 8)
    assert rescale_factor("auto", norms, folders / "pivot") == pytest.approx(1 / 8)
    smaller = HeadNorms(1, 1, 1, 1, 1, 1, logit_scale=norms.logit_scale / 100)
    assert rescale_factor("auto", smaller, folders / "pivot") == 1.0
    assert rescale_factor("0.0625", norms) == rescale_factor(1 / 16, norms) == 1 / 16
    for bad in (0, -1, "inf", "large", math.nan, None):
        with pytest.raises(ValueError, match='"auto" or a number above zero'):
            rescale_factor(bad, norms)
    with pytest.raises(FileNotFoundError, match=r"rescale_reference.*or a number"):
        rescale_factor("auto", norms, folders / "nowhere")
    with pytest.raises(ValueError, match="logit scale is 0"):
        rescale_factor("auto", HeadNorms(1, 1, 0, 0, 0, 0, 0.0), folders / "pivot")
    # a model that is loaded; one whose head is all zeros would make ours zeros too
    loaded = AutoModelForMaskedLM.from_pretrained(folders / "pivot")
    assert rescale_factor("auto", norms, loaded) == pytest.approx(1 / 8)
    torch.nn.init.zeros_(loaded.cls.predictions.decoder.weight)
    with pytest.raises(ValueError, match=r"The reference BertForMaskedLM has a head of logit scale 0\.0"):
        rescale_factor("auto", norms, loaded)


def test_without_a_network_the_way_out_is_named():
    with pytest.raises(FileNotFoundError, match=r"measures the head of 'google-bert/bert-base-uncased'.*a number"):
        rescale_factor("auto", HeadNorms(1, 1, 1, 1, 1, 1, 1.0))


def test_a_rescaled_head_by_hand():
    head = rescaled_head(HEAD, 0.5)
    assert head.tensors["decoder.weight"].tolist() == [[1.5, 2.0], [0.0, 0.5]]
    assert head.tensors["decoder.bias"].tolist() == [1.0, -0.5]
    assert HEAD.tensors["decoder.bias"].tolist() == [2.0, -1.0]


def test_build_rescales_and_tells_the_norms(folders, tmp_path, caplog):
    caplog.set_level(logging.INFO, "milco_hf")
    plain = MilcoForSparseEncoding.from_pretrained(build(folders / "encoder", folders / "pivot", tmp_path / "plain"))
    assert "Head of" in caplog.text
    assert f"logit scale {head_norms(folders / 'pivot').logit_scale:.4g}" in caplog.text
    options = {"rescale_head": "auto", "rescale_reference": folders / "pivot"}
    path = build(folders / "encoder", folders / "large", tmp_path / "auto", **options)
    assert "multiplied by 0.0625" in caplog.text
    auto = MilcoForSparseEncoding.from_pretrained(path)
    connected = torch.randn(2, 3, 24)
    with torch.no_grad():
        for expected, found in zip(plain.head(connected, torch.ones(2, 3)), auto.head(connected, torch.ones(2, 3))):
            torch.testing.assert_close(expected, found)  # [ECHO] too: it is new in both, from the same seed
    assert head_norms(path) == head_norms(auto)
    assert head_norms(auto).logit_scale == pytest.approx(head_norms(folders / "pivot").logit_scale)
    half = build(folders / "encoder", folders / "pivot", tmp_path / "half", rescale_head=0.5)
    assert head_norms(half).mean == pytest.approx(head_norms(folders / "pivot").mean / 2)
    with pytest.raises(ValueError, match="got 'much'"):
        build(folders / "encoder", folders / "pivot", tmp_path / "bad", rescale_head="much")
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "modernbert"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_teacher_in_place(kind, tied, tmp_path):
    model = random_weights(AutoModelForMaskedLM.from_config(pivot_config(kind, tie_word_embeddings=tied)))
    hidden = torch.randn(2, 3, 24)
    before, embeddings = mlm_logits(model, hidden), model.get_input_embeddings().weight.clone()
    norms = head_norms(model)
    assert rescale_mlm_head(model, 0.25) == 0.25
    torch.testing.assert_close(mlm_logits(model, hidden), before / 4)
    torch.testing.assert_close(model.get_input_embeddings().weight, embeddings, rtol=0, atol=0)
    assert head_norms(model).logit_scale == pytest.approx(norms.logit_scale / 4)
    model.save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(mlm_logits(again, hidden), before / 4)
    torch.testing.assert_close(again.get_input_embeddings().weight, embeddings, rtol=0, atol=0)
    again.train()  # the copy learns by itself
    again(torch.ones(1, 2, dtype=torch.long)).logits.sum().backward()
    assert again.get_output_embeddings().weight.grad is not again.get_input_embeddings().weight.grad


def test_models_without_a_known_head_are_refused(folders):
    config = BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    with pytest.raises(ValueError, match="does not hold the MLM head"):
        head_norms(BertModel(config))
    with pytest.raises(FileNotFoundError):
        head_norms(folders / "nowhere")


def test_a_milco_model_s_norms_leave_echo_out():
    model = tiny.model()
    rows = model.head.decoder.weight[:-1] * 1.0
    assert head_norms(model).terms == len(tiny.TERMS)
    assert head_norms(model).mean == pytest.approx(rows.norm(dim=1).mean().item())


def test_milco_build_takes_the_options(folders, tmp_path, capsys):
    root = argparse.ArgumentParser()
    build_verb.add_parser(root.add_subparsers(required=True), [])
    places = ["--encoder", folders / "encoder", "--pivot", folders / "large", "--output", tmp_path / "milco"]
    flags = ["--rescale-head", "auto", "--rescale-reference", folders / "pivot", "--init", "mean"]
    flags += ["--pivot-tokenizer", folders / "pivot"]
    options = root.parse_args([str(part) for part in ["build", *places, *flags]])
    options.run(options)
    norms = head_norms(tmp_path / "milco")
    assert norms.logit_scale == pytest.approx(head_norms(folders / "pivot").logit_scale, rel=0.1)
    assert norms.terms == len(wordpiece_tokenizer())  # the tokenizer's own, without the rows that no token has
    assert f"Its English head: {norms}." in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.slow
def test_training_fails_with_a_head_that_is_too_large_and_not_when_it_is_rescaled(monkeypatch):
    """Sixteen times the projection: no more found than by chance, 1 in 48."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    toy = importlib.import_module("toy_retrieval")
    found = {}
    for name, scales in {"large": [16.0], "rescaled": [16.0, None]}.items():
        model, reference = toy.fresh(0), toy.fresh(0)
        for scale in scales:
            factor = scale or rescale_factor("auto", head_norms(model), reference)
            with torch.no_grad():
                for parameter in model.head.decoder.parameters():
                    parameter.mul_(factor)
        toy.train(model, 120, 1e-3, 3e-4)
        found[name] = toy.quality(model)["found"]
    assert found["large"] < 0.1
    assert found["rescaled"] > 0.9


def test_a_sparse_encoder_in_place(tmp_path):
    """A SPLADE: its vectors become LogSat of a quarter of the logits, also after it was saved."""
    mlm = random_weights(AutoModelForMaskedLM.from_config(pivot_config("bert", tie_word_embeddings=True)))
    mlm.save_pretrained(tmp_path / "mlm")
    wordpiece_tokenizer().save_pretrained(tmp_path / "mlm")
    splade = SparseEncoder(
        modules=[Transformer(str(tmp_path / "mlm"), transformer_task="fill-mask"), SpladePooling()], device="cpu"
    )
    texts = ["the old city", "music"]
    before = splade.encode(texts, convert_to_sparse_tensor=False)
    assert rescale_mlm_head(splade, 0.25) == 0.25
    splade.save_pretrained(str(tmp_path / "splade"))
    expected = torch.log1p(torch.expm1(before) / 4)
    for model in (splade, SparseEncoder(str(tmp_path / "splade"), device="cpu")):
        torch.testing.assert_close(model.encode(texts, convert_to_sparse_tensor=False), expected)
        assert head_norms(model) == head_norms(tmp_path / "splade")


def test_a_milco_is_rescaled_while_it_is_built():
    model = tiny.model()
    before = model.head.decoder.weight.detach().clone()
    with pytest.raises(ValueError, match="a MILCO's head is rescaled while it is built"):
        rescale_mlm_head(model, 0.5)
    assert torch.equal(model.head.decoder.weight, before)


def test_the_bundled_checkpoint_is_known_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    norms = head_norms("milco-mini")
    assert norms == head_norms(Path(milco_hf.__file__).parent / "bundled" / "milco-mini")
    assert norms.terms > 10_000


def test_a_reference_that_nothing_would_measure_is_refused(tmp_path):
    for rescale in (None, 0.5):
        with pytest.raises(ValueError, match=r"rescale_reference='my-bert' .*--rescale-head auto.* give that too"):
            build("encoder", "pivot", tmp_path / "out", rescale_head=rescale, rescale_reference="my-bert")


@pytest.mark.parametrize("value", ["hello", "0", "-2", "nan"])
def test_a_factor_that_is_none_is_refused_before_anything_is_opened(value, tmp_path):
    with pytest.raises(ValueError, match=f'rescale_head has to be "auto" or a number above zero, got {value!r}'):
        build("no-such-encoder", "no-such-pivot", tmp_path / "out", rescale_head=value)
    assert not (tmp_path / "out").exists()
