"""bf16 on a CPU without arithmetic for it is a trap that training says aloud."""

import logging

import pytest

from milco_hf.training import stage_setup
from milco_hf.training.arguments import SapArguments


@pytest.mark.parametrize(("bf16", "fast", "warns"), [(True, False, True), (True, True, False), (False, False, False)])
def test_bf16_without_arithmetic_for_it_is_warned_of(bf16, fast, warns, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(stage_setup, "fast_in_bf16", lambda device: fast)
    args = SapArguments(output_dir=str(tmp_path), bf16=bf16, use_cpu=True, report_to="none")
    with caplog.at_level(logging.WARNING):
        stage_setup.set_up(args, "training/sap.py")
    assert ("Set bf16: false" in caplog.text) is warns
