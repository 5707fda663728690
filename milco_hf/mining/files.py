"""JSONL files on disk, plain or compressed: finding them, and writing them so that a file is whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from milco_hf.text_files import COMPRESSION, open_text

ENDINGS = (".jsonl", *(f".jsonl{ending}" for ending in COMPRESSION))


def is_jsonl(path: Path) -> bool:
    """Whether a file's name says that it is JSONL, maybe compressed."""
    return path.name.endswith(ENDINGS)


def stem(path: Path) -> str:
    """A file's name without its endings: `en` of `en.jsonl.xz`."""
    return path.name.partition(".")[0]


def find_jsonl(paths: Iterable[str | Path]) -> list[Path]:
    """Expand files and folders (not their subfolders) into JSONL files, sorted within each folder.

    Raises:
        FileNotFoundError: nothing at a path, or a folder without JSONL files.
        ValueError: a file of another kind.
    """
    found: list[Path] = []
    for entry in paths:
        path = Path(entry).expanduser()
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.is_file() and is_jsonl(file))
            if not files:
                raise FileNotFoundError(f"{path} holds no file whose name ends in one of {', '.join(ENDINGS)}.")
            found += files
        elif not path.is_file():
            raise FileNotFoundError(f"There is no file or folder {str(entry)!r}.")
        elif not is_jsonl(path):
            raise ValueError(f"{path} is no JSONL file: its name must end in one of {', '.join(ENDINGS)}.")
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def output_paths(inputs: Sequence[Path], output: str | Path, overwrite: bool = False) -> list[Path]:
    """Where each input's rows go: one file for one input, or a folder with the inputs' names.

    Raises:
        FileExistsError: a file is there already, and `overwrite` is false.
        ValueError: several inputs for one file, inputs of equal names, or an output that is an input.
    """
    target = Path(output).expanduser()
    if is_jsonl(target):
        if len(inputs) > 1:
            raise ValueError(f"{len(inputs)} input files cannot go into one file, {target}: give a folder as output.")
        paths = [target]
    else:
        names = [path.name for path in inputs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"Several inputs are called {', '.join(twice)}, and one folder cannot hold them all.")
        paths = [target / name for name in names]
    for path in paths:
        if any(path.exists() and path.samefile(source) for source in inputs):
            raise ValueError(f"{path} is an input; write somewhere else.")
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} is there already; --overwrite replaces it.")
    return paths


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Write lines (without their ends) under a passing name, and give the file its own name when it is whole.

    Returns:
        How many lines.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    passing = path.with_name(f".{path.name}.{os.getpid()}")  # no name that `find_jsonl` would take for data
    count = 0
    try:
        with open_text(passing, "w", path.suffix) as file:
            for line in lines:
                file.write(line + "\n")
                count += 1
        os.replace(passing, path)
    finally:
        passing.unlink(missing_ok=True)
    return count


def to_line(record: dict[str, Any]) -> str:
    """A record as a line of JSON, in its own letters."""
    return json.dumps(record, ensure_ascii=False)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
