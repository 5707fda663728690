"""`serve`: the application in a server, until it is told to end."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

API_KEY_VARIABLE = "MILCO_API_KEY"
# How long requests may take to be answered when the server is told to end; then they are dropped.
_DRAIN_SECONDS = 30


def serve(
    app: FastAPI,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    access_log: bool = False,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT; what is being answered then is answered first.

    Args:
        app: What `create_app` gives.
        host: The address to listen on; 0.0.0.0 for all.
        port: The port; 0 takes a free one.
        access_log: Log every request.
        ready: Called with the server's address when it takes requests.

    Raises:
        OSError: The address cannot be listened on.
        ValueError: The port is none.
        ImportError: The extra `serve` is not installed.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise ImportError('Serving needs uvicorn: pip install "milco-hf[serve]"') from error
    listener = _listen(host, port)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if ready is not None and self.started:
                ready(_address(listener))

    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="info" if access_log else "warning",
        access_log=access_log,
        server_header=False,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        lifespan="on",
    )
    # uvicorn raises the signal again after it has shut down, which would end the process as killed; it ended well
    main = threading.current_thread() is threading.main_thread()  # others have no say in signals
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN) if main else None
    try:
        Server(config).run(sockets=[listener])
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
        listener.close()


def read_api_key(file: Path | None) -> str | None:
    """The token that callers need: a file's first line, or the environment variable MILCO_API_KEY; None for none.

    Raises:
        ValueError: The file is empty, or the variable is set to nothing.
        OSError: The file cannot be read.
    """
    if file is not None:
        lines = file.expanduser().read_text(encoding="utf-8").split("\n", 1)
        key = lines[0].strip()
        if not key:
            raise ValueError(f"{file} holds no token in its first line.")
        return key
    key = os.environ.get(API_KEY_VARIABLE)
    if key is not None and not key.strip():
        raise ValueError(f"{API_KEY_VARIABLE} is set but empty: unset it to serve without a token.")
    return None if key is None else key.strip()


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise ValueError(f"--port has to be between 0 and 65535, got {port}.")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except socket.gaierror as error:
        raise OSError(f"Cannot listen on {host}: {error.strerror}. --host takes an address of this machine.") from error
    except OSError as error:
        raise OSError(
            f"Cannot listen on {host}, port {port}: {error.strerror or error}. Another --port may be free."
        ) from error


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


__all__ = ["API_KEY_VARIABLE", "read_api_key", "serve"]
