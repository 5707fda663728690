"""One batch of both sides' texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from milco_hf.modeling import MilcoConfig
from milco_hf.training.data.files import UNKNOWN_LANGUAGE


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int, pad_to_multiple_of: int | None = None
) -> tuple[Tensor, Tensor]:
    """Input ids and attention mask of some texts, each [B, n].

    Args:
        tokenizer: the student's tokenizer.
        texts: the texts, B of them.
        max_length: they are cut to this many tokens.
        pad_to_multiple_of: n is rounded up to a multiple of it.
    """
    encoded = tokenizer(
        texts, truncation=True, max_length=max_length, return_attention_mask=False, return_token_type_ids=False
    )
    # apart from truncation, which tokenizers refuse where max_length is no such multiple
    batch = tokenizer.pad(
        {"input_ids": encoded["input_ids"]}, pad_to_multiple_of=pad_to_multiple_of, return_tensors="pt"
    )
    return batch["input_ids"], batch["attention_mask"]


# `MilcoConfig.adapter_ids`: numbers of the language adapters (X-MOD) for texts of some languages; None where the
# encoder has none.
AdapterIds = Callable[[Sequence[str | None]], list[int] | None]
ENGLISH = "en"
_UNKNOWN = (
    "Some texts' language is not known, and this encoder reads each text with its language's adapter. Name it in the "
    "recipe: {path: …, language: sw}."
)


def language_ids(
    adapters: AdapterIds | None, languages: Sequence[str | None], name: str = "lang_ids"
) -> dict[str, Tensor]:
    """What a batch holds of its texts' languages: their adapters' numbers [B], or nothing.

    Args:
        adapters: the student's `config.adapter_ids`; None, too, for encoders that read all languages alike.
        languages: each text's, B of them; None is the default one.
        name: what the batch calls it.

    Raises:
        ValueError: the encoder has adapters, but none for one of them, or nobody said what the language is.
    """
    numbers = None if adapters is None else adapters(languages)
    if numbers is None:
        return {}
    if UNKNOWN_LANGUAGE in languages:  # the default adapter would learn another language, without a word
        raise ValueError(_UNKNOWN)
    return {name: torch.tensor(numbers)}


def check_languages(config: MilcoConfig, languages: Sequence[str]) -> None:
    """Refuse texts that an encoder with language adapters cannot read, before it meets them.

    Args:
        config: the student's.
        languages: those of the texts.

    Raises:
        ValueError: it has no adapter for a language, or nobody said what the language is.
    """
    if config.languages and UNKNOWN_LANGUAGE in languages:
        raise ValueError(_UNKNOWN)
    config.adapter_ids(languages)


class PairCollator:
    """Tokenises the texts of both sides together, so that the model runs once over them.

    The other sides come first, then the English sides of those pairs that use them. The batch holds

    - ``input_ids``, ``attention_mask`` [B, n]: B texts;
    - ``target_rows`` [B]: which of the P pairs a text belongs to;
    - ``is_english`` [B]: which side it is;
    - ``lang_ids`` [B], for encoders with language adapters: English's for English sides, else the pairs' languages';
    - ``english_texts``: the P English texts, which the teacher reads.

    Args:
        tokenizer: the student's tokenizer.
        max_length: texts are cut to this many tokens.
        pad_to_multiple_of: widths are rounded up to a multiple of it (8 suits tensor cores).
        adapters: the student's `config.adapter_ids`, which says what `lang_ids` are.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        pad_to_multiple_of: int | None = None,
        adapters: AdapterIds | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.adapters = adapters
        self.max_length = max_length
        self.pad_to_multiple_of = pad_to_multiple_of

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        """Make a batch of pairs, as `PairDataset` gives them."""
        english_rows = [row for row, item in enumerate(items) if item["with_english"]]
        texts = [item["other"] for item in items] + [items[row]["english"] for row in english_rows]
        input_ids, attention_mask = tokenize(self.tokenizer, texts, self.max_length, self.pad_to_multiple_of)
        languages = [item["language"] for item in items] if self.adapters else []
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            **language_ids(self.adapters, [*languages, *[ENGLISH] * len(english_rows)]),
            "target_rows": torch.tensor([*range(len(items)), *english_rows]),
            "is_english": torch.arange(len(texts)) >= len(items),
            "english_texts": [item["english"] for item in items],
        }
