"""`milco serve`: its flags, and what it makes of them."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict, fields
from types import SimpleNamespace

import pytest

from milco_hf.cli import serve as verb
from milco_hf.serving import Limits


def parser() -> argparse.ArgumentParser:
    """The verb by itself."""
    root = argparse.ArgumentParser()
    root.set_defaults(verbose=False)
    verb.add_parser(root.add_subparsers(), [])
    return root


@pytest.fixture
def started(monkeypatch):
    """What `milco serve` would start: the arguments of `create_app`."""
    seen = {}

    def create_app(model, **options):
        seen.update(model=model, **options)
        return SimpleNamespace(state=SimpleNamespace(engine=None))

    monkeypatch.setattr("milco_hf.serving.create_app", create_app, raising=False)
    monkeypatch.setattr("milco_hf.serving.serve", lambda *_, **__: None, raising=False)
    monkeypatch.delenv("MILCO_API_KEY", raising=False)

    def start(*arguments: str) -> dict:
        options = parser().parse_args(["serve", *arguments])
        options.run(options)
        return seen

    return start


def test_every_limit_has_a_flag_with_its_default(capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(["serve", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for limit in fields(Limits):
        default = re.escape(f"(default: {limit.default:,.12g})")
        assert re.search(rf" --{limit.name.replace('_', '-')} [NS] [^(]+{default}", shown), limit.name


def test_limits_reach_the_server(started):
    assert started()["settings"].limits == Limits()
    given = {limit.name: limit.default + 1 for limit in fields(Limits)}
    arguments = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", f"{value:.12g}")]
    assert asdict(started(*arguments)["settings"].limits) == given
    with pytest.raises(ValueError, match="queue_timeout has to be above 0"):
        started("--queue-timeout", "0")
    with pytest.raises(SystemExit):
        started("--max-hits", "0")


def test_a_revision_reaches_the_server(started):
    found = started("--model", "someone/model", "--revision", "v2")
    assert (found["model"], found["revision"]) == ("someone/model", "v2")
    assert started("--model", "someone/model")["revision"] is None
