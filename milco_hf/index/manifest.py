"""index.json: what an index was made of and with; and the folder, where replacing that file replaces the index."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NAME = "index.json"
FORMAT = "milco-index"
_VERSION = 1
BUILDING = "building"
ADDING = "adding"
COPYING = "copying"
_LOCK = "building.lock"
_SEGMENT = "segment-"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an index.

    Raises:
        FileNotFoundError: There is no index, or one whose first build has not finished.
        ValueError: The manifest is of something else, or of a later version than this one knows.
    """
    path = folder / NAME
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()) and _all_ours(folder):
            raise FileNotFoundError(
                f"{folder} holds an index whose build has not finished. Run the same build again and it continues."
            )
        raise FileNotFoundError(
            f"{folder} holds no {NAME}, so no index. `milco index DOCUMENTS --output FOLDER` makes one."
        )
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("format") != FORMAT or manifest.get("version", 0) > _VERSION:
        raise ValueError(
            f"{path} is no manifest that this version reads: format {manifest.get('format')!r}, version "
            f"{manifest.get('version')!r}; it reads {FORMAT!r} up to version {_VERSION}."
        )
    return manifest


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest, whole or not at all, and then removes what it no longer names."""
    partial = folder / f"{NAME}.partial"
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"format": FORMAT, "version": _VERSION, **manifest}, indent=1, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / NAME)
    named = {segment["folder"] for segment in manifest["segments"]}
    for child in folder.glob(f"{_SEGMENT}*"):
        if child.name not in named:
            shutil.rmtree(child, ignore_errors=True)


def flush(folder: Path) -> None:
    """Sees to it that a folder's files are on the disk, before a manifest names them and what they replace goes."""
    mode = "rb" if os.name == "posix" else "rb+"  # Windows flushes only what may be written
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open(mode) as file:
                os.fsync(file.fileno())


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuses a folder that holds an index already, or something else.

    Raises:
        FileExistsError: It does; the message says what can be done.
        NotADirectoryError: It is a file.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give a folder for the index.")
    if (folder / NAME).is_file():
        read_manifest(folder)  # refuses one of something else
        if not overwrite:
            raise FileExistsError(
                f"{folder} holds an index already. overwrite=True (--overwrite) replaces it once the new one is whole; "
                "Index.load(…).add(documents) (--add) adds to it."
            )
    elif not _all_ours(folder):
        raise FileExistsError(f"{folder} is there already and holds no index. Give another folder.")


def _all_ours(folder: Path) -> bool:
    """Whether a folder holds nothing but what builds that died left there."""
    names = (BUILDING, ADDING, COPYING, _LOCK, f"{NAME}.partial")
    return all(child.name in names or child.name.startswith(_SEGMENT) for child in folder.iterdir())


def new_segment() -> str:
    """A name for a segment that no other has."""
    return f"{_SEGMENT}{os.urandom(6).hex()}"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second process from building in the same folder; the system lets go when a process dies.

    Raises:
        BlockingIOError: Another process builds there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as file:
        try:
            import fcntl
        except ImportError:  # Windows has no such lock
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BlockingIOError(f"Another process is building {folder}; wait until it is done.") from error
        yield


def fingerprint_of(about: Mapping[str, Any]) -> str:
    """A digest of the model's fingerprint and of all settings that vectors depend on."""
    note = {name: about[name] for name in ("model_fingerprint", "settings", "dimensions")}
    return hashlib.blake2b(json.dumps(note, sort_keys=True).encode(), digest_size=32).hexdigest()


def versions() -> dict[str, str]:
    """Versions of the libraries that are part of a model's fingerprint."""
    import sentence_transformers
    import transformers

    return {"transformers": transformers.__version__, "sentence-transformers": sentence_transformers.__version__}


__all__ = [
    "ADDING",
    "BUILDING",
    "COPYING",
    "check_folder",
    "fingerprint_of",
    "flush",
    "locked",
    "new_segment",
    "read_manifest",
    "versions",
    "write_manifest",
]
