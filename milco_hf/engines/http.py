"""A small HTTP client for the engines that speak REST: JSON in and out, back-off, no credential in any message."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from milco_hf.engines.retry import Backoff, BusyError, EngineError, TooLargeError, retry

# Too many requests; a proxy's or the engine's own "not now".
_BUSY = (429, 502, 503, 504)
_LONGEST_MESSAGE = 600


def split_credentials(url: str) -> tuple[str, tuple[str, str] | None]:
    """A URL without what stands before its @, and that as (user, password).

    Raises:
        ValueError: It is no URL of http or https.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"An engine's url reads http://HOST:PORT or https://HOST:PORT, got {_without_user(url)!r}.")
    user = None if parts.username is None else (unquote(parts.username), unquote(parts.password or ""))
    return _without_user(url).rstrip("/"), user


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def credential(value: str | None, variable: str) -> str | None:
    """What was given, else what the environment holds, else None."""
    return value or os.environ.get(variable) or None


class Http:
    """Requests to one server, over connections that are kept. Threads may share it.

    Args:
        url: Such as http://localhost:9200; credentials before an @ become basic authentication.
        headers: Sent with each request.
        auth: (user, password) of basic authentication.
        verify: Whether the server's certificate is checked, or the file or folder of the authorities to trust.
        certificate: A client's certificate, or (certificate, key), as paths.
        timeout: Seconds to wait for the connection, and for each answer.
        backoff: Of requests that the server is too busy for.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        verify: bool | str = True,
        certificate: str | tuple[str, str] | None = None,
        timeout: float = 60.0,
        backoff: Backoff | None = None,
    ) -> None:
        try:
            import requests
        except ImportError as error:
            raise ImportError('This engine needs the requests library: pip install "milco-hf[engines]".') from error
        self.url, user = split_credentials(url)
        self.timeout = timeout
        self.backoff = backoff or Backoff()
        self._errors = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
        self._session = requests.Session()
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=64)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        self._session.headers.update({"Accept": "application/json", **(headers or {})})
        self._session.auth = auth or user
        self._session.verify = verify
        self._session.cert = certificate

    def __repr__(self) -> str:
        return f"Http({self.url!r})"

    def send(
        self,
        method: str,
        path: str,
        *,
        data: Any = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        params: Mapping[str, Any] | None = None,
        missing: bool = False,
        again: bool = True,
    ) -> Any:
        """One request, tried again while the server is busy.

        Args:
            method: GET, POST, …
            path: Below the server's URL, quoted already.
            data: Sent as JSON.
            body: Sent as it is, in place of `data`.
            content_type: Of the body.
            params: Of the URL's query.
            missing: Whether 404 is an answer: None.
            again: Whether it is tried again; a caller that does so itself says no.

        Returns:
            The parsed JSON, None where the answer is empty.

        Raises:
            BusyError: Still busy or out of reach at the last attempt.
            TooLargeError: The server answered 413.
            EngineError: It refused the request; the message holds its answer.
        """
        if data is not None:
            body = json.dumps(data, allow_nan=False).encode()
        headers = {"Content-Type": content_type} if body is not None else {}

        def once() -> Any:
            return self._once(method, path, body, headers, params, missing)

        return retry(once, self.backoff) if again else once()

    def _once(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        params: Mapping[str, Any] | None,
        missing: bool,
    ) -> Any:
        what = f"{method} {self.url}{path.partition('?')[0]}"
        try:
            answer = self._session.request(
                method, f"{self.url}{path}", data=body, headers=headers, params=params, timeout=self.timeout
            )
        except self._errors as error:
            raise BusyError(f"{what} got no answer ({type(error).__name__}).") from error
        status = answer.status_code
        if status == 404 and missing:
            return None
        if status in _BUSY:
            raise BusyError(f"{what} was answered {status}.", status, _seconds(answer.headers.get("Retry-After")))
        if status == 413:
            raise TooLargeError(f"{what}: {len(body or b'')} bytes are more than the server takes.", status)
        if status in (401, 403):
            raise EngineError(
                f"{what} was answered {status}: the credentials are missing or have no right to it. "
                f"{_shortened(answer.text)}",
                status,
            )
        if status >= 400:
            raise EngineError(f"{what} was answered {status}: {_shortened(answer.text)}", status)
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError as error:
            raise EngineError(
                f"{what} was answered with something that is no JSON: {_shortened(answer.text)} Is {self.url} the "
                "engine's own address?"
            ) from error

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()


def _seconds(header: str | None) -> float | None:
    """Retry-After as seconds; its other form, a date, is left to the back-off."""
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]} …"


__all__ = ["Http", "credential", "split_credentials"]
