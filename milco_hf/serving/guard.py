"""What every request passes first: a count, the token, and the limits on its body."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from milco_hf.serving.errors import UNAUTHORIZED, VALIDATION, Refused, overloaded
from milco_hf.serving.metrics import Metrics
from milco_hf.serving.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# What shows nothing of the model or the index needs no token: a browser has none yet when it opens the page.
OPEN_PATHS = frozenset({"/", "/page.css", "/page.js", "/docs", "/openapi.json", "/health"})
# Answered even when all places are taken, so that monitoring works when it is needed most.
_ALWAYS = frozenset({"/health", "/metrics"})
# An oversized body is read and dropped up to this size: a caller that is still sending would not see the answer.
_READ_AND_DROP = 64_000_000
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]


class Guard:
    """ASGI middleware: counts and times requests, checks the token, reads bodies within their limit.

    Args:
        app: What answers the requests that pass.
        settings: Token and limits.
        metrics: Where requests are counted.
        paths: The server's paths; requests for others are counted together.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, paths: Collection[str]) -> None:
        self._app = app
        self._limits = settings.limits
        self._authorization = f"bearer {settings.api_key}".encode() if settings.api_key else None
        self._metrics = metrics
        self._paths = frozenset(paths)
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or hands it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        path = scope["path"] if scope["path"] in self._paths else "other"
        status = 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        self._in_flight += 1
        self._metrics.in_flight.set(self._in_flight)
        try:
            self._check_place(scope)
            self._check_token(scope)
            body = await self._body_in_time(scope, receive) if scope["method"] not in ("GET", "HEAD") else b""
            if body is None:  # the caller hung up
                status = 499
                return
            await self._app(scope, _replayed(body, receive), counted)
        except Refused as refused:
            await _answer(refused, counted)
        finally:
            self._in_flight -= 1
            self._metrics.in_flight.set(self._in_flight)
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.request_seconds.labels(path).observe(time.monotonic() - start)

    def _check_place(self, scope: Scope) -> None:
        if self._in_flight > self._limits.max_concurrent_requests and scope["path"] not in _ALWAYS:
            raise overloaded(
                f"Model is overloaded: {self._limits.max_concurrent_requests} requests are being answered. Try again "
                "in a moment."
            )

    def _check_token(self, scope: Scope) -> None:
        if self._authorization is None or scope["path"] in OPEN_PATHS:
            return
        scheme, _, token = _header(scope, b"authorization").partition(b" ")
        # in constant time, so that nobody can guess the token byte by byte
        if not hmac.compare_digest(scheme.lower() + b" " + token.strip(), self._authorization):
            raise Refused(
                401,
                UNAUTHORIZED,
                "This server asks for a token: send `Authorization: Bearer …`.",
                {"WWW-Authenticate": "Bearer"},
            )

    async def _body_in_time(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body, as `_body` has it; who sends it too slowly would keep a place from others.

        Raises:
            Refused: It does not come in time (408), or see `_body`.
        """
        seconds = self._limits.body_timeout
        try:
            return await asyncio.wait_for(self._body(scope, receive), seconds)
        except asyncio.TimeoutError:
            message = f"The body did not come within {seconds:g} s; send less at a time."
            raise Refused(408, VALIDATION, message, {"Connection": "close"}) from None

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None if the caller hung up.

        Raises:
            Refused: It is too long (413), or not declared as JSON (415).
        """
        limit = self._limits.payload_limit
        length = _header(scope, b"content-length")
        declared = int(length) if length.isdigit() else None
        too_long = Refused(
            413,
            VALIDATION,
            f"The body has {'more than ' if declared is None else f'{declared} bytes, more than '}{limit} bytes; send "
            "fewer or shorter texts at a time.",
            {"Connection": "close"},
        )
        parts, size = [], 0
        if declared is not None and declared > _READ_AND_DROP:
            raise too_long
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            size += len(part)
            if size <= limit:
                parts.append(part)
            else:
                parts.clear()
            if size > _READ_AND_DROP:
                raise too_long
            if not message.get("more_body", False):
                break
        if size > limit:
            raise too_long
        kind = _header(scope, b"content-type").split(b";")[0].strip().lower()
        if kind != b"application/json":
            # a form of another website can send other types without asking, but not this one
            raise Refused(415, VALIDATION, "The body has to be JSON: send it with `Content-Type: application/json`.")
        return b"".join(parts)


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What the application reads: the body at once, then what comes after it."""
    given = False

    async def read() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return read


async def _answer(refused: Refused, send: Send) -> None:
    content = json.dumps(refused.body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(content)), **refused.headers}
    await send(
        {
            "type": "http.response.start",
            "status": refused.status,
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": content})


__all__ = ["OPEN_PATHS", "Guard"]
