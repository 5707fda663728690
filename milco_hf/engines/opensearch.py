"""OpenSearch: `rank_features` searched by `neural_sparse`, or from 3.3 on `sparse_vector` with Seismic."""

from __future__ import annotations

from typing import Any

from milco_hf.engines.lucene import FIELD, LuceneEngine

# indices.query.bool.max_clause_count, as it is set up
_MOST_CLAUSES = 1_024


class OpenSearchEngine(LuceneEngine):
    """An index of OpenSearch 2.15 or newer, with its neural-search plugin, which the usual distribution holds.

    Args:
        collection: The index's name; lower case.
        approximate: Whether to use `sparse_vector` with Seismic (OpenSearch 3.3 or newer), which keeps a byte of each
            weight. OpenSearch itself uses it only in segments of a million documents or more.
        ceiling: With `approximate`, the largest weight of a document that its byte can hold; larger ones become this.
        method_parameters: With `approximate`, of a search: {"top_n": 10, "heap_factor": 1.0} keeps the 10 heaviest
            dimensions of a query. By default OpenSearch's own.
        **connection: `url` and what else `LuceneEngine` takes.

    Raises:
        ValueError: An argument cannot be.
    """

    name = "opensearch"

    def __init__(
        self,
        collection: str,
        *,
        approximate: bool = False,
        ceiling: float = 3.0,
        method_parameters: dict[str, Any] | None = None,
        **connection: Any,
    ) -> None:
        if ceiling <= 0:
            raise ValueError(f"ceiling has to be above 0, got {ceiling}.")
        super().__init__(collection, **connection)
        self.approximate, self.ceiling = approximate, ceiling
        self.method_parameters = method_parameters or {}

    def _index_settings(self) -> dict[str, Any]:
        return {"sparse": True} if self.approximate else {}

    def _field(self) -> dict[str, Any]:
        if not self.approximate:
            return {"type": "rank_features"}
        parameters = {"quantization_ceiling_ingest": self.ceiling}
        return {"type": "sparse_vector", "method": {"name": "seismic", "parameters": parameters}}

    def _query(self, tokens: dict[str, float], k: int) -> dict[str, Any]:
        query: dict[str, Any] = {"query_tokens": tokens}
        if self.approximate:
            query["method_parameters"] = {"k": k, **self.method_parameters}
        return {"neural_sparse": {FIELD: query}}

    def _check_query(self, entries: int) -> None:
        if entries > _MOST_CLAUSES and not self.approximate:
            raise ValueError(
                f"A query has {entries} dimensions; OpenSearch takes {_MOST_CLAUSES} clauses unless "
                "indices.query.bool.max_clause_count says otherwise. Encode queries with fewer: "
                f"--prune top_k:{_MOST_CLAUSES}."
            )


__all__ = ["OpenSearchEngine"]
