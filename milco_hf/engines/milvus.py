"""Milvus and Milvus Lite: SPARSE_FLOAT_VECTOR with an inverted index over inner products."""

from __future__ import annotations

import json
import logging
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scipy import sparse

from milco_hf.engines.base import Engine, Ranking
from milco_hf.engines.batches import Batch
from milco_hf.engines.http import credential, split_credentials
from milco_hf.engines.retry import EngineError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymilvus import MilvusClient

logger = logging.getLogger(__name__)

VECTOR = "tokens"
_PROPERTY = "milco"
# Limits of Milvus: bytes of a VARCHAR, results of a search; queries in one request, for its size.
_LONGEST_TEXT = 65_535
_MOST_RESULTS = 16_384
_QUERIES = 100


class MilvusEngine(Engine):
    """A collection of Milvus.

    Fields: `id` (VARCHAR, primary), `text` (VARCHAR, at most 65,535 bytes: longer texts are cut, and a log line says
    how many) and `tokens` (SPARSE_FLOAT_VECTOR). Requests that Milvus is too busy for are tried again by its own
    client.

    Args:
        collection: Its name: letters, digits and underscores.
        url: Such as http://localhost:19530, or a file `NAME.db` for Milvus Lite.
        token: An API key, or user:password; by default what MILVUS_TOKEN holds.
        database: The database's name, where there are several.
        algorithm: Of the inverted index: DAAT_MAXSCORE, DAAT_WAND or TAAT_NAIVE; all are exact.
        client: A `MilvusClient` to use, in place of `url` and `token`.
        timeout: Seconds to wait for an answer.

    Raises:
        ImportError: pymilvus, or for a file milvus-lite, is not installed.
    """

    name = "milvus"
    longest_id = 512
    most_results = _MOST_RESULTS
    stores_empty = False
    # its gRPC messages hold 64 MB
    batch_bytes = 16 << 20

    def __init__(
        self,
        collection: str,
        *,
        url: str | None = None,
        token: str | None = None,
        database: str | None = None,
        algorithm: str = "DAAT_MAXSCORE",
        client: MilvusClient | None = None,
        timeout: float = 60.0,
    ) -> None:
        super().__init__(collection)
        self._algorithm = algorithm
        self._timeout = timeout
        self._cut = 0
        if client is not None:
            self._client, self._address = client, "a given client"
            return
        if not url:
            raise ValueError("milvus needs a url (--url http://localhost:19530, or --url FILE.db for Milvus Lite).")
        try:
            from pymilvus import MilvusClient
        except ImportError as error:
            raise ImportError('milvus needs pymilvus: pip install "milco-hf[engines]".') from error
        settings: dict[str, Any] = {"timeout": timeout}
        if "://" in url:
            self._address, user = split_credentials(url)
            token = credential(token, "MILVUS_TOKEN") or (None if user is None else ":".join(user))
        else:
            if not url.endswith(".db"):
                raise ValueError(f"Milvus Lite keeps its data in a file whose name ends in .db, got {url!r}.")
            self._address = str(Path(url).expanduser().resolve())
        if token:
            settings["token"] = token
        if database:
            settings["db_name"] = database
        self._client = self._call(lambda: MilvusClient(self._address, **settings))

    @property
    def address(self) -> str:
        """Where it is, without credentials."""
        return self._address

    def exists(self) -> bool:
        """Whether the collection is there."""
        return self._call(lambda: self._client.has_collection(self.collection, timeout=self._timeout))

    def count(self) -> int:
        """How many documents the collection has."""
        self._call(lambda: self._client.load_collection(self.collection))
        rows = self._call(
            lambda: self._client.query(
                self.collection,
                filter="",
                output_fields=["count(*)"],
                consistency_level="Strong",
                timeout=self._timeout,
            )
        )
        return int(rows[0]["count(*)"])

    def delete(self) -> None:
        """Removes the collection with all that is in it."""
        self._call(lambda: self._client.drop_collection(self.collection))
        self._about = None

    def _create(self, dimensions: int, about: dict[str, Any]) -> None:
        from pymilvus import DataType

        note = json.dumps(about)
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False, description=note)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=self.longest_id)
        schema.add_field("text", DataType.VARCHAR, max_length=_LONGEST_TEXT)
        schema.add_field(VECTOR, DataType.SPARSE_FLOAT_VECTOR)
        index = self._client.prepare_index_params()
        index.add_index(
            VECTOR,
            index_type="SPARSE_INVERTED_INDEX",
            metric_type="IP",
            params={"inverted_index_algo": self._algorithm},
        )
        self._call(
            lambda: self._client.create_collection(
                self.collection, schema=schema, index_params=index, consistency_level="Strong"
            )
        )
        if self._description().get("description") != note:  # Milvus Lite keeps no descriptions, but properties
            self._call(lambda: self._client.alter_collection_properties(self.collection, {_PROPERTY: note}))

    def _read_about(self) -> dict[str, Any] | None:
        there = self._description()
        for note in (there.get("description"), (there.get("properties") or {}).get(_PROPERTY)):
            if note and note.startswith('{"format": "milco"'):
                return json.loads(note)
        return None

    def _description(self) -> dict[str, Any]:
        return self._call(lambda: self._client.describe_collection(self.collection))

    def write(self, batch: Batch) -> None:
        """Puts documents in, in place of those with the same ids."""
        rows = [
            {
                "id": document.id,
                "text": self._fitting(document.text or ""),
                VECTOR: dict(zip(document.indices, document.values)),
            }
            for document in batch.documents()
        ]
        self._call(lambda: self._client.upsert(self.collection, rows, timeout=self._timeout))

    def _fitting(self, text: str) -> str:
        encoded = text.encode()
        if len(encoded) <= _LONGEST_TEXT:
            return text
        self._cut += 1
        return encoded[:_LONGEST_TEXT].decode("utf-8", "ignore")

    def finish(self) -> None:
        """Makes everything durable, and says what was cut."""
        self._call(lambda: self._client.flush(self.collection))
        if self._cut:
            logger.warning(
                "%d texts were cut to the %d bytes that Milvus stores; the vectors are whole.", self._cut, _LONGEST_TEXT
            )
            self._cut = 0

    def _search(self, queries: sparse.csr_array, k: int) -> Ranking:
        self._call(lambda: self._client.load_collection(self.collection))
        ends, found = queries.indptr.tolist(), []
        vectors = [
            dict(zip(queries.indices[start:end].tolist(), queries.data[start:end].tolist()))
            for start, end in pairwise(ends)
        ]
        for first in range(0, len(vectors), _QUERIES):
            answers = self._call(
                lambda block=vectors[first : first + _QUERIES]: self._client.search(
                    self.collection,
                    data=block,
                    anns_field=VECTOR,
                    limit=k,
                    output_fields=["id"],
                    search_params={"metric_type": "IP"},
                    consistency_level="Strong",
                    timeout=self._timeout,
                )
            )
            found += [[(hit["id"], hit["distance"]) for hit in hits] for hits in answers]
        return found

    def close(self) -> None:
        """Closes connections."""
        self._client.close()

    def _call(self, call: Callable[[], Any]) -> Any:
        """A call of the client, its errors as ours."""
        from pymilvus.exceptions import MilvusException

        try:
            return call()
        except MilvusException as error:
            # gRPC's own words for a message over the limit
            large = "larger than max" in str(error)
            kind = TooLargeError if large else EngineError
            raise kind(f"{self.name} at {self._address}, collection {self.collection!r}: {error.message}") from error


__all__ = ["VECTOR", "MilvusEngine"]
