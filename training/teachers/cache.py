"""Teacher vectors on disk, so that epochs after the first, and later runs, need no teacher."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from milco_hf.training.teachers.targets import SparseTargets

logger = logging.getLogger(__name__)

ROWS_PER_SHARD = 100_000
PARTS = ("offsets", "columns", "values")
LARGEST = float(np.finfo(np.float16).max)


class Teacher(Protocol):
    """What gives targets: see `StaticTeacher` and `MlmTeacher`."""

    vocabulary_size: int

    @property
    def fingerprint(self) -> str:
        """Changes when the targets would."""
        ...

    def targets(self, texts: Sequence[str]) -> SparseTargets:
        """Logits of texts."""
        ...

    def to(self, device: torch.device | str) -> Teacher:
        """Move to a device."""
        ...


class CachedTeacher:
    """A teacher whose vectors are kept in a folder, by its fingerprint and the text.

    Vectors are stored as (terms, logits in fp16), appended in shards by whoever computed them, so that several
    processes share a folder; each sees the others' shards when it starts. Keys are 64-bit hashes of the texts.

    Args:
        teacher: asked for texts that are not there yet.
        folder: holds one subfolder per teacher.
    """

    def __init__(self, teacher: Teacher, folder: str | os.PathLike) -> None:
        self.teacher = teacher
        self.vocabulary_size = teacher.vocabulary_size
        self.folder = Path(folder) / f"teacher-{teacher.fingerprint}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.hits = self.misses = 0
        self._shards: list[dict[str, np.ndarray]] = []
        self._new: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        keys, places = [], []
        for path in sorted(self.folder.glob("*.keys.npy")):
            shard = {name: np.load(path.with_name(path.name.replace("keys", name)), mmap_mode="r") for name in PARTS}
            found = np.load(path)
            keys.append(found)
            places.append(np.stack([np.full(len(found), len(self._shards)), np.arange(len(found))], axis=1))
            self._shards.append(shard)
        self._keys = np.concatenate(keys) if keys else np.empty(0, dtype=np.uint64)
        self._places = np.concatenate(places) if places else np.empty((0, 2), dtype=np.int64)
        order = np.argsort(self._keys, kind="stable")
        self._keys, self._places = self._keys[order], self._places[order]
        logger.info("%d teacher vectors found in %s", len(self._keys), self.folder)

    @property
    def fingerprint(self) -> str:
        """The teacher's."""
        return self.teacher.fingerprint

    def __len__(self) -> int:
        return len(self._keys) + len(self._new)

    def to(self, device: torch.device | str) -> CachedTeacher:
        """Move the teacher."""
        self.teacher.to(device)
        return self

    def targets(self, texts: Sequence[str]) -> SparseTargets:
        """Logits of texts, from the disk where they are there; the teacher runs for the others only."""
        keys = [_key(text) for text in texts]
        rows = self._stored(np.array(keys, dtype=np.uint64))
        missing = {key: text for key, text, row in zip(keys, texts, rows, strict=True) if row is None}
        missing = {key: text for key, text in missing.items() if key not in self._new}
        self.misses += len(missing)
        self.hits += len(texts) - len(missing)
        if missing:
            computed = self.teacher.targets(list(missing.values())).rows()
            for key, (columns, values) in zip(missing, computed, strict=True):
                # kept as it will be stored, so that the first epoch's targets are the later ones'
                self._new[key] = (columns.astype(np.int32), np.minimum(values, LARGEST).astype(np.float16))
        filled = [self._new[key] if row is None else row for key, row in zip(keys, rows, strict=True)]
        if len(self._new) >= ROWS_PER_SHARD:
            self.flush()
        return SparseTargets.from_rows(filled, self.vocabulary_size)

    def flush(self) -> None:
        """Write what was computed since the last time."""
        if not self._new:
            return
        keys = np.fromiter(self._new, dtype=np.uint64, count=len(self._new))
        rows = list(self._new.values())
        parts = {
            "offsets": np.cumsum([0, *(len(columns) for columns, _ in rows)], dtype=np.int64),
            "columns": np.concatenate([columns for columns, _ in rows]),
            "values": np.concatenate([values for _, values in rows]),
        }
        stem = f"{int(keys[0]):016x}-{os.getpid()}-{len(self._shards)}"
        shard = {}
        for name in PARTS:
            path = self.folder / f"{stem}.{name}.npy"
            np.save(path, parts[name])
            shard[name] = np.load(path, mmap_mode="r")
        unfinished = self.folder / f"{stem}.unfinished.npy"
        np.save(unfinished, keys)
        os.replace(unfinished, self.folder / f"{stem}.keys.npy")  # the keys come last: a shard is whole or not there
        places = np.stack([np.full(len(keys), len(self._shards)), np.arange(len(keys))], axis=1)
        self._shards.append(shard)
        self._keys, self._places = np.concatenate([self._keys, keys]), np.concatenate([self._places, places])
        order = np.argsort(self._keys, kind="stable")
        self._keys, self._places = self._keys[order], self._places[order]
        self._new = {}

    def _stored(self, keys: np.ndarray) -> list[tuple[np.ndarray, np.ndarray] | None]:
        if len(self._keys) == 0:
            return [None] * len(keys)
        found = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        rows: list[tuple[np.ndarray, np.ndarray] | None] = []
        for place, known in zip(self._places[found], self._keys[found] == keys, strict=True):
            if not known:
                rows.append(None)
                continue
            shard = self._shards[int(place[0])]
            start, end = shard["offsets"][place[1]], shard["offsets"][place[1] + 1]
            rows.append((shard["columns"][start:end], shard["values"][start:end]))
        return rows


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
