"""How far an upload is: a small file, true after each batch that the engine has taken."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from milco_hf.encoding.folder import VectorFolder

logger = logging.getLogger(__name__)


class Journal:
    """Counts the rows of an upload that are done.

    Args:
        path: Its file.
        upload: What is uploaded to where, without credentials; a journal of something else starts anew.

    Attributes:
        rows: Done.
        left_out: Of these, those that the engine does not keep.
    """

    def __init__(self, path: Path, upload: dict[str, Any]) -> None:
        self.path = path.expanduser()
        self.upload = upload
        self.rows = self.left_out = 0
        if not self.path.is_file():
            return
        try:
            before = json.loads(self.path.read_text("utf-8"))
            if before["upload"] == upload:
                self.rows, self.left_out = int(before["rows"]), int(before["left_out"])
            else:
                logger.info("%s is of another upload; starting anew.", self.path)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.path} is there and is no journal of an upload. Give another file (--journal)."
            ) from error

    @staticmethod
    def default_path(folder: VectorFolder, engine: str, address: str, collection: str) -> Path:
        """A file in the folder of the vectors, another one for each collection."""
        digest = hashlib.blake2b(f"{engine}\n{address}\n{collection}".encode(), digest_size=4).hexdigest()
        return folder.folder / f"upload-{engine}-{digest}.json"

    def restart(self) -> None:
        """Nothing is done."""
        self.rows = self.left_out = 0
        self._save()

    def add(self, rows: int, left_out: int) -> None:
        """So many rows more are done."""
        self.rows, self.left_out = self.rows + rows, self.left_out + left_out
        self._save()

    def _save(self) -> None:
        partial = self.path.with_name(f"{self.path.name}.partial")
        note = {"upload": self.upload, "rows": self.rows, "left_out": self.left_out}
        try:
            partial.write_text(json.dumps(note, indent=1) + "\n", "utf-8")
            os.replace(partial, self.path)
        except OSError as error:
            raise OSError(
                f"Cannot write the upload's journal, {self.path} ({error.strerror}). Give a file that can be written "
                "(--journal)."
            ) from error


def vectors_digest(folder: VectorFolder) -> str:
    """A digest of what a folder holds: model, settings, and the texts behind each shard."""
    manifest = folder.manifest
    parts = [manifest["fingerprint"], manifest["settings"], [shard["texts"] for shard in manifest["shards"]]]
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


__all__ = ["Journal", "vectors_digest"]
