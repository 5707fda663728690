"""A MILCO model over HTTP: vectors, search and explanations; `milco serve` from a shell."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from milco_hf.serving.app import create_app
    from milco_hf.serving.running import serve
    from milco_hf.serving.settings import Limits, Settings

_LAZY = {
    "Limits": "milco_hf.serving.settings",
    "Settings": "milco_hf.serving.settings",
    "create_app": "milco_hf.serving.app",
    "serve": "milco_hf.serving.running",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(_LAZY[name])
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client"):
            raise ImportError(f'Serving needs {error.name}: pip install "milco-hf[serve]"') from error
        raise
    value = globals()[name] = getattr(module, name)
    return value


__all__ = ["Limits", "Settings", "create_app", "serve"]
