"""Building an index and adding to it: everything is made aside and put into place at the end."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milco_hf import pruning
from milco_hf.encoding import VectorFolder
from milco_hf.index import recall as recalls
from milco_hf.index.documents import read_documents
from milco_hf.index.exact import ExactSearch
from milco_hf.index.manifest import (
    ADDING,
    BUILDING,
    fingerprint_of,
    flush,
    locked,
    new_segment,
    read_manifest,
    versions,
    write_manifest,
)
from milco_hf.index.queries import check_lengths, encode_queries, opened
from milco_hf.index.searching import EXACT_UP_TO, open_segments
from milco_hf.index.segments import make_segment
from milco_hf.index.seismic import EFFORTS, SeismicSearch, build_seismic, installed

logger = logging.getLogger(__name__)

ENGINES = ("auto", "exact", "seismic")
_SEISMIC = "seismic"
# In the first segment: what documents that are added later are shifted by too.
_SHIFT = "language_shift"
# What was added is searched exactly up to this share of what Seismic has.
_SHARE_ADDED = 0.1


@dataclass(frozen=True)
class Settings:
    """What an index is asked to be; see `Index.build`.

    Raises:
        ValueError: A setting cannot be; the message names it.
    """

    engine: str
    views: str
    prune: pruning.Prune
    prune_queries: pruning.Prune
    max_length: int | None
    query_length: int | None
    passage_length: int | None
    recall: float
    language_shift: Any = None
    detect: Callable[[str], str | None] | None = None

    def __post_init__(self) -> None:
        for name, value, allowed in (("engine", self.engine, ENGINES), ("views", self.views, pruning.VIEWS)):
            if value not in allowed:
                raise ValueError(f"{name} has to be one of {', '.join(allowed)}, got {value!r}.")
        if self.passage_length is not None and self.passage_length < 1:
            raise ValueError(f"passage_length has to be at least 1 word, got {self.passage_length}.")
        if not 0 < self.recall <= 1:
            raise ValueError(f"recall has to be above 0 and at most 1, got {self.recall}.")
        if self.detect is not None and self.language_shift is None:
            raise ValueError("detect finds languages for language_shift; give that too.")
        pruning.parse(self.prune)
        pruning.parse(self.prune_queries)
        if self.engine == "seismic" and not installed():
            raise ImportError('engine="seismic" needs an optional library: pip install "milco-hf[index]".')


def build(
    path: Path,
    model: Any,
    documents: Any,
    settings: Settings,
    revision: str | None,
    reading: Mapping[str, Any],
    how: Mapping[str, Any],
    recall_queries: Sequence[str] | None,
    resume: bool,
    progress: bool,
) -> Any:
    """See `Index.build`; the folder is checked already.

    Returns:
        The model, opened.
    """
    whole, name, commit = opened(model, how["devices"], revision)
    check_lengths(whole, document=settings.max_length, query=settings.query_length)
    forms = {
        kind: pruning.default_pruning(whole, kind) if asked is None else pruning.parse(asked)
        for kind, asked in (("document", settings.prune), ("query", settings.prune_queries))
    }
    devices = how["devices"]
    several = devices if devices is not None and not isinstance(devices, str) and len(devices) > 1 else None
    encoding = {**how, "devices": several, "views": settings.views, "prune": forms["document"]}
    encoding |= {"max_length": settings.max_length, "progress": progress}
    shift = _opened_shift(settings.language_shift)
    if shift is not None:
        encoding |= {"language_shift": shift, "detect": settings.detect}
    with locked(path):
        folder = path / BUILDING
        vectors = make_segment(
            folder,
            whole,
            read_documents(documents, **reading),
            first=0,
            taken=(),
            passage_length=settings.passage_length,
            resume=resume,
            **encoding,
        )
        if shift is not None:
            shift.save(folder / _SHIFT)
        shifted = vectors.manifest["settings"].get("language_shift")
        about = {
            "model": name,
            "revision": commit,
            "model_fingerprint": vectors.manifest["fingerprint"],
            "versions": versions(),
            "settings": {
                "views": settings.views,
                "document_pruning": {view: str(form) for view, form in sorted(forms["document"].items())},
                "query_pruning": {view: str(form) for view, form in sorted(forms["query"].items())},
                "max_length": settings.max_length,
                "query_length": settings.query_length,
                "passage_length": settings.passage_length,
                "autocast": vectors.manifest["settings"]["autocast"],
                "shard_size": vectors.manifest["settings"]["shard_size"],
                **({} if shifted is None else {"language_shift": shifted}),
            },
            "dimensions": vectors.manifest["dimensions"],
            "engine": settings.engine,
            "recall": settings.recall,
            "recall_queries": list(recall_queries) if recall_queries else None,
            "segments": [],
            "seismic": None,
            "cut": {"texts": 0, "tokens": 0, "of_tokens": 0},
        }
        about["fingerprint"] = fingerprint_of(about)
        _finish(path, folder, about, vectors, whole, progress)
    return whole


def add(
    path: Path,
    model: Any,
    fingerprint: str,
    documents: Any,
    reading: Mapping[str, Any],
    how: Mapping[str, Any],
    progress: bool,
) -> None:
    """See `Index.add`; `fingerprint` is that of the index which the model was checked against."""
    with locked(path):
        manifest = read_manifest(path)
        if manifest["fingerprint"] != fingerprint:
            raise ValueError(
                f"{path} was replaced since it was opened: its fingerprint was {fingerprint} and is now "
                f"{manifest['fingerprint']}, so that what is added might not fit. Open it again (Index.load)."
            )
        settings = manifest["settings"]
        folders = [path / segment["folder"] for segment in manifest["segments"]]
        shift = _opened_shift(folders[0] / _SHIFT if settings.get("language_shift") else None)
        if shift is not None:
            how = {**how, "language_shift": shift}
        elif how.get("detect") is not None:
            raise ValueError(f"{path} was built without a language shift, so detect has nothing to do.")
        rows, stores = open_segments(folders, sum(manifest["dimensions"].values()))
        try:
            vectors = make_segment(
                path / ADDING,  # a build that replaces the index may wait in BUILDING to be continued
                model,
                read_documents(documents, **reading),
                first=rows.documents,
                taken=stores,
                passage_length=settings["passage_length"],
                resume=False,
                views=settings["views"],
                prune=pruning.parse(settings["document_pruning"]),
                max_length=settings["max_length"],
                dtype=settings["autocast"],
                shard_size=settings["shard_size"],
                progress=progress,
                **how,
            )
        finally:
            for store in stores:
                store.close()
        _finish(path, path / ADDING, manifest, vectors, model, progress)


def _opened_shift(shift: Any) -> Any:
    """A `LanguageShift`, read where its folder is given; None for none."""
    if shift is None:
        return None
    from milco_hf.debias import LanguageShift

    return shift if isinstance(shift, LanguageShift) else LanguageShift.load(shift)


def _finish(
    path: Path, building: Path, about: dict[str, Any], vectors: VectorFolder, model: Any, progress: bool
) -> None:
    """Puts a segment that is whole into place, with Seismic's lists where they are wanted."""
    name = new_segment()
    folders = [path / segment["folder"] for segment in about["segments"]] + [building]
    rows, stores = open_segments(folders, vectors.shape[1])
    try:
        wanted = about["engine"] == "seismic" or (about["engine"] == "auto" and len(rows) > EXACT_UP_TO)
        if wanted and not installed():
            logger.warning(
                'The index has %d rows, and search stays exact, since Seismic is not installed: pip install "milco-hf'
                '[index]" and build it again for a faster one.',
                len(rows),
            )
            wanted = False
        covered = about["seismic"]["documents"] if about["seismic"] else 0
        added = rows.documents - covered
        if wanted and (not covered or added > max(EXACT_UP_TO, _SHARE_ADDED * covered)):
            shutil.rmtree(building / _SEISMIC, ignore_errors=True)
            logger.info("Building Seismic's lists over %d rows.", len(rows))
            build_seismic(rows, building / _SEISMIC, progress)
            queries = about["recall_queries"] or recalls.sample_queries(stores)
            seismic = SeismicSearch(rows, building / _SEISMIC, EFFORTS[0])
            found = recalls.measure_recall(
                seismic, ExactSearch(rows), encode_queries(about, model, queries, None), about["recall"]
            )
            about["seismic"] = {
                "folder": f"{name}/{_SEISMIC}",
                "segments": len(folders),
                "documents": rows.documents,
                "recall": found,
            }
    finally:
        for store in stores:
            store.close()
    cut = vectors.manifest["cut"]
    about["cut"] = {key: about["cut"][key] + cut[key] for key in about["cut"]}
    about["segments"] = [*about["segments"], {"folder": name, "documents": len(stores[-1]), "rows": len(vectors)}]
    flush(building)
    os.rename(building, path / name)
    write_manifest(path, about)


__all__ = ["ENGINES", "Settings", "add", "build"]
