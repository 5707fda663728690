"""Vespa: a mapped tensor of weights, ranked exactly by its dot product with the query's."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

from scipy import sparse

from milco_hf.engines.base import Engine, Ranking
from milco_hf.engines.batches import Batch, Document, dictionaries, pairs
from milco_hf.engines.http import Http, credential
from milco_hf.engines.retry import Backoff, BusyError, EngineError
from milco_hf.engines.vespa_app import CLUSTER, MOST_RESULTS, NAME, PROFILE, SUMMARY, zipped_application

logger = logging.getLogger(__name__)

_DEPLOY = "/application/v2/tenant/default/prepareandactivate"
# wand takes whole weights; 100 keeps two decimals of weights that are seldom above 5
_FACTOR = 100


class VespaEngine(Engine):
    """Documents of one schema of a Vespa application, as `milco export --to vespa-app` writes it.

    Every search ranks every document: exact, and fit for some million documents on enough cores. With `candidates` the
    wand operator finds that many first, by weights rounded to whole hundredths, and only they are ranked.

    Args:
        collection: The schema's name, which is also the documents' namespace.
        url: Of the container, such as http://localhost:8080.
        config_url: Of the config server, such as http://localhost:19071: `create` then deploys the application there.
            It replaces what runs there.
        candidates: How many documents the wand operator finds for each query; None ranks all.
        token: A bearer token (Vespa Cloud); by default what VESPA_TOKEN holds.
        certificate: File of a client's certificate, for mutual TLS.
        key: File of its key.
        verify: Whether the server's certificate is checked, or the file of the authority to trust.
        threads: Documents that are sent at the same time; Vespa takes one a request.
        timeout: Seconds to wait for an answer.
        start_timeout: Seconds to wait until a deployed application answers.
        backoff: Of requests that Vespa is too busy for.

    Raises:
        ValueError: An argument cannot be.
    """

    name = "vespa"
    most_results = MOST_RESULTS
    # a document is a request, so this is how often the journal is written
    batch_size = 1_000

    def __init__(
        self,
        collection: str,
        *,
        url: str | None = None,
        config_url: str | None = None,
        candidates: int | None = None,
        token: str | None = None,
        certificate: str | None = None,
        key: str | None = None,
        verify: bool | str = True,
        threads: int = 16,
        timeout: float = 60.0,
        start_timeout: float = 300.0,
        backoff: Backoff | None = None,
    ) -> None:
        super().__init__(collection)
        if not url:
            raise ValueError("vespa needs the url of its container (--url http://localhost:8080).")
        if not NAME.fullmatch(collection):
            raise ValueError(f"A schema of Vespa is named by letters, digits and underscores, got {collection!r}.")
        for what, number in (("threads", threads), ("candidates", candidates)):
            if number is not None and number < 1:
                raise ValueError(f"{what} has to be at least 1, got {number}.")
        token = credential(token, "VESPA_TOKEN")
        shared = {
            "headers": {"Authorization": f"Bearer {token}"} if token else {},
            "certificate": (certificate, key) if certificate and key else certificate,
            "verify": verify,
            "timeout": timeout,
            "backoff": backoff,
        }
        self._http = Http(url, **shared)
        self._config = Http(config_url, **shared) if config_url else None
        self.candidates, self.exact = candidates, candidates is None
        self._threads, self._timeout, self._start_timeout = threads, timeout, start_timeout
        self._documents = f"/document/v1/{collection}/{collection}/docid"

    @property
    def address(self) -> str:
        """Where it is, without credentials."""
        return self._http.url

    def exists(self) -> bool:
        """Whether the application knows the schema."""
        try:
            self._http.send("GET", f"{self._documents}?cluster={CLUSTER}&wantedDocumentCount=1&fieldSet=[id]")
        except EngineError as error:
            if error.status in (400, 404):  # no such document type; no document API
                return False
            raise
        return True

    def count(self) -> int:
        """How many documents there are."""
        answer = self._query({"yql": f"select * from {self.collection} where true", "hits": 0, "ranking": "unranked"})
        return int(answer["fields"]["totalCount"])

    def delete(self) -> None:
        """Removes the documents; the schema stays, as Vespa gives it up only with the application."""
        path = f"{self._documents}?cluster={CLUSTER}&selection=true"
        answer = self._http.send("DELETE", path)
        while answer.get("continuation"):
            answer = self._http.send("DELETE", f"{path}&continuation={quote(answer['continuation'], safe='')}")

    def _create(self, dimensions: int, about: dict[str, Any]) -> None:
        if self._config is None:
            if self.exists():
                return
            raise EngineError(
                f"{self.address} runs no application with the schema {self.collection}. Write one with `milco export "
                f"VECTORS --to vespa-app --collection {self.collection} --output app`, deploy it with `vespa deploy "
                "app`, and go on; or name the config server (--option config_url=http://localhost:19071)."
            )
        package = zipped_application(self.collection, wand=not self.exact)
        self._config.send("POST", _DEPLOY, body=package, content_type="application/zip")
        deadline = time.monotonic() + self._start_timeout
        while True:
            try:
                if self.exists():
                    return
            except BusyError:
                logger.info("%s has not started yet.", self.address)
            if time.monotonic() > deadline:
                raise EngineError(
                    f"The application is deployed, but {self.address} did not answer for it within "
                    f"{self._start_timeout:g} seconds. Look at its log, or wait longer (--option start_timeout=600)."
                )
            time.sleep(min(1.0, self._start_timeout / 10))

    def _read_about(self) -> dict[str, Any] | None:
        return None  # nothing of an application can be read at its container

    def write(self, batch: Batch) -> None:
        """Puts documents in, in place of those with the same ids."""
        with ThreadPoolExecutor(self._threads, "milco-vespa") as pool:
            futures = [pool.submit(self._put, document) for document in batch.documents()]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _put(self, document: Document) -> None:
        weights = pairs(document)
        fields: dict[str, Any] = {"id": document.id, "tokens": {"cells": weights}}
        if document.text is not None:
            fields["text"] = document.text
        if not self.exact:
            fields["terms"] = _whole(weights)
        self._http.send("POST", f"{self._documents}/{quote(document.id, safe='')}", data={"fields": fields})

    def _search(self, queries: sparse.csr_array, k: int) -> Ranking:
        found: Ranking = []
        for weights in dictionaries(queries):
            cells = ",".join(f"{{term:{term}}}:{weight!r}" for term, weight in weights.items())
            asked = {
                "yql": f"select * from {self.collection} where {self._where(weights, k)}",
                "hits": k,
                "ranking": PROFILE,
                "input.query(q)": f"{{{cells}}}",
                "presentation.summary": SUMMARY,
            }
            hits = self._query(asked).get("children", [])
            found.append([(hit["fields"]["id"], float(hit["relevance"])) for hit in hits])
        return found

    def _where(self, weights: dict[str, float], k: int) -> str:
        if self.candidates is None:
            return "true"
        terms = ",".join(f'"{term}":{weight}' for term, weight in _whole(weights).items())
        return f"({{targetHits:{max(self.candidates, k)}}}wand(terms,{{{terms}}}))"

    def _query(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The root of an answer that covers all documents."""
        asked = {**asked, "timeout": f"{self._timeout:g}s", "ranking.softtimeout.enable": False}
        root = self._http.send("POST", "/search/", data=asked)["root"]
        if root.get("errors"):
            raise EngineError(f"{self} refused a search: {root['errors'][0].get('message', root['errors'][0])}")
        coverage = root.get("coverage", {})
        if not coverage.get("full", True):
            raise EngineError(
                f"{self} looked at only {coverage.get('coverage')} % of the documents ({coverage.get('degraded')}). "
                "Wait longer (--option timeout=120), or use candidates."
            )
        return root

    def close(self) -> None:
        """Closes connections."""
        for server in (self._http, self._config):
            if server is not None:
                server.close()


def _whole(weights: dict[str, float]) -> dict[str, int]:
    """Weights as whole numbers of at least 1."""
    return {term: max(1, round(weight * _FACTOR)) for term, weight in weights.items()}


__all__ = ["VespaEngine"]
