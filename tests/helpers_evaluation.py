"""Small parallel collections, tiny models of every kind, and a system whose scores a test writes down."""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
from pathlib import Path

import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoModel

import tiny
from helpers_tokenizers import unigram_file
from milco_hf.cli import evaluate as verb
from milco_hf.evaluation import Collection
from milco_hf.evaluation.topk import Best

WORDS = {
    "en": ["music", "city", "book", "shop", "old", "great"],
    "ru": ["музыка", "город", "книга", "магазин", "старый", "великий"],
    "zh": ["音乐", "城市", "书籍", "商店", "古老", "伟大"],
}
OPENERS = {".gz": gzip.open, ".xz": lzma.open}


def texts(language: str) -> tuple[dict[str, str], dict[str, str]]:
    """(documents, queries) in one language; d0 … d5 and q0 … q5 are parallel in all of them."""
    words = WORDS[language]
    documents = {f"d{i}": f"{word} {words[(i + 1) % 6]} {word} {words[(i + 2) % 6]}" for i, word in enumerate(words)}
    return documents, {f"q{i}": word for i, word in enumerate(words)}


QRELS = {f"q{i}": {f"d{i}": 1} for i in range(6)}


def parallel(name: str = "tiny", languages=tuple(WORDS)) -> list[Collection]:
    """The same collection in several languages."""
    return [Collection.from_texts(name, code, *texts(code), QRELS) for code in languages]


def write_lines(path: Path, rows: list) -> Path:
    """JSON lines, compressed as the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with OPENERS.get(path.suffix, open)(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def write_beir(
    folder: Path, language: str = "en", suffix: str = "", key: str = "_id", qrels: str = "qrels.tsv"
) -> Path:
    """A collection in the BEIR layout."""
    documents, queries = texts(language)
    write_lines(folder / f"corpus.jsonl{suffix}", [{key: i, "title": "", "text": t} for i, t in documents.items()])
    write_lines(folder / f"queries.jsonl{suffix}", [{key: i, "text": t} for i, t in queries.items()])
    (folder / qrels).parent.mkdir(exist_ok=True)
    lines = [f"{query}\t{document}\t1" for query, row in QRELS.items() for document in row]
    (folder / qrels).write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n", encoding="utf-8")
    return folder


def encoder_folder(folder: Path) -> Path:
    """A tiny multilingual encoder with its tokenizer, as the Hub would have it."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    torch.manual_seed(0)
    AutoModel.from_config(tiny.encoder_config()).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(unigram_file()),
        cls_token="<s>",
        pad_token="<pad>",
        sep_token="</s>",
        unk_token="<unk>",
        model_max_length=62,
    ).save_pretrained(folder)
    return folder


def dense_model(folder: Path) -> SentenceTransformer:
    """Mean pooling over the tiny encoder; saved in `folder`/dense."""
    transformer = Transformer(str(encoder_folder(folder / "encoder")))
    model = SentenceTransformer(modules=[transformer, Pooling(32)], device="cpu", prompts={"query": "music "})
    model.save_pretrained(str(folder / "dense"))
    return model


def token_model(folder: Path) -> MultiVectorEncoder:
    """A vector for each token of the tiny encoder; saved in `folder`/tokens."""
    transformer = Transformer(str(encoder_folder(folder / "encoder")))
    model = MultiVectorEncoder(modules=[transformer, MultiVectorMask()], device="cpu")
    model.save_pretrained(str(folder / "tokens"))
    return model


def sparse_model(folder: Path, **kwargs) -> SparseEncoder:
    """A tiny MILCO."""
    return SparseEncoder(str(tiny.checkpoint(folder, **kwargs)), device="cpu")


class Written:
    """A system whose ranking is written down: the scores of documents by query text; others have none."""

    kind = "written"

    def __init__(self, name: str, scores: dict[str, dict[str, float]], fails_on: str = "") -> None:
        self.name = self.fingerprint = name
        self.settings: dict = {}
        self.scores = scores
        self.fails_on = fails_on

    def index(self, parts, cache):
        return WrittenIndex(self, [f"{prefix}{d.id}" for prefix, c in parts for d in c.documents()])


class WrittenIndex:
    def __init__(self, system: Written, ids: list[str]) -> None:
        self.system, self.ids = system, ids

    def search(self, queries, k):
        if self.system.fails_on in queries:
            raise RuntimeError("out of ideas")
        backwards = sorted(self.ids, reverse=True)
        rows = [[self.system.scores.get(text, {}).get(name, 0.0) for name in backwards] for text in queries]
        best = Best(len(rows), k, matched_only=True)
        import numpy as np

        best.merge([best.add(0, np.asarray(rows, dtype=np.float32), np.arange(len(backwards)))])
        return best.ranking(backwards)

    def statistics(self):
        return {}


def command(arguments: list) -> None:
    """`milco evaluate` without what the whole command does around it."""
    root = argparse.ArgumentParser(prog="milco")
    verb.add_parser(root.add_subparsers(), [argparse.ArgumentParser(add_help=False)])
    options = root.parse_args(["evaluate", *map(str, arguments)])
    options.run(options)
