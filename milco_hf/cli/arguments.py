"""Types of options that several verbs have."""

from __future__ import annotations

import argparse


def positive(value: str) -> int:
    """A whole number of at least 1."""
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"has to be at least 1, got {number}")
    return number


def add_revision(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """--revision, of a model on the Hub."""
    parser.add_argument("--revision", metavar="REV", help="of --model on the Hub: branch, tag or commit")


__all__ = ["add_revision", "positive"]
