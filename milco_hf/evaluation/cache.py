"""Vectors of documents on disk, in shards: encoded once for each encoder and corpus, and never all in memory."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from milco_hf.evaluation.collections import Collection, Document
from milco_hf.evaluation.systems.base import Encoder
from milco_hf.evaluation.vectors import Vectors
from milco_hf.scripts import split_passages

logger = logging.getLogger(__name__)

_DONE = "documents.json"


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/milco-hf/evaluation`, which is in `~/.cache` where nothing else is said."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "milco-hf" / "evaluation"


@dataclass
class Shard:
    """Some documents: their ids, and the first row of each in the vectors, [documents + 1]."""

    ids: list[str]
    starts: np.ndarray
    path: Path


@dataclass
class EncodedDocuments:
    """A corpus as an encoder sees it."""

    encoder: Encoder
    shards: list[Shard]
    ids: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.ids = [identifier for shard in self.shards for identifier in shard.ids]

    def load(self, shard: Shard) -> Vectors:
        """The vectors of one shard."""
        with np.load(shard.path, allow_pickle=False) as arrays:
            return self.encoder.vectors.from_arrays({name: arrays[name] for name in arrays.files})


class VectorCache:
    """Encodes what is not there yet.

    A folder for each encoder's fingerprint holds a folder for each corpus (its key and how it is split), in which lie
    shards of vectors. An interrupted run goes on after its last complete shard. A model with language adapters is an
    encoder for each of them (`Encoder.routed`).

    Args:
        folder: Where; None keeps the files for as long as this object lives and no longer.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="milco-vectors-") if folder is None else None
        self.folder = Path(self._temporary.name if self._temporary else folder).expanduser()  # type: ignore[arg-type]

    def documents(self, encoder: Encoder, collection: Collection) -> EncodedDocuments:
        """Every document of a collection, encoded or found.

        Raises:
            ValueError: Two documents have the same id, or the encoder cannot read their language.
        """
        encoder = encoder.routed(collection.document_language)
        split = f"-{collection.passage_length}" if collection.passage_length else ""
        folder = self.folder / encoder.fingerprint[:24] / f"{collection.corpus_key[:24]}{split}"
        done = folder / _DONE
        if done.is_file():
            logger.info("%s: documents of %s found in %s", encoder.name, collection, folder)
            rows = json.loads(done.read_text(encoding="utf-8"))
            return EncodedDocuments(
                encoder, [Shard(ids, np.asarray(starts), folder / _shard(n)) for n, (ids, starts) in enumerate(rows)]
            )
        folder.mkdir(parents=True, exist_ok=True)
        shards: list[Shard] = []
        seen: set[str] = set()
        with tqdm(
            desc=f"{encoder.name}: documents of {collection}", unit=" documents", leave=False, disable=None
        ) as bar:
            for ids, texts, starts in _groups(collection, encoder.rows_per_shard):
                for name in ids:
                    if name in seen:
                        raise ValueError(f"{collection}: document {name!r} is there twice.")
                    seen.add(name)
                shards.append(self._shard(encoder, folder, len(shards), ids, texts, starts))
                bar.update(len(ids))
        _write(done, json.dumps([(shard.ids, shard.starts.tolist()) for shard in shards]).encode())
        return EncodedDocuments(encoder, shards)

    def queries(self, encoder: Encoder, texts: Sequence[str], language: str | None = None) -> Vectors:
        """Vectors of queries in a language, encoded or found.

        Raises:
            ValueError: The encoder cannot read it.
        """
        encoder = encoder.routed(language)
        key = hashlib.blake2b(json.dumps(list(texts)).encode(), digest_size=16).hexdigest()
        path = self.folder / encoder.fingerprint[:24] / f"queries-{key[:24]}.npz"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            _save(path, encoder.encode_queries(texts))
        with np.load(path, allow_pickle=False) as arrays:
            return encoder.vectors.from_arrays({name: arrays[name] for name in arrays.files})

    def _shard(
        self, encoder: Encoder, folder: Path, number: int, ids: list[str], texts: list[str], starts: list[int]
    ) -> Shard:
        """One shard: what an interrupted run left is taken if it holds the same texts."""
        path, note = folder / _shard(number), folder / f"{_shard(number)}.key"
        key = hashlib.blake2b(json.dumps([ids, texts, starts]).encode(), digest_size=16).hexdigest()
        if not (path.is_file() and note.is_file() and note.read_text(encoding="utf-8") == key):
            _save(path, encoder.encode_documents(texts))
            _write(note, key.encode())
        return Shard(ids, np.asarray(starts), path)


def _groups(collection: Collection, rows: int) -> Iterator[tuple[list[str], list[str], list[int]]]:
    """(ids, texts, first row of each document and one past the last) of about `rows` texts each."""
    ids: list[str] = []
    texts: list[str] = []
    starts = [0]
    for document in collection.documents():
        ids.append(document.id)
        texts += passages(document, collection.passage_length)
        starts.append(len(texts))
        if len(texts) >= rows:
            yield ids, texts, starts
            ids, texts, starts = [], [], [0]
    if ids:
        yield ids, texts, starts


def passages(document: Document, length: int | None) -> Iterable[str]:
    """The texts that stand for a document: its passages, each under the title, or the whole of it."""
    if not length:
        return [document.full_text]
    return [f"{document.title} {part}".strip() for part in split_passages(document.text, length)]


def _shard(number: int) -> str:
    return f"shard-{number:05d}.npz"


def _save(path: Path, vectors: Vectors) -> None:
    """Write vectors so that the file is there whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez(file, **vectors.arrays())
    partial.replace(path)


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.replace(path)


__all__ = ["EncodedDocuments", "Shard", "VectorCache", "default_cache", "passages"]
