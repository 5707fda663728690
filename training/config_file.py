"""A recipe (YAML) with flags over it."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser


def parse_recipe(
    classes: Sequence[type], arguments: Sequence[str], description: str = "", prog: str | None = None
) -> tuple[Any, ...]:
    """Read ``--config recipe.yaml`` and other flags into dataclasses; flags override the file.

    Args:
        classes: dataclasses whose fields are the keys and flags.
        arguments: the command line, without the program's name.
        description: shown by ``--help``.
        prog: the program's name in messages.

    Returns:
        An instance of each class.

    Raises:
        FileNotFoundError: no such recipe.
        ValueError: the recipe is no mapping, or has keys that no class has.
    """
    parser = HfArgumentParser(list(classes), description=description, prog=prog)
    parser.add_argument("--config", help="A YAML file with any of these settings; flags override it.")
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    path = finder.parse_known_args(list(arguments))[0].config
    if path is not None:
        valid = {item.name: item for group in classes for item in dataclasses.fields(group) if item.init}
        parser.set_defaults(**_flat(read_recipe(path, list(valid))))
    *parsed, _rest = parser.parse_args_into_dataclasses(args=list(arguments), look_for_args_file=False)
    return tuple(parsed)


def read_recipe(path: str | Path, valid: Sequence[str]) -> dict[str, Any]:
    """Read a recipe and check its keys.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no mapping, or has keys that are not valid.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"No recipe at {str(path)!r}; the ones that come with milco-hf are in training/recipes/."
        )
    recipe = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} must be a mapping of settings, got {type(recipe).__name__}.")
    unknown = [key for key in recipe if key not in valid]
    if unknown:
        hints = {key: difflib.get_close_matches(str(key), valid, n=1) for key in unknown}
        named = ", ".join(f"{key!r}" + (f" (did you mean {near[0]!r}?)" if near else "") for key, near in hints.items())
        raise ValueError(f"{path} has unknown settings: {named}. Valid ones are: {', '.join(sorted(valid))}.")
    return recipe


def _flat(recipe: dict[str, Any]) -> dict[str, Any]:
    """Values as flags would give them: mappings inside a list become JSON text, which the data sources read.

    Numbers that YAML takes for text (``2e-5``) are converted by argparse, as all text defaults are.
    """
    flat = {}
    for key, value in recipe.items():
        if isinstance(value, list):
            value = [json.dumps(item) if isinstance(item, dict) else item for item in value]
        flat[key] = value
    return flat
