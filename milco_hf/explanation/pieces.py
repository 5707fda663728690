"""A text cut into stretches that the same tokens cover, for marking them one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from milco_hf.explanation.result import Side

Raised = Mapping[int, Sequence[tuple[str, str, float]]]
_LISTED = 6


@dataclass(frozen=True)
class Mark:
    """A stretch of the text, or what stands before or after it.

    Args:
        kind: "plain", "unread" (cut off), "token", "special" or "prompt".
        text: What it says.
        tokens: Numbers of its tokens; several where a character's bytes are spread over tokens.
        view: The view in which they add most.
        adds: What they add to the score.
        strength: That, as a share of the largest in this text.
        raised: The terms that they raise, in words.
    """

    kind: str
    text: str
    tokens: tuple[int, ...] = ()
    view: str = ""
    adds: float = 0.0
    strength: float = 0.0
    raised: str = ""


def pieces(side: Side, raised: Raised) -> list[Mark]:
    """The whole text in its order; prompt and special tokens stand before or after it if they raise anything.

    Args:
        side: The text.
        raised: (view, term, what it adds) of all that each token raises.
    """
    largest = max((sum(adds for _, _, adds in terms) for terms in raised.values()), default=0.0)

    def mark(kind: str, text: str, tokens: Sequence[int]) -> Mark:
        terms = [term for token in tokens for term in raised.get(token, ())]
        adds = sum(added for _, _, added in terms)
        views = {view: sum(added for other, _, added in terms if other == view) for view, _, _ in terms}
        listed = list(dict.fromkeys(name for _, name, _ in terms))
        names = ", ".join(listed[:_LISTED]) + (" …" if len(listed) > _LISTED else "")
        strength = min(1.0, adds / largest) if largest else 0.0
        view = max(views, key=views.get, default="") if views else ""
        return Mark(kind, text, tuple(tokens), view, adds, strength, names)

    active = [number for number in sorted(raised) if raised[number]]
    in_text = [number for number in active if side.tokens[number].part == "text"]
    first = next((number for number, token in enumerate(side.tokens) if token.part == "text"), len(side.tokens))
    special = [number for number in active if side.tokens[number].part == "special"]
    before = [mark("special", side.tokens[number].text, [number]) for number in special if number < first]
    after = [mark("special", side.tokens[number].text, [number]) for number in special if number > first]
    if side.prompt:
        in_prompt = [number for number in active if side.tokens[number].part == "prompt"]
        before.append(mark("prompt", side.prompt, in_prompt))

    places = [(side.tokens[number].start, side.tokens[number].end, number) for number in in_text]
    edges = sorted({0, len(side.text), *side.read, *(edge for start, end, _ in places for edge in (start, end))})
    # tokens by where they begin, so that a text of thousands of tokens is cut in one pass
    waiting, open_tokens, stretches = sorted(places), [], []
    position = 0
    for start, end in pairwise(edges):
        while position < len(waiting) and waiting[position][0] <= start:
            open_tokens.append(waiting[position])
            position += 1
        open_tokens = [token for token in open_tokens if token[1] > start]
        text = side.text[start:end]
        if open_tokens:
            stretches.append(mark("token", text, [number for _, _, number in open_tokens]))
        else:
            inside = side.read[0] <= start and end <= side.read[1]
            stretches.append(Mark("plain" if inside else "unread", text))
    return [*before, *stretches, *after]


__all__ = ["Mark", "pieces"]
