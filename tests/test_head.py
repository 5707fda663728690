"""`pooled_logits` by every backend against plain PyTorch that keeps every logit: values, gradients, the odd shapes."""

import pytest
import torch
from torch import nn

import tiny
from milco_hf.modeling import lexecho_head, pooled_chunked
from milco_hf.modeling.lexecho_head import log_sat, pooled_logits

BACKENDS = ["reference", "chunked"]
LOWEST = torch.finfo(torch.float32).min


def by_hand(hidden, weight, bias, mask):
    """Every logit, then the masked maximum."""
    logits = hidden @ weight.T + (0 if bias is None else bias)  # [batch, tokens, terms]
    return logits.masked_fill(~mask.bool().unsqueeze(-1), torch.finfo(logits.dtype).min).max(1)


def inputs(batch=3, tokens=7, width=5, terms=11, dtype=torch.float64, lengths=(7, 3, 1)):
    hidden = torch.randn(batch, tokens, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(terms, width, dtype=dtype, requires_grad=True)
    bias = torch.randn(terms, dtype=dtype, requires_grad=True)
    mask = torch.arange(tokens)[None] < torch.tensor(lengths)[:, None]
    return hidden, weight, bias, mask


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("chunk_elements", [1, 50, 10**6])
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "by pairs"])
@pytest.mark.parametrize("padded", ["right", "left", "inside"])
def test_values_and_gradients_equal_every_logit(monkeypatch, backend, chunk_elements, dense, padded):
    monkeypatch.setattr(pooled_chunked, "dense_pays", lambda *_: dense)
    hidden, weight, bias, mask = inputs()
    if padded == "inside":
        mask = torch.tensor([[1, 0, 1, 1, 0, 1, 1], [0, 1, 0, 0, 1, 0, 0], [0, 0, 0, 1, 0, 0, 0]]).bool()
    mask = mask.flip(1) if padded == "left" else mask
    expected, places = by_hand(hidden, weight, bias, mask)
    pooled, winners = pooled_logits(hidden, weight, bias, mask, chunk_elements, backend)
    torch.testing.assert_close(pooled, expected, rtol=1e-12, atol=1e-12)
    assert winners.dtype == torch.int16
    assert not winners.requires_grad
    assert winners.tolist() == places.tolist()
    grad = torch.randn_like(expected) * (torch.rand_like(expected) < 0.4)
    wanted = torch.autograd.grad(expected, (hidden, weight, bias), grad)
    got = torch.autograd.grad(pooled, (hidden, weight, bias), grad)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert got[0][~mask].abs().sum() == 0


@pytest.mark.parametrize("narrowest", [1, 4], ids=["terms one by one", "terms by four"])
@pytest.mark.parametrize("chunk_elements", [1, 8, 30, 100])
def test_chunks_over_terms_texts_and_tokens_are_one_maximum(monkeypatch, narrowest, chunk_elements):
    monkeypatch.setattr(pooled_chunked, "_NARROWEST", narrowest)
    hidden, weight, bias, mask = inputs()
    expected = pooled_logits(hidden, weight, bias, mask, backend="reference")
    for one, other in zip(pooled_logits(hidden, weight, bias, mask, chunk_elements), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_chunk_stays_near_its_size():
    for batch, tokens, terms in ((32, 256, 30522), (288, 24, 16000), (1, 512, 30522), (1, 100_000, 30522), (3, 1, 14)):
        for elements in (2**16, 2**20, 2**23):
            wide, high, long = pooled_chunked._block(batch, tokens, terms, elements)
            assert wide * high * long <= elements
            assert high == 1 or long == tokens


@pytest.mark.parametrize(("share", "way"), [(0.1, "_by_pairs"), (0.9, "_dense")])
def test_the_measured_density_chooses_the_way_back(monkeypatch, share, way):
    taken = []
    for name in ("_by_pairs", "_dense"):
        whole = getattr(pooled_chunked, name)
        monkeypatch.setattr(pooled_chunked, name, lambda *a, n=name, w=whole: (taken.append(n), w(*a))[1])
    hidden, weight, bias, mask = inputs(terms=100)
    pooled, _ = pooled_logits(hidden, weight, bias, mask)
    pooled[:, : int(100 * share)].sum().backward()
    assert taken == [way]


def test_long_texts_go_by_pairs_on_a_cpu():
    assert pooled_chunked.dense_pays(0.3, 4, torch.device("cpu"))
    assert not pooled_chunked.dense_pays(0.2, 4, torch.device("cpu"))
    assert not pooled_chunked.dense_pays(1.0, 16, torch.device("cpu"))
    assert pooled_chunked.dense_pays(0.3, 256, torch.device("cuda"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("frozen", ["weight", "hidden"])
def test_what_is_frozen_gets_no_gradient_and_the_rest_stays_the_same(backend, frozen):
    hidden, weight, bias, mask = inputs()
    trained = {"hidden": hidden, "weight": weight}
    whole = torch.autograd.grad(pooled_logits(hidden, weight, bias, mask)[0].relu().sum(), (hidden, weight))
    trained[frozen] = trained[frozen].detach()
    pooled, _ = pooled_logits(trained["hidden"], trained["weight"], bias, mask, backend=backend)
    pooled.relu().sum().backward()
    expected = dict(zip(("hidden", "weight"), whole, strict=True))
    for name, tensor in trained.items():
        assert (tensor.grad is None) == (name == frozen)
        if name != frozen:
            torch.testing.assert_close(tensor.grad, expected[name])


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_never_hides_a_negative_maximum(backend):
    hidden = torch.tensor([[[-1.0], [-2.0], [9.0]]], requires_grad=True)
    pooled, winners = pooled_logits(hidden, torch.ones(1, 1), None, torch.tensor([[1, 1, 0]]), backend=backend)
    assert (pooled.item(), winners.item()) == (-1.0, 0)
    pooled.sum().backward()
    assert hidden.grad.flatten().tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "by pairs"])
def test_a_text_of_padding_alone_is_inactive_everywhere(monkeypatch, backend, dense):
    monkeypatch.setattr(pooled_chunked, "dense_pays", lambda *_: dense)
    hidden, weight, bias, mask = inputs()
    mask[1] = False
    pooled, winners = pooled_logits(hidden, weight, bias, mask, backend=backend)
    assert (log_sat(pooled)[1] == 0).all()
    assert (pooled[1] == torch.finfo(pooled.dtype).min).all()
    assert (winners[1] == -1).all()
    torch.testing.assert_close(pooled[0], by_hand(hidden, weight, bias, mask)[0][0])
    got = torch.autograd.grad(pooled.sum(), (hidden, weight, bias))
    kept = torch.tensor([0, 2])
    wanted = torch.autograd.grad(by_hand(hidden, weight, bias, mask)[0][kept].sum(), (hidden, weight, bias))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("chunk_elements", [1, 10**6])
def test_of_equal_tokens_the_first_real_one_wins(backend, chunk_elements):
    state = torch.tensor([1.0, 2.0])
    hidden = torch.stack([state, state, state, -state]).expand(2, 4, 2).clone().requires_grad_()
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    pooled, winners = pooled_logits(hidden, torch.tensor([[1.0, 1.0]]), None, mask, chunk_elements, backend)
    assert winners.tolist() == [[0], [1]]
    pooled.sum().backward()
    assert hidden.grad[..., 0].tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]


@pytest.mark.parametrize("backend", ["auto", *BACKENDS, "triton"])
@pytest.mark.parametrize(("batch", "tokens"), [(0, 4), (2, 0), (0, 0)])
def test_empty_batches(backend, batch, tokens):
    hidden, weight, bias = torch.randn(batch, tokens, 5), torch.randn(11, 5), torch.randn(11)
    parameters = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    pooled, winners = pooled_logits(*parameters, torch.ones(batch, tokens), backend=backend)
    assert pooled.shape == winners.shape == (batch, 11)
    assert (log_sat(pooled) == 0).all()
    assert (winners == -1).all()
    for gradient in torch.autograd.grad(pooled.sum(), parameters):  # DDP waits for every parameter's
        assert gradient.abs().sum() == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrower_numbers_stay_near(backend, dtype):
    hidden, weight, bias, mask = inputs(dtype=torch.float32)
    pooled, winners = pooled_logits(*(t.detach().to(dtype) for t in (hidden, weight)), bias, mask, backend=backend)
    expected, _ = by_hand(hidden, weight, bias, mask)
    assert pooled.dtype == torch.float32
    tolerance = {"rtol": 0.02, "atol": 0.05} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(pooled, expected, **tolerance)
    # a winner may be another one than in fp32, but not a worse one
    logits = hidden @ weight.T + bias
    torch.testing.assert_close(logits.gather(1, winners.long().unsqueeze(1)).squeeze(1), expected, **tolerance)


@pytest.mark.parametrize("dense", [True, False], ids=["dense", "by pairs"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunked_and_reference_agree_in_each_dtype(monkeypatch, dtype, dense):
    monkeypatch.setattr(pooled_chunked, "dense_pays", lambda *_: dense)
    hidden, weight, bias, mask = (t.detach().to(dtype) if t.is_floating_point() else t for t in inputs())
    found = []
    grad = torch.randn(3, 11)
    for backend in BACKENDS:
        parameters = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias)]
        pooled, winners = pooled_logits(*parameters, mask, 50, backend)
        found.append((pooled, winners, *torch.autograd.grad(pooled, parameters, grad)))
    tolerance = {"rtol": 0.02, "atol": 0.03} if dtype == torch.bfloat16 else {}
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_gives_gradients_in_the_parameters_own_dtype(backend):
    hidden, weight, bias, mask = inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        pooled, _ = pooled_logits(hidden, weight, bias, mask, backend=backend)
    pooled.relu().sum().backward()
    assert pooled.dtype == hidden.grad.dtype == weight.grad.dtype == torch.float32
    torch.testing.assert_close(pooled, by_hand(hidden, weight, bias, mask)[0], rtol=0.02, atol=0.05)


def test_long_texts_count_in_int32():
    hidden, mask = torch.zeros(1, 2**15, 1), torch.ones(1, 2**15)
    hidden[0, -1] = 1.0
    for backend in BACKENDS:
        _, winners = pooled_logits(hidden, torch.ones(1, 1), None, mask, backend=backend)
        assert winners.dtype == torch.int32
        assert winners.item() == 2**15 - 1


@pytest.mark.parametrize("chunk_elements", [1, 10**6])
def test_nan_is_not_passed_over(chunk_elements):
    hidden = torch.tensor([[[1.0], [float("nan")], [2.0]]])
    pooled, _ = pooled_logits(hidden, torch.ones(1, 1), None, torch.ones(1, 3), chunk_elements)
    assert pooled.isnan().all()


def test_an_unknown_backend_is_refused():
    hidden, weight, bias, mask = inputs()
    with pytest.raises(ValueError, match="backend must be one of .*'chunked'.* got 'cuda'"):
        pooled_logits(hidden, weight, bias, mask, backend="cuda")
    with pytest.raises(ValueError, match="head_backend must be one of .*'triton'.* got 'cuda'"):
        tiny.config(head_backend="cuda")


def test_the_backend_is_written_to_the_checkpoint(tmp_path):
    tiny.checkpoint(tmp_path, head_backend="reference")
    model = type(tiny.model()).from_pretrained(tmp_path)
    assert model.config.head_backend == model.head.backend == "reference"
    assert tiny.config().head_backend == "auto"


def test_triton_falls_back_to_chunks_and_says_so_once(caplog):
    hidden, weight, bias, mask = inputs()  # fp64, which the kernels do not have anywhere
    lexecho_head._told.clear()
    with caplog.at_level("WARNING"):
        for _ in range(2):
            pooled, _ = pooled_logits(hidden, weight, bias, mask, backend="triton")
    torch.testing.assert_close(pooled, by_hand(hidden, weight, bias, mask)[0])
    assert len([record for record in caplog.records if 'computes as "chunked"' in record.message]) == 1


class Pooling(nn.Module):
    """The smallest module around the head."""

    def __init__(self, width=5, terms=11):
        super().__init__()
        self.decoder = nn.Linear(width, terms)

    def forward(self, hidden, mask):
        return pooled_logits(hidden, self.decoder.weight, self.decoder.bias, mask, 50)


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "autocast"])
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_torch_compile_finds_no_graph_break(compiler, autocast):
    hidden, _, _, mask = inputs(dtype=torch.float32)
    module = Pooling()
    found = []
    torch.compiler.reset()
    for forward in (module, torch.compile(module, backend=compiler, fullgraph=True)):
        module.zero_grad()
        hidden.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            pooled, winners = forward(hidden, mask)
        pooled.relu().sum().backward()
        found.append((pooled, winners, hidden.grad, module.decoder.weight.grad, module.decoder.bias.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_gradient_checkpointing_of_the_head_changes_nothing():
    hidden, _, _, mask = inputs(dtype=torch.float32)
    module = Pooling()
    plain = torch.autograd.grad(module(hidden, mask)[0].relu().sum(), (hidden, module.decoder.weight))
    again = torch.utils.checkpoint.checkpoint(module, hidden, mask, use_reentrant=False)[0]
    for one, other in zip(torch.autograd.grad(again.relu().sum(), (hidden, module.decoder.weight)), plain, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("frozen", [False, True], ids=["trained decoder", "frozen decoder"])
def test_every_backend_gives_the_model_the_same_gradients(frozen):
    found = []
    for backend in ("auto", *BACKENDS):
        model = tiny.model(head_backend=backend, head_chunk_elements=100)
        model.head.decoder.requires_grad_(not frozen)
        model(**tiny.batch()).embeddings.sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert ("head.decoder.weight" in found[0]) is not frozen
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for name, gradient in found[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-5)


def test_log_sat_by_hand():
    assert log_sat(torch.tensor([-3.0, 0.0, 1.0])).tolist() == pytest.approx([0.0, 0.0, 0.6931472])
