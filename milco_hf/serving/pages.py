"""What a browser gets: the search page, and a page of the API; both complete in themselves."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

if TYPE_CHECKING:
    from importlib.abc import Traversable

    from fastapi import FastAPI

# Nothing from elsewhere. The explanation in its frame inherits this policy: the hash is of its script, and the inline
# styles are its too; the page itself has neither.
_POLICY = (
    "default-src 'none'; script-src 'self' '{explanation}'; style-src 'self' 'unsafe-inline'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_TYPES = {"page.css": "text/css", "page.js": "text/javascript"}


def page_routes(app: FastAPI, searching: bool) -> APIRouter:
    """`/` (with an index), its style and script, and `/docs`.

    Args:
        app: Whose API `/docs` shows.
        searching: Whether there is an index to search.
    """
    router = APIRouter(include_in_schema=False)
    folder = files("milco_hf.serving") / "page"
    policy = _POLICY.format(explanation=_hash(files("milco_hf.explanation") / "assets" / "page.js"))
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-cache"}
    shown = (folder / "index.html").read_bytes()
    docs: list[str] = []

    @router.get("/")
    async def start() -> Response:
        return Response(shown, headers=headers, media_type="text/html") if searching else RedirectResponse("/docs")

    @router.get("/docs")
    async def api() -> Response:
        if not docs:
            docs.append(api_page(app.openapi()))
        return Response(docs[0], headers=headers, media_type="text/html")

    def add(name: str) -> None:
        content = (folder / name).read_bytes()

        @router.get(f"/{name}")
        async def file() -> Response:
            return Response(content, headers={"Cache-Control": "no-cache"}, media_type=_TYPES[name])

    for name in _TYPES:
        add(name)
    return router


def api_page(api: dict[str, Any]) -> str:
    """An OpenAPI description as one HTML page, with nothing to load but the style.

    Args:
        api: What `FastAPI.openapi()` gives.
    """
    parts = [
        _endpoint(api, f"{method.upper()} {path}", what)
        for path, methods in api["paths"].items()
        for method, what in methods.items()
    ]
    title = html.escape(api["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: API</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="page.css">'
        f'</head><body class="api"><main><h1>{title}</h1><p>{html.escape(api["info"].get("description", ""))} '
        '<a href="openapi.json">openapi.json</a></p>' + "".join(parts) + "</main></body></html>"
    )


def _endpoint(api: dict[str, Any], name: str, what: dict[str, Any]) -> str:
    """An endpoint: what it does, its fields, its answer and its status codes."""
    parts = [f"<section><h2><code>{html.escape(name)}</code></h2>", _text(what.get("description", ""))]
    if body := _json_schema(api, what.get("requestBody", {})):
        parts.append(_text(body.get("description", "")))
        rows = [
            (
                f"<code>{html.escape(field)}</code>" + (" (required)" if field in body.get("required", ()) else ""),
                html.escape(_type(api, schema)),
                html.escape(json.dumps(schema["default"])) if "default" in schema else "",
                _marked(schema.get("description", "")),
            )
            for field, schema in body.get("properties", {}).items()
        ]
        parts.append(_table(("field", "type", "default", ""), rows))
    answer = _json_schema(api, what["responses"]["200"])
    rows = [
        (
            html.escape(code),
            _marked(it.get("description", "")),
            html.escape(_type(api, answer)) if code == "200" else "",
        )
        for code, it in sorted(what["responses"].items())
    ]
    parts.append(_table(("status", "", "answer"), rows))
    return "".join([*parts, "</section>"])


def _json_schema(api: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """The schema of a body; empty if it is no JSON."""
    return _resolved(api, part.get("content", {}).get("application/json", {}).get("schema", {}))


def _resolved(api: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    return schema if reference is None else api["components"]["schemas"][reference.rsplit("/", 1)[1]]


def _type(api: dict[str, Any], schema: dict[str, Any]) -> str:
    """A schema in a line; those here do not refer to themselves."""
    schema = _resolved(api, schema)
    if "enum" in schema:
        return " or ".join(map(json.dumps, schema["enum"]))
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " or ".join(_type(api, part) for part in schema[choice])
    if "prefixItems" in schema:
        return f"[{', '.join(_type(api, part) for part in schema['prefixItems'])}]"
    if schema.get("type") == "array":
        return f"list of {_type(api, schema['items'])}"
    if "properties" in schema:
        return f"{{{', '.join(f'{name}: {_type(api, part)}' for name, part in schema['properties'].items())}}}"
    inside = schema.get("additionalProperties")
    return f"object of {_type(api, inside)}" if isinstance(inside, dict) else schema.get("type", "")


def _table(names: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table; its cells are HTML already."""
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    return (
        f"<table><tr>{head}</tr>" + "".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in rows) + "</table>"
    )


def _text(text: str) -> str:
    return f"<p>{_marked(text)}</p>" if text else ""


def _marked(text: str) -> str:
    """Text as HTML, with `code` as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _hash(script: Traversable) -> str:
    """A script as a policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.read_bytes()).digest()).decode()}"


__all__ = ["api_page", "page_routes"]
