"""The LexEcho head by every backend, forward and backward: time, peak extra memory, share of the GEMM's speed.

python benchmarks/head.py                                    # 32 × 256 tokens, d_e 768, V_e 30,522, on the CPU in fp32
python benchmarks/head.py --device cuda                      # the same in bf16, with triton and torch.compile
python benchmarks/head.py --quick                            # a second or two, to see that it runs
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from measuring import Measurement, environment, interleaved, print_table, write_json
from torch import Tensor

from milco_hf.modeling.lexecho_head import pooled_logits

_QUICK = {"batch": 4, "tokens": 32, "width": 64, "terms": 2000, "active": 50, "rounds": 2}


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="texts")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of each text")
    parser.add_argument("--width", type=int, default=768, help="d_e")
    parser.add_argument("--terms", type=int, default=30522, help="V_e")
    parser.add_argument("--active", type=int, default=200, help="terms of each text that have gradient")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each backend")
    parser.add_argument("--only", choices=["forward", "forward + backward"], help="one of the two, not both")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, …")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="float32 on a CPU, else bfloat16")
    parser.add_argument("--threads", type=int, help="CPU threads; by default PyTorch's own number")
    parser.add_argument("--output", default="outputs/benchmarks/head.json", help="where the JSON file goes")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    args = parser.parse_args()
    if args.quick:
        vars(args).update(_QUICK)
    return args


def main() -> None:
    """Measures, prints, writes."""
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    dtype = getattr(torch, args.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    where = environment(device)  # reads the machine's load before there is any of this script's
    torch.manual_seed(0)
    hidden = torch.randn(args.batch, args.tokens, args.width, device=device, dtype=dtype, requires_grad=True)
    weight = (0.05 * torch.randn(args.terms, args.width, device=device, dtype=dtype)).requires_grad_()
    bias = torch.zeros(args.terms, device=device, requires_grad=True)
    mask = torch.ones(args.batch, args.tokens, device=device)
    picked = torch.rand(args.batch, args.terms, device=device).topk(args.active).indices
    grad = torch.zeros(args.batch, args.terms, device=device).scatter_(1, picked, 1.0)

    heads = _heads(device)
    products = 2 * args.batch * args.tokens * args.width * args.terms
    results = {}
    for name, ways in (
        ("forward", {"GEMM alone": lambda: _gemm(hidden, weight), **_forward(heads, hidden, weight, bias, mask)}),
        ("forward + backward", _forward_backward(heads, hidden, weight, bias, mask, grad)),
    ):
        if args.only not in (None, name):
            continue
        found = interleaved(ways, args.rounds, device, warm_up=0 if device.type == "cpu" else 2)
        results[name] = {way: measurement.summary() for way, measurement in found.items()}
        _show(name, found, products)
    settings = {**vars(args), "dtype": str(dtype)}
    write_json(args.output, {"benchmark": "head", "settings": settings, "environment": where, "results": results})


Head = Callable[..., tuple[Tensor, Tensor]]


def _heads(device: torch.device) -> dict[str, Head]:
    """The backends that mean something on this device, `reference` first."""

    def by(backend: str) -> Head:
        return lambda *inputs: pooled_logits(*inputs, backend=backend)

    heads = {"reference": by("reference"), "chunked": by("chunked")}
    if device.type == "cuda":
        heads["torch.compile of reference"] = torch.compile(by("reference"))
        heads["triton"] = by("triton")
    return heads


def _gemm(hidden: Tensor, weight: Tensor) -> None:
    """The matrix product that every backend has to do, and nothing else: the limit of a forward pass."""
    with torch.no_grad():
        torch.mm(hidden.flatten(0, 1), weight.T)


def _forward(heads: dict[str, Head], *inputs: Tensor) -> dict[str, Callable[[], None]]:
    def run(head: Head) -> None:
        with torch.no_grad():
            head(*inputs)

    return {name: lambda head=head: run(head) for name, head in heads.items()}


def _forward_backward(heads: dict[str, Head], *inputs: Tensor) -> dict[str, Callable[[], None]]:
    *inputs, grad = inputs

    def run(head: Head) -> None:
        pooled, _ = head(*inputs)
        torch.autograd.grad(pooled, inputs[:3], grad)

    return {name: lambda head=head: run(head) for name, head in heads.items()}


def _show(title: str, found: dict[str, Measurement], products: int) -> None:
    base, limit = found["reference"], found.get("GEMM alone")
    rows = []
    for name, measured in found.items():
        row = [name, f"{measured.median:.4g}", f"{min(measured.seconds):.4g} … {max(measured.seconds):.4g}"]
        row += [f"{base.median / measured.median:.2f} ×", f"{measured.peak / 2**20:,.0f}"]
        row += [f"1/{base.peak / measured.peak:.1f}" if measured.peak else "none"]
        if limit is not None:
            row += [f"{products / measured.median / 1e12:.3g}", f"{limit.median / measured.median:.0%}"]
        rows.append(row)
    columns = ["", "median s", "lowest … highest", "speed", "peak extra MiB", "memory"]
    print_table(title, columns + (["TFLOP/s", "of the GEMM"] if limit is not None else []), rows)


if __name__ == "__main__":
    main()
