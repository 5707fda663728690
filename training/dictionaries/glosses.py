"""What all dictionaries share: cleaning glosses, and gathering a word's glosses from both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

MAX_GLOSSES = 6
"""English glosses of a word, at most: those that come later are its rarer senses."""
MAX_WORDS = 6
MAX_CHARACTERS = 60

_BRACKETED = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}|<[^<>]*>|「[^」]*」|/[^/]*/")
_SEPARATORS = re.compile(r"[,;/،؛、]|\s\|\s")
_SOUNDS = set("ˈˌːəɪʊɛɔʌɑɹʃʒðŋɡ")
_EDGES = " \t.:!?…\"'“”„«»*=~-–—_"


@dataclass(frozen=True)
class Gloss:
    """A word or phrase, what it means in English, the word's language and the dictionary's name."""

    word: str
    english: str
    language: str
    source: str


@dataclass
class Dictionary:
    """Glosses gathered by word, in the order in which they came.

    Attributes:
        entries: by language and word, the first source that had the word and its English glosses.
    """

    entries: dict[str, dict[str, tuple[str, list[str]]]] = field(default_factory=dict)

    def add(self, glosses: Iterable[Gloss]) -> int:
        """Take glosses in; returns how many were new."""
        new = 0
        for gloss in glosses:
            _, known = self.entries.setdefault(gloss.language, {}).setdefault(gloss.word, (gloss.source, []))
            if gloss.english not in known and len(known) < MAX_GLOSSES:
                known.append(gloss.english)
                new += 1
        return new

    def rows(self, language: str) -> Iterator[tuple[str, str, str]]:
        """(English glosses, word, source) of a language's words, what the files of parallel text hold."""
        for word, (source, english) in self.entries.get(language, {}).items():
            yield ", ".join(english), word, source

    @property
    def languages(self) -> list[str]:
        """Languages with any word, sorted."""
        return sorted(self.entries)


def clean(text: str) -> str:
    """A gloss without what stands in brackets, its edges' punctuation and the "to" of English verbs."""
    text = re.sub(r"\s+", " ", _without_brackets(text).replace("~", " ")).strip(_EDGES)
    return re.sub(r"^(to|a|an|the) (?=\w)", "", text)


def usable(text: str) -> bool:
    """Whether a cleaned gloss is a short phrase with a letter in it."""
    return (
        bool(text)
        and len(text) <= MAX_CHARACTERS
        and len(text.split()) <= MAX_WORDS
        and any(map(str.isalpha, text))
        and not any(mark in text for mark in "()[]{}<>|=")
        and not _SOUNDS & set(text)
    )


def split(text: str) -> list[str]:
    """The glosses of a line: "truth, veracity" are two; commas within brackets separate nothing."""
    return [gloss for part in _SEPARATORS.split(_without_brackets(text)) if usable(gloss := clean(part))]


def _without_brackets(text: str) -> str:
    before = None
    while before != text:  # they may nest
        before, text = text, _BRACKETED.sub(" ", text)
    return text
