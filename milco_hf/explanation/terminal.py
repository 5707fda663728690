"""An explanation as text, for a terminal."""

from __future__ import annotations

from io import StringIO

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from milco_hf.explanation.result import Entry, Explanation, Side
from milco_hf.explanation.wording import (
    in_word,
    is_right_to_left,
    number,
    share,
    summary,
    term_name,
    tokens_of,
    visible,
)

WIDTH = 110
"""Columns where there is no terminal to ask."""
_STYLES = {"english": "cyan", "source": "yellow"}
_BAR = 10
# First strong isolate and its end: a terminal that turns right-to-left words then turns them each in its own place.
_ISOLATE, _END = "\u2068", "\u2069"


def as_text(explanation: Explanation, console: Console | None, top: int) -> str:
    """The explanation without colours; printed as well, where there is a console."""
    shown = Group(*_parts(explanation, top))
    if console is not None:
        console.print(shown)
    plain = Console(file=StringIO(), width=console.width if console is not None else WIDTH, color_system=None)
    plain.print(shown)
    return "\n".join(line.rstrip() for line in plain.file.getvalue().splitlines()) + "\n"


def _parts(explanation: Explanation, top: int) -> list:
    parts = [Text(f"{visible(explanation.model, False)}: {summary(explanation)}", style="bold"), ""]
    parts += [*_text(explanation, "query"), *_text(explanation, "document")]
    if explanation.contributions:
        parts += [_table(explanation, top)]
        left = len(explanation.contributions) - top
        if left > 0:
            rest = sum(part.share for part in explanation.contributions[top:])
            parts += [Text(f"and {left} more, {share(rest)} of the score", style="dim")]
    for kind, side, entries in (
        ("query", explanation.query, explanation.query_only),
        ("document", explanation.document, explanation.document_only),
    ):
        parts += ["", *_only(kind, side, entries, max(1, top // 2))]
    return parts


def _text(explanation: Explanation, kind: str) -> list:
    """A text, its tokens that matter in colour."""
    side: Side = getattr(explanation, kind)
    text = Text(visible(side.text, directions=False))
    for part in explanation.contributions:
        entry: Entry = getattr(part, kind)
        for token in (side.tokens[place] for place in entry.tokens):
            if token.start is not None:
                text.stylize(f"bold {_STYLES[part.view]}", token.start, token.end)
    text.stylize("dim strike", side.read[1], len(text))
    text.stylize("dim strike", 0, side.read[0])
    about = f"{len(side.entries)} dimensions"
    about += f", {side.cut} tokens were cut off" if side.cut else ""
    title = Text.assemble((kind, "bold"), (f"  {about}", "dim"))
    if side.prompt:
        title.append(f"  prompt: {visible(side.prompt, directions=False)!r}", "dim")
    return [title, Padding(text, (0, 0, 1, 2))]


def _table(explanation: Explanation, top: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name, right in (("term", False), ("share", True), ("", False), ("adds", True), ("query", True)):
        table.add_column(name, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    table.add_column("← raised by", overflow="fold")
    table.add_column("document", justify="right", no_wrap=True)
    table.add_column("← raised by", overflow="fold")
    largest = explanation.contributions[0].share
    for part in explanation.contributions[:top]:
        bar = "━" * max(1, round(_BAR * part.share / largest)) if part.share > 0 else ""
        table.add_row(
            _name(part.query),
            share(part.share),
            Text(bar, style=_STYLES[part.view]),
            number(part.score),
            number(part.query.weight),
            _raised_by(explanation.query, part.query),
            number(part.document.weight),
            _raised_by(explanation.document, part.document),
        )
    return table


def _only(kind: str, side: Side, entries: tuple[Entry, ...], top: int) -> list:
    """What one side has alone, in a paragraph."""
    head = Text.assemble(
        (f"only in the {kind}", "bold"), (f"  {len(entries)} dimension{'s' * (len(entries) != 1)}", "dim")
    )
    if not entries:
        return [head]
    listed = Text()
    for entry in entries[:top]:
        if listed:
            listed.append(", ")
        listed.append_text(_name(entry)).append(f" {number(entry.weight)}", "dim")
    if len(entries) > top:
        listed.append(f", and {len(entries) - top} more", "dim")
    return [head, Padding(listed, (0, 0, 0, 2))]


def _name(entry: Entry) -> Text:
    name = Text(_isolated(term_name(entry.term, entry.view)), style=_STYLES[entry.view])
    if entry.view == "source":
        name.append(" (echo)", "dim")
    return name


def _raised_by(side: Side, entry: Entry) -> Text:
    """The tokens, each in its word."""
    words = Text()
    for token in tokens_of(side, entry):
        if words:
            words.append(", ")
        before, itself, after = in_word(side, token)
        isolated = is_right_to_left(before + itself + after)
        words.append(_ISOLATE if isolated else "")
        words.append(before, "dim").append(itself, "bold").append(after, "dim")
        words.append(_END if isolated else "")
    return words


def _isolated(text: str) -> str:
    return f"{_ISOLATE}{text}{_END}" if is_right_to_left(text) else text


__all__ = ["WIDTH", "as_text"]
