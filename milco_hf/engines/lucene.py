"""What Elasticsearch and OpenSearch have in common: REST, bulk requests, weights of 9 significant bits."""

from __future__ import annotations

import json
from abc import abstractmethod
from typing import Any
from urllib.parse import quote

from scipy import sparse

from milco_hf.engines.base import Engine, Ranking
from milco_hf.engines.batches import Batch, dictionaries, pairs
from milco_hf.engines.http import Http, credential
from milco_hf.engines.retry import Backoff, BusyError, EngineError, retry

FIELD = "tokens"
# index.max_result_window, as it is set up
_MOST_RESULTS = 10_000
# Searches in one request.
_SEARCHES = 50
_NDJSON = "application/x-ndjson"


class LuceneEngine(Engine):
    """An index of Elasticsearch or OpenSearch: `id` (keyword), `text` (text) and `tokens`, the vector.

    A dimension is named by its number: names of tokens may hold dots, which the field refuses, and replacing those
    would make one of two. Weights are stored with 9 significant bits, rounded down, so a score is up to 0.4 % too
    small; queries' weights are not rounded.

    Args:
        collection: The index's name; lower case.
        headers: Of each request, where they hold a credential; then there is no basic authentication.
        url: Such as https://localhost:9200.
        username: Of basic authentication; by default what ELASTICSEARCH_USERNAME or OPENSEARCH_USERNAME holds.
        password: By default ELASTICSEARCH_PASSWORD or OPENSEARCH_PASSWORD.
        settings: Of the index, such as {"number_of_shards": 2}.
        verify: Whether the server's certificate is checked, or the file of the authority to trust.
        timeout: Seconds to wait for an answer.
        backoff: Of requests that the engine is too busy for.

    Raises:
        ValueError: There is no url, or it is none.
    """

    exact = False
    longest_id = 512
    most_results = _MOST_RESULTS

    def __init__(
        self,
        collection: str,
        headers: dict[str, str] | None = None,
        *,
        url: str | None = None,
        username: str | None = None,
        password: str | None = None,
        settings: dict[str, Any] | None = None,
        verify: bool | str = True,
        timeout: float = 60.0,
        backoff: Backoff | None = None,
    ) -> None:
        super().__init__(collection)
        if not url:
            raise ValueError(f"{self.name} needs a url (--url http://localhost:9200).")
        variable = self.name.upper()
        username, password = credential(username, f"{variable}_USERNAME"), credential(password, f"{variable}_PASSWORD")
        auth = None if username is None or headers else (username, password or "")
        self._backoff = backoff or Backoff()
        self._http = Http(url, headers=headers, auth=auth, verify=verify, timeout=timeout, backoff=self._backoff)
        self._path = f"/{quote(collection, safe='')}"
        self._settings = settings or {}

    @property
    def address(self) -> str:
        """Where it is, without credentials."""
        return self._http.url

    @abstractmethod
    def _field(self) -> dict[str, Any]:
        """The vector's mapping."""

    @abstractmethod
    def _query(self, tokens: dict[str, float], k: int) -> dict[str, Any]:
        """A query for the best k, in the engine's query language."""

    def _check_query(self, entries: int) -> None:
        """Refuses a query of more dimensions than the engine takes."""

    def exists(self) -> bool:
        """Whether the index is there."""
        return self._http.send("GET", self._path, missing=True) is not None

    def count(self) -> int:
        """How many documents the index has, those included that searches do not see yet."""
        self._http.send("POST", f"{self._path}/_refresh")
        return int(self._http.send("GET", f"{self._path}/_count")["count"])

    def delete(self) -> None:
        """Removes the index with all that is in it."""
        self._http.send("DELETE", self._path)
        self._about = None

    def _create(self, dimensions: int, about: dict[str, Any]) -> None:
        body = {
            "settings": {"index": {**self._index_settings(), **self._settings}},
            "mappings": {
                "_meta": {"milco": about},
                "dynamic": "strict",
                "properties": {"id": {"type": "keyword"}, "text": {"type": "text"}, FIELD: self._field()},
            },
        }
        if not body["settings"]["index"]:
            del body["settings"]
        self._http.send("PUT", self._path, data=body)

    def _index_settings(self) -> dict[str, Any]:
        return {}

    def _read_about(self) -> dict[str, Any] | None:
        answer = self._http.send("GET", f"{self._path}/_mapping")
        # by the index's own name, which is another one where the collection is an alias
        mapping = next(iter(answer.values()))["mappings"]
        return mapping.get("_meta", {}).get("milco")

    def write(self, batch: Batch) -> None:
        """Puts documents in, in place of those with the same ids."""
        lines = {}
        for document in batch.documents():
            source = {"id": document.id, FIELD: pairs(document)}
            if document.text is not None:
                source["text"] = document.text
            action = json.dumps({"index": {"_id": document.id}}, ensure_ascii=False)
            lines[document.id] = f"{action}\n{json.dumps(source, ensure_ascii=False)}\n"
        left = dict.fromkeys(lines)

        def send() -> None:
            body = "".join(lines[name] for name in left).encode()
            answer = self._http.send("POST", f"{self._path}/_bulk", body=body, content_type=_NDJSON, again=False)
            refused: dict[str, Any] = {}
            for item in answer["items"]:
                result = item["index"]
                if result["status"] < 300:
                    left.pop(result["_id"], None)
                elif result["status"] not in (429, 503):
                    refused[result["_id"]] = result["error"]
            if refused:
                shown = "; ".join(f"{name!r}: {_reason(error)}" for name, error in list(refused.items())[:3])
                raise EngineError(f"{self} refused {len(refused)} of {len(answer['items'])} documents: {shown}")
            if left:  # its queue is full: what it took stays, the rest is sent again
                raise BusyError(f"{self} was too busy for {len(left)} of {len(answer['items'])} documents.", 429)

        retry(send, self._backoff)

    def finish(self) -> None:
        """Makes documents visible to searches."""
        self._http.send("POST", f"{self._path}/_refresh")

    def _search(self, queries: sparse.csr_array, k: int) -> Ranking:
        asked, found = dictionaries(queries), []
        for tokens in asked:
            self._check_query(len(tokens))
        for first in range(0, len(asked), _SEARCHES):
            lines = []
            for tokens in asked[first : first + _SEARCHES]:
                search = {"size": k, "_source": False, "track_total_hits": False, "query": self._query(tokens, k)}
                lines.append("{}\n" + json.dumps(search) + "\n")
            body = "".join(lines).encode()
            answer = self._http.send("POST", f"{self._path}/_msearch", body=body, content_type=_NDJSON)
            for response in answer["responses"]:
                if "error" in response:
                    raise EngineError(f"{self} refused a search: {_reason(response['error'])}", response.get("status"))
                found.append([(hit["_id"], float(hit["_score"])) for hit in response["hits"]["hits"]])
        return found

    def close(self) -> None:
        """Closes connections."""
        self._http.close()


def _reason(error: Any) -> str:
    """What an error of these engines says, with its cause."""
    if not isinstance(error, dict):
        return str(error)
    causes = [error, *error.get("root_cause", [])[:1], error.get("caused_by") or {}]
    reasons = dict.fromkeys(f"{cause.get('type')}: {cause.get('reason')}" for cause in causes if cause)
    return " ← ".join(reasons)[:600]


__all__ = ["FIELD", "LuceneEngine"]
