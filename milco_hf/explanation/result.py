"""What an explanation is made of: two texts, their tokens and dimensions, and what each shared dimension adds."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console

View = Literal["english", "source"]


@dataclass(frozen=True)
class Token:
    """A source token of a text.

    Args:
        name: As the vocabulary writes it, such as "▁Musik".
        part: "text", or "prompt" for what the checkpoint puts before every text, or "special" (`<s>`).
        text: What it covers; the name of a special token.
        start: Where it begins in the text, in characters (Python's, so Unicode code points); None outside of it.
        end: Where it ends.
        word: (start, end) of the word that it is a part of, as the tokenizer splits words; None outside of the text.
        echo: Its own weight w_i in the source view; 0 where it does not echo.
    """

    name: str
    part: Literal["text", "prompt", "special"]
    text: str
    start: int | None
    end: int | None
    word: tuple[int, int] | None
    echo: float


@dataclass(frozen=True)
class Entry:
    """A dimension of one text.

    Args:
        dimension: 0 … V_e − 1 for English terms, V_e … V_e + V_s − 1 for source tokens.
        term: The English term, or the source token's name.
        view: "english" or "source".
        weight: In the text's vector.
        tokens: Numbers of the tokens that it comes from, in `Side.tokens`: the one whose logit won, for an English
            term; all that echo, for a source token (the largest, where the checkpoint's `echo_pooling` is "max").
    """

    dimension: int
    term: str
    view: View
    weight: float
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Side:
    """A text and its vector.

    Args:
        text: As it was given.
        prompt: What the checkpoint puts before it.
        tokens: What the model read, special tokens included.
        entries: Its active dimensions after pruning, heaviest first.
        read: (start, end) of what the model read of the text, in characters; the rest was cut off.
        cut: Tokens that were cut off.
    """

    text: str
    prompt: str
    tokens: tuple[Token, ...]
    entries: tuple[Entry, ...]
    read: tuple[int, int]
    cut: int

    def _as_dict(self) -> dict[str, Any]:
        named = ("name", "part", "text", "start", "end", "echo")
        return {
            "text": self.text,
            "prompt": self.prompt,
            "tokens": [{name: getattr(token, name) for name in named} for token in self.tokens],
            "dimensions": len(self.entries),
            "read": list(self.read),
            "cut": self.cut,
        }


@dataclass(frozen=True)
class Contribution:
    """What one shared dimension adds to the score.

    Args:
        query: The dimension in the query's vector.
        document: The same dimension in the document's.
        score: The product of both weights.
        share: Its part of the whole score, 0 … 1.
    """

    query: Entry
    document: Entry
    score: float
    share: float

    @property
    def dimension(self) -> int:
        """The dimension's number."""
        return self.query.dimension

    @property
    def term(self) -> str:
        """The English term, or the source token's name."""
        return self.query.term

    @property
    def view(self) -> View:
        """The view that it belongs to: "english" or "source"."""
        return self.query.view


@dataclass(frozen=True)
class Explanation:
    """Why a document got its score for a query; `milco_hf.explain` makes it.

    Args:
        model: The checkpoint's name.
        query: The query and its vector.
        document: The document and its vector.
        contributions: Every shared dimension, what adds most first.
    """

    model: str
    query: Side
    document: Side
    contributions: tuple[Contribution, ...]

    @cached_property
    def score(self) -> float:
        """⟨q, d⟩ = ⟨t_q, t_d⟩ + ⟨s_q, s_d⟩: the sum of all contributions (paper, section 3)."""
        return math.fsum(part.score for part in self.contributions)

    @cached_property
    def english(self) -> float:
        """The English terms' part of the score, ⟨t_q, t_d⟩."""
        return math.fsum(part.score for part in self.contributions if part.view == "english")

    @cached_property
    def source(self) -> float:
        """The echo's part of the score, ⟨s_q, s_d⟩."""
        return math.fsum(part.score for part in self.contributions if part.view == "source")

    @cached_property
    def query_only(self) -> tuple[Entry, ...]:
        """Dimensions of the query that the document lacks, heaviest first."""
        return self._only(self.query)

    @cached_property
    def document_only(self) -> tuple[Entry, ...]:
        """Dimensions of the document that the query lacks, heaviest first."""
        return self._only(self.document)

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """All of it as what `json` can write; tokens are named by their number in "query" or "document".

        Args:
            top: How many contributions, and how many dimensions of one side alone; None for all.

        Raises:
            ValueError: `top` is below 1.
        """
        check_top(top)
        return {
            "model": self.model,
            "score": self.score,
            "english": self.english,
            "source": self.source,
            "query": self.query._as_dict(),
            "document": self.document._as_dict(),
            "contributions": [
                {
                    "term": part.term,
                    "view": part.view,
                    "dimension": part.dimension,
                    "score": part.score,
                    "share": part.share,
                    "query": {"weight": part.query.weight, "tokens": list(part.query.tokens)},
                    "document": {"weight": part.document.weight, "tokens": list(part.document.tokens)},
                }
                for part in self.contributions[:top]
            ],
            "query_only": [_entry_as_dict(entry) for entry in self.query_only[:top]],
            "document_only": [_entry_as_dict(entry) for entry in self.document_only[:top]],
        }

    def to_json(self, top: int | None = None) -> str:
        """`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(top), ensure_ascii=False)

    def to_html(self, top: int = 40) -> str:
        """One self-contained HTML page: both texts with their tokens marked, and links through the shared terms.

        Args:
            top: How many shared terms are drawn, and how many terms of one side alone are listed; the table on the page
                has every shared one.

        Raises:
            ValueError: `top` is below 1.
        """
        from milco_hf.explanation.page import render

        return render(self, check_top(top))

    def to_text(self, console: Console | None = None, top: int = 20) -> str:
        """For a terminal.

        Args:
            console: Where it is printed, in that console's width and colours; None prints nothing.
            top: How many shared terms; of what one side has alone, half as many.

        Returns:
            The same without colours.

        Raises:
            ValueError: `top` is below 1.
        """
        from milco_hf.explanation.terminal import as_text

        return as_text(self, console, check_top(top))

    def _only(self, side: Side) -> tuple[Entry, ...]:
        shared = {part.dimension for part in self.contributions}
        return tuple(entry for entry in side.entries if entry.dimension not in shared)


def check_top(top: int | None) -> int | None:
    """Refuses numbers below 1."""
    if top is not None and top < 1:
        raise ValueError(f"top has to be at least 1, got {top}.")
    return top


def _entry_as_dict(entry: Entry) -> dict[str, Any]:
    return {
        "term": entry.term,
        "view": entry.view,
        "dimension": entry.dimension,
        "weight": entry.weight,
        "tokens": list(entry.tokens),
    }


__all__ = ["Contribution", "Entry", "Explanation", "Side", "Token", "View", "check_top"]
