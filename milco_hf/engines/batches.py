"""A folder of vectors, and maybe its texts, as batches of documents ready to be sent."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import sparse

from milco_hf.encoding.files import Text, read_texts
from milco_hf.encoding.folder import VectorFolder

# About what a number of a vector takes as JSON: "123456":1.2345678,
_BYTES_AN_ENTRY = 20
_BYTES_A_DOCUMENT = 100
# Not every engine stores these in a text: controls but for tab and line ends, surrogates, noncharacters.
_NOT_STORABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


class Document(NamedTuple):
    """One document: dimensions (ascending) and weights (above zero), and its text, None where none was given."""

    id: str
    indices: list[int]
    values: list[float]
    text: str | None


class Batch(NamedTuple):
    """Documents that follow each other in a folder.

    Attributes:
        start: Row of the first one.
        ids: Of each.
        matrix: [documents, V_e + V_s], sorted, without zeros.
        texts: Of each, None where none were given.
    """

    start: int
    ids: list[str]
    matrix: sparse.csr_array
    texts: list[str] | None

    def documents(self) -> Iterator[Document]:
        """One after the other; weights are the shortest decimal numbers that are these fp32 weights again."""
        matrix, texts = self.matrix, self.texts or [None] * len(self.ids)
        indices, values = matrix.indices.tolist(), shortest(matrix.data)
        ends = matrix.indptr.tolist()
        for name, text, start, end in zip(self.ids, texts, ends, ends[1:]):
            yield Document(name, indices[start:end], values[start:end], text)

    def halves(self) -> tuple[Batch, Batch]:
        """Two batches of half as many documents each."""
        middle = len(self.ids) // 2
        return self.part(0, middle), self.part(middle, len(self.ids))

    def part(self, first: int, last: int) -> Batch:
        """The documents from `first` to before `last`."""
        texts = None if self.texts is None else self.texts[first:last]
        return Batch(self.start + first, self.ids[first:last], self.matrix[first:last], texts)


def shortest(weights: np.ndarray) -> list[float]:
    """Weights as Python floats whose `repr`, read as fp32, is the weight again: half as long in JSON as `tolist`'s."""
    return [float(text) for text in weights.astype(np.float32, copy=False).astype("U")]


def check_folder(folder: VectorFolder, longest_id: int | None, most_entries: int | None, entries_why: str) -> None:
    """Looks at all ids and row lengths before anything is sent.

    Args:
        folder: The vectors.
        longest_id: Bytes of UTF-8 that an id may have.
        most_entries: Dimensions that a document may have.
        entries_why: Whose limit that is, and the way out.

    Raises:
        ValueError: The folder is not complete; an id is empty, too long, cannot be stored or is there twice; or a
            document has too many dimensions.
    """
    if not folder.manifest["complete"]:
        raise ValueError(
            f"{folder.folder} holds {len(folder)} rows of a run that did not finish. Run `milco encode` again with the "
            "same texts and settings, and it continues."
        )
    digests = np.empty(len(folder), dtype=np.uint64)
    row = 0
    for shard in folder.shards():
        lengths = np.diff(shard.matrix.indptr)
        if most_entries is not None and len(lengths) and lengths.max() > most_entries:
            worst = int(lengths.argmax())
            raise ValueError(f"Row {row + worst} of {folder.folder} has {lengths[worst]} dimensions; {entries_why}")
        for name in shard.ids or ():
            if not name or _NOT_STORABLE.search(name):
                raise ValueError(f"Row {row} of {folder.folder} has the id {name!r}, which engines cannot store.")
            encoded = name.encode()
            if longest_id is not None and len(encoded) > longest_id:
                raise ValueError(
                    f"Row {row} of {folder.folder} has an id of {len(encoded)} bytes; this engine takes {longest_id}. "
                    f"It begins {name[:60]!r}. Encode with shorter ids."
                )
            digests[row] = int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")
            row += 1
        if shard.ids is None:
            row += len(lengths)
    if folder.manifest["ids"]:
        order = np.argsort(digests, kind="stable")
        same = np.flatnonzero(digests[order][1:] == digests[order][:-1])
        if len(same):
            rows = [int(order[same[0]]), int(order[same[0] + 1])]
            raise ValueError(
                f"Rows {rows[0]} and {rows[1]} of {folder.folder} have the same id, so one would overwrite the other. "
                "Give each document its own."
            )


def read_batches(
    folder: VectorFolder,
    texts: str | Path | None = None,
    *,
    start: int = 0,
    batch_size: int = 500,
    batch_bytes: int = 8 << 20,
) -> Iterator[Batch]:
    """Documents from a row on, in batches of at most `batch_size`, and about `batch_bytes` as JSON.

    Documents without an id are named by their row. Characters of texts that some engine cannot store (controls, lone
    surrogates) become U+FFFD.

    Args:
        folder: The vectors.
        texts: The file that was encoded, as `milco encode --file` takes it.
        start: Rows before it are left out.
        batch_size: Documents.
        batch_bytes: A document that is longer by itself makes its own batch.

    Raises:
        ValueError: A weight is negative or no number; or the texts are not those of the vectors: others, fewer, more.
    """
    for name, number in (("batch_size", batch_size), ("batch_bytes", batch_bytes)):
        if number < 1:
            raise ValueError(f"{name} has to be at least 1, got {number}.")
    lines = None if texts is None else read_texts(Path(texts).expanduser())
    row = 0
    for shard in folder.shards():
        rows = shard.matrix.shape[0]
        named = shard.ids or [None] * rows
        found = None if lines is None else [_text_of(lines, texts, row + i, name) for i, name in enumerate(named)]
        first = max(0, start - row)
        if first < rows:
            ids = shard.ids or [str(number) for number in range(row, row + rows)]

            def name(place: int, base: int = row + first) -> str:
                return f"row {base + place} of {folder.folder}"

            matrix = checked_rows(shard.matrix[first:], name)
            whole = Batch(row + first, ids[first:], matrix, None if found is None else found[first:])
            yield from _cut(whole, batch_size, batch_bytes)
        row += rows
    if lines is not None and next(iter(lines), None) is not None:
        raise ValueError(f"{texts} has more texts than the {row} rows of {folder.folder}: it is another file.")


def checked_rows(matrix: sparse.csr_array, name: Callable[[int], str]) -> sparse.csr_array:
    """The rows with sorted columns, without zeros, as fp32.

    Args:
        matrix: [rows, V_e + V_s].
        name: Called with a row's number, says what it is.

    Raises:
        ValueError: A weight is negative or no number.
    """
    if not np.isfinite(matrix.data).all() or (matrix.nnz and matrix.data.min() < 0):
        bad = int(np.flatnonzero(~(matrix.data >= 0) | np.isinf(matrix.data))[0])
        place = int(np.searchsorted(matrix.indptr, bad, side="right")) - 1
        raise ValueError(
            f"A weight of {name(place)} is {matrix.data[bad]}: sparse engines take positive numbers. "
            "Check the model's vectors."
        )
    matrix = sparse.csr_array(matrix, dtype=np.float32, copy=True)
    matrix.sum_duplicates()
    matrix.data[matrix.data < np.finfo(np.float32).tiny] = 0  # denormal numbers, which Lucene refuses
    matrix.eliminate_zeros()
    return matrix


def _text_of(lines: Iterator[Text], file: object, row: int, name: str | None) -> str:
    """The next text, which has to be the row's."""
    line = next(lines, None)
    if line is None:
        raise ValueError(f"{file} has only {row} texts, but there are more vectors: it is another file.")
    if name is not None and line.id is not None and line.id != name:
        raise ValueError(f"Text number {row} of {file} has the id {line.id!r}, but the vector's is {name!r}.")
    return _NOT_STORABLE.sub("\ufffd", line.text)


def _cut(batch: Batch, size: int, most_bytes: int) -> Iterator[Batch]:
    costs = np.diff(batch.matrix.indptr) * _BYTES_AN_ENTRY + _BYTES_A_DOCUMENT
    if batch.texts is not None:
        costs = costs + np.fromiter((len(text.encode()) for text in batch.texts), dtype=np.int64)
    first, cost = 0, 0
    for place, bytes_ in enumerate(costs.tolist()):
        if place > first and (place - first >= size or cost + bytes_ > most_bytes):
            yield batch.part(first, place)
            first, cost = place, 0
        cost += bytes_
    if first < len(batch.ids):
        yield batch.part(first, len(batch.ids))


def dictionaries(matrix: sparse.csr_array) -> list[dict[str, float]]:
    """Each row as {dimension: weight}, dimensions as strings, as JSON has them."""
    ends, indices, values = matrix.indptr.tolist(), matrix.indices.tolist(), shortest(matrix.data)
    return [
        {str(index): value for index, value in zip(indices[start:end], values[start:end])}
        for start, end in pairwise(ends)
    ]


def pairs(document: Document) -> dict[str, float]:
    """A document's vector as {dimension: weight}, dimensions as strings."""
    return dict(zip(map(str, document.indices), document.values))


__all__ = ["Batch", "Document", "check_folder", "checked_rows", "dictionaries", "pairs", "read_batches", "shortest"]
