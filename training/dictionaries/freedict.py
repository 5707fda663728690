"""FreeDict's dictionaries as Debian's packages dict-freedict-* install them: a dictd index beside a gzip file.

https://freedict.org; the format is that of dictfmt (RFC 2229 servers): an index line holds a headword, offset and
length in base 64, and the text of an entry begins with its headword, sound and part of speech.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

from milco_hf.training.dictionaries.glosses import Gloss, clean, split, usable

LANGUAGES = {
    "ara": "ar", "ben": "bn", "ces": "cs", "deu": "de", "ell": "el", "spa": "es", "fas": "fa", "fin": "fi", "fra": "fr",
    "heb": "he", "hin": "hi", "ind": "id", "ita": "it", "jpn": "ja", "kor": "ko", "nld": "nl", "pol": "pl", "por": "pt",
    "ron": "ro", "rus": "ru", "swh": "sw", "tel": "te", "tha": "th", "tur": "tr", "ukr": "uk", "vie": "vi", "zho": "zh",
}  # fmt: skip
"""Two-letter codes of the languages that are read, by FreeDict's."""

_NAME = re.compile(r"freedict-([a-z]{3})-([a-z]{3})\.index$")
_DIGITS = {mark: value for value, mark in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}
_SOUND = re.compile(r"\s/[^/]*/")
_SENSE = re.compile(r"^\s*\d+\.\s*")
_REMARK = re.compile(r"^\s*(synonyms?|antonyms?|see|note|cross ref\w*|\"|')", re.IGNORECASE)


def languages_of(index: Path) -> tuple[str, bool] | None:
    """The language beside English and whether English is the headwords' side; None for other pairs.

    Args:
        index: freedict-AAA-BBB.index
    """
    match = _NAME.search(index.name)
    if match is None or "eng" not in match.groups():
        return None
    first, second = match.groups()
    language = LANGUAGES.get(second if first == "eng" else first)
    return None if language is None else (language, first == "eng")


def read_freedict(index: str | Path) -> Iterator[Gloss]:
    """Glosses of one dictionary from or into English.

    Args:
        index: freedict-AAA-BBB.index, beside freedict-AAA-BBB.dict.dz

    Raises:
        ValueError: not a dictionary of English and a language that is known.
        FileNotFoundError: no such index, or no text beside it.
    """
    index = Path(index)
    pair = languages_of(index)
    if pair is None:
        raise ValueError(
            f"{index.name} is no FreeDict dictionary of English and one of {', '.join(sorted(LANGUAGES))}: "
            "the name must be freedict-AAA-eng.index or freedict-eng-AAA.index."
        )
    language, english_first = pair
    with gzip.open(index.with_suffix(".dict.dz")) as file:
        text = file.read()
    seen = set()
    for line in index.read_text("utf-8").splitlines():
        name, _, place = line.partition("\t")
        if name.startswith("00database") or place in seen:
            continue
        seen.add(place)
        offset, length = (_number(part) for part in place.split("\t")[:2])
        for headword, gloss in _entry(text[offset : offset + length].decode("utf-8", "replace")):
            word, english = (gloss, headword) if english_first else (headword, gloss)
            yield Gloss(word, english, language, index.stem)


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 64 + _DIGITS[digit]
    return value


def _entry(text: str) -> Iterator[tuple[str, str]]:
    """(headword, gloss) of one entry."""
    head, _, body = text.partition("\n")
    headwords = [word for part in _SOUND.sub(" ", head).split(", ") if usable(word := clean(part))]
    first = True
    for line in body.splitlines():
        numbered = _SENSE.match(line)
        # the first line holds the glosses; later ones only where they number senses, else they explain or give examples
        if _REMARK.match(line) or not line.strip() or not (first or numbered):
            continue
        glosses = split(_SENSE.sub("", line).split(". ")[0])
        first = first and not glosses
        yield from ((headword, gloss) for headword in headwords for gloss in glosses)
