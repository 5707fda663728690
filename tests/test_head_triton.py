"""The head's Triton kernels on the CPU, through Triton's interpreter, against `reference`."""

import importlib.util
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_imports

import fresh

MODELING = Path(__file__).parent.parent / "modeling"

_COMPARE = """
import torch
from milco_hf.modeling import lexecho_head, pooled_triton
from milco_hf.modeling.lexecho_head import pooled_logits

torch.manual_seed(0)
result = []
cases = [
    # batch, tokens, d_e, terms, lengths, dtype
    (3, 37, 40, 50, [37, 20, 1], torch.float32),
    (2, 5, 16, 7, [5, 0], torch.float32),
    (17, 1, 8, 5, [1] * 17, torch.float32),
    (2, 20, 24, 33, [20, 17], torch.bfloat16),
    (0, 4, 8, 5, [], torch.float32),
]
assert pooled_triton.triton_problem(torch.device("cpu"), torch.float32) is None
for batch, tokens, width, terms, lengths, dtype in cases:
    for padded in ("right", "left"):
        mask = torch.arange(tokens)[None] < torch.tensor(lengths, dtype=torch.long)[:, None]
        mask = mask.flip(1) if padded == "left" else mask
        # small whole numbers: sums are exact in every order, and many tokens are equal
        shapes = ((batch, tokens, width), (terms, width), (terms,))
        tensors = [torch.randint(-2, 3, shape).to(dtype) for shape in shapes]
        grad = torch.randint(-2, 3, (batch, terms)).float()
        cu_seqlens = torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0)).int()
        for states, where in ((tensors[0], {"mask": mask}), (tensors[0][mask], {"cu_seqlens": cu_seqlens})):
            found = []
            for backend in ("reference", "triton"):
                parameters = [tensor.clone().requires_grad_() for tensor in (states, *tensors[1:])]
                pooled, winners = pooled_logits(*parameters, **where, backend=backend)
                found.append([pooled, winners, *torch.autograd.grad(pooled, parameters, grad)])
            for name, one, other in zip(("maxima", "winners", "hidden", "weight", "bias"), *found):
                assert one.dtype == other.dtype and one.shape == other.shape, name
                assert torch.equal(one, other), (batch, tokens, dtype, padded, where, name, one, other)
        result.append(int(grad.count_nonzero()))

# autocast: fp32 parameters, bf16 products, gradients in fp32
hidden, weight = torch.randn(2, 9, 16, requires_grad=True), torch.randn(12, 16, requires_grad=True)
mask, grad, found = torch.ones(2, 9), torch.randn(2, 12), []
for backend in ("reference", "triton"):
    with torch.autocast("cpu", torch.bfloat16):
        pooled, _ = pooled_logits(hidden, weight, None, mask, backend=backend)
    found.append([pooled, *torch.autograd.grad(pooled, (hidden, weight), grad)])
for one, other in zip(*found):
    assert other.dtype == torch.float32
    torch.testing.assert_close(other, one, rtol=0.03, atol=0.06)

# NaN shows
hidden = torch.full((1, 2, 4), float("nan"))
pooled, _ = pooled_logits(hidden, torch.ones(3, 4), None, torch.ones(1, 2), backend="triton")
assert not pooled.isfinite().any()
assert not lexecho_head._told
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed (pip install triton)")
@pytest.mark.slow
def test_kernels_equal_the_reference_in_triton_s_interpreter(tmp_path):
    assert len(fresh.run(_COMPARE, cwd=tmp_path, milco_hf=True, environment={"TRITON_INTERPRET": "1"})) == 10


def test_remote_code_does_not_ask_for_triton():
    """transformers refuses remote code whose imports are missing; it passes over those inside `try`."""
    for path in MODELING.glob("*.py"):
        assert "triton" not in get_imports(path), path
    assert "import triton" in (MODELING / "pooled_triton.py").read_text(encoding="utf-8")


def test_without_triton_the_head_computes_in_chunks(tmp_path):
    code = """
    import sys
    sys.modules["triton"] = None  # importing it fails
    import torch
    from milco_hf.modeling.lexecho_head import pooled_logits
    from milco_hf.modeling.pooled_triton import triton_problem
    hidden, weight = torch.randn(2, 3, 4), torch.randn(5, 4)
    one, other = (pooled_logits(hidden, weight, None, torch.ones(2, 3), backend=name) for name in ("triton", "chunked"))
    result = [torch.equal(one[0], other[0]), triton_problem(torch.device("cuda"), torch.float32)]
    """
    assert fresh.run(code, cwd=tmp_path, milco_hf=True) == [True, "Triton is not installed (pip install triton)"]
