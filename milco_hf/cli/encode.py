"""`milco encode`: the weighted terms of texts, one JSON object a line, or a corpus as shards of sparse vectors."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import chain, islice, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

from milco_hf.cli.arguments import positive

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

Without --output, each line is {"text": …, "english": {term: weight}, "source": {token: weight}}, heaviest first;
with --ids it is {"text": …, "indices": […], "values": […]}, in the order of the dimensions, for a search engine.
With --output, the folder gets shards of sparse vectors and a manifest.json; milco_hf.load_vectors reads it. The same
command continues a run that was cut short.

FILE is lines of text, or by its name .jsonl (text, and maybe an id in _id or id, and a title, as BEIR's corpus.jsonl),
.tsv or .csv (those columns by name, or: text; id and text); each may be .gz, .xz or .bz2."""


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
    parser.add_argument(
        "--as", dest="task", choices=("query", "document"), default="document", help="(default: document)"
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
        given["prune"] = [f"top_k:{options.top_k}"]
    if "prune" in given:
        given["prune"] = _prune(given["prune"])
    if options.device:
        given["devices"] = options.device
    texts, ids = _texts_and_ids(_texts(options))
    folder = milco_hf.encode_corpus(
        options.model, texts, ids=ids, kind=options.task, output=options.output, progress=sys.stderr.isatty(), **given
    )
    about = folder.manifest
    active = about["entries"] / max(1, about["rows"])
    sys.stderr.write(f"{about['rows']} texts, {active:.0f} dimensions a text, in {folder.folder}\n")


def _prune(forms: list[str]) -> str | dict[str, str]:
    """`mass:0.9`, or `english=mass:0.9 source=top_k:16` as a dictionary."""
    if len(forms) == 1 and "=" not in forms[0]:
        return forms[0]
    pairs = [form.partition("=") for form in forms]
    views = [view for view, _, _ in pairs]
    if any(not separator for _, separator, _ in pairs) or len(set(views)) < len(views):
        raise ValueError(f"--prune takes one HOW, or english=HOW and source=HOW; got {' '.join(forms)}.")
    return {view: form for view, _, form in pairs}


def _texts_and_ids(texts: Iterator[Text]) -> tuple[Iterator[str], Iterator[str | None] | None]:
    """The texts, and the ids where there are any, each read as the other asks for them."""
    first = next(texts, None)
    if first is None or first.id is None:
        return (text.text for text in chain([first] if first else [], texts)), None
    to_read, to_name = tee(chain([first], texts))
    return (text.text for text in to_read), (text.id for text in to_name)


def _print(options: argparse.Namespace) -> None:
    """Encode the texts in blocks, so that a file of any length needs the memory of one block."""
    import milco_hf

    batch_size = options.batch_size or 32
    model = milco_hf.load(options.model, device=options.device)
    encode = model.encode_query if options.task == "query" else model.encode_document
    for block in _blocks(_texts(options), 32 * batch_size):
        embeddings = encode(
            [text.text for text in block],
            batch_size=batch_size,
            max_active_dims=options.top_k,
            convert_to_sparse_tensor=True,
            show_progress_bar=False,
            save_to_cpu=True,
        )
        rows = _ids(embeddings, len(block)) if options.ids else _terms(model, embeddings)
        for text, row in zip(block, rows):
            named = {} if text.id is None else {"id": text.id}
            sys.stdout.write(json.dumps({**named, "text": text.text, **row}, ensure_ascii=False) + "\n")


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
