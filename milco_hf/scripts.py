"""Words of any script, for BM25 and for splitting long documents."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import regex

# Scripts that put no spaces between words.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
# Combining marks belong to words: without them Devanagari and Arabic words fall apart. So do joiners.
_RUNS = regex.compile(
    rf"(?P<unspaced>[{_UNSPACED}][{_UNSPACED}\p{{M}}]*)"
    rf"|(?P<word>[\p{{L}}\p{{N}}_--[{_UNSPACED}]][\p{{L}}\p{{M}}\p{{N}}_\u200c\u200d--[{_UNSPACED}]]*)",
    regex.V1,
)
_UNITS = regex.compile(rf"[{_UNSPACED}]\p{{M}}*|[^\s{_UNSPACED}]+", regex.V1)
_CLUSTERS = regex.compile(r"\X")


def words(text: str) -> list[str]:
    """Terms for BM25: words where the script has spaces, pairs of neighbouring characters where it has none.

    Text is NFKC-normalised and case-folded. Runs of letters, marks and digits are words; runs of Han, Kana, Thai, Lao,
    Khmer and Myanmar letters give overlapping bigrams of grapheme clusters (one alone gives itself). No stemming and no
    stop words, so that every language is treated alike.

    Example:
        >>> words("Die alte Stadt, 老城")
        ['die', 'alte', 'stadt', '老城']
        >>> words("老城的音乐")
        ['老城', '城的', '的音', '音乐']
    """
    terms: list[str] = []
    for match in _RUNS.finditer(unicodedata.normalize("NFKC", text).casefold()):
        if match["word"]:
            terms.append(match["word"])
            continue
        clusters = _CLUSTERS.findall(match["unspaced"])
        terms += ["".join(pair) for pair in pairwise(clusters)] if len(clusters) > 1 else clusters
    return terms


def split_passages(text: str, length: int) -> list[str]:
    """Consecutive passages of at most `length` words; a letter of a script without spaces counts as a word.

    Every passage is a stretch of the text as it is, and together they hold every word. A text without words is one
    passage.

    Raises:
        ValueError: `length` is below 1.
    """
    if length < 1:
        raise ValueError(f"A passage needs at least 1 word, got {length}.")
    spans = [match.span() for match in _UNITS.finditer(text)]
    if len(spans) <= length:
        return [text]
    return [
        text[spans[start][0] : spans[min(start + length, len(spans)) - 1][1]] for start in range(0, len(spans), length)
    ]


__all__ = ["split_passages", "words"]
