"""`milco search`: ask an index, from the shell or from a file of queries."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milco_hf.cli.arguments import add_revision, positive

if TYPE_CHECKING:
    from milco_hf.index import Hit

EXAMPLES = """\
examples:
  milco search my-index "Who wrote this book?"
  milco search my-index "Wer hat dieses Buch geschrieben?" -k 5 --language en fr --filter source=news 'year>=2000'
  milco search my-index --queries queries.jsonl --output run.trec -k 100
      a TREC run, which ir_measures and trec_eval read; any other name gets JSON lines
  milco search my-index "music" --json | jq .hits[0].text
  milco search my-xmod-index "Musik" --query-language de

--filter takes KEY=VALUE (again for another value that will do, too), KEY>=VALUE, KEY<VALUE …; all have to fit.

--language is what the documents are in, --query-language what the queries are in: that is for encoders with language
adapters (X-MOD). Other ones pass over the languages of a file of queries, and refuse --query-language."""

_AT_ONCE = 256
_SNIPPET = 160


def add_parser(verbs: argparse._SubParsersAction, parents: list[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser(
        "search",
        parents=parents,
        help="search an index that milco index made",
        description="Find the documents of an index that fit queries best, in any of the model's languages.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("index", metavar="INDEX", help="folder of the index")
    parser.add_argument("texts", nargs="*", metavar="QUERY", help="queries; none reads standard input, one a line")
    parser.add_argument(
        "--queries", type=Path, metavar="FILE", help="lines of text, JSON lines or a table, maybe with ids"
    )
    parser.add_argument("-k", "--top-k", type=positive, default=10, metavar="N", help="documents of each (default: 10)")
    parser.add_argument("--language", nargs="+", metavar="XX", help="only documents in one of these languages")
    parser.add_argument(
        "--query-language",
        metavar="XX",
        help="which adapters read the queries (default: by the file, or the model's default)",
    )
    parser.add_argument(
        "--filter", nargs="+", default=[], metavar="KEY=VALUE", help="only documents with this metadata"
    )
    parser.add_argument(
        "--prune", "--prune-queries", nargs="+", metavar="HOW", help="prune queries otherwise than the index says"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a query")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there: .trec is a TREC run, else JSON lines")
    parser.add_argument("--engine", choices=("exact", "seismic"), help="(default: what the index was built for)")
    parser.add_argument("--model", metavar="ID|PATH", help="where the model lies now, if it was moved")
    add_revision(parser)
    parser.add_argument("--any-model", action="store_true", help="search even if its fingerprint is not the index's")
    parser.add_argument("--device", help="such as cpu or cuda (default: the best there is)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Search, and print or write what is found."""
    from milco_hf.index import Index
    from milco_hf.index.filters import parse_filters

    if options.texts and options.queries:
        raise ValueError("Give either queries or --queries FILE, not both.")
    if options.json and options.output:
        raise ValueError("--json is for what is printed; with --output the file's name says what is written.")
    model = options.model
    if options.revision:
        if model is None:
            raise ValueError("--revision needs --model: the index names the revision of its own model itself.")
        from milco_hf.loading import load

        model = load(model, revision=options.revision, device=options.device)
    index = Index.load(
        options.index,
        model,
        device=options.device,
        engine=options.engine,
        check_fingerprint=not options.any_model,
    )
    asked = {"language": options.language, "filter": parse_filters(options.filter) or None, "prune": options.prune}
    found = _found(index, _queries(options), options.top_k, options.query_language, asked)
    if options.output:
        _write(options.output, found)
    elif options.json:
        for query in found:
            sys.stdout.write(_json(*query))
    else:
        _print(found)


def _queries(options: argparse.Namespace) -> Iterator[tuple[str, str, str | None]]:
    """(id, text, language) of each query; those without an id are counted from 1."""
    from milco_hf.encoding.files import read_texts

    if options.queries:
        for number, query in enumerate(read_texts(options.queries), start=1):
            yield query.id or str(number), query.text, query.language
        return
    lines: Iterable[str] = options.texts or (line.rstrip("\r\n") for line in sys.stdin)
    for number, text in enumerate(lines, start=1):
        yield str(number), text, None


def _found(
    index: Any, queries: Iterator[tuple[str, str, str | None]], k: int, language: str | None, asked: dict[str, Any]
) -> Iterator[tuple[str, str, list[Hit]]]:
    """(id, text, hits) of each query, searched in blocks."""
    while block := list(islice(queries, _AT_ONCE)):
        names, texts, languages = zip(*block)
        hits = index.search(texts, k, query_language=language or languages, **asked)
        yield from zip(names, texts, hits)


def _json(name: str, text: str, hits: Sequence[Hit]) -> str:
    row = {"id": name, "query": text, "hits": [hit.to_dict() for hit in hits]}
    return json.dumps(row, ensure_ascii=False) + "\n"


def _write(path: Path, found: Iterator[tuple[str, str, list[Hit]]]) -> None:
    """A TREC run or JSON lines, whole or not at all."""
    from milco_hf.mining.files import write_lines

    trec = ".trec" in path.suffixes

    def lines() -> Iterator[str]:
        for name, text, hits in found:
            if not trec:
                yield _json(name, text, hits).rstrip("\n")
                continue
            for rank, hit in enumerate(hits, start=1):
                for what in (name, hit.id):
                    if what.split() != [what]:
                        raise ValueError(f"The id {what!r} is empty or holds whitespace, which a TREC run cannot.")
                yield f"{name} Q0 {hit.id} {rank} {hit.score:.6f} milco"

    count = write_lines(path, lines())
    sys.stderr.write(f"{count:,} lines in {path}\n")


def _print(found: Iterator[tuple[str, str, list[Hit]]]) -> None:
    """For people: rank, score, language, id, title, and the beginning of the best passage."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for number, (_, text, hits) in enumerate(found):
        if number:
            console.print()
        console.print(Text(text, style="bold"))
        if not hits:
            console.print(Text("  nothing found", style="dim"))
        for rank, hit in enumerate(hits, start=1):
            line = Text(f"{rank:3}  {hit.score:7.3f}  ")
            line.append(f"{hit.language or '–':3} ", style="cyan")
            line.append(f"{hit.id}  ", style="dim")
            if hit.title:
                line.append(f"{hit.title}  ", style="bold")
            start, end = hit.passage or (0, None)
            shown = " ".join(hit.text[start:end][: 4 * _SNIPPET].split())
            line.append(shown if len(shown) <= _SNIPPET else f"{shown[:_SNIPPET].rstrip()}…")
            console.print(line)
