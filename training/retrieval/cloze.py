"""Cross-lingual rows from parallel text: an inverse cloze task whose question is in another language than its passage.

Questions and passages that are translations of each other are rare; sentence pairs are not. A passage is a handful of
sentences of one source in one language, its question one of them in another language, whole or in part. Two languages
meet wherever both translate the same English sentence. In-batch negatives in both languages then teach what sparse
alignment does not: that the language says nothing about relevance, in texts as long as passages are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from milco_hf.mining.files import to_line, write_lines
from milco_hf.training.data.sources import SourceSpec, iterate_source

logger = logging.getLogger(__name__)

UNSPACED = frozenset({"zh", "ja", "th"})


@dataclass(frozen=True)
class ClozeSettings:
    """How rows are drawn.

    Attributes:
        rows: how many.
        english_share: share of rows whose passage is English, and of the others' questions that are English even where
            another language could be had.
        shortest, longest: a passage ends once its English has a length drawn between the two, in characters.
        question_words: a question longer than this many words is cut to a part of that length (a word counts as two
            characters in scripts without spaces).
        shortest_sentence: sentences of fewer English characters are left out.
        tag_weights: factors of how often source tags are drawn, 1 for those not named.
        seed: seeds every draw.
    """

    rows: int = 120_000
    english_share: float = 0.3
    shortest: int = 60
    longest: int = 800
    question_words: int = 14
    shortest_sentence: int = 25
    tag_weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if self.rows < 1:
            raise ValueError(f"rows must be a positive number, got {self.rows}.")
        if not 0 < self.shortest <= self.longest:
            raise ValueError(
                f"shortest and longest must be 0 < shortest <= longest, got {self.shortest}, {self.longest}."
            )
        if not 0 <= self.english_share <= 1:
            raise ValueError(f"english_share must lie between 0 and 1, got {self.english_share}.")
        if any(weight < 0 for weight in self.tag_weights.values()):
            raise ValueError(f"tag_weights must not be negative, got {dict(self.tag_weights)}.")


@dataclass
class Sentences:
    """Parallel sentences by their English side.

    Attributes:
        english: English sentences, each once.
        tags: their source tags.
        translations: of each, by language.
    """

    english: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    translations: list[dict[str, str]] = field(default_factory=list)

    def text(self, number: int, language: str) -> str:
        """A sentence in a language that it has."""
        return self.english[number] if language == "en" else self.translations[number][language]

    def by_language_and_tag(self, shortest: int) -> dict[str, dict[str, np.ndarray]]:
        """Numbers of the sentences that each language has, by source tag; every one for `en`."""
        found: dict[str, dict[str, list[int]]] = {}
        for number, (english, tag, others) in enumerate(zip(self.english, self.tags, self.translations, strict=True)):
            if len(english) >= shortest:
                for language in ("en", *others):
                    found.setdefault(language, {}).setdefault(tag, []).append(number)
        return {language: {tag: np.array(numbers) for tag, numbers in tags.items()} for language, tags in found.items()}


def read_sentences(paths: Iterable[str], exclude_sources: Iterable[str] = ()) -> Sentences:
    """Read parallel text, and join what translates the same English sentence.

    Args:
        paths: files, folders or globs, or Hub ids, as `train_data` of SAP has them.
        exclude_sources: source tags to leave out; `tag:language` in one language only.
    """
    sentences, numbers = Sentences(), {}
    for path in paths:
        for pair in iterate_source(SourceSpec(path), frozenset(exclude_sources)):
            number = numbers.setdefault(pair.english, len(numbers))
            if number == len(sentences.english):
                sentences.english.append(pair.english)
                sentences.tags.append(pair.source)
                sentences.translations.append({})
            sentences.translations[number].setdefault(pair.language, pair.other)
    return sentences


def write_rows(output: str | Path, sentences: Sentences, settings: ClozeSettings) -> int:
    """Draw rows, and write them as JSONL: `query`, `pos` (one passage), `language` (its), `query_language`, `source`.

    Args:
        output: file to write, whole or not at all; compressed where its name ends in .gz, .xz or .bz2.
        sentences: what to draw from.
        settings: how.

    Returns:
        How many rows were written.

    Raises:
        ValueError: there is nothing to draw from.
    """
    pools = {
        language: _Pool.of(language, by_tag, settings.tag_weights)
        for language, by_tag in sentences.by_language_and_tag(settings.shortest_sentence).items()
    }
    others = sorted(set(pools) - {"en"})
    if not others:
        raise ValueError(
            f"No sentence has {settings.shortest_sentence} English characters or more: nothing to draw from."
        )
    rng = np.random.default_rng(settings.seed)

    def rows() -> Iterator[str]:
        for _ in range(settings.rows):
            language = "en" if rng.random() < settings.english_share else others[rng.integers(len(others))]
            yield to_line(_row(sentences, pools[language], language, settings, rng))

    written = write_lines(Path(output), rows())
    logger.info(
        "%d rows in %s, over %d sentences and %d languages", written, output, len(sentences.english), len(pools)
    )
    return written


@dataclass(frozen=True)
class _Pool:
    """A language's sentences by source tag, and how often each tag is drawn."""

    tags: list[str]
    numbers: list[np.ndarray]
    shares: np.ndarray

    @classmethod
    def of(cls, language: str, by_tag: dict[str, np.ndarray], weights: Mapping[str, float]) -> _Pool:
        tags = sorted(by_tag)
        # by the square root of their size: large sources would drown the small ones
        shares = np.array([weights.get(tag, 1.0) * len(by_tag[tag]) ** 0.5 for tag in tags])
        if not shares.sum() > 0:
            raise ValueError(f"tag_weights leave nothing to draw in {language!r}, which has {', '.join(tags)}.")
        return cls(tags, [by_tag[tag] for tag in tags], shares / shares.sum())


def _row(
    sentences: Sentences, pool: _Pool, language: str, settings: ClozeSettings, rng: np.random.Generator
) -> dict[str, object]:
    drawn = rng.choice(len(pool.tags), p=pool.shares)
    numbers = pool.numbers[drawn]
    wanted = rng.integers(settings.shortest, settings.longest + 1)
    chosen: list[int] = []
    while sum(len(sentences.english[number]) for number in chosen) < wanted and len(chosen) < len(numbers):
        number = int(rng.choice(numbers))
        if number not in chosen:
            chosen.append(number)
    asked = chosen[rng.integers(len(chosen))]
    questions = sorted(set(sentences.translations[asked]) - {language})
    if language != "en" and (not questions or rng.random() < settings.english_share):
        questions = ["en"]
    question = questions[rng.integers(len(questions))]
    between = "" if language in UNSPACED else " "
    return {
        "query": _part(sentences.text(asked, question), question, settings.question_words, rng),
        "pos": [between.join(sentences.text(number, language) for number in chosen)],
        "language": language,
        "query_language": question,
        "source": pool.tags[drawn],
    }


def _part(text: str, language: str, words: int, rng: np.random.Generator) -> str:
    """A run of so many words, at a random place."""
    pieces: list[str] | str = text if language in UNSPACED else text.split()
    length = 2 * words if language in UNSPACED else words
    if len(pieces) <= length:
        return text
    start = int(rng.integers(len(pieces) - length + 1))
    return ("" if language in UNSPACED else " ").join(pieces[start : start + length])
