"""Romanian WordNet, whose synsets bear the numbers of Princeton WordNet 3.0's: a synset's words mean the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from milco_hf.training.dictionaries.glosses import Gloss, clean, usable

_NUMBER = re.compile(r"ENG30-(\d{8})-([nvar])")
_FILES = {"n": "data.noun", "v": "data.verb", "a": "data.adj", "r": "data.adv"}


def read_rowordnet(princeton: str | Path) -> Iterator[Gloss]:
    """Glosses from the package rowordnet and Princeton WordNet 3.0's files, in the order of the senses.

    Args:
        princeton: folder with WordNet 3.0's data.noun and so on (Debian's wordnet-base: /usr/share/wordnet).

    Raises:
        ImportError: rowordnet is not installed, or setuptools is too new for it.
        FileNotFoundError: the folder lacks a file.
    """
    try:
        import pkg_resources  # noqa: F401 - what rowordnet opens its data with, gone from setuptools 81
        import rowordnet
    except ModuleNotFoundError as error:
        raise ImportError(f"Romanian WordNet needs {error.name}: pip install 'setuptools<81' rowordnet") from error
    english = {part: _synsets(Path(princeton) / name) for part, name in _FILES.items()}
    romanian = rowordnet.RoWordNet()
    for synset_id in romanian.synsets():
        match = _NUMBER.fullmatch(synset_id)
        if match is None:  # Romania's own synsets
            continue
        number, part = match.groups()
        for word in romanian.synset(synset_id).literals:
            text = clean(word.replace("_", " "))
            if usable(text):
                yield from (Gloss(text, gloss, "ro", "rowordnet") for gloss in english[part].get(number, ()))


def _synsets(file: Path) -> dict[str, list[str]]:
    """English words of each synset by its eight-digit number (wndb(5WN))."""
    synsets = {}
    for line in file.read_text("utf-8").splitlines():
        if line.startswith("  "):  # the licence
            continue
        fields = line.split(" ")
        words = [fields[4 + 2 * place].split("(")[0].replace("_", " ") for place in range(int(fields[3], 16))]
        synsets[fields[0]] = [word for word in words if usable(word)]
    return synsets
