"""`milco explain`: why a document matches a query, in the terminal, as JSON or as a page."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from milco_hf.cli.arguments import add_revision, positive

EXAMPLES = """\
examples:
  milco explain "Musik in der alten Stadt" "The old city is known for its music."
  milco explain "Wer schrieb das Buch?" --file article.txt --html why.html
  milco explain "who wrote it" "Написал его Толстой." --json --top 10
  milco explain "who wrote it" "Написал его Толстой." --prune mass:0.9

Each shared dimension comes with both weights, what their product adds to the score, and the source token that raised
it in either text. --json gives places in characters (Unicode code points); tokens are named by their number in
query.tokens and document.tokens."""


def add_parser(verbs: argparse._SubParsersAction, parents: list[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser(
        "explain",
        parents=parents,
        help="show why a document matches a query",
        description="Take the score of a document for a query apart: shared terms, weights, tokens behind them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("query", metavar="QUERY", help="the query")
    parser.add_argument("document", metavar="DOCUMENT", nargs="?", help="the document")
    parser.add_argument("--file", type=Path, metavar="FILE", help="read the document from a UTF-8 text file")
    parser.add_argument("--model", default="milco-mini", metavar="ID|PATH", help="the checkpoint (default: milco-mini)")
    add_revision(parser)
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a self-contained page there; print nothing")
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")
    parser.add_argument(
        "--top", type=positive, metavar="N", help="show the N largest (default: 20; 40 on the page; all in JSON)"
    )
    parser.add_argument(
        "--prune",
        "--prune-documents",
        nargs="+",
        metavar="HOW",
        help="prune the document: mass:0.9, or by view",
    )
    parser.add_argument("--prune-queries", nargs="+", metavar="HOW", help="prune the query, likewise")
    for kind in ("query", "document"):
        parser.add_argument(
            f"--{kind}-length", type=positive, metavar="N", help=f"cut the {kind} to N tokens (default: the model's)"
        )
        parser.add_argument(
            f"--{kind}-language", metavar="XX", help=f"which adapters read the {kind} (X-MOD; default: the model's)"
        )
    parser.add_argument(
        "--views", choices=("both", "english", "source"), default="both", help="one view alone (default: both)"
    )
    parser.add_argument("--device", help="such as cpu, cuda or cuda:1 (default: the best there is)")
    parser.add_argument(
        "--dtype", choices=("auto", "bfloat16", "float16"), help="compute in it (default: the weights')"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Explain one pair."""
    document = _document(options)

    from rich.console import Console

    import milco_hf
    from milco_hf.explanation import explain
    from milco_hf.explanation.terminal import WIDTH

    found = explain(
        milco_hf.load(options.model, device=options.device, revision=options.revision),
        options.query,
        document,
        query_prune=options.prune_queries,
        document_prune=options.prune,
        query_length=options.query_length,
        document_length=options.document_length,
        views=options.views,
        dtype=options.dtype,
        query_language=options.query_language,
        document_language=options.document_language,
    )
    top = {} if options.top is None else {"top": options.top}
    if options.html:
        _write(options.html.expanduser(), found.to_html(**top))
        sys.stderr.write(f"{options.html}: open it in a browser\n")
    if options.json:
        sys.stdout.write(found.to_json(**top) + "\n")
    elif not options.html:
        console = Console()
        found.to_text(console if console.is_terminal else Console(width=WIDTH), **top)


def _document(options: argparse.Namespace) -> str:
    """The document's text."""
    if (options.document is None) == (options.file is None):
        raise ValueError("Give either DOCUMENT or --file FILE.")
    if options.file is None:
        return options.document
    try:
        return options.file.expanduser().read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{options.file} is no UTF-8 text: {error.reason} at byte {error.start}.") from error


def _write(path: Path, page: str) -> None:
    """Writes a file whole or not at all, under a passing name first; /dev/stdout and the like as they are."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_text(page, encoding="utf-8")
        return
    passing = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        passing.write_text(page, encoding="utf-8")
        os.replace(passing, path)
    finally:
        passing.unlink(missing_ok=True)
