"""Texts to tokens for several callers at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase

from milco_hf.encoding.rows import Job
from milco_hf.serving.errors import TOKENIZER, VALIDATION, Refused


@dataclass(frozen=True)
class Kind:
    """How queries, or documents, are read and encoded.

    Args:
        name: "query" or "document".
        prompt: Goes before every text.
        max_length: Longest text in tokens, special tokens included; None for no limit.
        job: Views, pruning and dtype of their vectors.
    """

    name: str
    prompt: str
    max_length: int | None
    job: Job


@dataclass(frozen=True)
class Read:
    """Tokens of some texts [texts], how many texts were cut, and how many tokens that cost."""

    tokens: list[np.ndarray]
    cut_texts: int = 0
    cut_tokens: int = 0


class TextReader:
    """Tokenises without ever changing the tokenizer, so that any number of threads can share it.

    A transformers tokenizer sets truncation and padding of its backend with every call; two threads that do so at once
    get an error or each other's lengths. This is a copy of the backend with neither; texts are cut afterwards.

    Args:
        tokenizer: The checkpoint's, which has to be a fast one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        self._special = self._backend.num_special_tokens_to_add(False)

    def read(
        self, texts: Sequence[str], prompt: str, max_length: int | None, truncate: bool, direction: str = "right"
    ) -> Read:
        """Tokens of some texts, special tokens included.

        Args:
            texts: The texts.
            prompt: Goes before every text.
            max_length: Longest text in tokens, special tokens included.
            truncate: Cut what is longer; else it is refused.
            direction: Where is cut: "right" keeps the beginning, "left" the end.

        Raises:
            Refused: A text is no valid Unicode (422), or too long and may not be cut (413).
        """
        for place, text in enumerate(texts):
            check_unicode(text, "`inputs`" if len(texts) == 1 else f"`inputs[{place}]`")
        encodings = self._backend.encode_batch([prompt + text for text in texts], add_special_tokens=False)
        tokens, cut_texts, cut_tokens = [], 0, 0
        for encoding in encodings:
            over = 0 if max_length is None else len(encoding) + self._special - max_length
            if over > 0 and not truncate:
                raise Refused(
                    413,
                    VALIDATION,
                    f"Input validation error: `inputs` must have less than {max_length} tokens. Given: "
                    f"{len(encoding) + self._special}. `truncate: true` cuts it.",
                )
            if over > 0:
                encoding.truncate(len(encoding) - over, direction=direction)
                cut_texts += 1
                cut_tokens += over
            tokens.append(self._ids(encoding))
        return Read(tokens, cut_texts, cut_tokens)

    def _ids(self, encoding: Encoding) -> np.ndarray:
        return np.array(self._backend.post_process(encoding, add_special_tokens=True).ids, dtype=np.int32)


def check_unicode(text: str, name: str) -> None:
    """Refuses half a surrogate pair: JSON can write one, but it is no character and has no UTF-8.

    Raises:
        Refused: There is one (422).
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X}"
        raise Refused(
            422,
            TOKENIZER,
            f"{name} is no valid Unicode: a lone surrogate ({found}) at character {error.start}.",
        ) from None


__all__ = ["Kind", "Read", "TextReader", "check_unicode"]
