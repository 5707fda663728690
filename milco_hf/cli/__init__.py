"""The `milco` command."""

from milco_hf.cli.main import main

__all__ = ["main"]
