"""Texts and metadata of a segment's documents, in one SQLite file that is written once and then only read."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from milco_hf.index.documents import Document

_TABLE = """
CREATE TABLE documents (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, text TEXT NOT NULL,
                        language TEXT, metadata TEXT NOT NULL)
"""
_COLUMNS = "text, id, title, language, metadata"
# SQLite takes at least 999 parameters in one statement.
_AT_ONCE = 500


def write_store(path: Path, documents: Iterable[Document], first: int, taken: Sequence[DocumentStore] = ()) -> int:
    """Writes documents into a new file.

    Args:
        path: The file; one that is there is replaced.
        documents: Those without an id are called by their number in the index.
        first: The number of the first.
        taken: Stores of the same index, whose ids cannot be used again.

    Returns:
        How many there are.

    Raises:
        ValueError: An id is there twice; the message names it.
    """
    path.unlink(missing_ok=True)
    base = sqlite3.connect(path)
    count = 0
    try:
        # a file that was not finished is written again from the start; a finished one is flushed with its segment
        base.executescript(f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {_TABLE};")
        for count, document in enumerate(documents, start=1):
            name = str(first + count - 1) if document.id is None else document.id
            if any(store.numbers([name]) for store in taken):
                raise ValueError(f"The index has a document {name!r} already; ids must be unique.")
            row = (count - 1, name, document.title, document.text, document.language)
            try:
                base.execute(
                    "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?)",
                    (*row, json.dumps(dict(document.metadata), ensure_ascii=False)),
                )
            except sqlite3.IntegrityError as error:
                raise ValueError(
                    f"Two documents are called {name!r} (the second is number {count - 1}); ids must be unique."
                ) from error
        base.execute("CREATE INDEX by_language ON documents (language)")
        base.commit()
    finally:
        base.close()
    return count


class DocumentStore:
    """The documents of a segment, by number from 0 and by id.

    Args:
        path: What `write_store` wrote.
    """

    def __init__(self, path: Path) -> None:
        # immutable: no locks and no journal, as nobody ever writes to the file again
        address = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
        self._base = sqlite3.connect(address, uri=True, check_same_thread=False)
        self._lock = threading.Lock()
        (self.count,) = self._rows("SELECT COUNT(*) FROM documents")[0]

    def __len__(self) -> int:
        return self.count

    def numbers(self, ids: Sequence[str]) -> dict[str, int]:
        """The numbers of ids, as far as they are known."""
        found: dict[str, int] = {}
        for start in range(0, len(ids), _AT_ONCE):
            part = list(ids[start : start + _AT_ONCE])
            found.update(self._rows(f"SELECT id, number FROM documents WHERE id IN ({_marks(part)})", part))
        return found

    def documents(self, numbers: Sequence[int]) -> list[Document]:
        """Documents by number, in that order."""
        found: dict[int, Document] = {}
        for start in range(0, len(numbers), _AT_ONCE):
            part = [int(number) for number in numbers[start : start + _AT_ONCE]]
            rows = self._rows(f"SELECT number, {_COLUMNS} FROM documents WHERE number IN ({_marks(part)})", part)
            found.update({number: _document(row) for number, *row in rows})
        return [found[int(number)] for number in numbers]

    def __iter__(self) -> Iterator[Document]:
        for start in range(0, self.count, _AT_ONCE):
            yield from self.documents(range(start, min(start + _AT_ONCE, self.count)))

    def languages(self) -> dict[str | None, int]:
        """How many documents there are in each language."""
        return dict(self._rows("SELECT language, COUNT(*) FROM documents GROUP BY language ORDER BY language"))

    def matching(self, condition: str, values: Sequence[Any]) -> np.ndarray:
        """Numbers of the documents that fit a condition of `filters.condition`, ascending."""
        rows = self._rows(f"SELECT number FROM documents WHERE {condition} ORDER BY number", values)
        return np.fromiter((number for (number,) in rows), dtype=np.int64, count=len(rows))

    def close(self) -> None:
        """Closes the file."""
        self._base.close()

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple]:
        with self._lock:
            return self._base.execute(statement, values).fetchall()


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _document(row: Sequence[Any]) -> Document:
    text, identifier, title, language, metadata = row
    return Document(text, identifier, title, language, json.loads(metadata))


__all__ = ["DocumentStore", "write_store"]
