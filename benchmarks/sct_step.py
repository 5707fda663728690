"""One step of SCT at the paper's size on a GPU, by each backend of the head; and the largest batch that fits.

    python benchmarks/sct_step.py                # 16 questions × 8 passages of 256 tokens, bf16 autocast, AdamW
    python benchmarks/sct_step.py --small        # tiny sizes, on a CPU too: says only that it runs

A step is the forward pass over questions and passages, KL against made-up teacher scores, L1, the backward pass and the
optimizer's step. All backends run on the same model, one after the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from measuring import environment, interleaved, print_table, write_json
from paper_size import paper_config
from torch import Tensor
from transformers import AutoModel

from milco_hf.modeling import MilcoForSparseEncoding
from milco_hf.training.retrieval.ranking_losses import kl_divergence
from milco_hf.training.retrieval.sparsity import l1
from milco_hf.training.retrieval.views import Views, scores

_SMALL = {"questions": 2, "passages": 3, "tokens": 16, "question_tokens": 6, "rounds": 2, "most": 8, "active": 20}


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--passages", type=int, default=8, help="of each question")
    parser.add_argument("--tokens", type=int, default=256, help="of each passage")
    parser.add_argument("--question-tokens", type=int, default=32, help="of each question")
    parser.add_argument("--active", type=int, default=200, help="English terms of a passage, about")
    parser.add_argument("--rounds", type=int, default=10, help="measured steps of each backend")
    parser.add_argument("--most", type=int, default=2048, help="questions at which the search for what fits ends")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing in the encoder")
    parser.add_argument("--attention", default="sdpa", help="such as flash_attention_2")
    parser.add_argument("--skip-largest", action="store_true", help="do not look for the largest batch")
    parser.add_argument("--device", default="cuda", help="(default: cuda; cpu with --small where there is none)")
    parser.add_argument("--small", action="store_true", help="tiny sizes")
    parser.add_argument("--output", default="outputs/benchmarks/sct_step.json", metavar="FILE")
    args = parser.parse_args()
    if args.small:
        vars(args).update(_SMALL)
    if torch.device(args.device).type == "cuda" and not torch.cuda.is_available():
        if not args.small:
            parser.error("There is no CUDA device here, and at the paper's size nothing else will do. Try --small.")
        args.device = "cpu"
    return args


@torch.no_grad()
def make_sparse(model: MilcoForSparseEncoding, args: argparse.Namespace) -> None:
    """Lowers the English terms' biases until `--active` terms of a passage are left, as in a trained model.

    A fresh one has nearly all active, and the way back through the head depends on that.
    """
    first = model.config.pivot_vocab_size + 5  # behind the special tokens
    ids = torch.randint(first, model.config.projection_dim, (8, args.tokens), device=model.device)
    logits = model(input_ids=ids, return_embeddings=False).pivot_logits
    model.head.decoder.bias[:-1] -= logits.topk(args.active).values[:, -1].mean()  # the last row is [ECHO]'s


def step(
    model: MilcoForSparseEncoding, optimizer: torch.optim.Optimizer, args: argparse.Namespace, questions: int
) -> tuple[Tensor, Tensor]:
    """One step of training; returns the loss, and English terms of a passage."""
    device = model.device
    generator = torch.Generator(device).manual_seed(0)
    first = model.config.pivot_vocab_size + 5  # behind the special tokens

    def texts(count: int, tokens: int) -> Views:
        shape = (count, tokens)
        ids = torch.randint(first, model.config.projection_dim, shape, device=device, generator=generator)
        output = model(input_ids=ids, return_embeddings=False)
        return Views(output.pivot_view, ids, output.source_weights)

    with torch.autocast(device.type, torch.bfloat16):
        asked, read = texts(questions, args.question_tokens), texts(questions * args.passages, args.tokens)
    own = torch.arange(questions * args.passages, device=device).view(questions, args.passages)
    student = scores(asked, read).gather(1, own)
    teacher = torch.rand(student.shape, device=device, generator=generator)
    loss = kl_divergence(teacher, student).mean() + 1e-3 * (l1(asked).mean() + l1(read).mean())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach(), (read.pivot > 0).sum(dim=1).float().mean()


def largest(run: Callable[[int], object], start: int, most: int) -> int:
    """The most questions in a batch that fit into the device's memory, between doublings to a sixteenth."""

    def fits(questions: int) -> bool:
        try:
            run(questions)
        except torch.cuda.OutOfMemoryError:
            return False
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return True

    low, high = 0, start
    while high <= most and fits(high):
        low, high = high, 2 * high
    if high > most:
        return low
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def main() -> None:
    """Measures, prints, writes."""
    args = arguments()
    device = torch.device(args.device)
    where = environment(device)
    torch.manual_seed(0)
    model = AutoModel.from_config(paper_config(args.small), attn_implementation=args.attention)
    model.to(device).train()
    make_sparse(model, args)
    if args.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=device.type == "cuda")
    backends = ["reference", "chunked"]
    if device.type == "cuda":
        backends.append("triton")

    def by(backend: str, questions: int = args.questions) -> tuple[Tensor, Tensor]:
        model.head.backend = backend
        return step(model, optimizer, args, questions)

    losses = {backend: float(by(backend)[0]) for backend in backends}
    active = float(by("chunked")[1])
    found = interleaved(
        {backend: lambda backend=backend: by(backend) for backend in backends}, args.rounds, device, warm_up=2
    )
    fitting = {}
    if device.type == "cuda" and not args.skip_largest:
        for backend in backends:
            fitting[backend] = largest(lambda questions, backend=backend: by(backend, questions), 1, args.most)
    base = found["reference"]
    rows = []
    for backend, measured in found.items():
        row = [backend, f"{measured.median:.4g}", f"{min(measured.seconds):.4g} … {max(measured.seconds):.4g}"]
        row += [f"{base.median / measured.median:.2f} ×", f"{measured.peak / 2**20:,.0f}"]
        if backend in fitting:
            most = "at least " if fitting[backend] * 2 > args.most else ""
            row += [f"{most}{fitting[backend]}", f"{fitting[backend] / max(1, fitting['reference']):.1f} ×"]
        else:
            row += ["not searched", ""]
        rows.append(row)
    print_table(
        f"{args.questions} × {args.passages} passages of {args.tokens} tokens, {where['device']}, {args.attention}, "
        f"{args.rounds} rounds, {active:.0f} English terms a passage",
        ["", "median s", "lowest … highest", "speed", "peak extra MiB", "largest batch", "÷ reference's"],
        rows,
    )
    if device.type != "cuda":
        print("Tiny sizes on a CPU: these numbers say only that the script runs.")
    content = {
        "benchmark": "sct_step",
        "settings": vars(args),
        "environment": where,
        "first_loss": losses,
        "active": active,
    }
    results = {backend: measurement.summary() for backend, measurement in found.items()}
    write_json(args.output, {**content, "largest_batch": fitting, "results": results})
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()
