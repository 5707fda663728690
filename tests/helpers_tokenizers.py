"""Small tokenizers of each kind, trained in memory on a few sentences in many scripts."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = {
    "Latin": ["The music of Baltimore is loud and the city is great", "Where is the music shop in the old city?"],
    "Cyrillic": ["Кто написал эту книгу и когда?", "Музыка города громкая, а книга тихая"],
    "Arabic": ["من كتب هذا الكتاب؟", "الموسيقى في المدينة القديمة جميلة"],
    "Devanagari": ["यह किताब किसने लिखी?", "पुराने शहर का संगीत सुंदर है"],
    "Bengali": ["এই বইটি কে লিখেছেন?", "পুরনো শহরের সঙ্গীত সুন্দর"],
    "Thai": ["ใครเขียนหนังสือเล่มนี้", "ดนตรีในเมืองเก่าไพเราะ"],
    "Hangul": ["누가 이 책을 썼습니까?", "오래된 도시의 음악은 아름답다"],
    "kana": ["このほんはだれがかきましたか", "ふるいまちのミュージックはきれいです"],
    "Han": ["谁写了这本书？", "老城的音乐很美"],
}
"""Two training sentences for each script."""

PIVOT_TERMS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "music", "city", "book", "##s", "the", "e", ":", "unused 1", "ünï"]


def _corpus() -> list[str]:
    texts = [text for pair in SENTENCES.values() for text in pair]
    return [*texts, "en: music", "en:music", "en : m"] * 3


@cache
def unigram_file() -> str:
    """`tokenizer.json` of a Unigram tokenizer as XLM-R's.

    224 pieces that tokenizers' UnigramTrainer found in `_corpus`, with NFKC and Metaspace. They stand in a file,
    since that trainer orders them anew each time, and all that is built on them would differ from run to run.
    """
    return (Path(__file__).parent / "data" / "unigram.json").read_text(encoding="utf-8")


@cache
def bpe_file(vocab_size: int = 500) -> str:
    """`tokenizer.json` of a byte-level BPE tokenizer as RoBERTa's, with two added tokens its model does not know."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_tokens(["<extra>", "   "])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer.to_str()


@cache
def wordpiece_file(vocab_size: int = 400) -> str:
    """`tokenizer.json` of a WordPiece tokenizer as multilingual BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.post_processor = processors.Sequence([processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))])
    return tokenizer.to_str()


def unigram_tokenizer(**settings) -> PreTrainedTokenizerFast:
    """A Unigram tokenizer as XLM-R's."""
    return _roberta_like(unigram_file(), **settings)


def bpe_tokenizer(**settings) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer as RoBERTa's."""
    return _roberta_like(bpe_file(), **settings)


def wordpiece_tokenizer(**settings) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer as multilingual BERT's."""
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    settings = {"model_max_length": 32, "mask_token": "[MASK]", **names, **settings}
    settings.setdefault("model_input_names", ["input_ids", "token_type_ids", "attention_mask"])
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(wordpiece_file()), **settings)


def _roberta_like(file: str, **settings) -> PreTrainedTokenizerFast:
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
    names.update(pad_token="<pad>", unk_token="<unk>", mask_token="<mask>")
    settings = {"model_max_length": 32, "model_input_names": ["input_ids", "attention_mask"], **names, **settings}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(file), **settings)


TOKENIZERS = {"unigram": unigram_tokenizer, "bpe": bpe_tokenizer, "wordpiece": wordpiece_tokenizer}
"""Functions that make a small tokenizer of each kind."""
