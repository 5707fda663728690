"""`milco encode`: the weighted terms of texts, one JSON object a line, or a corpus as shards of sparse vectors."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import chain, islice, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milco_hf.cli.arguments import add_revision, positive

if TYPE_CHECKING:
    from sentence_transformers import SparseEncoder
    from torch import Tensor

    from milco_hf.encoding.files import Text

EXAMPLES = """\
examples:
  milco encode "Who wrote this book?" --top-k 10
  milco encode --file corpus.txt --as document > corpus.jsonl
  cat questions.txt | milco encode --as query --ids
  milco encode --file corpus.jsonl.gz --output vectors --prune mass:0.9
  milco encode --file corpus.tsv --output vectors --devices cuda:0 cuda:1 --dtype auto
  milco encode --model my-xmod --file corpus.txt --language de --output vectors

Without --output, each line is {"text": …, "english": {term: weight}, "source": {token: weight}}, heaviest first;
with --ids it is {"text": …, "indices": […], "values": […]}, in the order of the dimensions, for a search engine.
With --output, the folder gets shards of sparse vectors and a manifest.json; milco_hf.load_vectors reads it. The same
command continues a run that was cut short.

FILE is lines of text, or by its name .jsonl (text, and maybe an id in _id or id, a title, as BEIR's corpus.jsonl, and a
language), .tsv or .csv (those columns by name, or: text; id and text); each may be .gz, .xz or .bz2.

Languages (de, de_DE) are for encoders with language adapters (X-MOD): other ones pass over those of a file, and refuse
--language."""


def add_parser(verbs: argparse._SubParsersAction, parents: list[argparse.ArgumentParser]) -> None:
    """Add the verb and its options."""
    parser = verbs.add_parser(
        "encode",
        parents=parents,
        help="print the weighted terms of texts as JSON lines",
        description="Encode texts given as arguments, in a file or on standard input.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts; none reads standard input")
    parser.add_argument("--file", type=Path, metavar="FILE", help="lines of text, JSON lines or a table")
    parser.add_argument("--model", default="milco-mini", metavar="ID|PATH", help="the checkpoint (default: milco-mini)")
    add_revision(parser)
    parser.add_argument(
        "--as", dest="task", choices=("query", "document"), default="document", help="(default: document)"
    )
    parser.add_argument(
        "--language", metavar="XX", help="which adapters read the texts (default: by the file, or the model's default)"
    )
    parser.add_argument("--top-k", type=positive, metavar="K", help="keep the K heaviest dimensions (default: all)")
    parser.add_argument("--ids", action="store_true", help="print dimensions and weights in place of terms")
    parser.add_argument("--batch-size", type=positive, metavar="N", help="texts at a time (default: 32)")
    parser.add_argument("--device", help="such as cpu, cuda or cuda:1 (default: the best there is)")
    _add_corpus_options(parser.add_argument_group("corpora, with --output"))
    parser.set_defaults(run=run)


def _add_corpus_options(group: argparse._ArgumentGroup) -> None:
    """What only `encode_corpus` takes; all of it is None where it was not given."""
    group.add_argument("--output", type=Path, metavar="FOLDER", help="write shards of sparse vectors there")
    group.add_argument(
        "--prune",
        nargs="+",
        metavar="HOW",
        help="mass:SHARE, top_k:K, max_ratio:SHARE or threshold:WEIGHT of whole vectors, or of the views: "
        "english=mass:0.9 source=top_k:16; or none (default: as the checkpoint says)",
    )
    group.add_argument("--views", choices=("both", "english", "source"), help="keep one view alone (default: both)")
    group.add_argument("--max-length", type=positive, metavar="N", help="cut texts to N tokens (default: the model's)")
    group.add_argument("--batch-tokens", type=positive, metavar="N", help="tokens at a time (default: by the device)")
    group.add_argument("--dtype", choices=("auto", "bfloat16", "float16"), help="compute in it (default: the weights')")
    group.add_argument("--devices", nargs="+", metavar="DEVICE", help="a process for each, such as cuda:0 cuda:1")
    group.add_argument("--shard-size", type=positive, metavar="N", help="texts in a shard (default: 16384)")
    group.add_argument("--no-resume", dest="resume", action="store_false", default=None, help="replace, not continue")


_CORPUS_OPTIONS = ("prune", "views", "max_length", "batch_tokens", "dtype", "devices", "shard_size", "resume")


def run(options: argparse.Namespace) -> None:
    """Print the texts' terms, or write a corpus."""
    if options.texts and options.file:
        raise ValueError("Give either texts or --file, not both.")
    given = {name: getattr(options, name) for name in _CORPUS_OPTIONS if getattr(options, name) is not None}
    if options.output:
        _write(options, given)
    elif given:
        flag = "--no-resume" if "resume" in given else f"--{next(iter(given)).replace('_', '-')}"
        raise ValueError(f"{flag} needs --output FOLDER, where the vectors go.")
    else:
        _print(options)


def _write(options: argparse.Namespace, given: dict[str, Any]) -> None:
    """Encode a corpus into a folder."""
    import milco_hf

    for name, instead in (("ids", "milco_hf.load_vectors"), ("batch_size", "--batch-tokens")):
        if getattr(options, name):
            raise ValueError(f"--{name.replace('_', '-')} is for printed vectors; with --output there is {instead}.")
    if options.device and options.devices:
        raise ValueError("Give either --device or --devices, not both.")
    if options.top_k and options.prune:
        raise ValueError("Give either --top-k or --prune, not both.")
    if options.top_k:
        given["prune"] = f"top_k:{options.top_k}"
    if options.device:
        given["devices"] = options.device
    texts, ids, language = _columns(_texts(options), options.language)
    model = options.model
    if options.revision:
        one = options.devices[0] if options.devices and len(options.devices) == 1 else None
        model = milco_hf.load(model, revision=options.revision, device=options.device or one)
    folder = milco_hf.encode_corpus(
        model,
        texts,
        ids=ids,
        kind=options.task,
        language=language,
        output=options.output,
        progress=sys.stderr.isatty(),
        **given,
    )
    about = folder.manifest
    active = about["entries"] / max(1, about["rows"])
    sys.stderr.write(f"{about['rows']} texts, {active:.0f} dimensions a text, in {folder.folder}\n")


def _columns(
    texts: Iterator[Text], language: str | None
) -> tuple[Iterator[str], Iterator[str | None] | None, str | Iterator[str | None]]:
    """The texts, the ids where there are any, and the language asked for or each text's, read as the others are."""
    first = next(texts, None)
    # a branch that nothing refers to keeps nothing in memory
    to_read, to_name, to_route = tee(chain([] if first is None else [first], texts), 3)
    ids = None if first is None or first.id is None else (text.id for text in to_name)
    return (text.text for text in to_read), ids, language or (text.language for text in to_route)


def _print(options: argparse.Namespace) -> None:
    """Encode the texts in blocks, so that a file of any length needs the memory of one block."""
    import milco_hf

    batch_size = options.batch_size or 32
    model = milco_hf.load(options.model, device=options.device, revision=options.revision)
    if options.language:
        model.transformers_model.config.language_adapter(options.language)  # refused here, in our words
    for block in _blocks(_texts(options), 32 * batch_size):
        embeddings = _encoded(model, block, options)
        rows = _ids(embeddings, len(block)) if options.ids else _terms(model, embeddings)
        for text, row in zip(block, rows):
            named = {} if text.id is None else {"id": text.id}
            sys.stdout.write(json.dumps({**named, "text": text.text, **row}, ensure_ascii=False) + "\n")


def _encoded(model: SparseEncoder, block: list[Text], options: argparse.Namespace) -> Tensor:
    """Vectors of some texts, sparse [texts, V_e + V_s], a language at a time where the encoder has adapters."""
    import torch

    encode = model.encode_query if options.task == "query" else model.encode_document
    routed = bool(model.transformers_model.config.languages)
    languages = [options.language or text.language if routed else None for text in block]
    rows: dict[str | None, list[int]] = {}
    for row, language in enumerate(languages):
        rows.setdefault(language, []).append(row)
    parts = [
        encode(
            [block[row].text for row in of_language],
            batch_size=options.batch_size or 32,
            max_active_dims=options.top_k,
            convert_to_sparse_tensor=True,
            show_progress_bar=False,
            save_to_cpu=True,
            **({} if language is None else {"language": language}),
        )
        for language, of_language in rows.items()
    ]
    order = torch.tensor([row for of_language in rows.values() for row in of_language])
    return torch.cat(parts).index_select(0, order.argsort())


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


def _texts(options: argparse.Namespace) -> Iterator[Text]:
    """The texts in their order; an empty line is an empty text, so that line numbers stay."""
    from milco_hf.encoding.files import Text, read_texts

    if options.texts:
        yield from map(Text, options.texts)
    elif options.file:
        yield from read_texts(options.file.expanduser())
    else:
        if sys.stdin.isatty():
            sys.stderr.write("Reading texts from the terminal, one a line; end with Ctrl-D.\n")
        yield from (Text(line.rstrip("\r\n")) for line in sys.stdin)


def _blocks(texts: Iterable[Text], size: int) -> Iterator[list[Text]]:
    iterator = iter(texts)
    while block := list(islice(iterator, size)):
        yield block
