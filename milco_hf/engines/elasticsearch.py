"""Elasticsearch: `sparse_vector` fields and queries from 8.15 on, `rank_features` before."""

from __future__ import annotations

from typing import Any

from milco_hf.engines.http import credential
from milco_hf.engines.lucene import FIELD, LuceneEngine
from milco_hf.engines.retry import Backoff

FIELD_TYPES = ("sparse_vector", "rank_features")


class ElasticsearchEngine(LuceneEngine):
    """An index of Elasticsearch.

    Args:
        collection: The index's name; lower case.
        url: Such as https://localhost:9200.
        api_key: By default what ELASTICSEARCH_API_KEY holds.
        username: Of basic authentication, where there is no key; ELASTICSEARCH_USERNAME.
        password: ELASTICSEARCH_PASSWORD.
        field_type: "sparse_vector" (Elasticsearch 8.15 or newer), or "rank_features" (7.12 or newer).
        settings: Of the index, such as {"number_of_shards": 2}.
        verify: Whether the server's certificate is checked, or the file of the authority to trust.
        timeout: Seconds to wait for an answer.
        backoff: Of requests that Elasticsearch is too busy for.

    Raises:
        ValueError: An argument cannot be.
    """

    name = "elasticsearch"

    def __init__(
        self,
        collection: str,
        *,
        url: str | None = None,
        api_key: str | None = None,
        username: str | None = None,
        password: str | None = None,
        field_type: str = "sparse_vector",
        settings: dict[str, Any] | None = None,
        verify: bool | str = True,
        timeout: float = 60.0,
        backoff: Backoff | None = None,
    ) -> None:
        if field_type not in FIELD_TYPES:
            raise ValueError(f"field_type has to be one of {', '.join(FIELD_TYPES)}, got {field_type!r}.")
        key = credential(api_key, "ELASTICSEARCH_API_KEY")
        super().__init__(
            collection,
            url=url,
            headers={"Authorization": f"ApiKey {key}"} if key else {},
            username=username,
            password=password,
            verify=verify,
            timeout=timeout,
            backoff=backoff,
            settings=settings,
        )
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
