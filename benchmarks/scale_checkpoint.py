"""A checkpoint whose head is too large, and the same rescaled by the rule of `--rescale-head auto`.

    python benchmarks/scale_checkpoint.py runs/mini/echo-start --scale 20 --output runs/head-scale
    python benchmarks/variants.py training/recipes/milco-mini-sct.yaml benchmarks/variants/head_scale.yaml \
        --data XQUAD-R --languages en de el ar zh --seeds 0 --output runs/head-scale/runs

Writes --output/scaled and --output/rescaled. [ECHO] keeps its scale: in practice its row is added to a head afterwards.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import milco_hf
from milco_hf.head_scale import head_norms, rescale_factor


def main() -> None:
    """Scale, write, rescale, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a MILCO checkpoint; its own head is the reference")
    parser.add_argument("--scale", type=float, default=20.0, help="(default: 20)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    encoder = milco_hf.load(options.checkpoint)
    model = encoder.transformers_model
    reference = head_norms(model)
    print(f"as it was: {reference}")
    for name in ("scaled", "rescaled"):
        factor = options.scale if name == "scaled" else rescale_factor("auto", head_norms(model), options.checkpoint)
        with torch.no_grad():
            for parameter in model.head.decoder.parameters():
                parameter[: model.config.pivot_vocab_size] *= factor
        print(f"{name} by {factor:.4g}: {head_norms(model)}")
        encoder.save_pretrained(str(options.output / name))


if __name__ == "__main__":
    main()
