"""Other alphabets in Latin letters, spelt alike: a normalizer for the tokenizers of small encoders.

A name is the same word in Greek, Russian, Hindi and English, but not the same letters, so an encoder that has seen few
pairs cannot know it. Written alike («Πάνθερς», «Пантерс», "Panthers": panters) it is cut into the same tokens; what is
learnt from English holds in all of them, and [ECHO] matches it across languages.

The romanisation of single letters is anyascii's (ISC licence). Spelling is levelled after that: ph is f, th is t, sh
is s, c and q are k, w is v, y and j are i, z is s, x is ks, double letters are single. Arabic and Hebrew keep their
letters, since they write no vowels, but lose variants of letters and what is written together with a word: the article
and the prepositions and conjunctions before it, as in light stemming (Larkey, Ballesteros, Connell, 2007: light10).
"""

from __future__ import annotations

import re
import tempfile
import unicodedata
from importlib import import_module
from pathlib import Path
from types import ModuleType

from tokenizers import Regex, normalizers

ROMANIZED = {
    "Latin with marks": [(0xC0, 0x110), (0x112, 0x1A0), (0x1A2, 0x1AF), (0x1B1, 0x24F)],
    "Greek": [(0x370, 0x3FF), (0x1F00, 0x1FFF)],
    "Cyrillic": [(0x400, 0x52F)],
    "Armenian and Georgian": [(0x530, 0x58F), (0x10A0, 0x10FF)],
    "alphabets of India": [(0x900, 0xDFF)],
}
"""Ranges of code points, ends included. Left as they are: Arabic and Hebrew; Thai, Chinese, Japanese and Korean, where
too many words would become one; đ, ơ, ư and the letters that only Vietnamese has, whose marks tell words apart."""

_DIGRAPHS = {"sch": "s", "ph": "f", "th": "t", "kh": "h", "ck": "k", "sh": "s", "ch": "k"}
_LETTERS = {"c": "k", "q": "k", "w": "v", "y": "i", "z": "s", "x": "ks", "j": "i"}

_VOWEL_SIGNS = [*range(0x591, 0x5C8), *range(0x64B, 0x660), 0x640, 0x670]
_MARKS = range(0x300, 0x370)  # those that no letter has taken in, such as the dot that İ leaves behind in lower case
_ARABIC_VARIANTS = {"أ": "ا", "إ": "ا", "آ": "ا", "ٱ": "ا", "ى": "ي", "ی": "ي", "ئ": "ي", "ؤ": "و", "ة": "ه", "ک": "ك"}
_HALF_SPACE = "(?<=[\u0600-\u06ff])\u200c"  # Persian writes it between a word and its ending
_PREFIXES = [
    # and, so; like, by; the, for the: before two letters or more
    r"(?<![\u0600-\u06ff])[وف]?[بك]?(?:ال|لل)(?=[\u0600-\u06ff]{2})",
    # and; from, that, to, in, like; the: before three letters or more, since one of them may be the word's own
    r"(?<![\u0590-\u05ff])ו?[משלבכ]?ה?(?=[\u0590-\u05ff]{3})",
]


def romanizer() -> normalizers.Normalizer:
    """NFKC, lower case, Latin letters, one spelling, no prefixes in Arabic and Hebrew, single spaces.

    It is saved with a tokenizer, as data: whoever loads that needs nothing of what is needed here.

    Raises:
        ImportError: anyascii, protobuf or sentencepiece is not installed.
    """
    steps = [normalizers.NFKC(), normalizers.Lowercase()]
    steps += [normalizers.Replace(Regex(_HALF_SPACE), " "), normalizers.Replace(Regex("[\u200b-\u200d]"), "")]
    steps.append(normalizers.Precompiled(_charsmap(letter_map())))
    steps += [normalizers.Replace(pair, letter) for pair, letter in _DIGRAPHS.items()]
    steps.append(normalizers.Precompiled(_charsmap(_LETTERS)))
    steps.append(normalizers.Replace(Regex(r"([a-z])(?=\1)"), ""))
    steps += [normalizers.Replace(Regex(prefix), "") for prefix in _PREFIXES]
    steps.append(normalizers.Replace(Regex(r"\s+"), " "))
    return normalizers.Sequence(steps)


def letter_map() -> dict[str, str]:
    """What each letter of these alphabets becomes, before spelling is levelled.

    Raises:
        ImportError: anyascii is not installed.
    """
    anyascii = _needed("anyascii").anyascii
    found = dict.fromkeys(map(chr, [*_VOWEL_SIGNS, *_MARKS]), "") | _ARABIC_VARIANTS
    for ranges in ROMANIZED.values():
        for first, last in ranges:
            for letter in map(chr, range(first, last + 1)):
                if unicodedata.category(letter)[0] in "LM" and letter.lower() == letter:
                    found[letter] = re.sub("[^a-z0-9]", "", anyascii(letter).lower())
    return found


def _charsmap(letters: dict[str, str]) -> bytes:
    """The compiled form that `tokenizers` reads: sentencepiece writes it when it trains, on next to nothing here."""
    trainer = _needed("sentencepiece").SentencePieceTrainer
    model = _needed("sentencepiece.sentencepiece_model_pb2").ModelProto()

    def points(text: str) -> str:
        return " ".join(f"{ord(letter):X}" for letter in text)

    with tempfile.TemporaryDirectory() as folder:
        rules, text, prefix = (Path(folder, name) for name in ("rules.tsv", "text", "model"))
        rules.write_text("".join(f"{points(letter)}\t{points(latin)}\n" for letter, latin in letters.items()))
        text.write_text("a b d e\n" * 20)
        trainer.train(
            input=str(text),
            model_prefix=str(prefix),
            vocab_size=8,
            model_type="char",
            hard_vocab_limit=False,
            normalization_rule_tsv=str(rules),
            minloglevel=2,
        )
        model.ParseFromString(prefix.with_suffix(".model").read_bytes())
    return model.normalizer_spec.precompiled_charsmap


def _needed(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f"Romanising a tokenizer needs {error.name}: pip install 'milco-hf[romanize]'. A tokenizer that is "
            "made needs it no more."
        ) from error


__all__ = ["ROMANIZED", "letter_map", "romanizer"]
