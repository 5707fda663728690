"""Texts to batches: tokens, sorted by length, as many texts at a time as a budget of tokens holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from milco_hf.encoding.rows import Batch

# A text counts as at least so many tokens: the pooled logits of thousands of very short ones would not be small.
_SHORTEST = 16


@dataclass
class Cut:
    """How much of some texts was cut off: texts that were, tokens that went, and tokens of all texts before that."""

    texts: int = 0
    tokens: int = 0
    of_tokens: int = 0

    def __iadd__(self, other: Cut) -> Cut:
        self.texts += other.texts
        self.tokens += other.tokens
        self.of_tokens += other.of_tokens
        return self


@dataclass(frozen=True)
class Reader:
    """How texts become tokens.

    Args:
        tokenizer: The checkpoint's, which has to be a fast one.
        prompt: Goes before every text.
        max_length: Longest text in tokens, special tokens included; None for no limit.
        batch_tokens: Tokens in a batch, padding included.
    """

    tokenizer: PreTrainedTokenizerBase
    prompt: str
    max_length: int | None
    batch_tokens: int

    def batches(
        self, shard: int, first: int, texts: Sequence[str], adapters: Sequence[int] | None = None
    ) -> tuple[list[Batch], Cut]:
        """Batches of some neighbouring texts, longest first.

        Args:
            shard: The shard that the texts belong to.
            first: Row of the first text in its shard.
            texts: The texts.
            adapters: The number of each one's language adapter; None for encoders without adapters.
        """
        routes = None if adapters is None else np.array(adapters, dtype=np.int64)
        tokens, cut = self._tokens([self.prompt + text for text in texts])
        lengths = np.array([len(ids) for ids in tokens], dtype=np.int64)
        order = np.argsort(-lengths, kind="stable")
        found, start = [], 0
        while start < len(order):
            longest = int(lengths[order[start]])
            size = max(1, self.batch_tokens // max(longest, _SHORTEST))
            chosen = order[start : start + size]
            ids = np.full((len(chosen), longest), self.tokenizer.pad_token_id or 0, dtype=np.int32)
            for row, text in enumerate(chosen):
                ids[row, : lengths[text]] = tokens[text]
            of_texts = None if routes is None else routes[chosen]
            found.append(Batch(shard, chosen + first, ids, lengths[chosen], of_texts))
            start += size
        return found, cut

    def _tokens(self, texts: list[str]) -> tuple[list[list[int]], Cut]:
        limit = {} if self.max_length is None else {"max_length": self.max_length}
        encoded = self.tokenizer(
            texts,
            truncation="longest_first" if limit else False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
            **limit,
        )
        tokens = encoded["input_ids"]
        cut = Cut(of_tokens=sum(map(len, tokens)))
        for encoding in encoded.encodings:
            if encoding.overflowing:  # pieces that did not fit, each with special tokens of its own
                lost = sum(len(piece) - sum(piece.special_tokens_mask) for piece in encoding.overflowing)
                cut += Cut(1, lost, lost)
        return tokens, cut


__all__ = ["Cut", "Reader"]
