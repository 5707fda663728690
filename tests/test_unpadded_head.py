"""`pooled_logits` of texts that lie one after the other: the numbers and gradients of padded ones."""

import pytest
import torch

from milco_hf.modeling import pooled_chunked, pooled_segments
from milco_hf.modeling.lexecho_head import pooled_logits
from milco_hf.modeling.unpadded import unpad

BACKENDS = ["reference", "chunked"]
LENGTHS = [[7, 3, 1, 3], [2, 2, 2], [1], [4, 0, 4, 0], [0, 0], [5, 1, 40, 1, 5]]


def inputs(lengths, dtype=torch.float64, width=5, terms=11):
    """Padded states, which are ragged inside, and what the decoder has."""
    longest = max(lengths)
    hidden = torch.randn(len(lengths), longest, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(terms, width, dtype=dtype, requires_grad=True)
    bias = torch.randn(terms, dtype=dtype, requires_grad=True)
    mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
    return hidden, weight, bias, mask


def bounds(lengths, dtype=torch.int32):
    return torch.nn.functional.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("chunk_elements", [1, 50, 10**6])
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "by pairs"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_values_winners_and_gradients_equal_the_padded_ones(monkeypatch, backend, chunk_elements, dense, lengths):
    monkeypatch.setattr(pooled_chunked, "dense_pays", lambda *_: dense)
    monkeypatch.setattr(pooled_chunked, "_NARROWEST", 4)
    hidden, weight, bias, mask = inputs(lengths)
    parameters = (hidden, weight, bias)
    expected, places = pooled_logits(*parameters, mask, backend="reference")
    pooled, winners = pooled_logits(
        hidden[mask], weight, bias, None, chunk_elements, backend, cu_seqlens=bounds(lengths)
    )
    torch.testing.assert_close(pooled, expected, rtol=1e-12, atol=1e-12)
    assert winners.tolist() == places.tolist()
    assert winners.dtype == torch.int16
    grad = torch.randn_like(expected) * (torch.rand_like(expected) < 0.4)
    wanted = torch.autograd.grad(expected, parameters, grad)
    for one, other in zip(torch.autograd.grad(pooled, parameters, grad), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


class _Accelerator(str):
    """A name that torch takes for the CPU, and the code under test for a GPU."""

    type = "cuda"


class _Elsewhere(torch.Tensor):
    """A tensor on the CPU that says it is on an accelerator."""

    device = property(lambda self: _Accelerator("cpu"))


@pytest.mark.parametrize("lengths", [*LENGTHS, [7, 3, 0, 3]], ids=str)
@pytest.mark.parametrize("chunk_elements", [1, 50, 10**6])
def test_accelerators_pad_again(monkeypatch, lengths, chunk_elements):
    hidden, weight, _, mask = inputs(lengths)
    rows, cu_seqlens = hidden.detach()[mask], bounds(lengths)
    calls = []

    def padded(states, weight, mask, *rest):
        calls.append(mask.tolist())
        return pooled_segments_padded(states.as_subclass(torch.Tensor), weight, mask, *rest)

    pooled_segments_padded = pooled_segments.padded_forward
    monkeypatch.setattr(pooled_segments, "padded_forward", padded)
    options = (weight.detach(), cu_seqlens, torch.float64, chunk_elements)
    here = pooled_segments.forward(rows, *options)
    assert not calls, "the CPU takes texts as they are"
    elsewhere = pooled_segments.forward(rows.as_subclass(_Elsewhere), *options)
    # nothing is padded to the longest of the whole batch but what is there: the mask is that of the lengths
    assert calls == ([mask.tolist()] if sum(lengths) else [])
    real = [text for text, length in enumerate(lengths) if length]  # texts without tokens hold anything
    for text in real:
        tokens = rows[cu_seqlens[text] : cu_seqlens[text + 1]] @ weight.detach().T
        for maxima, winners in (here, elsewhere):
            torch.testing.assert_close(maxima[text], tokens.amax(dim=0), rtol=1e-12, atol=1e-12)
            assert winners[text].tolist() == tokens.argmax(dim=0).tolist()
    assert here[1].dtype == elsewhere[1].dtype


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_an_accelerator_gives_what_the_cpu_gives(lengths):
    hidden, weight, bias, mask = inputs(lengths)
    rows, cu_seqlens = hidden.detach()[mask], bounds(lengths)
    found = []
    for device in ("cpu", "cuda"):
        states, *rest = (tensor.detach().to(device).requires_grad_() for tensor in (rows, weight, bias))
        pooled, winners = pooled_logits(states, *rest, None, backend="chunked", cu_seqlens=cu_seqlens.to(device))
        gradients = torch.autograd.grad(pooled.relu().sum(), (states, *rest))
        found.append([tensor.cpu() for tensor in (pooled, winners, *gradients)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("padded", [True, False], ids=["padded", "unpadded"])
def test_without_winners_the_maxima_and_gradients_are_the_same(backend, padded):
    lengths = [7, 3, 1, 0]
    hidden, weight, bias, mask = inputs(lengths, torch.float32)
    where = {"mask": mask} if padded else {"cu_seqlens": bounds(lengths)}
    states = hidden if padded else hidden[mask]
    found = []
    for with_winners in (True, False):
        pooled, winners = pooled_logits(
            states, weight, bias, **where, chunk_elements=30, backend=backend, with_winners=with_winners
        )
        assert (winners is None) is not with_winners
        found.append((pooled, *torch.autograd.grad(pooled.relu().sum(), (hidden, weight, bias), retain_graph=True)))
    with torch.no_grad():
        quick, _ = pooled_logits(states, weight, bias, **where, chunk_elements=30, backend=backend, with_winners=False)
    assert torch.equal(quick, found[0][0])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("with_winners", [True, False])
@pytest.mark.parametrize("chunk_elements", [1, 10**6])
def test_nan_is_not_passed_over(monkeypatch, with_winners, chunk_elements):
    monkeypatch.setattr(pooled_chunked, "_NARROWEST", 1)
    hidden = torch.tensor([[1.0], [float("nan")], [2.0], [3.0]])
    pooled, _ = pooled_logits(
        *(hidden, torch.ones(1, 1), None, None, chunk_elements),
        cu_seqlens=torch.tensor([0, 3, 4]),
        with_winners=with_winners,
    )
    assert pooled[0].isnan().all()
    assert pooled[1] == 3.0


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
def test_pieces_hold_every_token_once_and_stay_small(limit):
    lengths = sorted([0, 1, 1, 1, 2, 5, 5, 8, 20])
    blocks = pooled_segments.pieces(lengths, limit)
    held = [
        (piece.first + text, piece.offset + token)
        for block in blocks
        for piece in block
        for text in range(piece.texts)
        for token in range(piece.tokens)
    ]
    assert held == [(text, token) for text, length in enumerate(lengths) for token in range(length)]
    assert all(sum(piece.texts * piece.tokens for piece in block) <= limit for block in blocks)


def test_what_are_no_cumulative_lengths_is_refused():
    hidden, weight = torch.randn(4, 3), torch.randn(5, 3)
    for wrong in ([0, 3], [1, 4], [0, 3, 2, 4], [0]):
        with pytest.raises(ValueError, match="cu_seqlens has to rise from 0 to the number of tokens, 4"):
            pooled_logits(hidden, weight, None, cu_seqlens=torch.tensor(wrong))
    for states, where in (
        (hidden, {}),
        (hidden, {"mask": torch.ones(1, 4)}),
        (hidden[None], {"cu_seqlens": torch.tensor([0, 4])}),
        (hidden[None], {"mask": torch.ones(1, 4), "cu_seqlens": torch.tensor([0, 4])}),
    ):
        with pytest.raises(ValueError, match="with mask, or .* with cu_seqlens"):
            pooled_logits(states, weight, None, **where)


def test_unpad_takes_and_puts_back():
    mask = torch.tensor([[0, 1, 1], [0, 0, 0], [1, 0, 1]])
    unpadded = unpad(mask)
    values = torch.arange(9.0).view(3, 3, 1)
    assert unpadded.take(values).flatten().tolist() == [1, 2, 6, 8]
    assert unpadded.cu_seqlens.tolist() == [0, 2, 2, 4]
    assert torch.equal(unpadded.put_back(unpadded.take(values)), values * mask[..., None])
    for nothing in (torch.ones(2, 3), torch.zeros(2, 3), torch.ones(0, 3)):
        assert unpad(nothing) is None
