"""What every system that is evaluated offers, and how vectors are searched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from milco_hf.evaluation.topk import Best, Ranking
from milco_hf.evaluation.vectors import Vectors

if TYPE_CHECKING:
    from milco_hf.evaluation.cache import EncodedDocuments, VectorCache
    from milco_hf.evaluation.collections import Collection

# Queries that are scored against a shard at a time, and bytes of prepared shards that an index keeps.
_QUERIES = 256
_KEEP_BYTES = 1 << 29


class Index(Protocol):
    """A pool of documents that can be searched."""

    ids: list[str]

    def search(self, queries: Sequence[str], k: int) -> Ranking:
        """The k best documents of each query, exactly: (id, score), best first."""

    def statistics(self) -> dict[str, float]:
        """What there is to say about the pool, such as the active dimensions of a document."""


class System(Protocol):
    """A way to search: a model or BM25.

    Attributes:
        name: What tables and run files call it.
        kind: "sparse", "dense", "multi-vector" or "bm25".
        fingerprint: Changes whenever a vector or score could.
        settings: What it was set to, for the report.
    """

    name: str
    kind: str
    fingerprint: str
    settings: dict[str, Any]

    def index(self, parts: Sequence[tuple[str, Collection]], cache: VectorCache) -> Index:
        """A pool of the documents of some collections, each with a prefix for its ids ("" for none)."""


class Encoder(Protocol):
    """A model that turns texts into vectors.

    Attributes:
        name: See `System`.
        kind: See `System`.
        fingerprint: Weights, tokenizer, lengths, prompts, dtype and the code that computes with them.
        settings: See `System`.
        vectors: The class of its vectors.
        rows_per_shard: Texts in a file of vectors.
        matched_only: Whether a score of zero says that nothing matched.
    """

    name: str
    kind: str
    fingerprint: str
    settings: dict[str, Any]
    vectors: ClassVar[type[Vectors]]
    rows_per_shard: ClassVar[int]
    matched_only: ClassVar[bool]

    def routed(self, language: str | None) -> Encoder:
        """The encoder of texts in a language (None and "und": nobody said).

        Models with language adapters give one with a fingerprint of its own for each adapter, others themselves.

        Raises:
            ValueError: The model has no adapter for the language; the message lists those that it has.
        """

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Vectors of documents, in the order of the texts."""

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Vectors of queries, in the order of the texts."""

    def prepare_documents(self, vectors: Vectors) -> Prepared:
        """What `scores` wants, made once for each shard (pruned, transposed, …)."""

    def prepare_queries(self, vectors: Vectors) -> Vectors:
        """Queries as `scores` wants them (pruned, …)."""

    def scores(self, queries: Vectors, documents: Prepared) -> np.ndarray:
        """Scores [queries, rows], float32."""

    def query_statistics(self, vectors: Vectors) -> dict[str, float]:
        """What there is to say about queries, such as their active dimensions."""


@dataclass
class Prepared:
    """A shard ready to be scored.

    Attributes:
        content: Whatever the encoder's `scores` takes.
        rows: How many texts.
        bytes: How much memory it takes.
        active: Active dimensions of all rows together; None where the word means nothing.
    """

    content: Any
    rows: int
    bytes: int
    active: int | None = None


class VectorSystem:
    """An encoder with exact search over its vectors."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    name = property(lambda self: self.encoder.name)
    kind = property(lambda self: self.encoder.kind)
    fingerprint = property(lambda self: self.encoder.fingerprint)
    settings = property(lambda self: self.encoder.settings)

    def index(self, parts: Sequence[tuple[str, Collection]], cache: VectorCache) -> VectorIndex:
        """See `System.index`; each collection is encoded once, whatever pools it is in."""
        pool = [(prefix, cache.documents(self.encoder, collection)) for prefix, collection in parts]
        return VectorIndex(self.encoder, pool, cache)


class VectorIndex:
    """A pool of encoded documents, scored a block of queries and a shard of documents at a time."""

    def __init__(self, encoder: Encoder, pool: Sequence[tuple[str, EncodedDocuments]], cache: VectorCache) -> None:
        self.encoder = encoder
        self.cache = cache
        self.pool = pool
        self.ids = [f"{prefix}{name}" for prefix, documents in pool for name in documents.ids]
        self._backwards = sorted(self.ids, reverse=True)
        self._places = {name: place for place, name in enumerate(self._backwards)}
        if len(self._places) < len(self.ids):
            raise ValueError("Documents of different parts of a pool have the same id; give each part a prefix.")
        self._kept: dict[int, Prepared] = {}
        self._active: dict[int, tuple[int | None, int]] = {}
        self._query_statistics: dict[str, float] = {}

    def search(self, queries: Sequence[str], k: int, language: str | None = None) -> Ranking:
        """See `Index.search`; `language` is the queries', for models with language adapters."""
        vectors = self.encoder.prepare_queries(self.cache.queries(self.encoder, queries, language))
        self._query_statistics = self.encoder.query_statistics(vectors)
        best = Best(len(queries), k, self.encoder.matched_only)
        blocks = [(start, vectors.take(slice(start, start + _QUERIES))) for start in range(0, len(queries), _QUERIES)]
        for shard, places, documents in self._shards():
            found = []
            for start, block in blocks:
                scores = self.encoder.scores(block, documents)
                if documents.rows > len(places):  # passages: a document is as good as its best one
                    scores = np.maximum.reduceat(scores, shard.starts[:-1], axis=1)
                found.append(best.add(start, scores, places))
            best.merge(found)
        return best.ranking(self._backwards)

    def statistics(self) -> dict[str, float]:
        """Active dimensions of a document and of a query of the last search, in the mean, where vectors are sparse."""
        if not self._active:
            for _ in self._shards():
                pass
        counts = list(self._active.values())
        if any(active is None for active, _ in counts):
            return dict(self._query_statistics)
        mean = sum(active for active, _ in counts) / sum(rows for _, rows in counts)
        return {"document_dimensions": mean, **self._query_statistics}

    def _shards(self) -> Iterator[tuple[Any, np.ndarray, Prepared]]:
        """Each shard, where its documents stand in the order of ids, and its prepared vectors."""
        number = 0
        for prefix, documents in self.pool:
            for shard in documents.shards:
                prepared = self._kept.get(number)
                if prepared is None:
                    prepared = self.encoder.prepare_documents(documents.load(shard))
                    self._active[number] = (prepared.active, prepared.rows)
                    if sum(kept.bytes for kept in self._kept.values()) + prepared.bytes <= _KEEP_BYTES:
                        self._kept[number] = prepared
                yield shard, np.asarray([self._places[f"{prefix}{name}"] for name in shard.ids]), prepared
                number += 1


__all__ = ["Encoder", "Index", "Prepared", "System", "VectorIndex", "VectorSystem"]
