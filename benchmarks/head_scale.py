"""A head that is too large: contrastive training with sparsity fails, and with a rescaled head it does not.

    python benchmarks/head_scale.py --scale 16 64

Three heads learn the made-up task of toy_retrieval.py: as it is, with its projection multiplied by --scale, and that
one multiplied by what `rescale_factor("auto")` says with the first as reference. All else is equal.
"""

from __future__ import annotations

import argparse
import copy

import torch
from toy_retrieval import fresh, quality, train

from milco_hf.head_scale import head_norms, rescale_factor
from milco_hf.modeling import MilcoForSparseEncoding


def main(arguments: list[str] | None = None) -> None:
    """Train with the three heads and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, nargs="+", default=[16.0, 64.0], help="of the head's projection")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--sparsity", type=float, default=3e-4, help="weight of L1 at its end")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print("| seed | head | logit scale | C | found | active terms |")
    print("| --- | --- | --- | --- | --- | --- |")
    for seed in options.seeds:
        plain = fresh(seed)
        heads = [("as it is", 1.0, False)]
        for scale in options.scale:
            heads += [(f"× {scale:g}", scale, False), (f"× {scale:g}, rescaled", scale, True)]
        for name, scale, rescale in heads:
            model = copy.deepcopy(plain)
            _multiply(model, scale)
            norms = head_norms(model)
            factor = rescale_factor("auto", norms, plain) if rescale else 1.0
            _multiply(model, factor)
            train(model, options.steps, options.learning_rate, options.sparsity)
            found = quality(model)
            cells = [f"{norms.logit_scale:.3g}", f"{factor:.4g}", *(f"{value:.3f}" for value in found.values())]
            print(f"| {seed} | {name} | {' | '.join(cells)} |", flush=True)


@torch.no_grad()
def _multiply(model: MilcoForSparseEncoding, factor: float) -> None:
    for parameter in model.head.decoder.parameters():
        parameter.mul_(factor)


if __name__ == "__main__":
    main()
