"""Types of options that several verbs have."""

from __future__ import annotations

import argparse


def positive(value: str) -> int:
    """A whole number of at least 1."""
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError(f"has to be at least 1, got {number}")
    return number


__all__ = ["positive"]
