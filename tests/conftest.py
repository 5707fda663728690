"""Every test is offline; what would reach the Hub fails at once instead of waiting for it."""

import logging
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

import tiny


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _package_logger_as_it_was():
    """The commands and training scripts set its level, which would silence other tests' `caplog`."""
    package = logging.getLogger("milco_hf")
    level = package.level
    yield
    package.setLevel(level)


@pytest.fixture(autouse=True)
def _torch_as_it_was():
    """What a test leaves changed in the process would change the last digits of those after it."""
    before = torch.backends.mkldnn.enabled
    yield
    after, torch.backends.mkldnn.enabled = torch.backends.mkldnn.enabled, before
    assert after == before, "oneDNN was left switched"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Folder of a tiny random checkpoint; tests must not write into it."""
    return tiny.checkpoint(tmp_path_factory.mktemp("milco") / "tiny")
