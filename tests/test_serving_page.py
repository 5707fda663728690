"""The search page: what the server sends, and, where there is a browser, what it does with it."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import milco_hf
from headless_browser import BROWSER, Page
from helpers_serving import StandInIndex
from milco_hf.serving import create_app
from milco_hf.serving.pages import api_page

SCRIPT = (files("milco_hf.serving") / "page" / "page.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def model(checkpoint):
    return milco_hf.load(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def client(model):
    with TestClient(create_app(index=StandInIndex(model))) as opened:
        yield opened


class _Page(HTMLParser):
    """Every element's name and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_page_comes_with_an_index_and_without_one_the_api(client, model):
    answer = client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert 'role="search"' in answer.text
    with TestClient(create_app(model)) as bare:
        assert bare.get("/", follow_redirects=False).headers["location"] == "/docs"
        assert bare.post("/search", json={"query": "a"}).status_code == 404


def test_nothing_comes_from_elsewhere(client):
    for path in ("/", "/docs"):
        answer = client.get(path)
        for _, attributes in _Page(answer.text).elements:
            for name in ("src", "href", "action", "srcset"):
                assert not re.match(r"[a-z]*:?//", attributes.get(name) or ""), attributes
            assert not any(name.startswith("on") for name in attributes), attributes
            assert "style" not in attributes
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert "unsafe" not in policy["script-src"]
        assert policy["frame-ancestors"] == "'none'"
    page = _Page(client.get("/").text)
    for attributes in page.all("script") + page.all("link"):
        file = client.get("/" + (attributes.get("src") or attributes["href"]))
        assert file.status_code == 200
        assert file.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"https?://", SCRIPT)
    assert "url(" not in client.get("/page.css").text


def test_every_field_has_a_label_and_the_script_finds_what_it_looks_for(client):
    page = _Page(client.get("/").text)
    labels = {attributes["for"] for attributes in page.all("label")}
    for tag in ("input", "select"):
        assert {attributes["id"] for attributes in page.all(tag)} <= labels
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert set(re.findall(r'\$\("([\w-]+)"\)', SCRIPT)) <= ids
    assert {"dir": "auto"}.items() <= page.all("input")[0].items()


def test_the_query_s_language_can_be_chosen_where_the_encoder_has_adapters(client):
    (choice,) = [tag for tag in _Page(client.get("/").text).all("select") if tag["id"] == "query-language"]
    assert "hidden" in choice  # until `/info` names adapters
    assert client.get("/info").json()["language_adapters"] == []
    assert 'offer("query-language", adapters' in SCRIPT
    assert "body.query_language = queryLanguage" in SCRIPT
    assert "{ query, prune, query_language, id: hit.id" in SCRIPT


def test_the_script_has_no_way_to_write_html():
    # textContent and createElement alone; the explanation goes into a frame of an origin of its own
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function", SCRIPT)
    assert 'frame.setAttribute("sandbox", "allow-scripts")' in SCRIPT


def test_the_explanation_in_the_frame_may_run_its_script_and_no_other(client):
    page = client.post(
        "/explain", json={"query": "<script>alert(1)</script> Musik", "id": "<b>xss</b>", "format": "html"}
    )
    assert "<script>alert" not in page.text
    assert "<img" not in page.text
    (own,) = set(re.findall(r"sha256-[\w+/=]+", page.text))
    assert f"'{own}'" in client.get("/").headers["content-security-policy"]


def test_hits_reach_the_page_as_they_are(client):
    found = client.post("/search", json={"query": "music", "k": 10, "terms": 8})
    assert found.headers["content-type"] == "application/json"
    (hit,) = [hit for hit in found.json()["hits"] if hit["id"] == "<b>xss</b>"]
    assert hit["text"].startswith("<img src=x")


def test_the_api_page_escapes():
    api = {
        "info": {"title": "<b>", "description": "<i>"},
        "paths": {"/<u>": {"get": {"description": "<s>", "responses": {"200": {"description": "<p>"}}}}},
    }
    assert not {"b", "i", "u", "s"} & {tag for tag, _ in _Page(api_page(api)).elements}


SERVER = """
import sys
import helpers_serving, milco_hf
from milco_hf.serving import create_app, serve
model = milco_hf.load(sys.argv[1], device="cpu")
serve(create_app(index=helpers_serving.StandInIndex(model)), port=0, ready=lambda address: print(address, flush=True))
"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser: MILCO_BROWSER names none, and none is on the path")
def test_a_browser_shows_results_and_runs_no_markup_of_theirs(checkpoint, tmp_path):
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(checkpoint)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    )
    try:
        address = server.stdout.readline().strip()
        page = Page(tmp_path / "profile")
        try:
            _look_at(page, address)
        finally:
            page.close()
    finally:
        server.terminate()
        assert server.wait(120) == 0


def _look_at(page, address):
    page.call("Page.navigate", url=f"{address}/?q=alte+Musik&mass=0.8")
    page.wait_for("document.querySelectorAll('#results > li').length === 4")
    assert page.run("document.title") == "milco-hf search"  # neither the img's nor the script's title
    assert page.run("document.querySelectorAll('#results img, #results script').length") == 0
    texts = "[...document.querySelectorAll('#results .text')]"
    assert sorted(page.run(f"{texts}.map(text => text.lang)")) == ["", "ar", "de", "en"]
    assert page.run(f"{texts}.find(text => text.lang === 'ar').matches(':dir(rtl)')")
    assert page.run(f"{texts}.some(text => text.textContent.startsWith('<img src=x'))")
    assert (
        page.run("[...document.querySelectorAll('.language')].map(tag => tag.textContent).sort().join()") == "ar,de,en"
    )
    assert page.run("document.querySelectorAll('.term').length") > 0
    assert re.search(r"Searched with \d+ of the query's \d+ dimensions", page.run("document.body.innerText"))
    assert page.run("document.querySelector('#mass').value") == "80"
    # the explanation, in a frame that has an origin of its own
    page.run("document.querySelector('#results button').focus(); document.activeElement.click()")
    page.wait_for("document.querySelector('iframe') !== null")
    assert page.run("document.querySelector('iframe').getAttribute('sandbox')") == "allow-scripts"
    assert page.run("document.querySelector('iframe').contentDocument") is None
    assert page.run("document.activeElement.getAttribute('aria-expanded')") == "true"
    page.run("document.activeElement.click()")
    page.wait_for("document.querySelector('iframe') === null")
