"""`milco convert`: a checkpoint of the research release into this package's format."""

from __future__ import annotations

import argparse


def add_parser(verbs: argparse._SubParsersAction, parents: list[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser(
        "convert",
        parents=parents,
        help="turn a research-release checkpoint into this format, exactly",
        description="Turn a checkpoint of the MILCO research release into this package's format; the vectors stay the "
        "same, number for number and dimension for dimension.",
        epilog="example: milco convert released --output milco-converted --encoder ./bge-m3 --pivot ./splade-v3",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder or Hub id of the research checkpoint")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the converted checkpoint")
    parser.add_argument(
        "--encoder", metavar="ID|PATH", help="the multilingual encoder (default: the one its config names)"
    )
    parser.add_argument(
        "--pivot", metavar="ID|PATH", help="the English model with the tokenizer (default: the one its config names)"
    )
    parser.add_argument("--revision", help="branch, tag or commit of the checkpoint on the Hub")
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint in the output folder")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Convert, and say where it lies."""
    from rich.console import Console

    import milco_hf

    milco_hf.convert(
        options.checkpoint,
        options.output,
        encoder=options.encoder,
        pivot=options.pivot,
        revision=options.revision,
        overwrite=options.overwrite,
    )
    Console(stderr=True).print(f"Converted {options.checkpoint} into {options.output}.", markup=False, soft_wrap=True)
