"""Give a checkpoint's [ECHO], which SAP leaves untrained, a start from token statistics.

    python training/start_echo.py CHECKPOINT --train-data "DATA/*.jsonl.xz" --corpus DATA/passages --output start

The passages that the rows name are counted, language by language. `training/sct.py --model start` goes on from there.
"""

import argparse
import logging
from collections import defaultdict
from dataclasses import fields

from transformers import AutoTokenizer

from milco_hf.modeling import MilcoForSparseEncoding
from milco_hf.training.retrieval.echo_start import EchoStartSettings, start_echo
from milco_hf.training.retrieval.loading import load_rows
from milco_hf.training.retrieval.sources import RetrievalSource
from milco_hf.training.tokenizer_lengths import without_lengths

POOLINGS = ("sum", "max")


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, fit, and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or Hub id of the checkpoint")
    parser.add_argument("--train-data", nargs="+", required=True, help="rows, as training/sct.py takes them")
    parser.add_argument("--corpus", nargs="*", default=[], help="passages that rows name by id")
    parser.add_argument("--exclude-sources", nargs="*", default=[], help="values of the rows' `source` to leave out")
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument(
        "--echo-pooling", choices=POOLINGS, help="also set how equal tokens of a text combine (default: as it is)"
    )
    for setting in fields(EchoStartSettings):
        flag = "--" + setting.name.replace("_", "-")
        parser.add_argument(flag, type=type(setting.default), default=setting.default, help="default: %(default)s")
    options = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    path, output, pooling = (options.pop(name) for name in ("model", "output", "echo_pooling"))
    corpus = tuple(options.pop("corpus"))
    sources = [RetrievalSource.parse(entry, corpus=corpus) for entry in options.pop("train_data")]
    passages = load_rows(sources, options.pop("exclude_sources")).passages
    texts = defaultdict(list)
    for text, language in zip(*(passages.column(name).to_pylist() for name in ("text", "language")), strict=True):
        texts[language].append(text)
    model, tokenizer = MilcoForSparseEncoding.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    if pooling:
        model.config.echo_pooling = pooling
    start_echo(model, tokenizer, texts, EchoStartSettings(**options))
    model.save_pretrained(output)
    without_lengths(tokenizer).save_pretrained(output)


if __name__ == "__main__":
    main()
