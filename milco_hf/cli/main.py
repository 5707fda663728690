"""The parser of the `milco` command, and how its errors reach a person."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.logging import RichHandler

from milco_hf.cli import (
    build,
    convert,
    demo,
    encode,
    evaluate,
    explain,
    export,
    index,
    mine,
    push,
    score,
    search,
    serve,
)

EXAMPLES = """\
examples:
  milco demo
      terms of one sentence in six languages, and a search across languages, offline
  milco encode "Кто написал эту книгу?" "Who wrote this book?"
      the weighted terms of each text, one JSON object a line
  milco explain "Musik der alten Stadt" "The old city is known for its music." --html why.html
      which terms matched, what each adds, and which word raised it
  milco index corpus.jsonl --output my-index
      an index to search, in any language; milco search and milco serve read it
  milco export vectors --to qdrant --url http://localhost:6333 --collection docs
      what milco encode --output wrote, into a search engine
  milco evaluate milco-mini --bm25 --data xquad-r/ --setting matrix --output results
      every language's queries to every language's documents: run files, tables and a heat map
  milco build --encoder BAAI/bge-m3-unsupervised --pivot naver/splade-v3 --output milco-560m
      a fresh MILCO from a multilingual encoder and an English SPLADE, ready for training/sap.py
  milco convert research-checkpoint --output milco-converted
      a checkpoint of the research release, exactly, in this package's format
  milco mine questions --per-language --output mined
      hard negatives for questions and passages; milco score gives them a teacher's scores, for training/sct.py
  milco push milco-converted someone/milco-converted --private
      upload it with a model card

`milco VERB --help` explains each verb."""

# Errors whose message is meant for the person at the shell; others are shown with their type.
EXPLAINED = (ValueError, OSError, ImportError)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command, one subparser for each verb."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("-v", "--verbose", action="store_true", help="log what is being done")
    shared.add_argument("--debug", action="store_true", help="on an error, show the traceback")
    root = argparse.ArgumentParser(
        prog="milco",
        description="MILCO: one learned sparse retriever for many languages.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="store_true", help="print the version and exit")
    verbs = root.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    for verb in (demo, encode, explain, index, search, serve, export, evaluate, build, convert, mine, score, push):
        verb.add_parser(verbs, [shared])
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line without the program's name; None takes it from `sys.argv`.

    Returns:
        The exit status: 0, 2 after an error that the message explains, 130 after an interrupt.
    """
    root = parser()
    options = root.parse_args(arguments)
    if options.version:
        from milco_hf import __version__

        sys.stdout.write(f"milco-hf {__version__}\n")
        return 0
    if options.verb is None:
        root.print_help()
        return 0
    console = Console(stderr=True)
    _set_up_logging(console, options.verbose)
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # `milco encode … | head`: the reader has what it wanted; spare Python's complaint when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if options.debug:
            raise
        message = str(error) if isinstance(error, EXPLAINED) else f"{type(error).__name__}: {error}"
        message += "" if isinstance(error, EXPLAINED) else "\n(--debug shows where)"
        console.print(f"milco {options.verb}: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    return 0


def _set_up_logging(console: Console, verbose: bool) -> None:
    """Warnings always, what this package does with -v; other libraries stay at warnings."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=console, show_path=False, show_time=False)],
        force=True,
    )
    logging.getLogger("milco_hf").setLevel(logging.INFO if verbose else logging.WARNING)
    if not verbose:
        # transformers draws a bar for every model it opens; huggingface_hub's, of downloads and uploads, stay
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
