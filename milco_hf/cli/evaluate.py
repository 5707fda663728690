"""`milco evaluate`: models and BM25 on collections, by language, across languages and in a mixed pool."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from milco_hf.cli.arguments import positive
from milco_hf.pruning import VIEWS

SETTINGS = ("monolingual", "matrix", "mixed")

EXAMPLES = """\
examples:
  milco evaluate milco-mini --bm25 --data xquad-r/ --output results
      each language to itself; results.md, results.json, TREC run files
  milco evaluate milco-mini --data xquad-r/ --setting matrix --languages en de zh --pruning-curve --output results
      every language's queries to every language's documents, a heat map, quality by dimensions kept
  milco evaluate sap=runs/sap sct=runs/sct --data xquad-r/ --setting mixed --prune mass:0.9 --output results
      one pool of all languages, with the language bias; documents pruned to 90 % of their mass
  milco evaluate BAAI/bge-m3 milco-mini --bm25 --data miracl-hard-negatives --languages sw yo --output results
  milco evaluate milco-mini --mteb NanoSciFactRetrieval --mteb NanoNQRetrieval --output results

--data is a folder in the BEIR layout (corpus.jsonl, queries.jsonl, qrels/test.tsv or qrels.tsv; also .gz and .xz), a
folder of such folders by language, a file or folder of XX.jsonl with `query` and `pos`, or one of the names
  beir, nanobeir, nanobeir-multilingual, miracl, miracl-hard-negatives, mldr, mkqa, mmarco
or any retrieval task of mteb."""


def add_parser(verbs: argparse._SubParsersAction, parents: list[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser(
        "evaluate",
        parents=parents,
        help="score models and BM25 on retrieval collections in one or many languages",
        description="Score sparse, dense and multi-vector models of sentence-transformers, and BM25. Documents are "
        "encoded once for each model and collection and kept under the model's fingerprint.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="bundled name, folder or Hub id; or NAME=MODEL")
    parser.add_argument("--bm25", action="store_true", help="BM25 too")
    what = parser.add_argument_group("what is evaluated")
    what.add_argument("--data", metavar="PATH|NAME", help="a collection, see below")
    what.add_argument(
        "--mteb",
        action="append",
        default=[],
        metavar="TASK",
        help="a task of mteb (or several with commas between them; may be repeated), run by mteb in place of --data",
    )
    what.add_argument("--setting", choices=SETTINGS, default="monolingual", help="(default: monolingual)")
    what.add_argument("--languages", nargs="+", metavar="XX", help="only these (default: all)")
    what.add_argument("--split", help="of the judgements (default: test for folders, the usual one for names)")
    what.add_argument("--measures", nargs="+", metavar="M", help="as ir_measures writes them (default: nDCG@10 …)")
    what.add_argument("--depth", type=positive, default=100, metavar="K", help="documents ranked (default: 100)")
    what.add_argument(
        "--passages",
        type=int,
        metavar="N",
        help="split documents into passages of N words, the best of which counts; 0 never (default: mldr alone, 300)",
    )
    what.add_argument(
        "--lenient", action="store_true", help="drop queries without relevant documents in place of an error"
    )
    what.add_argument(
        "--ignore-same-id",
        action="store_true",
        default=None,
        help="never count the document whose id is the query's (default: where mteb says so)",
    )
    model = parser.add_argument_group("the models")
    model.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit of the one model that is given by its Hub id"
    )
    model.add_argument("--batch-size", type=positive, default=32, metavar="N", help="texts at a time (default: 32)")
    model.add_argument("--max-length", type=positive, metavar="N", help="tokens of a document (default: the model's)")
    model.add_argument("--query-length", type=positive, metavar="N", help="tokens of a query (default: the model's)")
    model.add_argument("--dtype", help="of the weights, such as bfloat16 (default: as stored)")
    model.add_argument("--device", help="such as cpu or cuda:1 (default: the best there is)")
    model.add_argument("--trust-remote-code", action="store_true", help="run code that comes with a model")
    model.add_argument("--view", choices=VIEWS, default="both", help="of MILCO vectors (default: both)")
    model.add_argument(
        "--prune",
        nargs="+",
        metavar="HOW",
        help="documents of sparse models: mass:0.9, top_k:30, max_ratio:0.1, threshold:0.2, none, or by view "
        "english=HOW source=HOW (default: as the checkpoint says)",
    )
    model.add_argument("--prune-queries", nargs="+", metavar="HOW", help="queries of sparse models, likewise")
    model.add_argument(
        "--pruning-curve",
        nargs="*",
        type=positive,
        metavar="DIMS",
        help="also quality by dimensions kept, of mass and top-k pruning (default: 10 20 30 50 100 200)",
    )
    model.add_argument(
        "--language-shift",
        metavar="FOLDER",
        help="also each sparse and dense model with its documents shifted by language (milco_hf.LanguageShift)",
    )
    where = parser.add_argument_group("where things go")
    where.add_argument("--output", type=Path, metavar="DIR", help="results.md, results.json, runs/, qrels/, plots/")
    where.add_argument("--cache", type=Path, metavar="DIR", help="of vectors (default: ~/.cache/milco-hf/evaluation)")
    where.add_argument("--no-cache", action="store_true", help="keep no vectors after the run")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Evaluate, write the files, and print the tables."""
    if bool(options.data) == bool(options.mteb):
        raise ValueError("Give either --data (a path or a name) or --mteb (tasks).")
    shared = {
        "output": options.output,
        "languages": options.languages,
        "batch_size": options.batch_size,
        "max_length": options.max_length,
        "query_length": options.query_length,
        "dtype": options.dtype,
        "device": options.device,
        "trust_remote_code": options.trust_remote_code,
        "revision": options.revision,
    }
    if options.mteb:
        _run_mteb(options, shared)
        return
    from milco_hf.evaluation import evaluate
    from milco_hf.pruning import parse

    curve: Any = options.pruning_curve
    report = evaluate(
        [*options.models, *(["bm25"] if options.bm25 else [])],
        options.data,
        setting=options.setting,
        measures=options.measures,
        depth=options.depth,
        split=options.split,
        passage_length=options.passages,
        lenient=options.lenient,
        ignore_same_id=options.ignore_same_id,
        cache=False if options.no_cache else options.cache or True,
        pruning_curve=False if curve is None else curve or True,
        language_shift=options.language_shift,
        view=options.view,
        prune=parse(options.prune) if options.prune else None,
        prune_queries=parse(options.prune_queries) if options.prune_queries else None,
        **shared,
    )
    sys.stdout.write(report.to_markdown())


def _run_mteb(options: argparse.Namespace, shared: dict[str, Any]) -> None:
    """Mteb's tasks; what mteb has no such thing as is refused rather than ignored."""
    refused = {
        "--bm25": options.bm25,
        "--setting": options.setting != "monolingual",
        "--split": options.split,
        "--measures": options.measures,
        "--passages": options.passages is not None,
        "--view": options.view != "both",
        "--prune": options.prune,
        "--prune-queries": options.prune_queries,
        "--pruning-curve": options.pruning_curve is not None,
        "--lenient": options.lenient,
        "--ignore-same-id": options.ignore_same_id,
        "--language-shift": options.language_shift,
    }
    given = [name for name, value in refused.items() if value]
    if given:
        raise ValueError(f"--mteb runs mteb's tasks as they are; it has no {', '.join(given)}.")
    if not options.models:
        raise ValueError("Name at least one model for --mteb.")
    from milco_hf.evaluation import evaluate_mteb
    from milco_hf.evaluation.mteb_tasks import mteb_table

    tasks = [task for text in options.mteb for task in text.split(",") if task]
    sys.stdout.write(f"{mteb_table(evaluate_mteb(options.models, tasks, **shared))}\n")
