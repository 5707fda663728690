"""The endpoints that encode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Response

from milco_hf.pruning import parse
from milco_hf.serving.answers import json_response, measured, named, sparse_values, vectors
from milco_hf.serving.engine import Engine
from milco_hf.serving.errors import UNHEALTHY, VALIDATION, Refused
from milco_hf.serving.schemas import EmbedRequest, EmbedResponse, EmbedSparseRequest, ErrorResponse, SparseValue
from milco_hf.serving.settings import Limits

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "The body is no JSON, or `inputs` is empty"},
    401: {"model": ErrorResponse, "description": "The token is missing or wrong"},
    408: {"model": ErrorResponse, "description": "The body came too slowly"},
    413: {"model": ErrorResponse, "description": "Too many bytes, texts, characters or tokens"},
    415: {"model": ErrorResponse, "description": "The body is not declared as JSON"},
    422: {
        "model": ErrorResponse,
        "description": "A field is missing, unknown, of the wrong type or no valid Unicode, or the model has no "
        "adapter for a language",
    },
    424: {"model": ErrorResponse, "description": "The model failed"},
    429: {"model": ErrorResponse, "description": "Too many requests, or too many texts wait"},
    503: {"model": ErrorResponse, "description": "Waited too long, or the server is shutting down"},
}


def encoding_routes(engine: Engine) -> APIRouter:
    """`/embed_sparse`, `/embed_query` and `/embed_document`."""
    router = APIRouter(tags=["encode"], responses=ERRORS)
    limits = engine.settings.limits

    @router.post("/embed_sparse", response_model=list[list[SparseValue]], operation_id="embed_sparse")
    async def embed_sparse(request: EmbedSparseRequest) -> Response:
        """Sparse vectors, as text-embeddings-inference gives them: clients of its `/embed_sparse` work unchanged."""
        check_size(request.inputs, limits)
        name = request.prompt_name
        if name is not None and name not in engine.prompts:
            available = ", ".join(map(repr, engine.prompts)) or "none"
            raise Refused(
                413,
                VALIDATION,
                f"Input validation error: `prompt_name` is not one of the checkpoint's prompts: {available}.",
            )
        encoded = await engine.encode(
            request.inputs,
            "query" if name == "query" else "document",
            truncate=request.truncate,
            direction=request.truncation_direction.lower(),
            prompt=None if name is None else engine.prompts[name] or "",
            language=request.language,
        )
        return Response(sparse_values(encoded.rows), 200, measured(encoded, request.inputs), "application/json")

    async def embed(request: EmbedRequest, kind: str) -> Response:
        check_size(request.inputs, limits)
        job = engine.kinds[kind].job
        if request.prune is not None:
            job = replace(job, prune=parsed_prune(request.prune))
        encoded = await engine.encode(
            request.inputs,
            kind,
            truncate=request.truncate,
            direction=request.truncation_direction.lower(),
            job=job,
            language=request.language,
        )
        found = vectors(encoded.rows) if request.format == "indices" else named(encoded.rows, engine.names)
        answer = {
            "embeddings": found,
            "fingerprint": engine.fingerprint,
            "tokens": encoded.tokens,
            "cut_tokens": encoded.cut_tokens,
        }
        return json_response(answer, headers=measured(encoded, request.inputs))

    @router.post("/embed_query", response_model=EmbedResponse, operation_id="embed_query")
    async def embed_query(request: EmbedRequest) -> Response:
        """Vectors of queries: with the prompt, the length and the pruning for queries."""
        return await embed(request, "query")

    @router.post("/embed_document", response_model=EmbedResponse, operation_id="embed_document")
    async def embed_document(request: EmbedRequest) -> Response:
        """Vectors of documents: with the prompt, the length and the pruning for documents."""
        return await embed(request, "document")

    return router


def monitoring_routes(engine: Engine, about: dict[str, Any]) -> APIRouter:
    """`/health`, `/info` and `/metrics`.

    Args:
        engine: The model.
        about: What `/info` says besides.
    """
    router = APIRouter(tags=["monitor"])

    @router.get("/health", responses={503: {"model": ErrorResponse}}, operation_id="health")
    async def health() -> dict[str, str]:
        """Whether texts are taken and every device works."""
        if not engine.healthy:
            raise Refused(503, UNHEALTHY, "unhealthy")
        return {"status": "ok"}

    @router.get("/info", response_model=dict[str, Any], operation_id="info")
    async def info() -> Response:
        """The model, its fingerprint, how queries and documents are encoded, the limits, and the index."""
        return json_response({**engine.about(), **about})

    @router.get("/metrics", response_class=Response, operation_id="metrics")
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(engine.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def check_size(texts: Sequence[str], limits: Limits) -> None:
    """Refuses too many texts or characters.

    Raises:
        Refused: They are too many (413).
    """
    if len(texts) > limits.max_client_batch_size:
        raise Refused(
            413,
            VALIDATION,
            f"batch size {len(texts)} > maximum allowed batch size {limits.max_client_batch_size}",
        )
    characters = sum(map(len, texts))
    if characters > limits.max_characters:
        raise Refused(
            413,
            VALIDATION,
            f"Input validation error: the texts of a request must have at most {limits.max_characters} characters "
            f"together. Given: {characters}",
        )


def parsed_prune(prune: str | dict[str, str]) -> dict[str, Any]:
    """A request's pruning.

    Raises:
        Refused: It cannot be read (422).
    """
    try:
        return parse(prune)
    except ValueError as error:
        raise Refused(422, VALIDATION, f"`prune`: {error}") from error


__all__ = ["ERRORS", "check_size", "encoding_routes", "monitoring_routes", "parsed_prune"]
