"""Dictionaries in EDICT's format, JMdict's EDICT (Japanese) and CC-CEDICT (Chinese): WORD [reading] /gloss/gloss/."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from milco_hf.training.dictionaries.glosses import Gloss, split, usable

_LINE = re.compile(r"^(?P<words>[^\[/]+?)\s*(\[[^\]]*\])?\s*/(?P<glosses>.*)/\s*$")
_OPAQUE = re.compile(r"^(CL:|EntL|surname |variant of |old variant|see |used in |abbr\. for |also written )")


def read_edict(path: str | Path, language: str) -> Iterator[Gloss]:
    """Glosses of a file in EDICT's format, in UTF-8 or EUC-JP.

    Args:
        path: the file. CC-CEDICT's lines name a word twice, in traditional and simplified characters: both are taken.
        language: the words' language.

    Raises:
        ValueError: no line of the file is in that format.
    """
    path = Path(path)
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("euc_jp", "replace")
    found = False
    for line in text.splitlines():
        match = None if line.startswith("#") else _LINE.match(line)
        if match is None:
            continue
        found = True
        words = [word for word in dict.fromkeys(match["words"].split()) if usable(word)]
        for gloss in match["glosses"].split("/"):
            if _OPAQUE.match(gloss):
                continue
            for english in split(gloss):
                yield from (Gloss(word, english, language, path.stem) for word in words)
    if not found:
        raise ValueError(f"{path} holds no line in EDICT's format: WORD [reading] /gloss/gloss/.")
