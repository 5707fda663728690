"""Tokenizers of a small MILCO: multilingual Unigram pieces for its encoder, WordPiece terms for its English side."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import decoders as token_decoders
from transformers import PreTrainedTokenizerFast

from milco_hf.training.lexicon.romanization import romanizer

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
    return _finished(tokenizer, size, max_length)


def train_romanized_tokenizer(
    texts: Iterable[str], size: int, letters: int = 5, min_count: int = 3, max_length: int = 512
) -> PreTrainedTokenizerFast:
    """Train a tokenizer that cuts the same name alike in every alphabet.

    Letters become Latin ones (`romanization`), and a word is cut after every fifth letter from its beginning (fourth in
    Arabic and Hebrew, second syllable in Korean), before BPE joins what is frequent within the cuts. So endings seldom
    change a word's first piece, and where one language writes -as and another -ers the beginning is still the same.
    A word's first letters alone are a known stemmer (Can et al., 2008: five for Turkish).

    Args:
        texts: texts of all languages, balanced by the caller.
        size: V_s, number of pieces, special tokens included.
        letters: Latin letters or digits of a piece, at most.
        min_count: characters seen less often become `<unk>`.
        max_length: longest text in tokens that the encoder takes.

    Returns:
        A tokenizer that puts `<s>` before and `</s>` behind a text.

    Raises:
        ImportError: `milco-hf[romanize]` is not installed.
        ValueError: `letters` is below 1, or the texts do not hold `size` pieces, or have more characters than that.
    """
    if letters < 1:
        raise ValueError(f"letters must be at least 1, got {letters}: a piece has so many Latin letters at most.")
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = romanizer()
    cuts = rf"▁?(?:[\p{{Latin}}\p{{N}}]{{1,{letters}}}|\p{{Arabic}}{{1,4}}|\p{{Hebrew}}{{1,4}}|\p{{Hangul}}{{1,2}})"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Split(Regex(cuts), "isolated"),
        ]
    )
    tokenizer.decoder = token_decoders.Metaspace()
    texts = list(texts)
    counts = Counter(letter for text in texts for letter in tokenizer.normalizer.normalize_str(text))
    alphabet = sum(count >= min_count for count in counts.values())
    if alphabet + len(SPECIAL_TOKENS) > size:
        raise ValueError(f"The texts have {alphabet} characters, more than {size} pieces: raise the size or min_count.")
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL_TOKENS,
        limit_alphabet=alphabet,
        max_token_length=16,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _finished(tokenizer, size, max_length)


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


def _finished(tokenizer: Tokenizer, size: int, max_length: int) -> PreTrainedTokenizerFast:
    """A trained source tokenizer with its special tokens in their places."""
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
