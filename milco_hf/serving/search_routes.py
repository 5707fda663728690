"""The endpoints that search and explain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from fastapi import APIRouter, Response

from milco_hf.pruning import Pruning
from milco_hf.serving.answers import json_response, measured
from milco_hf.serving.engine import Engine
from milco_hf.serving.errors import VALIDATION, Refused
from milco_hf.serving.lanes import Lane
from milco_hf.serving.reading import check_unicode
from milco_hf.serving.routes import ERRORS, check_size, parsed_prune
from milco_hf.serving.schemas import ExplainRequest, SearchRequest, SearchResponse
from milco_hf.serving.searching import Searcher, matched_terms, read_text

NOT_FOUND = {404: {**ERRORS[422], "description": "The index has no such document, or none is served"}}


def search_routes(engine: Engine, searcher: Searcher, lane: Lane) -> APIRouter:
    """`/search`.

    Args:
        engine: Encodes queries, and documents whose matched terms are asked for.
        searcher: The index.
        lane: Where it is searched.
    """
    router = APIRouter(tags=["search"], responses=ERRORS)
    limits = engine.settings.limits

    @router.post("/search", response_model=SearchResponse, operation_id="search")
    async def search(request: SearchRequest) -> Response:
        """The documents of the index that match a query best."""
        check_size([request.query], limits)
        for name, value in (("`query`", request.query), ("`language`", request.language or "")):
            check_unicode(value, name)
        if not request.query.strip():
            raise Refused(422, VALIDATION, "`query` is empty.")
        if request.k > limits.max_hits:
            raise Refused(413, VALIDATION, f"`k` may be at most {limits.max_hits}, got {request.k}.")
        if request.terms and request.k > limits.max_client_batch_size:
            raise Refused(
                413, VALIDATION, f"With `terms`, `k` may be at most {limits.max_client_batch_size}, got {request.k}."
            )
        job = engine.kinds["query"].job
        how = job.prune if request.prune is None else parsed_prune(request.prune)
        encoded = await engine.encode(
            [request.query],
            "query",
            truncate=request.truncate,
            job=replace(job, prune={}),
            language=request.query_language,
        )
        matrix = encoded.matrix(engine.width)
        kept = engine.pruned(matrix, how)
        hits = await lane.run(searcher.search, kept, request.k, request.language, request.filter)
        found = [asdict(hit) for hit in hits]
        if request.terms and found:
            query = (kept.indices, kept.data)
            names = engine.names(kept.indices)
            rows = await engine.document_rows(list(map(read_text, hits)), [hit.language for hit in hits])
            for hit, row in zip(found, rows):
                hit["terms"] = matched_terms(query, row, names, request.terms)
        answer = {"hits": found, "query": {"dimensions": int(matrix.nnz), "searched": int(kept.nnz)}}
        return json_response(answer, headers=measured(encoded, [request.query]))

    return router


def explain_routes(engine: Engine, searcher: Searcher | None, lane: Lane) -> APIRouter:
    """`/explain`.

    Args:
        engine: The model.
        searcher: The index, where there is one.
        lane: Where explanations are made.
    """
    router = APIRouter(tags=["search"], responses={**ERRORS, **NOT_FOUND})
    limits = engine.settings.limits

    def explanation(query: str, document: str, prune: Mapping[str, Pruning], languages: tuple[Any, Any]) -> Any:
        from milco_hf.explanation import explain

        kinds = engine.kinds
        return explain(
            engine.models[0].whole,
            query,
            document,
            query_prune=dict(prune),
            document_prune=dict(kinds["document"].job.prune),
            query_length=kinds["query"].max_length,
            document_length=kinds["document"].max_length,
            views=kinds["document"].job.views,
            dtype=kinds["document"].job.dtype,
            query_language=languages[0],
            document_language=languages[1],
        )

    @router.post("/explain", response_model=dict[str, Any], operation_id="explain")
    async def explain_match(request: ExplainRequest) -> Response:
        """Why a document matches a query: every shared dimension, what it adds, and the tokens that raised it."""
        if (request.document is None) == (request.id is None):
            raise Refused(422, VALIDATION, "Give either `document` or `id`.")
        document, language = request.document, request.document_language
        if document is None:
            if searcher is None:
                raise Refused(422, VALIDATION, "No index is served: give the text as `document`, not an `id`.")
            check_unicode(request.id, "`id`")
            document, own = await lane.run(searcher.text, request.id, request.passage)
            language = language or [own]
        check_size([request.query, document], limits)
        check_unicode(request.query, "`query`")
        check_unicode(document, "`document`")
        languages = (request.query_language, language)
        for asked in languages:
            engine.adapters(asked, 1)  # refused before it waits
        prune = engine.kinds["query"].job.prune if request.prune is None else parsed_prune(request.prune)
        found = await lane.run(explanation, request.query, document, prune, languages)
        if request.format == "html":
            return Response(
                await lane.run(found.to_html),
                headers={"Content-Security-Policy": EXPLANATION_POLICY},
                media_type="text/html",
            )
        return json_response(found.to_dict())

    return router


# The page needs its own styles and script and nothing else; sandboxed, so that neither reaches the server's origin.
EXPLANATION_POLICY = "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

__all__ = ["explain_routes", "search_routes"]
