"""Tokenizers of a small MILCO: multilingual Unigram pieces for its encoder, WordPiece terms for its English side."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import decoders as token_decoders
from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]
"""Special tokens of the source tokenizer; their ids are their places here."""


def train_source_tokenizer(texts: Iterable[str], size: int, max_length: int = 512) -> PreTrainedTokenizerFast:
    """Train the encoder's tokenizer: NFKC, lower case, Metaspace, punctuation apart, Unigram.

    Lower case spends no pieces on capitals, which matters where 27 languages share few pieces.

    Args:
        texts: texts of all languages, balanced by the caller.
        size: V_s, number of pieces, special tokens included.
        max_length: longest text in tokens that the encoder takes.

    Returns:
        A tokenizer that puts `<s>` before and `</s>` behind a text.

    Raises:
        ValueError: the texts do not hold `size` pieces.
    """
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = token_decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=size,
        special_tokens=SPECIAL_TOKENS,
        unk_token="<unk>",
        max_piece_length=16,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    found = tokenizer.get_vocab_size()
    if found < size:
        raise ValueError(f"The texts give {found} source pieces, not {size}: lower the source vocabulary's size.")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    logger.info("source tokenizer: %d pieces", found)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )


def train_pivot_tokenizer(texts: Iterable[str], size: int, min_frequency: int = 5) -> PreTrainedTokenizerFast:
    """Train the English terms: BERT's normalisation and word splitting, WordPiece.

    Args:
        texts: English texts.
        size: V_e, number of terms, `[PAD]` and `[UNK]` included.
        min_frequency: pieces seen less often are not joined.

    Raises:
        ValueError: the texts do not hold `size` terms.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = token_decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=["[PAD]", "[UNK]"],
        limit_alphabet=200,
        min_frequency=min_frequency,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    found = tokenizer.get_vocab_size()
    if found != size:
        raise ValueError(f"The texts give {found} English terms, not {size}: change the English vocabulary's size.")
    logger.info("English tokenizer: %d terms", found)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=512
    )
