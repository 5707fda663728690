"""`milco score`: teacher scores for training rows."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from milco_hf.cli.mine import add_files, add_model_options, devices

EXAMPLES = """\
examples:
  milco score mined/ --corpus questions/passages --model BAAI/bge-reranker-v2-m3 --output scored/
  milco score mined.jsonl --model cross-encoder/ms-marco-MiniLM-L6-v2 bm25 --weight 1 0.3 --output scored.jsonl
      a weighted mean of two teachers, each brought to 0 … 1 among a query's candidates
  milco score mined/ --model all-MiniLM-L6-v2 --carry parallel_id --from-language en --cross --output scored/
      an English teacher for questions in other languages: translations get the scores of their English originals

Rows come out with "pos_scores" and "neg_scores". A run that is cut short goes on where it was when started again."""


def add_parser(verbs: argparse._SubParsersAction, parents: list[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser(
        "score",
        parents=parents,
        help="give training rows the scores of a teacher",
        description="Score queries with their positives and negatives by any CrossEncoder, SentenceTransformer, "
        "SparseEncoder or MILCO checkpoint, by BM25, or by several of them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_files(parser)
    parser.add_argument(
        "--model", nargs="+", required=True, metavar="ID|PATH", help="one teacher or several; bm25 is one too"
    )
    parser.add_argument(
        "--kind",
        nargs="+",
        choices=("auto", "cross-encoder", "bi-encoder", "bm25"),
        default=["auto"],
        help="of each teacher, or of all (default: auto, by the checkpoint's files)",
    )
    parser.add_argument("--weight", nargs="+", type=float, default=[], metavar="X", help="of each teacher (default: 1)")
    parser.add_argument(
        "--scale",
        choices=("none", "minmax", "zscore"),
        help="of each teacher's scores among one query's candidates (default: none; with several teachers minmax)",
    )
    parser.add_argument(
        "--activation",
        choices=("own", "none"),
        default="own",
        help="of a cross-encoder: its own, often a sigmoid, or none for its logits (default: own)",
    )
    parser.add_argument(
        "--carry", metavar="KEY", help="carry scores to translations: rows with the same value of this key"
    )
    parser.add_argument(
        "--from-language", default="en", metavar="XX", help="with --carry, what teachers read (default: en)"
    )
    parser.add_argument(
        "--without-twin",
        choices=("keep", "drop", "score"),
        default="keep",
        help="with --carry, rows that are no translation: without scores, not at all, or by their own texts "
        "(default: keep)",
    )
    parser.add_argument(
        "--cross",
        action="store_true",
        help="with --carry, also write each translated question with the original's passages",
    )
    parser.add_argument("--part", type=int, default=1000, metavar="N", help="rows scored at a time (default: 1000)")
    parser.add_argument("--restart", action="store_true", help="throw away what an earlier run left half done")
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Score, and say what was done."""
    from rich.console import Console

    from milco_hf.mining.rows import read_row_set
    from milco_hf.mining.scoring import ScoringOptions, model_identity, score
    from milco_hf.mining.teachers import open_teacher

    kinds = options.kind * len(options.model) if len(options.kind) == 1 else options.kind
    if len(kinds) != len(options.model):
        raise ValueError(f"{len(kinds)} kinds for {len(options.model)} models: give one for each, or one for all.")
    choice = ScoringOptions(
        weights=tuple(options.weight),
        scale=options.scale,
        carry=options.carry,
        from_language=options.from_language,
        without_twin=options.without_twin,
        cross=options.cross,
        part=options.part,
    )
    row_set = read_row_set(options.inputs, options.output, options.corpus, options.passage_titles, options.overwrite)
    settings = {
        "batch_size": options.batch_size,
        "max_length": options.max_length,
        "devices": devices(options.device),
        "dtype": options.dtype,
        "activation": options.activation,
        "trust_remote_code": options.trust_remote_code,
    }
    teachers = [
        partial(open_teacher, name, kind, corpus=row_set.passages.texts, **settings)
        for name, kind in zip(options.model, kinds)
    ]
    identity = {**settings, "models": [model_identity(name) for name in options.model], "kinds": kinds}
    output = Path(options.output).expanduser()
    counts = score(row_set, teachers, output.with_name(f"{output.name}.parts"), choice, identity, options.restart)
    message = f"{counts['scored']:,} of {counts['rows']:,} rows scored, {counts['pairs']:,} pairs, in {options.output}."
    if options.carry:
        message += " " + _carried(counts, options)
    Console(stderr=True).print(message, markup=False, highlight=False, soft_wrap=True)


def _carried(counts: dict[str, int], options: argparse.Namespace) -> str:
    """What became of rows whose scores are carried."""
    language, negatives = options.from_language, counts["negatives_kept"] + counts["negatives_dropped"]
    parts = [f"{counts['carried']:,} rows carry the scores of their {language} twins"]
    if options.cross:
        parts.append(f"{counts['crossed']:,} more have the twins' passages too")
    parts += [f"{counts['own']:,} are {language}", f"{counts['without_twin']:,} have no twin"]
    if counts["without_positive"]:
        parts.append(f"{counts['without_positive']:,} have no positive with a counterpart")
    if counts["carried_without_negatives"]:
        parts.append(f"{counts['carried_without_negatives']:,} carry no negative")
    return (
        f"{', '.join(parts)}. {counts['negatives_kept']:,} of {negatives:,} negatives have a counterpart; "
        f"{counts['negatives_of_twins']:,} are translations of the twins'."
    )
