"""Tokens of every pair, to batch texts of like length together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from milco_hf.training.data.pairs import PairDataset

BATCH = 20_000
SIDES = ("english", "other")


def pair_lengths(
    dataset: PairDataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    exact_up_to: int = 5_000_000,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Tokens of the longer side of every pair, [N], counted where there are not too many pairs, estimated elsewhere.

    Counting pays: on 26 languages with 25 tokens a text in the mean, batches sorted by estimates are padding by half,
    those sorted by counts by a seventh.

    Args:
        dataset: the pairs.
        tokenizer: the student's.
        max_length: lengths are cut to it.
        exact_up_to: count the tokens of at most so many pairs.
        cache_dir: where to keep the counts.
        progress: show a progress bar.
    """
    special = tokenizer.num_special_tokens_to_add()
    if len(dataset) > exact_up_to:
        lengths = _estimated(dataset, tokenizer)
    else:
        place = None if cache_dir is None else Path(cache_dir) / f"lengths-{_fingerprint(dataset, tokenizer)}.npy"
        if place is not None and place.exists():
            lengths = np.load(place)
        else:
            lengths = _counted(dataset, tokenizer, progress)
            if place is not None:
                place.parent.mkdir(parents=True, exist_ok=True)
                unfinished = place.with_suffix(f".{os.getpid()}.npy")
                np.save(unfinished, lengths)
                os.replace(unfinished, place)
    return np.minimum(np.ceil(lengths) + special, max_length).astype(np.int32)


def _counter(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[str]], list[int]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and hasattr(backend, "encode_batch_fast"):  # makes no lists of ids in Python
        backend.no_truncation()
        backend.no_padding()
        return lambda texts: [len(encoding) for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
    return lambda texts: [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]


def _counted(dataset: PairDataset, tokenizer: PreTrainedTokenizerBase, progress: bool) -> np.ndarray:
    count = _counter(tokenizer)
    lengths = np.zeros(len(dataset), dtype=np.int32)
    for side in SIDES:
        codes, texts = dataset.codes(side)  # an English text comes back in many languages, and is counted once
        found = np.empty(len(texts), dtype=np.int32)
        bar = tqdm(
            total=len(texts), desc=f"counting tokens ({side})", unit=" texts", disable=not progress, mininterval=1
        )
        for start in range(0, len(texts), BATCH):
            part = texts[start : start + BATCH]
            found[start : start + len(part)] = count(part)
            bar.update(len(part))
        bar.close()
        lengths = np.maximum(lengths, found[codes])
    return lengths


def _estimated(dataset: PairDataset, tokenizer: PreTrainedTokenizerBase, samples: int = 400) -> np.ndarray:
    """Lengths by UTF-8 bytes: bytes per token vary little within a language, so a few hundred texts give the rate."""
    count = _counter(tokenizer)
    languages, names = dataset.codes("language")
    lengths = np.zeros(len(dataset))
    for side in SIDES:
        size = dataset.text_bytes(side)
        for code in range(len(names)):
            rows = np.flatnonzero(languages == code)
            if len(rows):
                some = rows[np.linspace(0, len(rows) - 1, min(samples, len(rows))).astype(int)]
                rate = max(sum(count(dataset.texts(side, some))), 1) / max(size[some].sum(), 1)
                lengths[rows] = np.maximum(lengths[rows], size[rows] * rate)
    return lengths


def _fingerprint(dataset: PairDataset, tokenizer: PreTrainedTokenizerBase) -> str:
    digest = hashlib.sha256(str(len(tokenizer)).encode())
    for side in SIDES:
        digest.update(np.ascontiguousarray(dataset.text_bytes(side)).tobytes())
        some = np.linspace(0, max(0, len(dataset) - 1), min(200, len(dataset))).astype(int)
        texts = dataset.texts(side, some)
        digest.update("\n".join(texts).encode())
        digest.update(str(tokenizer(texts, verbose=False)["input_ids"]).encode())
    return digest.hexdigest()[:16]
