"""How explanations look: the page holds what it says and nothing else, the terminal stays whole, `milco explain`."""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

import milco_hf
import milco_hf.explanation
import tiny
from helpers_tokenizers import SENTENCES
from milco_hf.cli import explain as verb
from milco_hf.explanation import Contribution, Entry, Explanation, Side, Token, explain
from milco_hf.explanation.pieces import pieces
from milco_hf.explanation.wording import in_word, token_name

EVIL = '<script>alert("q")</script><b>music</b> & the </section> "city"'


@pytest.fixture(scope="module")
def model(checkpoint):
    return milco_hf.load(checkpoint, device="cpu")


class Page(HTMLParser):
    """The page's elements, and the text of each side."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.inside: list[str] = []
        self.texts: list[str] = []
        self.code: dict[str, str] = {}
        self.depth = 0
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("meta", "path"):
            self.inside.append(tag)
        if "text pane" in (dict(attributes).get("class") or ""):
            self.texts.append("")
            self.depth = len(self.inside)

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag
        if len(self.inside) < self.depth:
            self.depth = 0

    def handle_data(self, data):
        if self.depth and "bdi" not in self.inside:
            self.texts[-1] += data
        if self.inside and self.inside[-1] in ("script", "style", "title"):
            self.code[self.inside[-1]] = self.code.get(self.inside[-1], "") + data

    def all(self, tag: str, **attributes: str) -> list[dict]:
        return [has for name, has in self.found if name == tag and attributes.items() <= has.items()]


def stripped(text: str) -> str:
    return text.strip().replace("\r", "")


@pytest.mark.parametrize("script", SENTENCES)
def test_the_page_holds_both_texts_and_every_link_has_its_ends(model, script):
    query, document = SENTENCES[script]
    why = explain(model, query, document)
    page = Page(why.to_html())
    assert page.inside == []
    assert [stripped(text) for text in page.texts] == [query, document]
    numbers = {number for _, has in page.found for number in (has.get("data-t") or "").split()}
    rows = [has for has in page.all("button") if has.get("data-q") and has.get("data-d")]
    assert len(rows) == min(40, len(why.contributions)) > 0
    for has, part in zip(rows, why.contributions):
        assert has["data-q"].split() == [str(token) for token in part.query.tokens]
        assert {f"q{n}" for n in has["data-q"].split()} | {f"d{n}" for n in has["data-d"].split()} <= numbers
    assert len(page.all("tr")) == len(why.contributions) + 1


def test_texts_cannot_become_markup(model):
    why = explain(model, EVIL, f"{EVIL}\x00\x1b[31m \u202e")
    html = why.to_html()
    page = Page(html)
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert page.all("b") == [{}] * len(page.all("b"))
    assert stripped(page.texts[0]) == EVIL
    assert stripped(page.texts[1]) == f"{EVIL}␀␛[31m \u202e"
    assert "<script>alert" not in html
    assert "\x00" not in html
    assert "\x1b" not in html


def test_the_page_needs_nothing_else(model):
    html = explain(model, *SENTENCES["Arabic"]).to_html()
    page = Page(html)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html)
    assert not [has for _, has in page.found if {"src", "href", "onload", "onclick"} & set(has)]
    assert "url(" not in page.code["style"]
    (policy,) = [has["content"] for has in page.all("meta") if has.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(page.code["script"].encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_directions_are_left_to_the_texts(model):
    page = Page(explain(model, *SENTENCES["Arabic"]).to_html())
    assert [has["dir"] for has in page.all("div", lang="")] == ["auto", "auto"]
    assert [has for has in page.all("bdi") if has.get("class") == "word"]


def test_only_the_first_are_drawn(model):
    why = explain(model, *SENTENCES["Latin"])
    page = Page(why.to_html(top=2))
    assert len([has for has in page.all("button") if has.get("data-q") and has.get("data-d")]) == 2
    assert len(page.all("tr")) == len(why.contributions) + 1
    assert Page(why.to_html(top=2)).texts == Page(why.to_html()).texts


def test_nothing_shared(model):
    why = explain(model, "", "", query_prune="english=top_k:1 source=top_k:1", views="source")
    assert (why.score, why.contributions) == (0, ())
    assert "None, so the score is 0" in why.to_html()
    assert "score 0: no dimension is shared" in why.to_text()


def test_a_long_text_is_marked_as_cut(model):
    text = " ".join([tiny.TEXTS[0]] * 60)
    why = explain(model, "music", text)
    page = Page(why.to_html())
    assert [has["class"] for has in page.all("span") if has.get("class") == "unread"] == ["unread"]
    assert stripped(page.texts[1]) == text
    assert f"{why.document.cut} more were cut off" in why.to_html()
    assert f"{why.document.cut} tokens were cut off" in why.to_text()


def test_the_bytes_of_a_character_share_its_mark():
    """Byte-level tokens of one character cover all of it, so their places overlap."""
    spans = [(0, 1), (0, 1), (1, 3), (2, 3), (4, 5)]
    tokens = tuple(Token(f"t{i}", "text", "", start, end, None, 0.0) for i, (start, end) in enumerate(spans))
    side = Side("音ab c!", "", tokens, (), (0, 5), 1)
    raised = {
        0: [("english", "x", 2.0)],
        1: [("english", "y", 1.0)],
        2: [("source", "z", 1.0)],
        3: [("english", "w", 0)],
    }
    found = pieces(side, raised)
    assert "".join(mark.text for mark in found) == side.text
    assert [(mark.kind, mark.text, mark.tokens) for mark in found] == [
        ("token", "音", (0, 1)),
        ("token", "a", (2,)),
        ("token", "b", (2, 3)),
        ("plain", " c", ()),
        ("unread", "!", ()),
    ]
    assert [(mark.strength, mark.raised) for mark in found[:2]] == [(1.0, "x, y"), (0.5, "z")]


def test_special_tokens_and_the_prompt_stand_before_the_text():
    tokens = (
        Token("<s>", "special", "<s>", None, None, None, 0.0),
        Token("▁who", "prompt", "▁who", None, None, None, 0.0),
        Token("▁city", "text", "city", 0, 4, (0, 4), 0.0),
        Token("</s>", "special", "</s>", None, None, None, 0.0),
    )
    side = Side("city", "who: ", tokens, (), (0, 4), 0)
    found = pieces(side, {token: [("english", "x", 1.0)] for token in range(4)})
    assert [mark.kind for mark in found] == ["special", "prompt", "token", "special"]
    assert [mark.kind for mark in pieces(side, {2: [("english", "x", 1.0)]})] == ["prompt", "token"]


def test_a_token_of_nothing_but_space_has_a_name_and_a_place():
    space = Token("▁", "text", " ", 5, 6, (5, 6), 0.1)
    side = Side("music  the", "", (space,), (), (0, 10), 0)
    found = pieces(side, {0: [("source", "▁", 1.0)]})
    assert [(mark.kind, mark.text) for mark in found] == [("plain", "music"), ("token", " "), ("plain", " the")]
    assert token_name(space) == "▁"
    assert in_word(side, space) == ("", "▁", "")


def test_terminal_text_names_terms_weights_and_tokens():
    tokens = (
        Token("▁مو", "text", "مو", 0, 2, (0, 6), 0.0),
        Token("سيقى", "text", "سيقى", 2, 6, (0, 6), 0.3),
    )
    music, town = Entry(3, "music", "english", 1.5, (1,)), Entry(7, "town", "english", 0.25, (0,))
    query = Side("موسيقى", "", tokens, (music, town), (0, 6), 0)
    sound = (Token("▁music", "text", "music", 0, 5, (0, 6), 0.0),)
    document = Side("music\x1b[2J", "", sound, (Entry(3, "music", "english", 2.0, (0,)),), (0, 10), 0)
    why = Explanation("a model", query, document, (Contribution(music, document.entries[0], 3.0, 1.0),))
    screen = io.StringIO()
    shown = why.to_text(Console(file=screen, width=120, force_terminal=True, color_system="truecolor"))
    assert "a model: score 3.0000 = English terms 3.0000 (100.0 %) + echoed source tokens 0.0000 (0.0 %)" in shown
    assert "music  100.0 %" in shown
    assert "1.5000  \u2068موسيقى\u2069" in shown
    assert "only in the query  1 dimension\n" in shown
    assert "town 0.2500" in shown
    assert "\x1b" not in shown
    assert "␛[2J" in shown
    assert "\x1b[2J" not in screen.getvalue()
    assert "\x1b[" in screen.getvalue()
    assert why.to_text() != ""
    assert "and 1 more" in explain_many().to_text(top=1)


def explain_many() -> Explanation:
    """Two shared terms."""
    token = (Token("a", "text", "a", 0, 1, (0, 1), 0.0),)
    entries = (Entry(0, "a", "english", 1.0, (0,)), Entry(1, "b", "english", 0.5, (0,)))
    side = Side("a", "", token, entries, (0, 1), 0)
    return Explanation("m", side, side, tuple(Contribution(e, e, e.weight**2, e.weight**2 / 1.25) for e in entries))


def command(*arguments: str) -> None:
    parser = argparse.ArgumentParser()
    verb.add_parser(parser.add_subparsers(), [])
    options = parser.parse_args(["explain", *arguments])
    options.run(options)


def test_command_prints_json(checkpoint, model, capsys):
    pruned = ["--prune", "english=top_k:4", "source=top_k:2", "--prune-queries", "none"]
    command("who wrote", "old city music", "--model", str(checkpoint), "--device", "cpu", "--json", *pruned)
    expected = explain(model, "who wrote", "old city music", document_prune={"english": "top_k:4", "source": "top_k:2"})
    assert json.loads(capsys.readouterr().out) == expected.to_dict()


def test_command_writes_a_page_of_a_file(checkpoint, model, tmp_path, capsys):
    (tmp_path / "text.txt").write_text(EVIL, encoding="utf-8-sig")
    page = tmp_path / "why.html"
    shared = ["--model", str(checkpoint), "--device", "cpu", "--top", "5"]
    command("city", "--file", str(tmp_path / "text.txt"), "--html", str(page), *shared)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert str(page) in captured.err
    assert page.read_text(encoding="utf-8") == explain(model, "city", EVIL).to_html(top=5)


def test_a_page_is_written_whole_or_not_at_all(checkpoint, tmp_path, monkeypatch):
    page, shared = tmp_path / "why.html", ["--model", str(checkpoint), "--device", "cpu"]
    page.write_text("the page before")
    monkeypatch.setattr("milco_hf.cli.explain.os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        command("city", "old city", "--html", str(page), *shared)
    assert page.read_text() == "the page before"
    assert list(tmp_path.iterdir()) == [page]
    target = tmp_path / "target.html"
    page.unlink()
    page.symlink_to(target)  # as /dev/stdout is one: written to, not replaced
    command("city", "old city", "--html", str(page), *shared)
    assert page.is_symlink()
    assert target.read_text(encoding="utf-8").startswith("<!")


def test_command_prints_text(checkpoint, capsys):
    command("city", "old city", "--model", str(checkpoint), "--document-length", "5", "--views", "english")
    shown = capsys.readouterr().out
    assert shown.startswith(f"{checkpoint.name}: score ")
    assert "only in the document" in shown
    assert "(echo)" not in shown


def test_command_errors(tmp_path, checkpoint):
    with pytest.raises(ValueError, match="either DOCUMENT or --file"):
        command("query")
    with pytest.raises(ValueError, match="either DOCUMENT or --file"):
        command("query", "document", "--file", "text.txt")
    with pytest.raises(FileNotFoundError):
        command("query", "--file", str(tmp_path / "none.txt"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"latin\.txt is no UTF-8 text: .* at byte 3"):
        command("query", "--file", str(tmp_path / "latin.txt"))
    with pytest.raises(SystemExit):
        command("query", "document", "--top", "0")


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_script_parses():
    script = Path(milco_hf.explanation.__file__).parent / "assets" / "page.js"
    subprocess.run(["node", "--check", str(script)], check=True)
