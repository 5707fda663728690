"""`convert`: a checkpoint of the research release gives what the release's own code computed from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SparseEncoder
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, RobertaConfig

import milco_hf
from milco_hf import MilcoForSparseEncoding
from milco_hf.conversion import convert
from milco_hf.modeling.alignment_loss import smse

RESEARCH = Path(__file__).parent / "data" / "research-checkpoint"
EXPECTED = json.loads((RESEARCH / "expected.json").read_text(encoding="utf-8"))
TEXTS = EXPECTED["texts"]
JOINT = torch.from_numpy(np.load(RESEARCH / "expected.npz")["joint"])
TERMS = EXPECTED["en_vocab_size"]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    return convert(RESEARCH / "released", tmp_path_factory.mktemp("converted") / "milco")


@pytest.fixture(scope="module")
def model(converted):
    return MilcoForSparseEncoding.from_pretrained(converted).eval()


def release(folder, changes=None, drop=(), **config):
    """A copy of the fixture with other weights or another configuration, and neither of its two models beside it."""
    shutil.copytree(RESEARCH / "released", folder)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    weights = {name: value for name, value in {**weights, **(changes or {})}.items() if name not in drop}
    torch.save(weights, folder / "pytorch_model.bin")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **config}))
    return folder


PLACES = {"encoder": RESEARCH / "multilingual-encoder", "pivot": RESEARCH / "english-lsr"}


def vectors(folder, texts=TEXTS):
    model, tokenizer = MilcoForSparseEncoding.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return model(**tokenizer(texts, padding=True, return_tensors="pt")).embeddings


def test_vectors_agree(converted, model):
    assert JOINT.shape == (len(TEXTS), model.config.projection_dim)
    assert (JOINT[:, :TERMS] > 0).any(dim=1).all()
    assert (JOINT[:, TERMS:] > 0).any(dim=1).all()
    torch.testing.assert_close(vectors(converted), JOINT, rtol=0, atol=1e-5)
    for text, expected in zip(TEXTS, JOINT, strict=True):  # without padding
        torch.testing.assert_close(vectors(converted, [text])[0], expected, rtol=0, atol=1e-5)


def test_the_model_card_names_the_parts_without_their_places(converted):
    card = (converted / "README.md").read_text(encoding="utf-8")
    assert "from multilingual-encoder |" in card
    assert str(RESEARCH) not in card
    assert "(SAP), then sparse contrastive training" in card


def test_the_three_ways_of_encoding_agree(converted, model):
    for encoded in (model.encode_text(TEXTS), SparseEncoder(str(converted)).encode(TEXTS)):
        torch.testing.assert_close(encoded.to_dense(), JOINT, rtol=0, atol=1e-5)
    names = AutoTokenizer.from_pretrained(converted).convert_ids_to_tokens(range(JOINT.shape[1]))
    english = AutoTokenizer.from_pretrained(RESEARCH / "english-lsr").convert_ids_to_tokens(range(TERMS))
    source = AutoTokenizer.from_pretrained(RESEARCH / "multilingual-encoder")
    assert names[:TERMS] == [f"en: {term}" for term in english]
    assert names[TERMS:] == source.convert_ids_to_tokens(range(len(source)))


def test_alignment_losses_agree(converted, model):
    """The release's SAP loss of a pair is SMSE(other, teacher) + SMSE(english, teacher), on pooled logits.

    The teacher's are its masked language model's logits, maxima over all tokens, special ones too.
    """
    tokenizer = AutoTokenizer.from_pretrained(converted)
    teacher = AutoModelForMaskedLM.from_pretrained(RESEARCH / "english-lsr").eval()
    teacher_tokenizer = AutoTokenizer.from_pretrained(RESEARCH / "english-lsr")
    for (english, other), expected in zip(EXPECTED["sap"]["pairs"], EXPECTED["sap"]["loss_each"], strict=True):
        with torch.no_grad():
            taught = teacher(**teacher_tokenizer(english, return_tensors="pt")).logits.amax(dim=1)
            students = [model(**tokenizer(text, return_tensors="pt")).pivot_logits for text in (other, english)]
        loss = sum(smse(student, taught) for student in students)
        assert loss.item() == pytest.approx(expected, rel=1e-4)
        # as the model computes it by itself: the mean of the two texts in one batch
        batch = tokenizer([other, english], padding=True, return_tensors="pt")
        with torch.no_grad():
            assert 2 * model(**batch, labels=taught.expand(2, -1)).loss.item() == pytest.approx(expected, rel=1e-4)


def test_contrastive_loss_agrees(converted):
    """The release's SCT loss: KL(teacher ‖ student) over a query's passages, batch mean, + λ_q · L1(q) + λ_d · L1(d).

    Scores are inner products over both views, but L1 and the lengths count the English view alone.
    """
    sct = EXPECTED["sct"]
    released = json.loads((RESEARCH / "released/config.json").read_text())
    queries, passages = (vectors(converted, sct[name]) for name in ("queries", "passages"))
    grouped = passages.unflatten(0, (len(queries), sct["passages_per_query"]))
    student = torch.einsum("qd,qpd->qp", queries, grouped).log_softmax(dim=-1)
    teacher = torch.tensor(sct["teacher_scores"]).log_softmax(dim=-1)
    kl = (teacher.exp() * (teacher - student)).sum(dim=-1).mean()
    english = [view[:, :TERMS] for view in (queries, passages)]
    l1 = sum(released[name] * view.sum(dim=1).mean() for name, view in zip(("lambda_q", "lambda_d"), english))
    lengths = [(view > 0).sum(dim=1).float().mean().item() for view in english]
    assert kl.item() == pytest.approx(sct["distillation_loss"], rel=1e-4)
    assert l1.item() == pytest.approx(sct["l1_loss"], rel=1e-4)
    assert (kl + l1).item() == pytest.approx(sct["loss"], rel=1e-4)
    assert lengths == [sct["q_length"], sct["d_length"]]


def test_what_the_configuration_says(model):
    config = model.config
    assert (config.echo_source, config.echo_activation, config.echo_pooling) == ("encoder", "relu", "sum")
    assert config.echo_special_tokens
    assert config.training_stages == ["sap", "sct"]
    assert config.model_type == "milco-hf"
    assert model.encoder.pooler is None
    assert str(RESEARCH.parent) not in config.to_json_string(use_diff=False)


def test_safetensors_and_places_given_by_hand(tmp_path):
    folder = release(tmp_path / "released", multilingual_encoder_checkpoint="a/b", lsr_encoder_checkpoint=None)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    save_file({name: value.clone() for name, value in weights.items()}, folder / "model.safetensors")
    (folder / "pytorch_model.bin").unlink()
    convert(str(folder), str(tmp_path / "milco"), **PLACES)
    torch.testing.assert_close(vectors(tmp_path / "milco"), JOINT, rtol=0, atol=1e-5)


def test_places_are_looked_for_in_beside_and_here(tmp_path, monkeypatch):
    inside = release(tmp_path / "one" / "released")
    for name in ("multilingual-encoder", "english-lsr"):
        shutil.copytree(RESEARCH / name, inside / name)
    convert(inside, tmp_path / "milco-inside")
    elsewhere = release(tmp_path / "two" / "released")
    with pytest.raises(FileNotFoundError, match=r"'multilingual-encoder' as its multilingual_encoder.*--encoder"):
        convert(elsewhere, tmp_path / "milco-here")
    monkeypatch.chdir(RESEARCH)
    convert(elsewhere, tmp_path / "milco-here")
    for name in ("milco-inside", "milco-here"):
        torch.testing.assert_close(vectors(tmp_path / name), JOINT, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="has no lsr_encoder_checkpoint; say where it is with pivot="):
        convert(release(tmp_path / "three", lsr_encoder_checkpoint=None), tmp_path / "milco-three")


def test_checkpoint_of_the_alignment_stage(tmp_path):
    """It has no [ECHO] yet, and holds the frozen teacher, which is left behind."""
    folder = release(
        tmp_path / "released",
        changes={"en_lsr.bert.embeddings.word_embeddings.weight": torch.ones(2, 2)},
        drop=("echo.weight", "echo.bias", "scale"),
        echo=False,
        architectures=["MILCOModel"],
    )
    convert(folder, tmp_path / "milco", **PLACES)
    embeddings = vectors(tmp_path / "milco")
    torch.testing.assert_close(embeddings[:, :TERMS], JOINT[:, :TERMS], rtol=0, atol=1e-5)
    assert not embeddings[:, TERMS:].any()
    assert MilcoForSparseEncoding.from_pretrained(tmp_path / "milco").config.training_stages == ["sap"]


def test_pivot_of_the_roberta_class(tmp_path):
    """The release keeps `lm_head` as its mlm_head, without `predictions` in the names."""
    config = RobertaConfig(
        vocab_size=TERMS, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    mlm = AutoModelForMaskedLM.from_config(config)
    torch.nn.init.normal_(mlm.lm_head.layer_norm.weight)
    mlm.save_pretrained(tmp_path / "roberta")
    AutoTokenizer.from_pretrained(RESEARCH / "english-lsr").save_pretrained(tmp_path / "roberta")
    bert = torch.load(RESEARCH / "released/pytorch_model.bin", weights_only=True)
    head = {f"mlm_head.{name}": value for name, value in mlm.lm_head.state_dict().items()}
    folder = release(tmp_path / "released", changes=head, drop=[name for name in bert if name.startswith("mlm_head.")])
    convert(folder, tmp_path / "milco", encoder=PLACES["encoder"], pivot=tmp_path / "roberta")
    model = MilcoForSparseEncoding.from_pretrained(tmp_path / "milco")
    hidden = torch.randn(2, 4, 32)
    with torch.no_grad():
        expected = mlm.lm_head(hidden).amax(dim=1)
        torch.testing.assert_close(model.head(hidden, torch.ones(2, 4))[0], expected, rtol=1e-5, atol=1e-5)


def test_weights_that_are_not_accounted_for_are_named(tmp_path):
    cases = {
        "gate.weight": (r"\['gate.weight'\]", {"gate.weight": torch.ones(1)}, ()),
        "head": ("mlm_head.*'cls.predictions.more'", {"mlm_head.predictions.more": torch.ones(1)}, ()),
        "encoder": (r"\['m_model.adapter.weight'\]", {"m_model.adapter.weight": torch.ones(1)}, ()),
        "missing": (r"lacks \['scale'\]", {}, ("scale",)),
        "missing head": ("missing.*transform.dense.bias", {}, ("mlm_head.predictions.transform.dense.bias",)),
        "missing encoder": ("lacks weights.*LayerNorm", {}, ("m_model.embeddings.LayerNorm.weight",)),
        "shape": ("connector.dense.weight has shape", {"projector.weight": torch.ones(32, 47)}, ()),
    }
    for name, (message, changes, drop) in cases.items():
        folder = release(tmp_path / name, changes, drop)
        with pytest.raises(ValueError, match=message):
            convert(folder, tmp_path / "milco", **PLACES)
    with pytest.raises(ValueError, match=r"does not have: \['echo.bias', 'echo.weight', 'scale'\]"):
        convert(release(tmp_path / "silent", echo=False), tmp_path / "milco", **PLACES)
    assert not (tmp_path / "milco").exists()


def test_other_checkpoints_are_refused(converted, tmp_path):
    with pytest.raises(ValueError, match="checkpoint of milco-hf already"):
        convert(converted, tmp_path / "milco")
    with pytest.raises(ValueError, match=r"model_type 'bert'.*milco_hf.build"):
        convert(RESEARCH / "english-lsr", tmp_path / "milco")
    with pytest.raises(FileNotFoundError, match=r"has no config.json: give"):
        convert(tmp_path, tmp_path / "milco")
    with pytest.raises(FileNotFoundError, match="neither a folder here"):
        convert(tmp_path / "nowhere/at/all", tmp_path / "milco")
    with pytest.raises(FileExistsError, match="not empty"):
        convert(RESEARCH / "released", converted)
    with pytest.raises(ValueError, match=r"m_vocab_size=164, but there are 280 rows.*--encoder"):
        convert(RESEARCH / "released", tmp_path / "milco", encoder=RESEARCH / "english-lsr")
    with pytest.raises(ValueError, match="en_vocab_size=999"):
        convert(release(tmp_path / "sizes", en_vocab_size=999), tmp_path / "milco", **PLACES)


def test_both_formats_in_one_process(converted):
    """The release's model_type stays free for its own code."""
    assert AutoConfig.from_pretrained(converted).model_type == "milco-hf"
    with pytest.raises(ValueError, match="milco"):
        AutoConfig.from_pretrained(RESEARCH / "released")
    assert callable(milco_hf.load)
