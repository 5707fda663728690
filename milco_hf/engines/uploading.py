"""The upload of a folder: checks first, then batch after batch, each noted in the journal when the engine has it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from milco_hf.encoding.folder import VectorFolder
from milco_hf.engines.batches import Batch, check_folder, read_batches
from milco_hf.engines.journal import Journal, vectors_digest
from milco_hf.engines.retry import EngineError, TooLargeError

if TYPE_CHECKING:
    from milco_hf.engines.base import Engine

logger = logging.getLogger(__name__)


def upload(
    engine: Engine,
    folder: VectorFolder,
    texts: str | Path | None,
    *,
    batch_size: int | None,
    resume: bool,
    journal: str | Path | None,
    progress: bool,
) -> int:
    """What `Engine.upload` does, and says."""
    check_folder(folder, engine.longest_id, engine.most_entries, engine.entries_limit())
    if not engine.exists():
        raise FileNotFoundError(f"{engine} is not there; create it first.")
    engine.check_model(folder.manifest, "vectors")
    if folder.manifest["settings"]["kind"] == "query":
        logger.warning("%s was encoded as queries; documents are encoded with --as document.", folder.folder)
    created = (engine.about() or {}).get("created")
    note = Journal(
        Path(journal) if journal else Journal.default_path(folder, engine.name, engine.address, engine.collection),
        {
            "engine": engine.name,
            "address": engine.address,
            "collection": engine.collection,
            "created": created,
            "vectors": vectors_digest(folder),
            "texts": texts is not None,
        },
    )
    start = note.rows if resume else 0
    if start and not created and engine.count() < start - note.left_out:
        logger.warning("%s has fewer documents than %s says; sending all of them again.", engine, note.path)
        start = 0
    if not start:
        note.restart()
    sent = left_out = 0
    with tqdm(
        total=len(folder), initial=start, desc=f"To {engine.name}", unit=" documents", disable=not progress
    ) as bar:
        for batch in read_batches(
            folder, texts, start=start, batch_size=batch_size or engine.batch_size, batch_bytes=engine.batch_bytes
        ):
            ready = batch if engine.stores_empty else _without_empty(batch)
            _write_or_halve(engine, ready)
            empty = len(batch.ids) - len(ready.ids)
            sent, left_out = sent + len(ready.ids), left_out + empty
            note.add(len(batch.ids), empty)
            bar.update(len(batch.ids))
    if left_out:
        logger.warning("%d documents have no dimension at all; %s cannot hold them.", left_out, engine.name)
    engine.finish()
    there, wanted = engine.count(), len(folder) - note.left_out
    if there < wanted:
        raise EngineError(
            f"{engine} has {there} documents after an upload of {wanted}. Was anything deleted meanwhile? Upload again "
            "with resume=False (--no-resume)."
        )
    return sent


def _without_empty(batch: Batch) -> Batch:
    """The documents that have a dimension."""
    kept = np.flatnonzero(np.diff(batch.matrix.indptr))
    texts = None if batch.texts is None else [batch.texts[place] for place in kept]
    return Batch(batch.start, [batch.ids[place] for place in kept], batch.matrix[kept], texts)


def _write_or_halve(engine: Engine, batch: Batch) -> None:
    """Writes a batch, in halves where it is larger than the engine takes."""
    if not batch.ids:
        return
    try:
        engine.write(batch)
    except TooLargeError:
        if len(batch.ids) == 1:
            raise
        for half in batch.halves():
            _write_or_halve(engine, half)


__all__ = ["upload"]
