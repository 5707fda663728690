"""`milco export`: vectors into a search engine, or into files that its tools read."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from milco_hf.cli.arguments import positive

ENGINES = ("elasticsearch", "milvus", "opensearch", "postgres", "qdrant", "vespa")
FILES = ("pyserini", "seismic", "vespa-app")

EXAMPLES = """\
examples:
  milco encode --file corpus.jsonl.gz --output vectors --prune mass:0.9
  milco export vectors --to qdrant --url http://localhost:6333 --collection docs --texts corpus.jsonl.gz
  milco export vectors --to elasticsearch --url https://es:9200 --collection docs --option verify=ca.pem --check 50
  milco export vectors --to milvus --url milvus.db --collection docs
  milco export vectors --to postgres --url postgresql://localhost/search --collection docs --option hnsw=true
  milco export vectors --to vespa --url http://localhost:8080 --collection docs --option config_url=http://localhost:19071
  milco export vectors --to pyserini --output collection --factor 100
  milco export queries --to pyserini --output topics
  milco export vectors --to seismic --output documents.jsonl --texts corpus.jsonl.gz

The same command continues an upload that was cut short. Credentials are read from the environment:
  QDRANT_API_KEY, MILVUS_TOKEN, ELASTICSEARCH_API_KEY (or _USERNAME and _PASSWORD), OPENSEARCH_USERNAME and
  OPENSEARCH_PASSWORD, VESPA_TOKEN, PGPASSWORD.
docs/engines.md says what each engine stores, and which of them score exactly."""


def add_parser(verbs: argparse._SubParsersAction, parents: list[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser(
        "export",
        parents=parents,
        help="upload vectors to a search engine, or write files for one",
        description="Upload a folder of vectors to a search engine, or write it as files that other tools index.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("vectors", type=Path, metavar="FOLDER", help="what milco encode --output wrote")
    parser.add_argument(
        "--to", required=True, choices=(*ENGINES, *FILES), metavar="NAME", help=", ".join(ENGINES + FILES)
    )
    parser.add_argument(
        "--texts", type=Path, metavar="FILE", help="the file that was encoded: its texts are stored too"
    )
    engine = parser.add_argument_group("engines")
    engine.add_argument("--url", help="of the engine")
    engine.add_argument("--collection", metavar="NAME", help="collection, index, table or schema")
    engine.add_argument("--replace", action="store_true", default=None, help="delete a collection that is there first")
    engine.add_argument("--no-resume", dest="resume", action="store_false", default=None, help="send everything")
    engine.add_argument("--batch-size", type=positive, metavar="N", help="documents in a request")
    engine.add_argument("--journal", type=Path, metavar="FILE", help="of the upload (default: beside the vectors)")
    engine.add_argument("--check", type=positive, metavar="N", help="search for N documents afterwards, and compare")
    engine.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of this engine, such as timeout=120 or hnsw=true; may be repeated",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--output", type=Path, metavar="PATH", help="a new folder (seismic: a new .jsonl file)")
    files.add_argument("--factor", type=float, metavar="X", help="pyserini: whole weight = weight × X (default: 100)")
    parser.set_defaults(run=run)


_ENGINE_OPTIONS = ("url", "replace", "resume", "batch_size", "journal", "check", "option")


def run(options: argparse.Namespace) -> None:
    """Upload, or write the files."""
    if options.to in FILES:
        _refuse(options, options.to, *_ENGINE_OPTIONS, *(() if options.to == "vespa-app" else ("collection",)))
        if options.to != "pyserini":
            _refuse(options, options.to, "factor")
        if options.output is None:
            raise ValueError(f"--to {options.to} needs --output, where it goes.")
        _write(options)
        return
    _refuse(options, options.to, "output", "factor")
    if not options.collection:
        raise ValueError(f"--to {options.to} needs --collection NAME.")
    _upload(options)


def _upload(options: argparse.Namespace) -> None:
    from milco_hf.engines import agreement, export

    given = _options(options.option)
    if options.url:
        given["url"] = options.url
    for name in ("replace", "resume", "batch_size", "journal", "texts", "collection"):
        if name in given:
            raise ValueError(f"{name} is --{name.replace('_', '-')}, not an option of the engine.")
    for name in ("replace", "resume", "batch_size", "journal"):
        if getattr(options, name) is not None:
            given[name] = getattr(options, name)
    with export(
        options.vectors, options.to, options.collection, texts=options.texts, progress=sys.stderr.isatty(), **given
    ) as engine:
        sys.stderr.write(f"{engine.count()} documents in {engine.collection} at {engine.address}\n")
        if options.check:
            sys.stderr.write(f"{agreement(engine, options.vectors, sample=options.check)}\n")


def _write(options: argparse.Namespace) -> None:
    from milco_hf.engines import write_application, write_pyserini, write_seismic

    if options.to == "vespa-app":
        _refuse(options, options.to, "texts")
        folder = write_application(options.output, options.collection or "docs")
        sys.stderr.write(f"A Vespa application is in {folder}; deploy it with: vespa deploy {folder}\n")
        return
    if options.to == "seismic":
        note = write_seismic(options.vectors, options.output, options.texts)
    else:
        factor = 100.0 if options.factor is None else options.factor
        note = write_pyserini(options.vectors, options.output, options.texts, factor=factor)
        lost, all_of_them = note["entries_rounded_to_zero"], note["entries"] + note["entries_rounded_to_zero"]
        sys.stderr.write(f"Weights × {factor:g}, rounded; {lost} of {all_of_them} became 0 and were left out.\n")
    sys.stderr.write(f"{note['rows']} rows, {note['entries']} weights, in {options.output}\n")


def _refuse(options: argparse.Namespace, to: str, *names: str) -> None:
    """An option that has no meaning here is an error, not ignored."""
    flags = {"resume": "--no-resume"}
    for name in names:
        if getattr(options, name) not in (None, []):
            raise ValueError(f"{flags.get(name, '--' + name.replace('_', '-'))} has no meaning with --to {to}.")


def _options(pairs: list[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; a value is JSON where it reads as JSON, else text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name.isidentifier():
            raise ValueError(f"--option reads NAME=VALUE, got {pair!r}.")
        if name in found:
            raise ValueError(f"--option {name} is there twice.")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found
