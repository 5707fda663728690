"""Questions, passages and tiny models for mining and scoring; words are those that the tiny tokenizers know."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

import tiny
from helpers_training import english_tokenizer
from milco_hf.cli import mine as mine_verb
from milco_hf.cli import score as score_verb
from milco_hf.mining.files import write_lines

WORDS = [term for term in tiny.TERMS if term.isalpha()]
_SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def texts(count: int, seed: int, length: int = 6) -> list[str]:
    """Different texts of a few words."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[" ".join(rng.choices(WORDS, k=rng.randint(2, length)))] = None
    return list(found)


def write(path: Path, records: list[dict]) -> Path:
    write_lines(path, [json.dumps(record, ensure_ascii=False) for record in records])
    return path


def read(path: Path) -> list[dict]:
    from milco_hf.text_files import read_jsonl

    return [record for _, record in read_jsonl(path)]


def questions(folder: Path, languages: tuple[str, ...] = ("en",), rows: int = 9, passages: int = 23) -> Path:
    """A folder of questions with `passages` beside, some questions with two positives."""
    for number, language in enumerate(languages):
        corpus = texts(passages, 100 + number)
        asked = texts(rows, 200 + number)
        records = [{"pid": f"{language}{place}", "text": text} for place, text in enumerate(corpus)]
        write(folder / "passages" / f"{language}.jsonl.gz", records)
        positives = [
            [f"{language}{place}"] + ([f"{language}{place + 9}"] if place % 4 == 0 else []) for place in range(rows)
        ]
        lines = [{"query": query, "pos_pid": pids, "source": "made"} for query, pids in zip(asked, positives)]
        write(folder / f"{language}.jsonl", lines)
    return folder


def dense_folder(folder: Path, seed: int = 0) -> Path:
    """A tiny SentenceTransformer with mean pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    torch.manual_seed(seed)
    config = BertConfig(vocab_size=len(tiny.TERMS), max_position_embeddings=40, initializer_range=0.5, **_SIZES)
    BertModel(config).save_pretrained(folder / "bert")
    english_tokenizer().save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"))
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save_pretrained(str(folder / "model"))
    return folder / "model"


def cross_folder(folder: Path, seed: int = 0, labels: int = 1) -> Path:
    """A tiny cross-encoder, as transformers saves it: nothing in it is sentence-transformers' own."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tiny.TERMS), max_position_embeddings=40, initializer_range=0.5, num_labels=labels, **_SIZES
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    english_tokenizer().save_pretrained(folder)
    return folder


def run(verb: str, *arguments: str | Path) -> None:
    """Run `milco mine` or `milco score`."""
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb")
    mine_verb.add_parser(verbs, [])
    score_verb.add_parser(verbs, [])
    options = parser.parse_args([verb, *map(str, arguments)])
    options.run(options)
