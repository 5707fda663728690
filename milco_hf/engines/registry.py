"""The engines by name."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from milco_hf.engines.base import Engine

ENGINES = {
    "elasticsearch": ("milco_hf.engines.elasticsearch", "ElasticsearchEngine"),
    "milvus": ("milco_hf.engines.milvus", "MilvusEngine"),
    "opensearch": ("milco_hf.engines.opensearch", "OpenSearchEngine"),
    "postgres": ("milco_hf.engines.postgres", "PostgresEngine"),
    "qdrant": ("milco_hf.engines.qdrant", "QdrantEngine"),
    "vespa": ("milco_hf.engines.vespa", "VespaEngine"),
}


def engine_class(name: str) -> type[Engine]:
    """The class of an engine.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in ENGINES:
        raise ValueError(f"There is no engine {name!r}; there are {', '.join(ENGINES)}.")
    module, attribute = ENGINES[name]
    return getattr(import_module(module), attribute)


def connect(name: str, collection: str, **options: Any) -> Engine:
    """A collection of an engine, whether it is there yet or not.

    Args:
        name: elasticsearch, milvus, opensearch, postgres, qdrant or vespa.
        collection: Its name.
        **options: What the engine's class takes: `url`, credentials, and more.

    Returns:
        The engine; `with` closes its connections.

    Raises:
        ValueError: There is no such engine, or it has no such option; the message names those there are.
        ImportError: Its client library is not installed.
    """
    made = engine_class(name)
    known = options_of(name)
    if unknown := [option for option in options if option not in known]:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it has {', '.join(known)}.")
    return made(collection, **options)


def options_of(name: str) -> list[str]:
    """The options that an engine takes, those included that its class hands on to its base class."""
    found: list[str] = []
    for made in engine_class(name).__mro__:
        if "__init__" not in vars(made):
            continue
        parameters = inspect.signature(made.__init__).parameters.values()
        found = [*(each.name for each in parameters if each.kind is each.KEYWORD_ONLY), *found]
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return found


__all__ = ["ENGINES", "connect", "engine_class", "options_of"]
