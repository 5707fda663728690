"""Which column of a table holds the English text, the other text, the language and the source tag."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ENGLISH_NAMES = ("english", "en", "eng", "text_en", "sentence_en", "english_sentence")
OTHER_NAMES = ("non_english", "other", "translation", "foreign", "target", "text_other", "sentence_other")
LANGUAGE_NAMES = ("language", "lang", "language_code", "target_lang")
SOURCE_NAMES = ("source", "source_tag", "origin", "corpus", "tag")
COLUMN_ROLES = ("english", "other", "language", "source")

_PAIR_NAME = re.compile(r"(?:^|[._/\-])(?:en|eng)[-_]([a-z]{2,3}(?:[-_][A-Za-z]{2,4})?)(?=$|[._/])")
_PAIR_NAME_REVERSED = re.compile(r"(?:^|[._/])([a-z]{2,3}(?:[-_][A-Za-z]{2,4})?)[-_](?:en|eng)(?=$|[._/])")


@dataclass(frozen=True)
class Columns:
    """Positions or names of the columns of one table; None where a table has no such column."""

    english: int | str
    other: int | str
    language: int | str | None = None
    source: int | str | None = None


def language_of_name(name: str) -> str | None:
    """Read the other language from a file's or a configuration's name.

    Args:
        name: for example ``en-de.tsv.xz``, ``en-de`` or ``talks.en-fr-ca.jsonl``.

    Returns:
        ``de``, ``fr-ca`` …, or None where the name says nothing.
    """
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    match = _PAIR_NAME.search(name) or _PAIR_NAME_REVERSED.search(name)
    return match.group(1).replace("_", "-").lower() if match else None


def find_columns(
    names: Sequence[str], where: str, language: str | None = None, given: dict[str, Any] | None = None
) -> Columns:
    """Find the columns of a table with named columns.

    Args:
        names: the table's column names, in order.
        where: what to call the table in an error message.
        language: the other language where it is known; a column of that name then counts as the other text.
        given: column names set by the user, by role (``english``, ``other``, ``language``, ``source``).

    Raises:
        ValueError: a given column is missing, or no pair of text columns is recognised.
    """
    given = dict(given or {})
    unknown = sorted(set(given) - set(COLUMN_ROLES))
    if unknown:
        raise ValueError(f"Unknown column roles {unknown}; the roles are {', '.join(COLUMN_ROLES)}.")
    lowered = {name.lower(): name for name in names}
    other_names = OTHER_NAMES if language is None else (*OTHER_NAMES, language.lower(), language.split("-")[0].lower())
    known = {"english": ENGLISH_NAMES, "other": other_names, "language": LANGUAGE_NAMES, "source": SOURCE_NAMES}
    found: dict[str, str | None] = {}
    for role, candidates in known.items():
        if role in given:
            column = given[role]
            if isinstance(column, int) and 0 <= column < len(names):
                column = names[column]
            if column not in names:
                raise ValueError(f"{where} has no column {column!r} (given as {role}); it has {list(names)}.")
            found[role] = column
        else:
            found[role] = next((lowered[name] for name in candidates if name in lowered), None)
    if found["english"] is None or found["other"] is None:
        side = "English" if found["english"] is None else "other"
        raise ValueError(
            f"{where} has no usable column for the {side} text. Its columns "
            f"are {list(names)}. Name them in the recipe, for example columns: {{english: …, other: …}}."
        )
    return Columns(**found)  # type: ignore[arg-type]


def positional_columns(width: int, where: str, given: dict[str, Any] | None = None) -> Columns:
    """Columns of a table without a header: English, other, source tag, unless positions are given.

    Raises:
        ValueError: fewer than two columns, or a given position that the table does not have.
    """
    given = dict(given or {})
    unknown = sorted(set(given) - set(COLUMN_ROLES))
    if unknown:
        raise ValueError(f"Unknown column roles {unknown}; the roles are {', '.join(COLUMN_ROLES)}.")
    columns = {"english": 0, "other": 1, "source": 2 if width > 2 else None, "language": None, **given}
    for role, position in columns.items():
        if position is None:
            continue
        if not isinstance(position, int) or not 0 <= position < width:
            raise ValueError(
                f"{where} has no usable column {position!r} for {role}: it has no header and {width} tab- or "
                "comma-separated columns. Give positions (from 0) as columns: {english: 0, other: 1}."
            )
    return Columns(**columns)  # type: ignore[arg-type]
