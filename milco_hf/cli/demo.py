"""`milco demo`: what MILCO does, shown in a minute and offline."""

from __future__ import annotations

import argparse

# Where the output goes to a file or a pipe there is no terminal width to ask for.
PIPED_WIDTH = 110


def add_parser(verbs: argparse._SubParsersAction, parents: list[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser(
        "demo",
        parents=parents,
        help="terms of one sentence in six languages, and a search across languages",
        description="Show the English terms of one sentence in six languages side by side, then search a few hundred "
        "bundled texts in 26 languages with queries in other languages. Needs no network.",
    )
    parser.add_argument("--model", default="milco-mini", metavar="ID|PATH", help="the checkpoint (default: milco-mini)")
    parser.add_argument("--device", help="such as cpu or cuda (default: the best there is)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Load the checkpoint and show it."""
    from rich.console import Console

    import milco_hf
    from milco_hf.demo import run_demo

    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED_WIDTH)
    run_demo(milco_hf.load(options.model, device=options.device), options.model, console)
