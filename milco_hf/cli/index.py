"""`milco index`: documents into a folder that can be searched."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any

from milco_hf.cli.arguments import positive

EXAMPLES = """\
examples:
  milco index corpus.jsonl.gz --output my-index
  milco index articles.csv --field text=body id=url --language de --output my-index --passages 150
  milco index xquad-r/ --output my-index --model sct-model --prune mass:0.9 --engine seismic
      a folder of BEIR folders by language: documents become de:p7 …
  milco index organisation/dataset --subset de --split train --output my-index
  milco index more.jsonl --output my-index --add

A document is a line of .jsonl or .txt, or a row of .csv, .tsv or .parquet: `text`, maybe an id (`_id`, `id`, `pid`,
`docid`), a `title` and a `language`; all else is metadata that searches can filter by. Files may be .gz, .xz or .bz2.
A build that was cut short continues with the same command; until it is done, an index that was there stays as it is."""


def add_parser(verbs: argparse._SubParsersAction, parents: list[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser(
        "index",
        parents=parents,
        help="make an index of documents that milco search searches",
        description="Encode documents and make an index of them, with their texts and metadata.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("documents", nargs="+", metavar="DOCUMENTS", help="files, folders, or a data set of the Hub")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder of the index")
    parser.add_argument("--model", metavar="ID|PATH", help="the checkpoint (default: milco-mini; with --add: its own)")
    parser.add_argument("--revision", help="of a checkpoint on the Hub: branch, tag or commit")
    parser.add_argument("--add", action="store_true", help="add to the index that is there")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an index that is there, once this one is whole"
    )
    parser.add_argument(
        "--no-resume", dest="resume", action="store_false", help="begin anew, not where a build stopped"
    )
    _add_reading(parser.add_argument_group("documents"))
    _add_vectors(parser.add_argument_group("vectors"))
    parser.set_defaults(run=run)


def _add_reading(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--field",
        nargs="+",
        default=[],
        metavar="NAME=KEY",
        help="what text, id, title or language is called there, such as text=body",
    )
    group.add_argument("--language", metavar="XX", help="of documents that do not say")
    group.add_argument("--passages", type=positive, metavar="N", help="split documents into passages of N words")
    group.add_argument("--subset", help="of a data set on the Hub: its configuration")
    group.add_argument("--split", help="of a data set on the Hub (default: corpus, train, or the only one)")
    group.add_argument("--data-revision", metavar="REVISION", help="of a data set on the Hub")


def _add_vectors(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--engine",
        choices=("auto", "exact", "seismic"),
        help="exact, approximate, or exact up to 50,000 rows (default: auto)",
    )
    group.add_argument(
        "--recall", type=float, metavar="X", help="share of the exact top 10 to be found (default: 0.95)"
    )
    group.add_argument(
        "--prune",
        "--prune-documents",
        nargs="+",
        metavar="HOW",
        help="documents: mass:X, top_k:N, max_ratio:X, threshold:X, none, or by view english=HOW source=HOW "
        "(default: the checkpoint's)",
    )
    group.add_argument("--prune-queries", nargs="+", metavar="HOW", help="queries, likewise")
    group.add_argument("--views", choices=("both", "english", "source"), help="keep one view alone (default: both)")
    group.add_argument(
        "--max-length",
        "--document-length",
        type=positive,
        metavar="N",
        help="cut documents to N tokens (default: the model's)",
    )
    group.add_argument(
        "--language-shift",
        metavar="FOLDER",
        help="take language bias out of documents by their language: what LanguageShift.save wrote",
    )
    group.add_argument("--query-length", type=positive, metavar="N", help="cut queries to N tokens, likewise")
    group.add_argument(
        "--device",
        "--devices",
        nargs="+",
        metavar="DEVICE",
        help="such as cpu or cuda:0; a process for each of several",
    )
    group.add_argument("--dtype", choices=("auto", "bfloat16", "float16"), help="compute in it (default: the weights')")
    group.add_argument("--batch-tokens", type=positive, metavar="N", help="tokens at a time (default: by the device)")
    group.add_argument("--shard-size", type=positive, metavar="N", help="rows in a shard (default: 16384)")


# What belongs to an index once and for all, by what `Index.build` calls it.
_FIXED = {
    "passages": "passage_length",
    "engine": "engine",
    "recall": "recall",
    "prune": "prune",
    "prune_queries": "prune_queries",
    "views": "views",
    "max_length": "max_length",
    "query_length": "query_length",
    "dtype": "dtype",
    "language_shift": "language_shift",
    "shard_size": "shard_size",
    "revision": "revision",
}


def run(options: argparse.Namespace) -> None:
    """Build or add, and say what there is."""
    from milco_hf.index import Index

    reading = {
        "fields": _fields(options.field),
        "language": options.language,
        "subset": options.subset,
        "split": options.split,
        "data_revision": options.data_revision,
    }
    documents = _documents(options.documents)
    progress = sys.stderr.isatty()
    given = {name: getattr(options, flag) for flag, name in _FIXED.items() if getattr(options, flag) is not None}
    tokens = options.batch_tokens
    if options.add:
        if given or options.overwrite:
            flags = [flag for flag, name in _FIXED.items() if name in given] + ["overwrite"] * options.overwrite
            raise ValueError(
                f"--{flags[0].replace('_', '-')} does not go with --add: what is added is encoded as the rest of the "
                "index is."
            )
        if options.device and len(options.device) > 1:
            raise ValueError("--add encodes on one device; give one.")
        index = Index.load(options.output, options.model, device=options.device[0] if options.device else None)
        count = index.add(documents, **reading, batch_tokens=tokens, progress=progress)
        sys.stderr.write(f"added {count:,} documents\n")
    else:
        index = Index.build(
            options.model or "milco-mini",
            documents,
            options.output,
            **reading,
            **given,
            devices=options.device,
            batch_tokens=tokens,
            overwrite=options.overwrite,
            resume=options.resume,
            progress=progress,
        )
    sys.stderr.write(_summary(index))


def _documents(names: list[str]) -> Any:
    """One place by its name, or the documents of several, one place after the other."""
    from pathlib import Path

    return names[0] if len(names) == 1 else [Path(name) for name in names]


def _fields(pairs: Iterable[str]) -> dict[str, str]:
    found = dict(pair.split("=", 1) if "=" in pair else (pair, "") for pair in pairs)
    if any(not name or not key for name, key in found.items()):
        raise ValueError(f"--field takes NAME=KEY, such as text=body; got {' '.join(pairs)}.")
    return found


def _summary(index: Any) -> str:
    """What a person wants to know of a new index."""
    info = index.info
    rows = "" if info["passages"] == info["documents"] else f" in {info['passages']:,} passages"
    languages = ", ".join(f"{name} {count:,}" for name, count in info["languages"].items() if name != "und")
    lines = [
        f"{info['documents']:,} documents{rows}, {info['dimensions_a_passage']:.0f} dimensions each, in {index.path}",
        *([f"languages: {languages}"] if languages else []),
        f"model: {info['model']}, index fingerprint {info['fingerprint'][:16]}…",
        f"engine: {info['engine']}",
    ]
    if info["recall"]:
        about = info["recall"]
        lines[-1] += (
            f", recall@{about['k']} {about['recall']:.1%} against exact search on {about['queries']} sample queries "
            f"(query_cut {about['effort']['query_cut']}, heap_factor {about['effort']['heap_factor']})"
        )
    if info["cut"]["texts"] and not info["lengths"]["passage_length"]:
        share = info["cut"]["tokens"] / info["cut"]["of_tokens"]
        lines.append(
            f"{info['cut']['texts']:,} documents were longer than the model reads and lost {share:.1%} of all tokens; "
            "--passages 100 would split them"
        )
    return "\n".join(lines) + "\n"
