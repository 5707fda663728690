"""Whole models without padding, as flash attention allows; its kernels are stood in for by plain PyTorch."""

import pytest
import torch
from sentence_transformers import SparseEncoder

import helpers_flash
import milco_hf
import tiny
from milco_hf.modeling import unpadded as unpadding
from milco_hf.modeling.unpadded import flash_arguments, unpad

FLASH = ["xlm-roberta", "bert", "modernbert", "eurobert"]
TEXTS = ["the music of the old city the the", "谁写了这本书？", "", "Кто написал эту книгу и когда?", "music"]


@pytest.fixture
def flash(monkeypatch):
    helpers_flash.install(monkeypatch)


def one_row(batch):
    """A padded batch as sentence-transformers gives it to flash attention."""
    unpadded = unpad(batch["attention_mask"])
    ids = unpadded.take(batch["input_ids"]).unsqueeze(0)
    return ids, unpadded


@pytest.mark.parametrize("echo_source", ["pivot", "encoder"])
@pytest.mark.parametrize("kind", FLASH)
def test_flash_attention_takes_padding_out_of_encoder_and_head(flash, kind, echo_source):
    model = tiny.model(kind, seed=1, echo_source=echo_source)
    batch = tiny.batch(TEXTS)
    expected = model(**batch)
    helpers_flash.switch_on(model)
    seen = []
    model.connector.register_forward_hook(lambda module, given, result: seen.append(given[0].shape))
    output = model(**batch)
    assert set(helpers_flash.CALLS) == {len(TEXTS)}, "every layer gets the texts without padding"
    assert seen == [(int(batch["attention_mask"].sum()), model.config.hidden_size)]
    for name in ("embeddings", "pivot_logits", "source_weights"):
        torch.testing.assert_close(output[name], expected[name], rtol=1e-4, atol=1e-5)
    assert (expected.embeddings[:, : len(tiny.TERMS)] > 0).any()


@pytest.mark.parametrize("kind", FLASH)
def test_gradients_without_padding_are_those_with_padding(flash, kind):
    found = []
    for with_flash in (False, True):
        model = tiny.model(kind, seed=1)
        if with_flash:
            helpers_flash.switch_on(model)
        model(**tiny.batch(TEXTS)).embeddings.square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pooling", ["sum", "max"])
@pytest.mark.parametrize("kind", FLASH)
@torch.no_grad()
def test_texts_in_one_row_give_the_vectors_of_padded_ones(flash, kind, pooling):
    model = tiny.model(kind, seed=1, echo_pooling=pooling)
    batch = tiny.batch(TEXTS)
    expected = model(**batch)
    helpers_flash.switch_on(model)
    ids, unpadded = one_row(batch)
    lengths = {"cu_seq_lens_q": unpadded.cu_seqlens, "cu_seq_lens_k": unpadded.cu_seqlens}
    whole = flash_arguments(model.encoder.config, unpadded.cu_seqlens, ids.shape[1])
    positions = {"position_ids": whole["position_ids"]}
    for arguments in (whole, lengths, {**lengths, **positions}):  # what is not given is made
        output = model(input_ids=ids, **arguments)
        torch.testing.assert_close(output.embeddings, expected.embeddings, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            unpadded.put_back(output.source_weights[0]), expected.source_weights, rtol=1e-4, atol=1e-5
        )
        assert output.source_weights.shape == ids.shape


def test_sparse_encoder_and_encode_corpus_with_flash_attention(flash, checkpoint):
    model = SparseEncoder(str(checkpoint), device="cpu")
    expected = model.encode_document(TEXTS).to_dense()
    milco = model.transformers_model
    helpers_flash.switch_on(milco)
    model[0].unpad_inputs = None  # sentence-transformers looks again whether it can
    assert model[0].can_flatten_inputs
    assert "cu_seq_lens_q" in model[0].preprocess(TEXTS)
    torch.testing.assert_close(model.encode_document(TEXTS).to_dense(), expected, rtol=1e-4, atol=1e-5)
    assert set(helpers_flash.CALLS) == {len(TEXTS)}
    helpers_flash.CALLS.clear()
    matrix = milco_hf.encode_corpus(model, TEXTS, progress=False)
    torch.testing.assert_close(torch.from_numpy(matrix.toarray()), expected, rtol=1e-4, atol=1e-5)
    assert set(helpers_flash.CALLS) == {len(TEXTS)}


def test_who_asks_for_hidden_states_gets_them_padded(flash):
    model = tiny.model()
    batch = tiny.batch(TEXTS)
    expected = model(**batch, output_hidden_states=True).hidden_states
    helpers_flash.switch_on(model)
    states = model(**batch, output_hidden_states=True).hidden_states
    assert [state.shape for state in states] == [state.shape for state in expected]


@pytest.mark.parametrize("kind", ["xlm-roberta", "xmod"])
def test_what_would_mix_texts_is_refused(flash, kind):
    model = tiny.model(kind)
    ids, unpadded = one_row(tiny.batch(TEXTS))
    with pytest.raises(ValueError, match=f"{kind} encoder with 'sdpa' attention would mix them.*unpad_inputs = False"):
        model(input_ids=ids, cu_seq_lens_q=unpadded.cu_seqlens)
    helpers_flash.switch_on(model)
    if kind == "xmod":
        with pytest.raises(ValueError, match="xmod encoder with 'flash_attention_2' attention would mix them"):
            model(input_ids=ids, cu_seq_lens_q=unpadded.cu_seqlens)
        return
    for wrong in ({"input_ids": ids.expand(2, -1)}, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}):
        with pytest.raises(ValueError, match="input_ids is one row"):
            model(cu_seq_lens_q=unpadded.cu_seqlens, **wrong)


@pytest.mark.parametrize("kind", tiny.ENCODERS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_on_a_cpu_padding_never_reaches_the_head(monkeypatch, kind, side):
    model = tiny.model(kind, seed=1)
    batch = tiny.batch(TEXTS)
    if side == "left":
        batch = {name: tensor.flip(1) for name, tensor in batch.items()}  # other texts, but padded on the left
    with monkeypatch.context() as padded:
        padded.setattr(unpadding, "unpad", lambda mask: None)
        expected = model(**batch)
        wanted = torch.autograd.grad(expected.embeddings.square().sum(), list(model.head.parameters()))
    seen = []
    model.connector.register_forward_hook(lambda module, given, result: seen.append(given[0].shape))
    output = model(**batch)
    assert seen == [(int(batch["attention_mask"].sum()), model.config.hidden_size)]
    for name in ("embeddings", "pivot_logits", "source_weights"):
        torch.testing.assert_close(output[name], expected[name], rtol=1e-5, atol=1e-6)
    got = torch.autograd.grad(output.embeddings.square().sum(), list(model.head.parameters()))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
