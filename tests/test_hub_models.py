"""Models of the Hub: asked for once, taken from earlier downloads without a connection, and of a revision."""

from __future__ import annotations

import argparse
import json
import logging
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

import milco_hf
from milco_hf import loading
from milco_hf.cli import encode, explain, search
from milco_hf.serving import create_app

NAME = "someone/model"
MODEL = SimpleNamespace(transformers_model=None)


def refused(kind: type[HfHubHTTPError], message: str) -> HfHubHTTPError:
    """What `huggingface_hub` raises when the Hub answers so."""
    return kind(message, response=SimpleNamespace(headers={}, request=None))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub that gives `answer` and notes who asks; `opened` is what SparseEncoder was asked for."""
    found = SimpleNamespace(answer=None, asked=[], opened=[], cache=tmp_path / "cache")

    def model_info(self, name, *, revision, token, timeout):
        found.asked.append((name, revision))
        assert timeout <= 10
        if isinstance(found.answer, Exception):
            raise found.answer

    def open_model(name, **options):
        found.opened.append((name, options))
        return MODEL

    monkeypatch.setattr(HfApi, "model_info", model_info)
    monkeypatch.setattr(loading, "SparseEncoder", open_model)
    return found


def download(cache, revision="main"):
    """A configuration as an earlier download left it."""
    folder = cache / "models--someone--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / revision).write_text("a" * 40)
    (folder / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (folder / "snapshots" / ("a" * 40) / "config.json").write_text("{}")


def test_a_model_that_is_there_is_downloaded(hub):
    assert milco_hf.load(NAME, revision="v2") is MODEL
    assert hub.asked == [(NAME, "v2")]
    assert hub.opened == [(NAME, {"revision": "v2", "local_files_only": False})]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ConnectionError("Name or service not known\nand more"), r"cannot be reached \(Name or service not known\)"),
        (TimeoutError(), r"cannot be reached \(TimeoutError\)"),
        (
            refused(RepositoryNotFoundError, "404 Client Error"),
            "the Hub has no such model, or shows it only with a token",
        ),
        (refused(RevisionNotFoundError, "404 Client Error"), "the Hub has no revision 'main' of it"),
        (ValueError("Repo id is odd"), "the Hub gave: Repo id is odd"),
    ],
)
def test_without_it_one_question_is_enough(hub, answer, reason, caplog):
    hub.answer = answer
    with pytest.raises(FileNotFoundError, match=f"'someone/model': .*{reason}.*Give a bundled checkpoint"):
        milco_hf.load(NAME, cache_folder=str(hub.cache))
    assert (len(hub.asked), hub.opened) == (1, [])
    download(hub.cache)
    with caplog.at_level(logging.WARNING, "milco_hf"):
        assert milco_hf.load(NAME, cache_folder=str(hub.cache)) is MODEL
    assert hub.opened == [(NAME, {"cache_folder": str(hub.cache), "local_files_only": True})]
    assert "someone/model is taken as it was downloaded before" in caplog.text
    with pytest.raises(FileNotFoundError, match="it was not downloaded before, and the Hub"):
        milco_hf.load(NAME, cache_folder=str(hub.cache), revision="v2")


def test_offline_two_sentences_say_what_to_do(hub, caplog):
    hub.answer = OfflineModeIsEnabled("Cannot reach this: offline mode is enabled. To disable it, please unset …")
    with pytest.raises(FileNotFoundError) as caught:
        milco_hf.load(NAME, cache_folder=str(hub.cache))
    assert str(caught.value) == (
        "There is no MILCO checkpoint 'someone/model': it was not downloaded before, and the Hub is not asked in "
        "offline mode (HF_HUB_OFFLINE). Give a bundled checkpoint (milco-mini), a folder that `milco build`, `milco "
        "convert` or training wrote, or a Hub id such as organisation/model."
    )
    download(hub.cache)
    with caplog.at_level(logging.WARNING, "milco_hf"):
        assert milco_hf.load(NAME, cache_folder=str(hub.cache)) is MODEL
    assert caplog.records == []  # offline is what was asked for


def test_a_hub_that_is_busy_is_left_to_the_download(hub):
    hub.answer = refused(HfHubHTTPError, "429 Too Many Requests")
    assert milco_hf.load(NAME, cache_folder=str(hub.cache)) is MODEL
    assert hub.opened[0][1]["local_files_only"] is False


def test_who_wants_no_connection_asks_nobody(hub):
    assert milco_hf.load(NAME, local_files_only=True) is MODEL
    assert hub.asked == []


@pytest.mark.parametrize("name", ["nosuch", "a/b/c", "./none/here", "no such/model", "someone/.."])
def test_what_is_no_hub_id_is_refused_by_name(hub, name):
    hub.answer = ValueError("Repo id must use alphanumeric chars")
    with pytest.raises(FileNotFoundError, match=f"no MILCO checkpoint '{name}'"):
        milco_hf.load(name)
    assert hub.opened == []


def test_only_hub_ids_have_revisions(checkpoint):
    for name in ("milco-mini", checkpoint):
        with pytest.raises(ValueError, match="Only Hub ids have revisions.*revision='v2'"):
            milco_hf.load(name, revision="v2")
    assert milco_hf.load(checkpoint, revision=None, device="cpu")


@pytest.fixture
def loads(monkeypatch, checkpoint):
    """Every name is the tiny checkpoint; what `load` was asked for."""
    found, load = [], milco_hf.load

    def noted(name, **options):
        found.append((name, options.pop("revision", None)))
        return load(checkpoint, **{**options, "device": "cpu"})

    for place in ("milco_hf.load", "milco_hf.loading.load", "milco_hf.serving.opening.load"):
        monkeypatch.setattr(place, noted, raising=False)
    return found


def command(verb, *arguments):
    root = argparse.ArgumentParser()
    verb.add_parser(root.add_subparsers(), [])
    options = root.parse_args(list(map(str, arguments)))
    options.run(options)


def test_verbs_take_a_revision(loads, tmp_path, capsys):
    model = ["--model", NAME, "--revision", "v2"]
    command(encode, "encode", "music", *model)
    command(encode, "encode", "music", *model, "--output", tmp_path / "vectors")
    command(explain, "explain", "music", "music", "--json", *model)
    assert loads == [(NAME, "v2")] * 3
    assert json.loads((tmp_path / "vectors" / "manifest.json").read_text())["rows"] == 1
    with pytest.raises(ValueError, match="--revision needs --model"):
        command(search, "search", tmp_path / "index", "music", "--revision", "v2")


def test_the_server_takes_a_revision(loads, checkpoint):
    app = create_app(NAME, revision="v2", devices="cpu")
    assert loads == [(NAME, "v2")]
    assert app.state.engine.name == NAME
    app.state.engine.close()
    for model in (None, milco_hf.load(checkpoint)):
        with pytest.raises(ValueError, match="revision='v2' goes with a model that is given by its Hub id"):
            create_app(model, revision="v2")


def test_an_index_is_searched_with_a_revision_of_a_model(loads, tmp_path, capsys):
    from milco_hf.index import Index

    model = milco_hf.load("first")
    Index.build(model, [{"id": "a", "text": "music"}], tmp_path / "index", progress=False)
    loads.clear()
    command(search, "search", tmp_path / "index", "music", "--model", NAME, "--revision", "v2", "--json")
    app = create_app(NAME, revision="v2", index=tmp_path / "index", devices="cpu")
    app.state.engine.close()
    assert loads == [(NAME, "v2")] * 2
    assert json.loads(capsys.readouterr().out)["hits"][0]["id"] == "a"
