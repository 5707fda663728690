"""Elasticsearch: `sparse_vector` fields and queries from 8.15 on, `rank_features` before."""

from __future__ import annotations

from typing import Any

from milco_hf.engines.http import credential
from milco_hf.engines.lucene import FIELD, LuceneEngine

FIELD_TYPES = ("sparse_vector", "rank_features")


class ElasticsearchEngine(LuceneEngine):
    """An index of Elasticsearch.

    Args:
        collection: The index's name; lower case.
        api_key: By default what ELASTICSEARCH_API_KEY holds; without a key, user and password count.
        field_type: "sparse_vector" (Elasticsearch 8.15 or newer), or "rank_features" (7.12 or newer).
        **connection: `url` and what else `LuceneEngine` takes.

    Raises:
        ValueError: An argument cannot be.
    """

    name = "elasticsearch"

    def __init__(
        self,
        collection: str,
        *,
        api_key: str | None = None,
        field_type: str = "sparse_vector",
        **connection: Any,
    ) -> None:
        if field_type not in FIELD_TYPES:
            raise ValueError(f"field_type has to be one of {', '.join(FIELD_TYPES)}, got {field_type!r}.")
        key = credential(api_key, "ELASTICSEARCH_API_KEY")
        super().__init__(collection, {"Authorization": f"ApiKey {key}"} if key else None, **connection)
        self.field_type = field_type

    def _field(self) -> dict[str, Any]:
        return {"type": self.field_type}

    def _query(self, tokens: dict[str, float], k: int) -> dict[str, Any]:
        if self.field_type == "rank_features":
            return linear_query(tokens)
        # newer versions leave out what they take for unimportant tokens of a query, unless told not to
        return {"sparse_vector": {"field": FIELD, "query_vector": tokens, "prune": False}}


def linear_query(tokens: dict[str, float]) -> dict[str, Any]:
    """Products of weights as a query of `rank_features`: a linear feature, boosted, for each dimension."""
    clauses = [
        {"rank_feature": {"field": f"{FIELD}.{token}", "linear": {}, "boost": weight}}
        for token, weight in tokens.items()
    ]
    return {"bool": {"should": clauses, "minimum_should_match": 1}}


__all__ = ["FIELD_TYPES", "ElasticsearchEngine", "linear_query"]
