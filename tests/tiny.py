"""Tiny random checkpoints, made in memory: a Unigram tokenizer for ten scripts, and encoders of each class."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import (
    BertConfig,
    EuroBertConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RoFormerConfig,
    XLMRobertaConfig,
    XmodConfig,
)

from helpers_tokenizers import SENTENCES, unigram_file
from milco_hf import MilcoConfig, MilcoForSparseEncoding
from milco_hf.vocabulary import one_vocabulary

TERMS = ["the", "music", "city", "book", "who", "wrote", "old", "shop", "great", "is", "of", "where", "##s", "quiet"]
TEXTS = [text for pair in SENTENCES.values() for text in pair]
_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of every tiny checkpoint; ids 0 … 13 are English terms, then ⟨s⟩, ⟨pad⟩, ⟨/s⟩, ⟨unk⟩, ⟨mask⟩."""
    source = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(unigram_file()),
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=62,
    )
    return one_vocabulary(source, TERMS)


def encoder_config(kind: str = "xlm-roberta") -> PreTrainedConfig:
    """A tiny encoder's configuration, of each class that the tests cover."""
    sizes = {**_SIZES, "vocab_size": len(tokenizer()) - len(TERMS)}
    tokens = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    if kind == "xlm-roberta":
        return XLMRobertaConfig(**sizes, **tokens, max_position_embeddings=66)
    if kind == "bert":
        return BertConfig(**sizes, pad_token_id=1, max_position_embeddings=64)
    if kind == "modernbert":
        return ModernBertConfig(**sizes, **tokens, cls_token_id=0, sep_token_id=2, max_position_embeddings=64)
    if kind == "xmod":
        return XmodConfig(
            **sizes, **tokens, max_position_embeddings=66, languages=["en_XX", "de_DE"], default_language="en_XX"
        )
    if kind == "eurobert":  # rotary, without token types
        return EuroBertConfig(**sizes, **tokens, num_key_value_heads=4, mask_token_id=4, max_position_embeddings=64)
    if kind == "roformer":  # rotary, with sinusoids in a buffer
        return RoFormerConfig(**sizes, pad_token_id=1, max_position_embeddings=64)
    raise ValueError(kind)


ENCODERS = ["xlm-roberta", "bert", "modernbert", "xmod", "eurobert", "roformer"]


def config(kind: str = "xlm-roberta", **kwargs) -> MilcoConfig:
    """A tiny MILCO's configuration."""
    settings = {
        "pivot_vocab_size": len(TERMS),
        "pivot_hidden_size": 24,
        "special_token_ids": list(tokenizer().all_special_ids),
        # wide enough that a random model has active and inactive terms
        "initializer_range": 0.3,
    }
    return MilcoConfig(encoder_config=encoder_config(kind), **{**settings, **kwargs})


def model(kind: str = "xlm-roberta", seed: int = 0, **kwargs) -> MilcoForSparseEncoding:
    """A tiny random MILCO in evaluation mode, with its tokenizer."""
    torch.manual_seed(seed)
    built = MilcoForSparseEncoding(config(kind, **kwargs)).eval()
    built.tokenizer = tokenizer()
    return built


def checkpoint(folder: Path, kind: str = "xlm-roberta", seed: int = 0, **kwargs) -> Path:
    """Saves a tiny random MILCO, complete with tokenizer, and returns its folder."""
    built = model(kind, seed, **kwargs)
    built.save_pretrained(folder)
    built.tokenizer.save_pretrained(folder)
    return Path(folder)


def batch(texts: list[str] | None = None) -> dict[str, torch.Tensor]:
    """Texts of unequal length, padded."""
    return dict(tokenizer()(texts or TEXTS[:6], padding=True, truncation=True, return_tensors="pt"))
