"""`export`: a folder of vectors into an engine's collection, made if it is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from milco_hf.encoding.folder import VectorFolder
from milco_hf.engines.base import Engine, opened
from milco_hf.engines.registry import connect


def export(
    vectors: VectorFolder | str | Path,
    to: str,
    collection: str,
    *,
    texts: str | Path | None = None,
    replace: bool = False,
    resume: bool = True,
    batch_size: int | None = None,
    journal: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> Engine:
    """Uploads a folder of vectors, as `milco export` does.

    Args:
        vectors: What `milco encode --output` wrote.
        to: The engine's name.
        collection: The collection's; it is created unless it is there.
        texts: The file that was encoded; its texts are stored beside the vectors.
        replace: Whether a collection that is there is deleted first.
        resume: Whether an upload that was cut short goes on; False sends everything.
        batch_size: Documents in a request.
        journal: The upload's journal; by default in the folder of the vectors.
        progress: Whether to show a bar.
        **options: What the engine takes: `url`, credentials, and more.

    Returns:
        The engine, ready to search.

    Raises:
        ValueError: See `Engine.upload`.
        EngineError: The engine refuses, or is out of reach.
    """
    folder = opened(vectors)
    engine = connect(to, collection, **options)
    try:
        if replace or not engine.exists():
            engine.create(folder, replace=replace)
        engine.upload(folder, texts, batch_size=batch_size, resume=resume, journal=journal, progress=progress)
    except BaseException:
        engine.close()
        raise
    return engine


__all__ = ["export"]
