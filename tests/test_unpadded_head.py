"""`pooled_logits` of texts that lie one after the other: the numbers and gradients of padded ones."""

import pytest
import torch

from milco_hf.modeling import lexecho_head, pooled_chunked, pooled_screened, pooled_segments
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_accelerators_pad_again(monkeypatch, dtype):
    lengths = [7, 3, 0, 3]
    hidden, weight, bias, mask = (t.detach().to(dtype) if t.is_floating_point() else t for t in inputs(lengths))
    expected = pooled_logits(hidden, weight, bias, mask)
    rows, cu_seqlens = hidden[mask], bounds(lengths)
    states, real = pooled_segments._padded(rows, cu_seqlens, cu_seqlens.diff())
    for one, other in zip(pooled_logits(states, weight, bias, real), expected, strict=True):
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


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("chunk_elements", [1, 50, 10**6])
@torch.no_grad()
def test_screening_gives_the_positive_logits_and_nothing_else(monkeypatch, lengths, chunk_elements):
    monkeypatch.setattr(pooled_chunked, "_NARROWEST", 16)
    monkeypatch.setattr(pooled_screened, "_MOST", 1.0)
    hidden, weight, bias, mask = (t.detach() for t in inputs(lengths, torch.float32, width=40, terms=300))
    bias -= 12.0  # some of each text's terms are positive
    expected, _ = pooled_logits(hidden, weight, bias, mask, backend="reference")
    found = pooled_screened.forward(hidden[mask], weight, bias, bounds(lengths), chunk_elements)
    real = torch.tensor(lengths) > 0
    assert not real.any() or 0 < (expected[real] > 0).float().mean() < 0.5
    torch.testing.assert_close(found.relu()[real], expected.relu()[real], rtol=1e-5, atol=1e-5)
    assert torch.equal(found[real] > 0, expected[real] > 0)


@torch.no_grad()
def test_screening_keeps_what_bf16_cannot_tell_from_zero():
    torch.manual_seed(1)
    hidden, weight = torch.randn(64, 256), torch.randn(2000, 256)
    logits = (hidden @ weight.T).view(4, 16, 2000).amax(1)
    bias = -logits[0] + 1e-4 * torch.randn(2000)  # the first text's logits are all within rounding of zero
    rounded = (hidden.bfloat16() @ weight.bfloat16().T).float().view(4, 16, 2000).amax(1)[0] + bias
    exact = logits[0] + bias
    assert ((rounded > 0) != (exact > 0)).float().mean() > 0.1, "bf16 alone would be wrong here"
    cu_seqlens = torch.tensor([0, 16])
    found = pooled_screened.forward(hidden[:16], weight, bias, cu_seqlens, 2**20)
    assert found is None, "nearly all terms are near zero: fp32 for all of them"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pooled_screened, "_MOST", 1.0)
        found = pooled_screened.forward(hidden[:16], weight, bias, cu_seqlens, 2**20)
    torch.testing.assert_close(found[0].relu(), exact.relu(), rtol=1e-5, atol=2e-5)


def test_screening_is_only_for_who_asks_and_needs_no_gradient(monkeypatch):
    calls = []
    whole = pooled_screened.forward
    monkeypatch.setattr(lexecho_head, "screening_pays", lambda *_: True)
    monkeypatch.setattr(lexecho_head, "screened_forward", lambda *a: (calls.append(1), whole(*a))[1])
    monkeypatch.setattr(pooled_screened, "_MOST", 1.0)
    hidden, weight, bias, mask = inputs([3, 3, 3], torch.float32)
    ragged = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]])

    def run(mask=mask, **options):
        return pooled_logits(hidden, weight, bias, mask, **{"with_winners": False, "positive_only": True, **options})

    expected, _ = run()
    assert not calls, "gradients need every maximum"
    with torch.no_grad():
        for options in ({"with_winners": True}, {"positive_only": False}, {"backend": "reference"}, {"mask": ragged}):
            run(**options)
            assert not calls, options
        pooled, winners = run()
        empty, _ = pooled_logits(
            hidden[0], weight, bias, cu_seqlens=torch.tensor([0, 3, 3]), with_winners=False, positive_only=True
        )
    assert len(calls) == 2
    assert winners is None
    torch.testing.assert_close(pooled.relu(), expected.relu())
    assert (empty[1] == torch.finfo(torch.float32).min).all()


@torch.no_grad()
def test_screened_nan_is_not_passed_over():
    hidden, weight = torch.randn(4, 8), torch.randn(20, 8)
    hidden[1, 2] = float("nan")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pooled_screened, "_MOST", 1.0)
        pooled = pooled_screened.forward(hidden, weight, None, torch.tensor([0, 2, 4]), 100)
    assert pooled[0].isnan().all()
    assert not pooled[1].isnan().any()
