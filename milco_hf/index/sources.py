"""Where documents lie: files of several kinds, folders, and data sets on the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from milco_hf.text_files import COMPRESSION, naming, open_text, read_jsonl, read_table

Record = tuple[str, Any, str, "str | None"]
_KINDS = (".jsonl", ".csv", ".tsv", ".txt", ".parquet")
_CORPUS = "corpus.jsonl"
_SPLITS = ("corpus", "train")
_NEEDS = 'needs an optional library: pip install "milco-hf[index]"'


def records_at(
    source: str | Path, subset: str | None = None, split: str | None = None, revision: str | None = None
) -> Iterator[Record]:
    """(where it stands, the record, what goes before its id, its language) of each document at a place.

    Raises:
        FileNotFoundError: Nothing is there, or nothing that could be read.
        ValueError: A file is of an unknown kind, or a line cannot be read.
        ImportError: An optional library is missing.
    """
    path = Path(source).expanduser()
    if path.is_file():
        yield from _file(path)
    elif path.is_dir():
        yield from _folder(path)
    elif isinstance(source, str) and _may_be_hub_id(source):
        yield from _hub(source, subset, split, revision)
    else:
        raise FileNotFoundError(
            f"There is no file, folder or data set {str(source)!r}. Files end in {', '.join(_KINDS)} (all but .parquet "
            "also .gz, .xz or .bz2); a data set on the Hub is called organisation/name."
        )


def _file(path: Path, prefix: str = "", language: str | None = None) -> Iterator[Record]:
    kind = _kind(path)
    if kind is None:
        raise ValueError(
            f"{path} is of no kind that can be read: its name has to end in {', '.join(_KINDS)}, and all but .parquet "
            "may then end in .gz, .xz or .bz2."
        )
    if kind == ".parquet":
        rows = _parquet(path)
    elif kind == ".jsonl":
        rows = read_jsonl(path)
    elif kind == ".txt":
        rows = _lines(path)
    else:
        rows = read_table(path, kind, any_names=True)
    with naming(path):
        for number, record in rows:
            yield f"{path}, line {number}", record, prefix, language


def _folder(folder: Path) -> Iterator[Record]:
    """A folder in the BEIR layout, one of such folders by language, or one of files."""
    if corpus := _corpus(folder):
        yield from _file(corpus)
        return
    parts = [child for child in sorted(folder.iterdir()) if child.is_dir() and _corpus(child)]
    if parts:
        for child in parts:
            yield from _file(_corpus(child), f"{child.name}:", child.name)
        return
    files = [child for child in sorted(folder.iterdir()) if child.is_file() and _kind(child)]
    if not files:
        raise FileNotFoundError(
            f"{folder} holds no {_CORPUS}, no folder for each language that holds one, and no file that ends in "
            f"{', '.join(_KINDS)}."
        )
    for file in files:
        yield from _file(file)


def _corpus(folder: Path) -> Path | None:
    found = (folder / f"{_CORPUS}{ending}" for ending in ("", *COMPRESSION))
    return next((path for path in found if path.is_file()), None)


def _kind(path: Path) -> str | None:
    suffixes = path.suffixes
    if suffixes and suffixes[-1] in COMPRESSION:
        suffixes = suffixes[:-1]
        if suffixes and suffixes[-1] == ".parquet":
            return None
    return suffixes[-1] if suffixes and suffixes[-1] in _KINDS else None


def _lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            yield number, {"text": line.rstrip("\r\n")}


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError(f"{path}: Parquet {_NEEDS}.") from error
    number = 0
    try:
        for batch in ParquetFile(path).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except ArrowInvalid as error:
        raise ValueError(f"{path} is no Parquet file that can be read: {error}") from error


def _may_be_hub_id(name: str) -> bool:
    return (
        name.count("/") == 1
        and not name.startswith((".", "/", "~"))
        and not name.endswith("/")
        and _kind(Path(name)) is None
    )


def _hub(name: str, subset: str | None, split: str | None, revision: str | None) -> Iterator[Record]:
    """A data set's rows as they come over the network; nothing is downloaded whole."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"{name} is no file or folder, and a data set of the Hub {_NEEDS}.") from error
    try:
        parts = datasets.load_dataset(name, subset, revision=revision, streaming=True)
    except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise FileNotFoundError(f"There is no file, folder or data set {name!r}; the Hub gave: {reason}") from error
    chosen = split or next((part for part in _SPLITS if part in parts), None)
    if chosen is None and len(parts) == 1:
        chosen = next(iter(parts))
    if chosen not in parts:
        asked = f"has no split {split!r}" if split else "has several splits"
        raise ValueError(f"{name} {asked}; name one of {', '.join(parts)} (split=, --split).")
    for number, row in enumerate(parts[chosen]):
        yield f"{name}, {chosen}, row {number}", row, "", None


__all__ = ["records_at"]
