"""A folder being filled: what is there already, whether it may be continued, and the next shard."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scipy import sparse

from milco_hf.encoding.folder import MANIFEST, VectorFolder, write_manifest, write_shard
from milco_hf.encoding.shards import Pending

_WAY_OUT = "Give another output folder, or resume=False (--no-resume) to replace what is there."


class Run:
    """Writes shards and keeps the manifest true after each.

    Args:
        folder: Where.
        about: What identifies the run: `model`, `fingerprint`, `settings`, `dimensions`, `ids`.
        resume: Whether shards of the same run that are there are kept; else they are removed.

    Raises:
        FileExistsError: The folder holds something else.
        ValueError: The folder's vectors were made by another model or with other settings.
    """

    def __init__(self, folder: str | Path, about: dict[str, Any], resume: bool) -> None:
        self.folder = Path(folder).expanduser()
        self.about = about
        self.records: list[dict[str, Any]] = []
        manifest = self.folder / MANIFEST
        if manifest.is_file() and resume:
            before = VectorFolder(self.folder).manifest
            _check_same(self.folder, before, about)
            self.records = before["shards"]
            return
        if manifest.is_file():
            VectorFolder(self.folder)  # refuses a manifest of something else
            for path in [manifest, *self.folder.glob("shard-*.safetensors*")]:
                path.unlink()
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise FileExistsError(f"{self.folder} is there already and holds no vectors. Give another output folder.")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write(complete=False)

    def has(self, shard: Pending) -> bool:
        """Whether a shard is there.

        Raises:
            ValueError: It is, but was made of other texts.
        """
        if shard.number >= len(self.records):
            return False
        record = self.records[shard.number]
        if record["texts"] != texts_digest(shard.texts, shard.ids, shard.adapters, shard.languages):
            raise ValueError(
                f"{self.folder / record['file']} was made of other texts, ids or languages than those given now. "
                f"{_WAY_OUT}"
            )
        return (self.folder / record["file"]).is_file()

    def add(self, shard: Pending, matrix: sparse.csr_array) -> None:
        """Writes a shard with its rows, [texts, V_e + V_s]."""
        name = f"shard-{shard.number:05d}.safetensors"
        write_shard(self.folder / name, matrix, shard.ids)
        record = {
            "file": name,
            "rows": matrix.shape[0],
            "entries": int(matrix.nnz),
            "texts": texts_digest(shard.texts, shard.ids, shard.adapters, shard.languages),
            "cut": asdict(shard.cut),
        }
        self.records[shard.number : shard.number + 1] = [record]
        self._write(complete=False)

    def finish(self, shards: int) -> None:
        """Marks the folder as complete.

        Raises:
            ValueError: It holds more shards than there were texts for.
        """
        if len(self.records) > shards:
            raise ValueError(
                f"{self.folder} holds {len(self.records)} shards, but the texts given now fill {shards}. {_WAY_OUT}"
            )
        self._write(complete=True)

    def _write(self, complete: bool) -> None:
        totals = {
            "rows": sum(record["rows"] for record in self.records),
            "entries": sum(record["entries"] for record in self.records),
            "cut": {
                name: sum(record["cut"][name] for record in self.records) for name in ("texts", "tokens", "of_tokens")
            },
        }
        write_manifest(self.folder, {**self.about, **totals, "complete": complete, "shards": self.records})


def texts_digest(
    texts: Sequence[str],
    ids: Sequence[str] | None,
    adapters: Sequence[int] | None = None,
    languages: Sequence[str | None] | None = None,
) -> str:
    """A digest of some texts, their ids and, where they matter, their language adapters and languages."""
    digest = hashlib.blake2b(digest_size=16)
    more = [list(map(str, each)) for each in (adapters, languages) if each is not None]
    for strings in (texts, ids or (), *more):
        digest.update(len(strings).to_bytes(8, "little"))
        for string in strings:
            content = string.encode("utf-8", "surrogatepass")
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
    return digest.hexdigest()


def _check_same(folder: Path, before: dict[str, Any], about: dict[str, Any]) -> None:
    """Refuses to continue what another model or other settings began."""
    if before["fingerprint"] != about["fingerprint"]:
        raise ValueError(
            f"{folder} holds vectors of another model: {before['model']} with fingerprint {before['fingerprint']}, but "
            f"this one is {about['model']} with {about['fingerprint']}. {_WAY_OUT}"
        )
    old = {**before["settings"], "ids": before["ids"]}
    new = {**about["settings"], "ids": about["ids"]}
    if differ := [name for name in {**new, **old} if old.get(name) != new.get(name)]:
        listed = ", ".join(f"{name} {old.get(name)!r} there and {new.get(name)!r} now" for name in differ)
        raise ValueError(
            f"{folder} was begun with other settings: {listed} (model fingerprint {before['fingerprint']} there, "
            f"{about['fingerprint']} now). {_WAY_OUT}"
        )


__all__ = ["Run", "texts_digest"]
