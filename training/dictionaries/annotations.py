"""Unicode CLDR's names of emoji and symbols, in every language of CLDR: the npm package cldr-annotations-full."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from milco_hf.training.dictionaries.glosses import Gloss, clean, usable


def read_annotations(folder: str | Path, languages: Sequence[str]) -> Iterator[Gloss]:
    """Names of the same symbol in English and in other languages.

    Args:
        folder: `annotations` of cldr-annotations-full or `annotationsDerived` of cldr-annotations-derived-full.
        languages: two-letter codes; those that the folder lacks are passed over.

    Raises:
        FileNotFoundError: the folder has no English.
    """
    folder = Path(folder)
    english = _symbols(folder / "en" / "annotations.json")
    for language in languages:
        file = folder / language / "annotations.json"
        if not file.exists():
            continue
        for symbol, names in _symbols(file).items():
            meaning = english.get(symbol)
            if meaning is None:
                continue
            yield Gloss(names[0], meaning[0], language, "cldr-annotations")
            if len(names) == len(meaning) == 2:  # one keyword each beside the name: they are likely the same word
                yield Gloss(names[1], meaning[1], language, "cldr-annotations")


def _symbols(file: Path) -> dict[str, list[str]]:
    """Name and then keywords of each symbol that has a usable name."""
    content = json.loads(file.read_text("utf-8"))
    (tables,) = content.values()  # "annotations" or "annotationsDerived"
    symbols = {}
    for symbol, entry in tables["annotations"].items():
        name = clean(entry["tts"][0]) if entry.get("tts") else ""
        if usable(name):
            keywords = [word for keyword in entry.get("default", []) if usable(word := clean(keyword)) and word != name]
            symbols[symbol] = [name, *keywords]
    return symbols
