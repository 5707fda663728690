"""Files for tools that build their own index: Anserini and Pyserini, and Seismic."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from milco_hf.encoding.folder import VectorFolder
from milco_hf.engines.base import opened
from milco_hf.engines.batches import Batch, Document, check_folder, read_batches
from milco_hf.text_files import open_text

QUANTIZATION = "quantization.json"
# In one file; Anserini reads files in parallel.
_DOCUMENTS_A_FILE = 100_000


def write_pyserini(
    vectors: VectorFolder | str | Path,
    output: str | Path,
    texts: str | Path | None = None,
    *,
    factor: float = 100.0,
    compress: bool = True,
    documents_a_file: int = _DOCUMENTS_A_FILE,
) -> dict[str, Any]:
    """Writes what Anserini and Pyserini index and search by impact: JsonVectorCollection, or topics.

    Documents become `docs-00000.jsonl.gz` …, with `id`, `contents` (the text, or nothing) and `vector`, {dimension:
    whole weight}. Queries (`milco encode --as query`) become `topics.tsv.gz`: an id, a tab, and each dimension as often
    as its whole weight. A whole weight is the weight times `factor`, rounded; what rounds to 0 is left out. So scores
    are those of the vectors times both factors, within rounding. `quantization.json` states the factor and what was
    lost.

    Args:
        vectors: What `milco encode --output` wrote.
        output: A new or empty folder.
        texts: The file that was encoded, for `contents`.
        factor: Above 0.
        compress: Whether files are .gz.
        documents_a_file: Documents.

    Returns:
        What `quantization.json` holds.

    Raises:
        FileExistsError: The folder holds something.
        ValueError: An id has white space (topics), or a number or the vectors cannot be.
    """
    if not factor > 0 or not np.isfinite(factor):
        raise ValueError(f"factor has to be above 0, got {factor}.")
    if documents_a_file < 1:
        raise ValueError(f"documents_a_file has to be at least 1, got {documents_a_file}.")
    folder = _checked(vectors)
    queries = folder.manifest["settings"]["kind"] == "query"
    if queries and texts is not None:
        raise ValueError("Topics hold no texts; leave --texts out.")
    note = {
        "factor": factor,
        "rounding": "nearest, half to even",
        "kind": folder.manifest["settings"]["kind"],
        "model": folder.manifest["model"],
        "fingerprint": folder.manifest["fingerprint"],
        "rows": 0,
        "entries": 0,
        "entries_rounded_to_zero": 0,
        "largest_weight": 0,
    }

    def rows() -> Iterator[tuple[Document, list[int]]]:
        for batch in read_batches(folder, texts):
            whole, lost = _quantized(batch.matrix, factor)
            note["rows"] += len(batch.ids)
            note["entries"] += whole.nnz
            note["entries_rounded_to_zero"] += lost
            note["largest_weight"] = max(note["largest_weight"], int(whole.data.max(initial=0)))
            kept = Batch(batch.start, batch.ids, whole, batch.texts)
            for document in kept.documents():
                yield document, [int(value) for value in document.values]

    with _new_folder(Path(output).expanduser()) as partial:
        suffix = ".gz" if compress else ""
        if queries:
            with open_text(partial / f"topics.tsv{suffix}", "w") as file:
                for document, weights in rows():
                    if document.id.split() != [document.id]:
                        raise ValueError(f"Topics take no white space in ids, but one is {document.id!r}.")
                    words = " ".join(" ".join([str(i)] * n) for i, n in zip(document.indices, weights))
                    file.write(f"{document.id}\t{words}\n")
        else:
            _write_parts(
                partial,
                f"docs-{{:05d}}.jsonl{suffix}",
                documents_a_file,
                (
                    {
                        "id": document.id,
                        "contents": document.text or "",
                        "vector": dict(zip(map(str, document.indices), weights)),
                    }
                    for document, weights in rows()
                ),
            )
        (partial / QUANTIZATION).write_text(json.dumps(note, indent=1) + "\n", "utf-8")
    return note


def write_seismic(
    vectors: VectorFolder | str | Path, output: str | Path, texts: str | Path | None = None
) -> dict[str, Any]:
    """Writes a JSON-lines file as `SeismicIndex.build` reads it: `id`, `content` (the text), `vector`.

    A query has the same form. Dimensions are named by their numbers, since Seismic cuts longer names of tokens.

    Args:
        vectors: What `milco encode --output` wrote.
        output: A new file.
        texts: The file that was encoded, for `content`.

    Returns:
        {"rows": …, "entries": …}.

    Raises:
        FileExistsError: The file is there.
        ValueError: The vectors cannot be.
    """
    folder, output = _checked(vectors), Path(output).expanduser()
    if output.suffix != ".jsonl":
        raise ValueError(f"Seismic reads a .jsonl file, got {output.name!r} (--output documents.jsonl).")
    if output.exists():
        raise FileExistsError(f"{output} is there already. Give another file (--output).")
    output.parent.mkdir(parents=True, exist_ok=True)
    note = {"rows": 0, "entries": 0}
    partial = output.with_name(f"{output.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        for batch in read_batches(folder, texts):
            note["rows"] += len(batch.ids)
            note["entries"] += batch.matrix.nnz
            for document in batch.documents():
                vector = dict(zip(map(str, document.indices), document.values))
                row = {"id": document.id, "content": document.text or "", "vector": vector}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(partial, output)
    return note


def _checked(vectors: VectorFolder | str | Path) -> VectorFolder:
    folder = opened(vectors)
    check_folder(folder, None, None, "")
    return folder


def _quantized(matrix: sparse.csr_array, factor: float) -> tuple[sparse.csr_array, int]:
    """Whole weights without zeros, and how many became zero."""
    whole = matrix.copy()
    whole.data = np.rint(whole.data.astype(np.float64) * factor)
    largest = whole.data.max(initial=0)
    if largest > 2**24:  # beyond, fp32 skips whole numbers
        raise ValueError(
            f"A factor of {factor:g} makes weights as large as {largest:g}; give a smaller one (--factor)."
        )
    whole.eliminate_zeros()
    return whole, matrix.nnz - whole.nnz


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder that is there whole or not at all."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already and is not empty. Give another folder (--output).")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that died
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial)
        raise
    if folder.exists():
        folder.rmdir()
    os.replace(partial, folder)


def _write_parts(folder: Path, pattern: str, size: int, rows: Iterator[dict[str, Any]]) -> None:
    """Rows as JSON lines, so many in a file."""
    file, written, parts = None, 0, 0
    try:
        for row in rows:
            if file is None or written == size:
                if file is not None:
                    file.close()
                file, written, parts = open_text(folder / pattern.format(parts), "w"), 0, parts + 1
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            written += 1
    finally:
        if file is not None:
            file.close()


__all__ = ["QUANTIZATION", "write_pyserini", "write_seismic"]
