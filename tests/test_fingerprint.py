"""What a fingerprint covers of a model's own code."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch

import tiny
from milco_hf import fingerprint

FILES = {
    "__init__.py": "",
    "model.py": "from torch import nn\nfrom .layers import Layer\n\nclass Model(nn.Module):\n"
    "    def __init__(self):\n        super().__init__()\n        self.layer = Layer()\n",
    "layers.py": "from torch import nn\nfrom . import numbers_of\n\nclass Layer(nn.Module):\n    pass\n",
    "numbers_of.py": "def lazily():\n    from .deep import FACTOR\n    return FACTOR\n",
    "deep.py": "FACTOR = 2\n",
    "alone.py": "FACTOR = 3\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A model's code as remote code lies on disk: siblings that import each other."""
    folder = tmp_path / "code_of_a_model"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    model = importlib.import_module("code_of_a_model.model").Model()
    yield folder, model
    for name in [name for name in sys.modules if name.startswith("code_of_a_model")]:
        del sys.modules[name]


def test_siblings_count_however_far_away(package):
    folder, model = package
    before = fingerprint._code(model)
    for name in FILES:
        path = folder / name
        path.write_text(path.read_text() + "# another line\n")
        changed = fingerprint._code(model) != before
        assert changed == (name != "alone.py"), name
        path.write_text(FILES[name])
        assert fingerprint._code(model) == before


def test_milcos_own_code_counts_whole():
    found = fingerprint._code(tiny.model())
    assert found == fingerprint._code(tiny.model(seed=1))
    # model, configuration, head, pooling by each backend, loss, pruning, …
    assert len(found) >= 10
    assert fingerprint._code(torch.nn.Linear(2, 2)) == []
