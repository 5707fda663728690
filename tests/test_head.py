"""`pooled_logits` against plain PyTorch that keeps every logit: values, all gradients, and the odd shapes."""

import pytest
import torch

from milco_hf.modeling import lexecho_head
from milco_hf.modeling.lexecho_head import log_sat, pooled_logits


def reference(hidden, weight, bias, mask):
    """Every logit, then the masked maximum."""
    logits = hidden @ weight.T + (0 if bias is None else bias)  # [batch, tokens, terms]
    return logits.masked_fill(~mask.bool().unsqueeze(-1), torch.finfo(logits.dtype).min).amax(1)


def inputs(batch=3, tokens=7, width=5, terms=11, dtype=torch.float64, lengths=(7, 3, 1)):
    hidden = torch.randn(batch, tokens, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(terms, width, dtype=dtype, requires_grad=True)
    bias = torch.randn(terms, dtype=dtype, requires_grad=True)
    mask = torch.arange(tokens)[None] < torch.tensor(lengths)[:, None]
    return hidden, weight, bias, mask


@pytest.mark.parametrize("chunk_elements", [1, 50, 10**6])
@pytest.mark.parametrize("dense_share", [-1.0, 2.0], ids=["dense", "sparse"])
@pytest.mark.parametrize("left_padded", [False, True])
def test_values_and_gradients_equal_the_reference(monkeypatch, chunk_elements, dense_share, left_padded):
    monkeypatch.setattr(lexecho_head, "DENSE_SHARE", dense_share)
    hidden, weight, bias, mask = inputs()
    mask = mask.flip(1) if left_padded else mask
    expected, pooled = reference(hidden, weight, bias, mask), pooled_logits(hidden, weight, bias, mask, chunk_elements)
    torch.testing.assert_close(pooled, expected, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(expected) * (torch.rand_like(expected) < 0.4)
    wanted = torch.autograd.grad(expected, (hidden, weight, bias), grad)
    got = torch.autograd.grad(pooled, (hidden, weight, bias), grad)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert got[0][1, : 4 if left_padded else 0].abs().sum() == 0


def test_a_frozen_decoder_gets_no_gradient_and_the_rest_stays_the_same():
    hidden, weight, bias, mask = inputs()
    (whole,) = torch.autograd.grad(pooled_logits(hidden, weight, bias, mask).relu().sum(), (hidden,))
    (frozen,) = torch.autograd.grad(
        pooled_logits(hidden, weight.detach(), None, mask).add(bias).relu().sum(), (hidden,)
    )
    torch.testing.assert_close(frozen, whole)


def test_padding_never_hides_a_negative_maximum():
    hidden = torch.tensor([[[-1.0], [-2.0], [9.0]]], requires_grad=True)
    pooled = pooled_logits(hidden, torch.ones(1, 1), None, torch.tensor([[1, 1, 0]]))
    assert pooled.item() == -1.0
    pooled.sum().backward()
    assert hidden.grad.flatten().tolist() == [1.0, 0.0, 0.0]


def test_a_text_of_padding_alone_is_inactive_everywhere():
    hidden, weight, bias, mask = inputs()
    mask[1] = False
    pooled = pooled_logits(hidden, weight, bias, mask)
    assert (log_sat(pooled)[1] == 0).all()
    torch.testing.assert_close(pooled[0], reference(hidden, weight, bias, mask)[0])


@pytest.mark.parametrize(("batch", "tokens"), [(0, 4), (2, 0)])
def test_empty_batches(batch, tokens):
    pooled = pooled_logits(
        torch.randn(batch, tokens, 5), torch.randn(11, 5), torch.randn(11), torch.ones(batch, tokens)
    )
    assert pooled.shape == (batch, 11)
    assert (log_sat(pooled) == 0).all()


def test_bf16_is_pooled_to_fp32_and_stays_near():
    hidden, weight, bias, mask = inputs(dtype=torch.float32)
    expected = reference(hidden, weight, bias, mask)
    pooled = pooled_logits(hidden.bfloat16(), weight.bfloat16(), bias, mask)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, expected, rtol=0.02, atol=0.05)


def test_autocast_gives_gradients_in_the_parameters_own_dtype():
    hidden, weight, bias, mask = inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = pooled_logits(hidden, weight, bias, mask)
    pooled.relu().sum().backward()
    assert pooled.dtype == hidden.grad.dtype == weight.grad.dtype == torch.float32
    torch.testing.assert_close(pooled, reference(hidden, weight, bias, mask), rtol=0.02, atol=0.05)


def test_log_sat_by_hand():
    assert log_sat(torch.tensor([-3.0, 0.0, 1.0])).tolist() == pytest.approx([0.0, 0.0, 0.6931472])
