"""`milco encode`: the weighted terms of texts, one JSON object a line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SparseEncoder
    from torch import Tensor

EXAMPLES = """\
examples:
  milco encode "Who wrote this book?" --top-k 10
  milco encode --file corpus.txt --as document > corpus.jsonl
  cat questions.txt | milco encode --as query --ids

Each line of the output is {"text": …, "english": {term: weight}, "source": {token: weight}}, heaviest first;
with --ids it is {"text": …, "indices": […], "values": […]}, in the order of the dimensions, for a search engine."""


def add_parser(verbs: argparse._SubParsersAction, parents: list[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser(
        "encode",
        parents=parents,
        help="print the weighted terms of texts as JSON lines",
        description="Encode texts given as arguments, in a file (one a line) or on standard input.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts; none reads standard input")
    parser.add_argument("--file", type=Path, metavar="FILE", help="file with one text a line")
    parser.add_argument("--model", default="milco-mini", metavar="ID|PATH", help="the checkpoint (default: milco-mini)")
    parser.add_argument(
        "--as", dest="task", choices=("query", "document"), default="document", help="(default: document)"
    )
    parser.add_argument("--top-k", type=_positive, metavar="K", help="keep the K heaviest dimensions (default: all)")
    parser.add_argument("--ids", action="store_true", help="print dimensions and weights in place of terms")
    parser.add_argument("--batch-size", type=_positive, default=32, metavar="N", help="texts at a time (default: 32)")
    parser.add_argument("--device", help="such as cpu, cuda or cuda:1 (default: the best there is)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Encode the texts in blocks, so that a file of any length needs the memory of one block."""
    if options.texts and options.file:
        raise ValueError("Give either texts or --file, not both.")
    import milco_hf

    model = milco_hf.load(options.model, device=options.device)
    encode = model.encode_query if options.task == "query" else model.encode_document
    for block in _blocks(_texts(options), 32 * options.batch_size):
        embeddings = encode(
            block,
            batch_size=options.batch_size,
            max_active_dims=options.top_k,
            convert_to_sparse_tensor=True,
            show_progress_bar=False,
            save_to_cpu=True,
        )
        rows = _ids(embeddings, len(block)) if options.ids else _terms(model, embeddings)
        for text, row in zip(block, rows):
            sys.stdout.write(json.dumps({"text": text, **row}, ensure_ascii=False) + "\n")


def _terms(model: SparseEncoder, embeddings: Tensor) -> Iterator[dict[str, Any]]:
    """Named weights of each row, the English terms apart from the source tokens."""
    from milco_hf.terms import split_views

    for pairs in model.decode(embeddings):
        english, source = split_views(pairs)
        yield {"english": _rounded(english), "source": _rounded(source)}


def _rounded(pairs: list[tuple[str, float]]) -> dict[str, float]:
    return {name: round(weight, 4) for name, weight in pairs}


def _ids(embeddings: Tensor, count: int) -> Iterator[dict[str, Any]]:
    """Dimensions and weights of each row (embeddings: sparse [count, V_e + V_s])."""
    embeddings = embeddings.coalesce()
    rows, dimensions = embeddings.indices().tolist()
    result: list[dict[str, Any]] = [{"indices": [], "values": []} for _ in range(count)]
    for row, dimension, weight in zip(rows, dimensions, embeddings.values().tolist()):
        result[row]["indices"].append(dimension)
        result[row]["values"].append(round(weight, 6))
    yield from result


def _texts(options: argparse.Namespace) -> Iterator[str]:
    """The texts in their order; an empty line is an empty text, so that line numbers stay."""
    if options.texts:
        yield from options.texts
    elif options.file:
        with options.file.expanduser().open(encoding="utf-8") as lines:
            yield from (line.rstrip("\r\n") for line in lines)
    else:
        if sys.stdin.isatty():
            sys.stderr.write("Reading texts from the terminal, one a line; end with Ctrl-D.\n")
        yield from (line.rstrip("\r\n") for line in sys.stdin)


def _blocks(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(texts)
    while block := list(islice(iterator, size)):
        yield block


def _positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"has to be at least 1, got {number}")
    return number
