"""What every engine does: create a collection, take documents in bulk, search, count, delete."""

from __future__ import annotations

import logging
import uuid
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from milco_hf.encoding.folder import VectorFolder
from milco_hf.engines.batches import Batch, checked_rows
from milco_hf.engines.uploading import upload

logger = logging.getLogger(__name__)

Ranking = list[list[tuple[str, float]]]
"""(id, score) of each query's documents, best first."""

Vectors = VectorFolder | str | Path


class Engine(ABC):
    """A collection in a search engine.

    Args:
        collection: Its name: collection, index, table or schema, as the engine calls it.

    Attributes:
        name: As `milco export --to` takes it.
        exact: Whether scores are the products of the vectors, within fp32 rounding, over all documents.
        longest_id: Bytes of UTF-8 that an id may have.
        most_entries: Dimensions that a document may have.
        most_results: Documents that a search can return.
        stores_empty: Whether documents without any dimension are kept; otherwise they are left out.
        batch_size: Documents in an upload's request, by default.
        batch_bytes: About the bytes of one.
    """

    name: ClassVar[str]
    exact: bool = True
    longest_id: int | None = None
    most_entries: int | None = None
    most_results: int | None = None
    stores_empty: bool = True
    batch_size: int = 500
    batch_bytes: int = 8 << 20

    def __init__(self, collection: str) -> None:
        if not collection:
            raise ValueError(f"{self.name} needs the name of a collection (--collection).")
        self.collection = collection
        self._about: dict[str, Any] | None = None

    # What an engine has to say and do.

    @property
    @abstractmethod
    def address(self) -> str:
        """Where it is, without credentials."""

    @abstractmethod
    def exists(self) -> bool:
        """Whether the collection is there."""

    @abstractmethod
    def count(self) -> int:
        """How many documents the collection has."""

    @abstractmethod
    def delete(self) -> None:
        """Removes the collection with all that is in it."""

    @abstractmethod
    def _create(self, dimensions: int, about: dict[str, Any]) -> None:
        """Makes the collection for vectors of so many dimensions, and keeps `about` with it where it can."""

    @abstractmethod
    def _read_about(self) -> dict[str, Any] | None:
        """What `_create` kept; None where the engine has no place for it, or others made the collection."""

    @abstractmethod
    def write(self, batch: Batch) -> None:
        """Puts documents in, in place of those with the same ids. Returns when the engine has them for good."""

    @abstractmethod
    def _search(self, queries: sparse.csr_array, k: int) -> Ranking:
        """The best k of each query; no query is empty."""

    def finish(self) -> None:  # noqa: B027 – engines that have nothing to do leave it as it is
        """What has to be done after the last batch, such as making documents visible."""

    @abstractmethod
    def close(self) -> None:
        """Closes connections."""

    # What is the same for all.

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.collection!r} at {self.address})"

    def about(self) -> dict[str, Any] | None:
        """What made the collection's vectors: `model`, `fingerprint`, `dimensions` and `settings` of their manifest.

        None where the engine has no place for it, or others made the collection.
        """
        if self._about is None:
            self._about = self._read_about()
        return self._about

    def create(self, vectors: Vectors, *, replace: bool = False) -> None:
        """Makes the collection that a folder of vectors goes into.

        Args:
            vectors: What `milco encode --output` wrote.
            replace: Whether a collection of this name is deleted first, with all that is in it.

        Raises:
            FileExistsError: There is one already.
            EngineError: The engine refuses.
        """
        manifest = opened(vectors).manifest
        if self.exists():
            if not replace:
                raise FileExistsError(
                    f"{self} is there already. Upload into it, choose another collection, or replace it (--replace)."
                )
            self.delete()
        about = {
            "format": "milco",
            "model": manifest["model"],
            "fingerprint": manifest["fingerprint"],
            "dimensions": manifest["dimensions"],
            "settings": manifest["settings"],
            "created": uuid.uuid4().hex,
        }
        self._about = None
        self._create(sum(manifest["dimensions"].values()), about)
        logger.info("Created %s.", self)

    def upload(
        self,
        vectors: Vectors,
        texts: str | Path | None = None,
        *,
        batch_size: int | None = None,
        resume: bool = True,
        journal: str | Path | None = None,
        progress: bool = True,
    ) -> int:
        """Uploads a folder of vectors, document by document under its id; one that is there already is replaced.

        After each batch that the engine has taken, a journal notes how far the upload is. An upload that was cut short
        goes on from there, and sends at most one batch twice.

        Args:
            vectors: What `milco encode --output` wrote.
            texts: The file that was encoded; its texts are stored beside the vectors.
            batch_size: Documents in a request; fewer where they are long.
            resume: Whether to go on where the journal says; False sends everything.
            journal: The journal's file; by default in the folder of the vectors.
            progress: Whether to show a bar.

        Returns:
            How many documents were sent now.

        Raises:
            FileNotFoundError: The collection is not there.
            ValueError: The collection's vectors were made by another model, or these cannot be stored. The message
                says what to do. Nothing was sent.
            EngineError: The engine refused documents, or was out of reach for too long. What was taken stays, and the
                next call goes on.
        """
        return upload(
            self,
            opened(vectors),
            texts,
            batch_size=batch_size,
            resume=resume,
            journal=journal,
            progress=progress,
        )

    def search(self, queries: sparse.csr_array | Vectors, k: int = 10) -> Ranking:
        """The best k documents of each query.

        Args:
            queries: [Q, V_e + V_s], or a folder that `milco encode --as query --output` wrote.
            k: At least 1.

        Returns:
            For each query (id, score), best first; only documents that share a dimension with it. An empty query has
            none.

        Raises:
            ValueError: The queries were encoded by another model than the documents, or k or a weight cannot be.
            EngineError: The engine refuses.
        """
        if k < 1 or (self.most_results is not None and k > self.most_results):
            limit = "" if self.most_results is None else f" and at most {self.most_results} for {self.name}"
            raise ValueError(f"k has to be at least 1{limit}, got {k}.")
        if isinstance(queries, (VectorFolder, str, Path)):
            folder = opened(queries)
            self.check_model(folder.manifest, "queries")
            queries, _ = folder.load()
        matrix = checked_rows(sparse.csr_array(queries), lambda row: f"query number {row}")
        about = self.about()
        if about is not None and matrix.shape[1] != sum(about["dimensions"].values()):
            raise ValueError(
                f"The queries have {matrix.shape[1]} dimensions, but the documents of {self} have "
                f"{sum(about['dimensions'].values())}."
            )
        asked = np.flatnonzero(np.diff(matrix.indptr))
        found: Ranking = [[] for _ in range(matrix.shape[0])]
        if len(asked):
            for row, ranking in zip(asked.tolist(), self._search(matrix[asked], k)):
                found[row] = [(name, score) for name, score in ranking if score > 0]
        return found

    def entries_limit(self) -> str:
        """What `most_entries` is, and the way out."""
        return (
            f"{self.name} takes at most {self.most_entries}. Encode with fewer: --prune top_k:{self.most_entries}, or "
            "mass:0.95."
        )

    def check_model(self, manifest: dict[str, Any], what: str) -> None:
        """Refuses vectors of another model than the collection's."""
        about = self.about()
        if about is None:
            logger.warning("%s does not say which model its vectors are of, so that was not compared.", self)
        elif about["fingerprint"] != manifest["fingerprint"]:
            raise ValueError(
                f"{self} holds vectors of {about['model']} with fingerprint {about['fingerprint']}, but these {what} "
                f"are of {manifest['model']} with {manifest['fingerprint']}. Encode them with the same model and "
                "version, or put the documents into another collection, or replace this one (--replace)."
            )


def opened(vectors: Vectors) -> VectorFolder:
    """The folder, opened unless it is."""
    return vectors if isinstance(vectors, VectorFolder) else VectorFolder(vectors)


__all__ = ["Engine", "Ranking", "Vectors", "opened"]
