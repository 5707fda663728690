"""`milco mine`: hard negatives with any encoder."""

from __future__ import annotations

import argparse

EXAMPLES = """\
examples:
  milco mine questions/ --model milco-mini --per-language --output mined/
      questions/XX.jsonl.xz with passages in questions/passages/XX.jsonl.xz, 8 negatives each in their own language
  milco mine train.jsonl --corpus corpus.jsonl --model BAAI/bge-m3 --relative-margin 0.05 --output mined.jsonl
      negatives at least 5 % below the worst positive
  milco mine train.jsonl --model milco-mini --sampling random --range-min 10 --range-max 100 --output mined.jsonl.gz

A row is {"query": …, "pos": [text, …]} or {"query": …, "pos_pid": [id, …]}; a corpus line {"pid": id, "text": …}.
Rows come out with "neg" or "neg_pid", and "miner_scores"."""


def add_parser(verbs: argparse._SubParsersAction, parents: list[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser(
        "mine",
        parents=parents,
        help="find hard negatives for training rows",
        description="Find hard negatives with any SentenceTransformer, SparseEncoder or MILCO checkpoint. A query's "
        "own positives, and passages of the same text, are never its negatives.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_files(parser)
    parser.add_argument("--model", default="milco-mini", metavar="ID|PATH", help="the encoder (default: milco-mini)")
    parser.add_argument("--num-negatives", type=int, default=8, metavar="N", help="of each query (default: 8)")
    parser.add_argument("--range-min", type=int, default=0, metavar="N", help="skip the N best (default: 0)")
    parser.add_argument(
        "--range-max",
        type=int,
        metavar="N",
        help="look no further than this rank (default: as far as needed; 10 × --num-negatives with a margin or random "
        "sampling)",
    )
    parser.add_argument(
        "--margin", type=float, metavar="X", help="a negative scores at least this much below the worst positive"
    )
    parser.add_argument(
        "--relative-margin",
        type=float,
        metavar="X",
        help="… at least this share of the worst positive's score below it",
    )
    parser.add_argument(
        "--sampling", choices=("top", "random"), default="top", help="the best, or any up to --range-max (default: top)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of random sampling (default: 0)")
    parser.add_argument(
        "--per-language",
        action="store_true",
        help="only negatives from the corpus file of the row's language: its key \"language\", or its file's name",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="XX",
        help="mine for rows of these languages only; others are written as they are",
    )
    parser.add_argument(
        "--backend",
        choices=("auto", "sentence-transformers", "blocks"),
        default="auto",
        help="sentence-transformers' miner (dense encoders) or our own search (default: auto, by the model)",
    )
    add_model_options(parser)
    parser.set_defaults(run=run)


def add_files(parser: argparse.ArgumentParser) -> None:
    """What `milco mine` and `milco score` read and write."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="question files (.jsonl, also .gz, .xz) or folders")
    parser.add_argument(
        "--corpus",
        nargs="+",
        default=[],
        metavar="FILE",
        help="files or folders of passages (default: the folder `passages` beside the questions, where there is one)",
    )
    parser.add_argument("--passage-titles", action="store_true", help="read a passage's title before its text")
    parser.add_argument("--output", required=True, metavar="FILE|DIR", help="a file for one input, or a folder")
    parser.add_argument("--overwrite", action="store_true", help="replace output files that are there")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """How models are run."""
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="texts or pairs at a time (default: 32)"
    )
    parser.add_argument(
        "--max-length", type=int, metavar="N", help="cut texts to N tokens (default: the model's limit)"
    )
    parser.add_argument(
        "--device", default="", metavar="NAME[,NAME…]", help="such as cuda:0,cuda:1 or cpu,cpu: a process for each"
    )
    parser.add_argument("--dtype", metavar="NAME", help="load the model in bfloat16, float16, …")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that a model brings along")


def devices(text: str) -> list[str]:
    """The devices of --device."""
    return [name.strip() for name in text.split(",") if name.strip()]


def run(options: argparse.Namespace) -> None:
    """Mine, and say what was found."""
    from rich.console import Console

    from milco_hf.mining.encoders import open_encoder
    from milco_hf.mining.hard_negatives import MiningOptions, mine
    from milco_hf.mining.rows import read_row_set

    choice = MiningOptions(
        num_negatives=options.num_negatives,
        range_min=options.range_min,
        range_max=options.range_max,
        absolute_margin=options.margin,
        relative_margin=options.relative_margin,
        sampling=options.sampling,
        seed=options.seed,
    )
    row_set = read_row_set(options.inputs, options.output, options.corpus, options.passage_titles, options.overwrite)
    with open_encoder(
        options.model,
        options.batch_size,
        options.max_length,
        devices(options.device),
        options.dtype,
        options.trust_remote_code,
    ) as encoder:
        counts = mine(row_set, encoder, choice, options.per_language, options.only, options.backend)
    Console(stderr=True).print(
        f"{counts['negatives']:,} negatives for {counts['rows']:,} rows in {options.output}"
        + (f"; {counts['rows_with_fewer']:,} rows have fewer than asked" if counts["rows_with_fewer"] else "")
        + f". Next: milco score {options.output} --model TEACHER --output …",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
