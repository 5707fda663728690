"""Vectors on disk: shards of CSR rows with their texts' ids, and a manifest that says what made them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save_file
from scipy import sparse

MANIFEST = "manifest.json"
FORMAT = "milco-vectors"
_VERSION = 1
_DTYPES = {"F32": np.float32, "I32": np.int32, "I64": np.int64, "U8": np.uint8}


class Shard(NamedTuple):
    """Some rows of a corpus: `matrix` [rows, V_e + V_s], and their `ids`, None where the texts had none."""

    matrix: sparse.csr_array
    ids: list[str] | None


class VectorFolder:
    """What `encode_corpus` wrote, opened to be read: nothing is loaded before it is asked for.

    Args:
        folder: The folder.

    Attributes:
        manifest: What its manifest.json holds: `model`, `fingerprint`, `settings`, `dimensions` ({"english": V_e,
            "source": V_s}), `rows`, `entries`, `cut`, `complete`, `shards`.

    Raises:
        FileNotFoundError: It holds no manifest.
        ValueError: The manifest is no manifest of vectors, or of a later version than this one knows.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        path = self.folder / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(f"{self.folder} holds no {MANIFEST}, so no vectors of encode_corpus.")
        self.manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if self.manifest.get("format") != FORMAT or self.manifest.get("version", 0) > _VERSION:
            raise ValueError(
                f"{path} is no manifest that this version reads: format {self.manifest.get('format')!r}, version "
                f"{self.manifest.get('version')!r}; it reads {FORMAT!r} up to version {_VERSION}."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, V_e + V_s)."""
        return self.manifest["rows"], sum(self.manifest["dimensions"].values())

    def __len__(self) -> int:
        return self.manifest["rows"]

    def shards(self) -> Iterator[Shard]:
        """The shards in order, each memory-mapped: pages are read when they are used, and the file stays as it is."""
        for record in self.manifest["shards"]:
            yield read_shard(self.folder / record["file"], self.shape[1])

    def load(self) -> tuple[sparse.csr_array, list[str] | None]:
        """All of it in memory: the matrix [N, V_e + V_s] and the ids.

        Raises:
            ValueError: The run that writes the folder has not finished.
        """
        if not self.manifest["complete"]:
            raise ValueError(
                f"{self.folder} holds {self.manifest['rows']} rows of a run that did not finish. Run it again with the "
                "same texts and settings and it continues; or take what is there from VectorFolder.shards()."
            )
        matrices, ids = [], []
        for shard in self.shards():
            matrices.append(shard.matrix)
            ids += shard.ids or []
        matrix = stacked(matrices, self.shape[1])
        return matrix, ids if self.manifest["ids"] else None


def load_vectors(folder: str | Path) -> tuple[sparse.csr_array, list[str] | None, dict[str, Any]]:
    """Loads what `encode_corpus` wrote into a folder.

    Args:
        folder: The folder; `VectorFolder` reads it shard by shard instead.

    Returns:
        The matrix [N, V_e + V_s], the ids (None where the texts had none), and the manifest.

    Raises:
        FileNotFoundError: The folder holds no manifest.
        ValueError: The run that writes it has not finished, or a later version wrote it.
    """
    opened = VectorFolder(folder)
    matrix, ids = opened.load()
    return matrix, ids, opened.manifest


def stacked(matrices: Sequence[sparse.csr_array], width: int) -> sparse.csr_array:
    """Matrices one below the other, [rows, width]."""
    if not matrices:
        return sparse.csr_array((0, width), dtype=np.float32)
    return sparse.csr_array(sparse.vstack(matrices, format="csr"))


def write_shard(path: Path, matrix: sparse.csr_array, ids: Sequence[str] | None) -> None:
    """Writes a shard, whole or not at all."""
    arrays = {
        "data": matrix.data.astype(np.float32, copy=False),
        "indices": matrix.indices.astype(np.int32, copy=False),
        "indptr": matrix.indptr.astype(np.int64),
    }
    if ids is not None:
        encoded = [name.encode() for name in ids]
        arrays["id_bytes"] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        arrays["id_ends"] = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    partial = path.with_name(f"{path.name}.partial")
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial)
    os.replace(partial, path)


def read_shard(path: Path, width: int) -> Shard:
    """A shard, memory-mapped."""
    arrays = _mapped(path)
    rows = len(arrays["indptr"]) - 1
    matrix = sparse.csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), shape=(rows, width), copy=False)
    if "id_ends" not in arrays:
        return Shard(matrix, None)
    text, ends = arrays["id_bytes"].tobytes(), arrays["id_ends"].tolist()
    return Shard(matrix, [text[start:end].decode() for start, end in zip([0, *ends], ends)])


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest, whole or not at all."""
    partial = folder / f"{MANIFEST}.partial"
    partial.write_text(json.dumps({"format": FORMAT, "version": _VERSION, **manifest}, indent=1) + "\n", "utf-8")
    os.replace(partial, folder / MANIFEST)


def _mapped(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file; its own reader for numpy copies them, this one does not."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
        start, end = entry["data_offsets"]
        empty = start == end  # nothing cannot be mapped
        arrays[name] = np.empty(shape, dtype) if empty else np.memmap(path, dtype, "r", 8 + size + start, shape)
    return arrays


__all__ = ["Shard", "VectorFolder", "load_vectors"]
