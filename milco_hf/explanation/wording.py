"""Words and numbers that the terminal and the page share."""

from __future__ import annotations

import re

from milco_hf.explanation.result import Entry, Explanation, Side, Token

# Control characters would move a terminal's cursor, and directional marks would turn what stands around them.
_CONTROLS = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
_CONTROLS |= dict.fromkeys(range(0x80, 0xA0), "\N{REPLACEMENT CHARACTER}")
_DIRECTIONS = dict.fromkeys(
    [0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\N{REPLACEMENT CHARACTER}"
)
VIEW_NAMES = {"english": "English", "source": "echo"}


def visible(text: str, directions: bool = True) -> str:
    """The text with pictures in place of control characters, character by character.

    Args:
        text: Any text.
        directions: Whether marks that change the writing direction stay.
    """
    return text.translate(_CONTROLS if directions else {**_CONTROLS, **_DIRECTIONS})


def term_name(term: str, view: str) -> str:
    """How people read a term: `▁Musik` of the source view is Musik, bytes of byte-level tokens stay as they are."""
    name = term.replace("▁", " ").strip() if view == "source" else term
    return visible(name or term)


def token_name(token: Token) -> str:
    """How people read a token."""
    if token.part == "special":
        return visible(token.name)
    if token.part == "prompt":
        return f"prompt: {visible(token.name)}"
    return visible(token.text if token.text.strip() else token.name)


def in_word(side: Side, token: Token) -> tuple[str, str, str]:
    """What stands before the token in its word, the token, and what comes after it.

    Words of scripts without spaces are whole sentences to a tokenizer; there the token stands alone.
    """
    if token.word is None or not token.text.strip() or token.word[1] - token.word[0] > 24:
        return "", token_name(token), ""
    (first, last), start, end = token.word, token.start, token.end
    return visible(side.text[first:start]), visible(side.text[start:end]), visible(side.text[end:last])


def tokens_of(side: Side, entry: Entry) -> list[Token]:
    """The tokens that a dimension comes from, equal ones in equal words once."""
    found = {}
    for token in (side.tokens[number] for number in entry.tokens):
        found.setdefault((token.part, token.name, in_word(side, token)), token)
    return list(found.values())


def summary(explanation: Explanation) -> str:
    """The score and its two parts in a line."""
    english, source = explanation.english, explanation.source
    if not explanation.contributions:
        return "score 0: no dimension is shared"
    shares = [f"{number(part)} ({share(part / explanation.score)})" for part in (english, source)]
    return f"score {number(explanation.score)} = English terms {shares[0]} + echoed source tokens {shares[1]}"


def number(value: float) -> str:
    """Four digits after the point, or as many as show anything."""
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.0001 else f"{value:.1e}"


def share(value: float) -> str:
    """A share as a percentage."""
    return "<0.1 %" if 0 < value < 0.001 else f"{100 * value:.1f} %"


def is_right_to_left(text: str) -> bool:
    """Whether the text holds letters of a script that runs from right to left."""
    return _RIGHT_TO_LEFT.search(text) is not None


# Hebrew, Arabic, Syriac, Thaana, NKo …; presentation forms; Adlam and other scripts beyond the first plane
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefe\U00010800-\U00010fff\U0001e800-\U0001efff]")

__all__ = [
    "VIEW_NAMES",
    "in_word",
    "is_right_to_left",
    "number",
    "share",
    "summary",
    "term_name",
    "token_name",
    "tokens_of",
    "visible",
]
