"""Qdrant: sparse vectors with u32 dimensions and fp32 weights, searched exactly by an inverted index."""

from __future__ import annotations

import uuid
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scipy import sparse

from milco_hf.engines.base import Engine, Ranking
from milco_hf.engines.batches import Batch
from milco_hf.engines.http import credential, split_credentials
from milco_hf.engines.retry import Backoff, BusyError, EngineError, TooLargeError, retry

if TYPE_CHECKING:
    from collections.abc import Callable

    from qdrant_client import QdrantClient

VECTOR = "text"
"""The vector's name; `sentence_transformers`' `semantic_search_qdrant` looks for this one."""

# A point's id is a number or a UUID: this namespace makes the same UUID of the same id in every upload.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "milco-hf/qdrant")
# Qdrant's default limit of a request is 32 MB.
_REQUEST_BYTES = 16 << 20


class QdrantEngine(Engine):
    """A collection of Qdrant.

    A point's payload holds the document's `id` and `text`; its own id is a UUID made from that id, since Qdrant takes
    only numbers and UUIDs.

    Args:
        collection: Its name.
        url: Such as http://localhost:6333; ":memory:" is a collection in this process, for trials.
        path: A folder for Qdrant's local mode, in place of `url`.
        api_key: By default what QDRANT_API_KEY holds.
        client: A `QdrantClient` to use, in place of all these.
        on_disk: Whether the index stays on disk in place of memory.
        timeout: Seconds to wait for an answer.
        backoff: Of requests that Qdrant is too busy for.

    Raises:
        ImportError: qdrant-client is not installed.
    """

    name = "qdrant"
    batch_bytes = _REQUEST_BYTES

    def __init__(
        self,
        collection: str,
        *,
        url: str | None = None,
        path: str | Path | None = None,
        api_key: str | None = None,
        client: QdrantClient | None = None,
        on_disk: bool = False,
        timeout: int = 60,
        backoff: Backoff | None = None,
    ) -> None:
        super().__init__(collection)
        self._on_disk = on_disk
        self._backoff = backoff or Backoff()
        if client is not None:
            self._client, self._address = client, "a given client"
            return
        if (url is None) == (path is None):
            raise ValueError(
                "qdrant needs either a url (--url http://localhost:6333) or a path (--option path=FOLDER)."
            )
        try:
            from qdrant_client import QdrantClient
        except ImportError as error:
            raise ImportError('qdrant needs qdrant-client: pip install "milco-hf[engines]".') from error
        if path is not None:
            self._address = str(Path(path).expanduser().resolve())
            self._client = QdrantClient(path=self._address)
        elif url == ":memory:":
            self._address = url
            self._client = QdrantClient(location=url)
        else:
            self._address, user = split_credentials(str(url))
            if user is not None:
                raise ValueError("qdrant knows no user and password; give an API key (QDRANT_API_KEY).")
            self._client = QdrantClient(
                url=self._address, api_key=credential(api_key, "QDRANT_API_KEY"), timeout=timeout
            )

    @property
    def address(self) -> str:
        """Where it is, without credentials."""
        return self._address

    def exists(self) -> bool:
        """Whether the collection is there."""
        return self._call(lambda: self._client.collection_exists(self.collection))

    def count(self) -> int:
        """How many documents the collection has."""
        return self._call(lambda: self._client.count(self.collection, exact=True)).count

    def delete(self) -> None:
        """Removes the collection with all that is in it."""
        self._call(lambda: self._client.delete_collection(self.collection))
        self._about = None

    def _create(self, dimensions: int, about: dict[str, Any]) -> None:
        from qdrant_client import models

        index = models.SparseIndexParams(on_disk=self._on_disk)
        self._call(
            lambda: self._client.create_collection(
                self.collection,
                vectors_config={},
                sparse_vectors_config={VECTOR: models.SparseVectorParams(index=index)},
                metadata={"milco": about},
            )
        )

    def _read_about(self) -> dict[str, Any] | None:
        config = self._call(lambda: self._client.get_collection(self.collection)).config
        return (config.metadata or {}).get("milco")

    def write(self, batch: Batch) -> None:
        """Puts documents in, in place of those with the same ids."""
        from qdrant_client import models

        points = [
            models.PointStruct(
                id=point_id(document.id),
                vector={VECTOR: models.SparseVector(indices=document.indices, values=document.values)},
                payload={"id": document.id} | ({} if document.text is None else {"text": document.text}),
            )
            for document in batch.documents()
        ]
        self._call(lambda: self._client.upsert(self.collection, points=points, wait=True))

    def _search(self, queries: sparse.csr_array, k: int) -> Ranking:
        from qdrant_client import models

        found: Ranking = []
        for start, end in pairwise(queries.indptr.tolist()):
            vector = models.SparseVector(
                indices=queries.indices[start:end].tolist(), values=queries.data[start:end].tolist()
            )
            answer = self._call(
                lambda vector=vector: self._client.query_points(
                    self.collection, query=vector, using=VECTOR, limit=k, with_payload=["id"]
                )
            )
            found.append([(point.payload["id"], point.score) for point in answer.points])
        return found

    def close(self) -> None:
        """Closes connections."""
        self._client.close()

    def _call(self, call: Callable[[], Any]) -> Any:
        """A call of the client, tried again while Qdrant is busy, its errors as ours."""
        import httpx  # what qdrant-client speaks HTTP with
        from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        def once() -> Any:
            try:
                return call()
            except ResourceExhaustedResponse as error:
                raise BusyError(f"{self} is busy: {error}.", 429, float(error.retry_after_s)) from error
            except ResponseHandlingException as error:
                if not isinstance(error.source, httpx.TransportError):
                    raise EngineError(f"{self} gave an answer that its client does not read: {error.source}") from error
                raise BusyError(f"{self} gave no answer ({type(error.source).__name__}).") from error
            except UnexpectedResponse as error:
                status = error.status_code
                if status in (429, 502, 503, 504):
                    raise BusyError(f"{self} answered {status}.", status) from error
                kind = TooLargeError if status == 413 else EngineError
                raise kind(
                    f"{self} answered {status}: {error.content[:600].decode('utf-8', 'replace')}", status
                ) from error

        return retry(once, self._backoff)


def point_id(document: str) -> str:
    """The UUID under which Qdrant holds a document."""
    return str(uuid.uuid5(_NAMESPACE, document))


__all__ = ["VECTOR", "QdrantEngine", "point_id"]
