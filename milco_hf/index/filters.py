"""Filters on languages and metadata, as conditions of SQLite."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

_BOUNDS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
# SQLite takes 32,766 parameters in one statement, and conditions that nest 1,000 deep.
_MOST_KEYS = 100
_MOST_VALUES = 10_000
_INTEGERS = 1 << 63
Filter = Mapping[str, Any]


def condition(language: str | Iterable[str] | None, filter: Filter | None) -> tuple[str, list[Any]]:
    """A condition on `documents` and its parameters.

    Args:
        language: One, or several of which any will do; None for all.
        filter: By key of the metadata: a value, a list of values of which any will do, or bounds such as
            {"gte": 2000, "lt": 2010}. A key that holds a list fits when one of its items does; all keys have to fit.

    Raises:
        ValueError: A filter cannot be; the message names the key.
        TypeError: It is no dictionary.
    """
    parts, values = [], []
    if language is not None:
        wanted = [language] if isinstance(language, str) else list(language)
        if not wanted or not all(isinstance(code, str) for code in wanted):
            raise ValueError(f"language has to be a language code or several, got {language!r}.")
        parts.append(f"language IN ({', '.join('?' * len(wanted))})")
        values += wanted
    if filter is not None and not isinstance(filter, Mapping):
        raise TypeError(f"filter has to be a dictionary such as {{'source': 'news'}}, got {type(filter).__name__}.")
    if len(filter or {}) > _MOST_KEYS:
        raise ValueError(f"filter takes at most {_MOST_KEYS} keys, got {len(filter)}.")
    for key, wanted in (filter or {}).items():
        part, more = _one(str(key), wanted)
        parts.append(part)
        values += more
    if len(values) > _MOST_VALUES:
        raise ValueError(f"filter and language take at most {_MOST_VALUES:,} values, got {len(values):,}.")
    return " AND ".join(parts) or "1", values


def _one(key: str, wanted: Any) -> tuple[str, list[Any]]:
    """One key's condition; json_each gives the items of a list, and a value that is no list as it is."""
    each = "EXISTS (SELECT 1 FROM json_each(metadata, ?) WHERE {})"
    path = f"$.{json.dumps(key, ensure_ascii=False)}"
    if '"' in key or "\\" in key:
        raise ValueError(f"filter: the key {key!r} holds a quote or a backslash, which cannot be looked up.")
    if isinstance(wanted, Mapping):
        unknown = set(wanted) - set(_BOUNDS)
        if unknown or not wanted:
            raise ValueError(f"filter: {key!r} takes the bounds {', '.join(_BOUNDS)}, got {dict(wanted)!r}.")
        tests, values = [], []
        for name, bound in wanted.items():
            if isinstance(bound, bool) or not isinstance(bound, (int, float, str)):
                raise ValueError(f"filter: {key!r} has to be bounded by a number or a string, got {bound!r}.")
            kinds = "'text'" if isinstance(bound, str) else "'integer', 'real'"
            tests.append(f"json_each.type IN ({kinds}) AND json_each.value {_BOUNDS[name]} ?")
            values.append(_storable(key, bound))
        return each.format(" AND ".join(tests)), [path, *values]
    options = list(wanted) if isinstance(wanted, (list, tuple, set, frozenset)) else [wanted]
    if not options:
        raise ValueError(f"filter: {key!r} has an empty list, which nothing could fit.")
    tests, strings, numbers = [], [], []
    for option in options:
        if option is None:
            tests.append("json_each.type = 'null'")
        elif isinstance(option, bool):
            tests.append(f"json_each.type = '{str(option).lower()}'")
        elif isinstance(option, str):
            strings.append(option)
        elif isinstance(option, (int, float)):
            numbers.append(_storable(key, option))
        else:
            raise ValueError(f"filter: {key!r} has to be a string, a number, true, false or null, got {option!r}.")
    tests = list(dict.fromkeys(tests))
    for kinds, some in (("'text'", strings), ("'integer', 'real'", numbers)):
        if some:
            marks = ", ".join("?" * len(some))
            tests.append(f"(json_each.type IN ({kinds}) AND json_each.value IN ({marks}))")
    return each.format(" OR ".join(tests)), [path, *strings, *numbers]


def _storable(key: str, value: Any) -> Any:
    """A value as SQLite takes it: it keeps whole numbers beyond 64 bits as floats."""
    if not isinstance(value, int) or -_INTEGERS <= value < _INTEGERS:
        return value
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"filter: {key!r} has a number of {value.bit_length()} bits, which is too large.") from None


def parse_filters(words: Iterable[str]) -> dict[str, Any]:
    """What `--filter` takes: KEY=VALUE, KEY>=VALUE, KEY<VALUE …; a key that comes again with `=` means any of them.

    A value is a number, true, false or null where it reads like one as JSON, and a string otherwise.

    Raises:
        ValueError: A word has another form.
    """
    found: dict[str, Any] = {}
    signs = {">=": "gte", "<=": "lte", ">": "gt", "<": "lt", "=": ""}
    for word in words:
        place, sign = min(
            ((word.find(sign), sign) for sign in signs if sign in word),
            default=(0, ""),
            key=lambda pair: (pair[0], -len(pair[1])),
        )
        key, value = word[:place], _value(word[place + len(sign) :])
        if not key or not sign:
            raise ValueError(f"--filter takes KEY=VALUE, KEY>=VALUE and the like, got {word!r}.")
        before = found.get(key)
        if signs[sign]:
            if before is not None and not isinstance(before, dict):
                raise ValueError(f"--filter: {key} has to equal something and lies between bounds; give one of them.")
            found[key] = {**(before or {}), signs[sign]: value}
        elif isinstance(before, dict):
            raise ValueError(f"--filter: {key} has to equal something and lies between bounds; give one of them.")
        else:
            found[key] = [*(before or []), value]
    return found


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, (dict, list)) else value


__all__ = ["Filter", "condition", "parse_filters"]
