"""`milco build`: a fresh MILCO from a multilingual encoder and an English MLM or SPLADE checkpoint."""

from __future__ import annotations

import argparse
from typing import Any

from milco_hf.cli.arguments import positive

EXAMPLES = """\
examples:
  milco build --encoder BAAI/bge-m3-unsupervised --pivot naver/splade-v3 --output milco-560m
  milco build --encoder ./my-encoder --pivot ./my-splade --output my-milco --set echo_pooling=max --seed 7
  milco build --encoder ./my-encoder --pivot answerdotai/ModernBERT-base --output my-milco --rescale-head auto
  milco build --encoder ./my-encoder --pivot ./my-splade --output my-milco --tokenizer ./my-tokenizer \\
      --init sembridge --bridge sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"""


def add_parser(verbs: argparse._SubParsersAction, parents: list[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser(
        "build",
        parents=parents,
        help="make a fresh MILCO from a multilingual encoder and an English head",
        description="Make a fresh MILCO from a multilingual encoder and an English MLM or SPLADE checkpoint. Its "
        "connector is new, so it needs sparse alignment pretraining (training/sap.py) before it is of use.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--encoder", required=True, metavar="ID|PATH", help="the multilingual encoder")
    parser.add_argument("--pivot", required=True, metavar="ID|PATH", help="the English model whose MLM head is taken")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the checkpoint")
    parser.add_argument("--dtype", default="float32", help="what the weights are stored in (default: float32)")
    parser.add_argument("--seed", type=int, default=0, help="for the new weights (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint in the output folder")
    parser.add_argument(
        "--set",
        dest="settings",
        type=_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a field of MilcoConfig, such as echo=false or document_length=512; may be repeated",
    )
    head = parser.add_argument_group("the scale of the English head")
    head.add_argument(
        "--rescale-head",
        metavar="auto|C",
        help="multiply the head's projection by C before training, or by what brings a head that is too large down to "
        "the scale of BERT's (default: leave it as it is; its norms are logged)",
    )
    head.add_argument(
        "--rescale-reference",
        metavar="ID|PATH",
        help="the head that auto measures in place of BERT's, such as a folder",
    )
    words = parser.add_argument_group("another vocabulary")
    words.add_argument(
        "--tokenizer", metavar="ID|PATH", help="for the encoder, new or trimmed; shared tokens keep rows"
    )
    words.add_argument("--pivot-tokenizer", metavar="ID|PATH", help="for the English terms, likewise")
    words.add_argument(
        "--init",
        choices=("mean", "random", "sembridge"),
        help="how rows of new tokens start; sembridge combines those of close tokens (default: mean)",
    )
    words.add_argument("--bridge", metavar="ID|PATH", help="the multilingual dense encoder that sembridge asks")
    words.add_argument("--bridge-neighbours", type=positive, metavar="K", help="close tokens at most (default: 10)")
    words.add_argument(
        "--bridge-alpha", type=float, metavar="A", help="entmax: 1 is softmax, more leaves fewer tokens (default: 2)"
    )
    parser.set_defaults(run=run)


# What `build` has a default of its own for.
_OPTIONAL = (
    "rescale_head",
    "rescale_reference",
    "tokenizer",
    "pivot_tokenizer",
    "init",
    "bridge",
    "bridge_neighbours",
    "bridge_alpha",
)


def run(options: argparse.Namespace) -> None:
    """Build, and say where it lies and what comes next."""
    from rich.console import Console

    import milco_hf
    from milco_hf.head_scale import head_norms

    given = {name: getattr(options, name) for name in _OPTIONAL if getattr(options, name) is not None}
    milco_hf.build(
        options.encoder,
        options.pivot,
        options.output,
        dtype=options.dtype,
        seed=options.seed,
        overwrite=options.overwrite,
        **given,
        **dict(options.settings),
    )
    Console(stderr=True).print(
        f"Built {options.output}. Its English head: {head_norms(options.output)}.\n"
        f"Next: accelerate launch training/sap.py --config training/recipes/milco-560m.yaml --model {options.output}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _setting(text: str) -> tuple[str, Any]:
    """A pair from NAME=VALUE; the value is read as YAML, so that false, 64 and 0.1 are what they look like."""
    import yaml

    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"has to read NAME=VALUE, got {text!r}")
    return name, yaml.safe_load(value)
