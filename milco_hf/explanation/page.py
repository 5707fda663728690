"""An explanation as one self-contained HTML page: both texts, the shared terms between them, and links."""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from milco_hf.explanation.pieces import Mark, pieces
from milco_hf.explanation.result import Contribution, Entry, Explanation, Side
from milco_hf.explanation.wording import in_word, number, share, term_name, token_name, tokens_of, visible

_ASSETS = Path(__file__).parent / "assets"


def render(explanation: Explanation, top: int) -> str:
    """The page.

    Args:
        explanation: What it shows.
        top: How many shared terms are drawn, and how many of each side alone are listed.
    """
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    score, parts = explanation.score, explanation.contributions
    return _template().render(
        css=_asset("page.css"),
        script=script,
        script_hash=f"sha256-{digest}",
        title=visible(explanation.query.text, directions=False)[:80],
        about=f"{visible(explanation.model, directions=False)} · inner product of both vectors",
        score=number(score),
        english=number(explanation.english),
        english_share=share(explanation.english / score if score else 0.0),
        source=number(explanation.source),
        source_share=share(explanation.source / score if score else 0.0),
        shared=f"{len(parts)}" + (f", the first {top} drawn" if len(parts) > top else ""),
        rows=[_row(explanation, part) for part in parts],
        top=top,
        query=_side(explanation, "query", explanation.query_only, top),
        document=_side(explanation, "document", explanation.document_only, top),
    )


def _row(explanation: Explanation, part: Contribution) -> dict[str, Any]:
    largest = explanation.contributions[0].score or 1.0
    return {
        "term": term_name(part.term, part.view),
        "view": part.view,
        "score": number(part.score),
        "share": share(part.share),
        "strength": f"{part.score / largest:.3f}",
        "query_weight": number(part.query.weight),
        "query_tokens": _numbers(part.query),
        "query_words": [in_word(explanation.query, token) for token in tokens_of(explanation.query, part.query)],
        "document_weight": number(part.document.weight),
        "document_tokens": _numbers(part.document),
        "document_words": [
            in_word(explanation.document, token) for token in tokens_of(explanation.document, part.document)
        ],
    }


def _side(explanation: Explanation, kind: str, only: tuple[Entry, ...], top: int) -> dict[str, Any]:
    side: Side = getattr(explanation, kind)
    letter = kind[0]
    about = f"{len(side.entries)} dimensions, {len(side.tokens)} tokens"
    return {
        "kind": kind,
        "letter": letter,
        "title": kind.capitalize(),
        "about": about + (f", {side.cut} more were cut off" if side.cut else ""),
        "pieces": [_piece(side, letter, mark) for mark in pieces(side, _marks(explanation, kind, only[:top]))],
        "only": [
            {
                "term": term_name(entry.term, entry.view),
                "view": entry.view,
                "weight": number(entry.weight),
                "tokens": _numbers(entry),
            }
            for entry in only[:top]
        ],
        "only_count": len(only),
    }


def _marks(explanation: Explanation, kind: str, only: tuple[Entry, ...]) -> dict[int, list[tuple[str, str, float]]]:
    """What each token raised: (view, term, what it adds), what adds most first; terms of this side alone add 0."""
    found = defaultdict(list)
    for part in explanation.contributions:
        entry: Entry = getattr(part, kind)
        for token in entry.tokens:
            found[token].append((entry.view, term_name(entry.term, entry.view), part.score / len(entry.tokens)))
    for entry in only:
        for token in entry.tokens:
            found[token].append((entry.view, term_name(entry.term, entry.view), 0.0))
    return found


def _piece(side: Side, letter: str, mark: Mark) -> dict[str, Any]:
    """What the template needs of a stretch of text."""
    if mark.kind in ("plain", "unread"):
        return {"kind": mark.kind, "text": visible(mark.text)}
    classes = f" {mark.view}" if mark.adds else " alone" if mark.raised else ""
    names = ", ".join(dict.fromkeys(token_name(side.tokens[token]) for token in mark.tokens))
    return {
        "kind": mark.kind,
        "text": visible(mark.text),
        "tokens": " ".join(f"{letter}{token}" for token in mark.tokens if mark.raised),
        "classes": classes + (" raises" if mark.adds else ""),
        "strength": f"{mark.strength:.3f}",
        "title": f"{names}: {mark.raised}" if mark.raised else names,
    }


def _numbers(entry: Entry) -> str:
    return " ".join(map(str, entry.tokens))


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_ASSETS), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template("page.html")


__all__ = ["render"]
