"""A segment: documents that came together, their passages and vectors, in one folder that is made once."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from milco_hf.encoding import VectorFolder, encode_corpus
from milco_hf.index.documents import Document
from milco_hf.index.store import DocumentStore, write_store
from milco_hf.index.vectors import PASSAGES
from milco_hf.scripts import split_passages

DOCUMENTS = "documents.sqlite"
VECTORS = "vectors"


class _Texts:
    """What the model reads of a store's documents, one row after the other, in which languages, and how many rows."""

    def __init__(self, store: DocumentStore, passages: np.ndarray | None) -> None:
        self.store = store
        self.passages = passages

    def __len__(self) -> int:
        return len(self.store) if self.passages is None else len(self.passages)

    def __iter__(self) -> Iterator[str]:
        return (document.encoded_text(*span) for document, span in self._rows())

    def languages(self) -> Iterator[str | None]:
        """Of each row's document."""
        return (document.language for document, _ in self._rows())

    def _rows(self) -> Iterator[tuple[Document, list[int]]]:
        """The document of each row, and the passage's begin and end where there are passages."""
        if self.passages is None:
            yield from ((document, []) for document in self.store)
            return
        row = 0
        for number, document in enumerate(self.store):
            while row < len(self.passages) and self.passages[row, 0] == number:
                yield document, self.passages[row, 1:].tolist()
                row += 1


def make_segment(
    folder: Path,
    model: Any,
    documents: Iterable[Document],
    *,
    first: int,
    taken: Sequence[DocumentStore],
    passage_length: int | None,
    resume: bool,
    progress: bool,
    **encoding: Any,
) -> VectorFolder:
    """Stores documents and encodes them.

    All documents are read before the first is encoded, so what is wrong with one of them shows at once, and a run that
    was cut short reads them again, which is quick, but continues the encoding where it was.

    Args:
        folder: What a run before may have begun.
        model: See `encode_corpus`.
        documents: The documents.
        first: The number of the first in the index.
        taken: Stores of the same index, whose ids cannot be used again.
        passage_length: Words of a passage; None keeps documents whole.
        resume: Whether vectors that are there are kept.
        progress: Whether to show bars.
        **encoding: For `encode_corpus`.

    Raises:
        ValueError: There are no documents, an id is there twice, or `folder` was begun with something else.
    """
    if not resume and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    reading = tqdm(documents, desc="Reading", unit=" documents", disable=not progress)
    if not write_store(folder / DOCUMENTS, reading, first, taken):
        raise ValueError("There are no documents to index.")
    store = DocumentStore(folder / DOCUMENTS)
    try:
        passages = None
        (folder / PASSAGES).unlink(missing_ok=True)
        if passage_length is not None:
            passages = np.asarray(list(_passages(store, passage_length)), dtype=np.int64)
            np.save(folder / PASSAGES, passages)
        texts = _Texts(store, passages)
        return encode_corpus(
            model,
            texts,
            kind="document",
            language=texts.languages(),
            output=folder / VECTORS,
            resume=resume,
            progress=progress,
            **encoding,
        )
    finally:
        store.close()


def _passages(store: DocumentStore, length: int) -> Iterator[tuple[int, int, int]]:
    """(document, begin, end) of every passage."""
    for number, document in enumerate(store):
        end = 0
        for passage in split_passages(document.text, length):
            begin = document.text.index(passage, end)
            end = begin + len(passage)
            yield number, begin, end


__all__ = ["DOCUMENTS", "VECTORS", "make_segment"]
