"""One text through the model: its tokens with their places, its vector, and the token behind each dimension."""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import BatchEncoding

from milco_hf.encoding import encode_corpus
from milco_hf.encoding.opening import Opened
from milco_hf.explanation.result import Entry, Side, Token
from milco_hf.modeling import MilcoForSparseEncoding
from milco_hf.modeling.lexecho_head import pooled_logits
from milco_hf.pruning import Prune, parse
from milco_hf.vocabulary import PIVOT_PREFIX


@dataclass
class Seen:
    """What passed through the model: Z of each token, [tokens, d_e], and the tokens' weights, [tokens]."""

    states: Tensor | None = None
    echoes: Tensor | None = None


def read_side(
    opened: Opened,
    text: str,
    kind: str,
    prune: Prune,
    max_length: int | None,
    views: str,
    dtype: torch.dtype | None = None,
    language: str | Sequence[str | None] | None = None,
) -> Side:
    """A text, its tokens and its vector.

    Args:
        opened: The model.
        text: The text.
        kind: "query" or "document".
        prune: What is kept of the vector.
        max_length: Longest text in tokens; None for what the model says.
        views: "both", "english" or "source".
        dtype: Of autocast; None computes in the weights' own.
        language: The text's, as `encode_corpus` takes it.

    Raises:
        ValueError: The tokenizer is no fast one, or an argument cannot work.
    """
    tokenizer = opened.whole.tokenizer
    if not tokenizer.is_fast:
        raise ValueError("explain needs a fast tokenizer, which knows each token's place in the text.")
    with watched(opened.milco) as seen:
        matrix = encode_corpus(
            opened.whole,
            [text],
            kind=kind,
            language=language,
            prune=None if prune is None else parse(prune),
            max_length=max_length,
            views=views,
            dtype=dtype,
            progress=False,
        )
    prompt = opened.prompt(kind)
    encoded, cut = _tokenized(tokenizer, prompt + text, opened.max_length(kind, max_length))
    ids = encoded["input_ids"]
    if seen.states is None or len(seen.states) != len(ids):
        raise RuntimeError(
            f"The model read {0 if seen.states is None else len(seen.states)} tokens where its tokenizer makes "
            f"{len(ids)}: it was changed while it was being explained. Explain one pair at a time."
        )
    echoes = [0.0] * len(ids) if seen.echoes is None else seen.echoes.tolist()
    tokens = _tokens(encoded, text, len(prompt), echoes)
    places = [(token.start, token.end) for token in tokens if token.start is not None]
    read = (0, len(text)) if not cut else (min(places, default=(0, 0))[0], max((end for _, end in places), default=0))
    dimensions, weights = matrix.indices.tolist(), matrix.data.tolist()
    context = nullcontext() if dtype is None else torch.autocast(opened.milco.device.type, dtype=dtype)
    with context:  # the head's own arithmetic, or other tokens might win
        entries = _entries(opened.milco, tokenizer, ids, seen.states, echoes, dimensions, weights)
    return Side(text, prompt, tokens, entries, read, cut)


@contextmanager
def watched(milco: MilcoForSparseEncoding) -> Iterator[Seen]:
    """Notes what the head makes of the one text that this thread encodes; other threads may use the model meanwhile."""
    seen, here = Seen(), threading.get_ident()

    def note_states(module: Any, inputs: Any, states: Tensor) -> None:
        if threading.get_ident() == here:
            seen.states = states.detach().flatten(0, -2)

    def note_echoes(module: Any, inputs: Any, output: Any) -> None:
        if threading.get_ident() == here and output.source_weights is not None:
            seen.echoes = output.source_weights.detach().flatten().float()

    hooks = [milco.head.norm.register_forward_hook(note_states), milco.register_forward_hook(note_echoes)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _tokenized(tokenizer: Any, text: str, max_length: int | None) -> tuple[BatchEncoding, int]:
    """The tokens as `encode_corpus` makes them, with their places, and how many were cut off."""
    limit = {} if max_length is None else {"max_length": max_length}
    encoded = tokenizer(
        text,
        truncation="longest_first" if limit else False,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
        **limit,
    )
    rest = encoded.encodings[0].overflowing  # pieces that did not fit, each with special tokens of its own
    return encoded, sum(len(piece) - sum(piece.special_tokens_mask) for piece in rest)


def _tokens(encoded: BatchEncoding, text: str, prompt: int, echoes: list[float]) -> tuple[Token, ...]:
    """The tokens, with places in the text itself, behind a prompt of so many characters."""
    words: dict[int, tuple[int, int]] = {}
    spans = [(start - prompt, end - prompt) for start, end in encoded["offset_mapping"]]
    for word, (start, end) in zip(encoded.word_ids(), spans):
        if word is not None and end > 0:
            before = words.get(word, (len(text), 0))
            words[word] = (min(before[0], max(0, start)), max(before[1], end))
    covered = bytearray(len(text))
    for start, end in spans:
        covered[max(0, start) : max(0, end)] = b"\1" * (max(0, end) - max(0, start))
    tokens = []
    for name, word, special, (start, end), echo in zip(
        encoded.tokens(), encoded.word_ids(), encoded["special_tokens_mask"], spans, echoes
    ):
        if special:
            tokens.append(Token(name, "special", name, None, None, None, echo))
        elif end <= 0 < prompt:
            tokens.append(Token(name, "prompt", name, None, None, None, echo))
        else:
            start, end = _trimmed(text, max(0, start), end)
            while end < len(text) and not covered[end] and unicodedata.category(text[end]).startswith("M"):
                end += 1  # an accent that the tokenizer's normaliser composed with its letter
            first, last = (start, end) if word is None else _trimmed(text, *words[word])
            whole = (min(first, start), max(last, end))
            tokens.append(Token(name, "text", text[start:end], start, end, whole, echo))
    return tuple(tokens)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Without the spaces around it, which tokenizers count to the word that follows; spaces alone stay."""
    inside = text[start:end].strip()
    if not inside:
        return start, end
    start = text.index(inside, start)
    return start, start + len(inside)


def _entries(
    milco: MilcoForSparseEncoding,
    tokenizer: Any,
    ids: list[int],
    states: Tensor,
    echoes: list[float],
    dimensions: list[int],
    weights: list[float],
) -> tuple[Entry, ...]:
    """Each active dimension with the tokens that it comes from, heaviest first."""
    terms = milco.config.pivot_vocab_size
    winners = _winners(milco, states, [dimension for dimension in dimensions if dimension < terms])
    names = tokenizer.convert_ids_to_tokens(dimensions)
    entries = []
    for dimension, weight, name in zip(dimensions, weights, names):
        if dimension < terms:
            entries.append(Entry(dimension, name.removeprefix(PIVOT_PREFIX), "english", weight, (winners[dimension],)))
            continue
        places = [i for i, token in enumerate(ids) if token == dimension and echoes[i]]
        if milco.config.echo_pooling == "max":
            places = [max(places, key=lambda i: echoes[i])]
        entries.append(Entry(dimension, name, "source", weight, tuple(places)))
    return tuple(sorted(entries, key=lambda entry: (-entry.weight, entry.dimension)))


@torch.no_grad()
def _winners(milco: MilcoForSparseEncoding, states: Tensor, dimensions: list[int]) -> dict[int, int]:
    """The token with the largest logit for each English dimension, the first of equal ones: the head's own maximum."""
    if not dimensions:
        return {}
    rows = torch.tensor(dimensions, device=states.device)
    everyone = torch.ones((1, len(states)), dtype=torch.long, device=states.device)
    _, winners = pooled_logits(states[None], milco.head.decoder.weight[rows], None, everyone)
    return dict(zip(dimensions, winners[0].tolist()))


__all__ = ["read_side", "watched"]
