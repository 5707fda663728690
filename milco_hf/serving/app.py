"""`create_app`: a model, and maybe an index, as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from milco_hf.allocator import without_onednn
from milco_hf.pruning import Prune
from milco_hf.serving.answers import json_response
from milco_hf.serving.errors import BACKEND, NOT_FOUND, VALIDATION, Refused
from milco_hf.serving.guard import OPEN_PATHS, Guard
from milco_hf.serving.lanes import Lane
from milco_hf.serving.metrics import Metrics
from milco_hf.serving.opening import open_engine
from milco_hf.serving.pages import page_routes
from milco_hf.serving.routes import encoding_routes, monitoring_routes
from milco_hf.serving.search_routes import explain_routes, search_routes
from milco_hf.serving.searching import Searcher
from milco_hf.serving.settings import Settings

if TYPE_CHECKING:
    from sentence_transformers import SparseEncoder

    from milco_hf.index import Index


DESCRIPTION = "MILCO: multilingual sparse vectors over English terms and source tokens."
# How long the last batch may take when the server ends.
_CLOSING = 60.0


def create_app(
    model: str | Path | SparseEncoder | None = None,
    *,
    revision: str | None = None,
    index: str | Path | Index | None = None,
    settings: Settings | None = None,
    devices: str | Sequence[str] | None = None,
    dtype: str | None = None,
    query_length: int | None = None,
    document_length: int | None = None,
    query_prune: Prune = None,
    document_prune: Prune = None,
    check_fingerprint: bool = True,
) -> FastAPI:
    """Builds the application that `milco serve` runs; any ASGI server can run it, in one process.

    Args:
        model: A bundled checkpoint's name, a folder, a Hub id, or a model that is loaded. By default the index's own,
            and without an index milco-mini.
        revision: Branch, tag or commit of a model that is given by its Hub id.
        index: An index, or its folder: adds `/search` and the page at `/`. Its lengths, views and pruning are then
            those of all endpoints, so that vectors fit it.
        settings: Limits, defaults and the token.
        devices: One device, or several such as ["cuda:0", "cuda:1"], with the model on each; by default the best
            there is.
        dtype: None computes in the dtype of the weights; "auto", "bfloat16" or "float16" as in `encode_corpus`.
        query_length: Longest query in tokens, special tokens included; by default what the model says.
        document_length: Longest document.
        query_prune: What is kept of queries' vectors, as `encode_corpus` takes it.
        document_prune: What is kept of documents' vectors.
        check_fingerprint: Whether to refuse a model whose fingerprint is another than the index's.

    Returns:
        The application. Its lifespan ends the model's threads, and on a CPU in fp32 it turns oneDNN off in the process
        meanwhile, whose primitives would let memory grow.

    Raises:
        ValueError: A name or number cannot work, or the index was made by another model or in another way.
        FileNotFoundError: There is no such checkpoint or index.
    """
    settings = settings or Settings()
    metrics = Metrics()
    engine, opened_index = open_engine(
        model,
        index,
        settings,
        metrics,
        revision=revision,
        devices=devices,
        dtype=dtype,
        lengths={"query": query_length, "document": document_length},
        prunes={"query": query_prune, "document": document_prune},
        check_fingerprint=check_fingerprint,
    )
    limits = settings.limits
    searcher = None if opened_index is None else Searcher(opened_index)
    searches, explanations = (
        Lane(name, limits.max_explanations, limits.queue_timeout, engine.gives_back)
        for name in ("searches", "explanations")
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with without_onednn(engine.fp32_on_cpu):
            yield
            await asyncio.to_thread(engine.close, _CLOSING)
            await asyncio.to_thread(searches.close)
            await asyncio.to_thread(explanations.close)

    from milco_hf import __version__

    app = FastAPI(
        title="milco-hf",
        description=DESCRIPTION,
        version=__version__,
        docs_url=None,  # FastAPI's pages load their scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.include_router(encoding_routes(engine))
    if searcher is not None:
        app.include_router(search_routes(engine, searcher, searches))
    app.include_router(explain_routes(engine, searcher, explanations))
    # the index calls its model by its whole path, which is nobody else's business
    about = None if searcher is None else {**searcher.about(), "model": engine.name}
    app.include_router(monitoring_routes(engine, {"index": about}))
    app.include_router(page_routes(app, searcher is not None))
    _answer_errors(app)
    app.add_middleware(Guard, settings=settings, metrics=metrics, paths={*app.openapi()["paths"], *OPEN_PATHS})
    app.state.engine = engine
    return app


def _answer_errors(app: FastAPI) -> None:
    """Every error as text-embeddings-inference's body, {"error", "error_type"}."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return json_response(error.body(), error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()[:3]
        if any(part["type"] == "json_invalid" for part in found):
            reason = found[0].get("ctx", {}).get("error", "")
            return _error(400, VALIDATION, f"The body is no JSON: {reason} (character {found[0]['loc'][-1]}).")
        return _error(422, VALIDATION, "; ".join(map(_explained, found)))

    @app.exception_handler(HTTPException)
    async def answered(request: Request, error: HTTPException) -> Response:
        message = str(error.detail)
        if error.status_code == 400:
            message = "The body is no JSON in UTF-8, or nested too deeply."
        elif error.status_code == 404:
            message = f"There is no {request.url.path[:200]}; GET /docs says what there is."
        kind = NOT_FOUND if error.status_code in (404, 405) else VALIDATION
        return _error(error.status_code, kind, message, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        # Starlette raises it again after this answer, so the server logs it
        return _error(500, BACKEND, "Something went wrong; the server's log says what.")


def _error(status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> Response:
    return json_response({"error": message, "error_type": kind}, status, headers)


def _explained(error: dict[str, Any]) -> str:
    """One of pydantic's errors, without what was sent: that may be of any size."""
    place = ".".join(str(part) for part in error["loc"] if part != "body")
    return f"`{place}`: {error['msg']}" if place else f"the body: {error['msg']}"


__all__ = ["create_app"]
