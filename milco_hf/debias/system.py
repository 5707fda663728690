"""A system of the evaluation whose documents are shifted, so that bias and quality can be measured before and after."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import sparse

from milco_hf.debias.language_shift import LanguageShift
from milco_hf.debias.shifting import RowShifter
from milco_hf.evaluation.cache import EncodedDocuments, Shard, VectorCache
from milco_hf.evaluation.collections import Collection
from milco_hf.evaluation.systems.base import VectorIndex, VectorSystem
from milco_hf.evaluation.systems.sparse import SparseSystemEncoder
from milco_hf.evaluation.vectors import Vectors
from milco_hf.fingerprint import model_fingerprint
from milco_hf.pruning import parse, prune

logger = logging.getLogger(__name__)


class ShiftedSystem:
    """A sparse or dense system, its documents shifted by the language of their collection.

    Vectors are cached as the model gives them, and pruned (where that is asked for) and shifted when they are searched,
    in the order in which `encode_corpus` and `Index` do it; so another shift or strength costs no encoding.

    Args:
        system: Such as `evaluation.open_system` opens.
        shift: The shift.
        strength: See `LanguageShift.apply`.
        name: By default the system's with "+shift".

    Raises:
        ValueError: The system has other vectors than sparse or dense ones, or of another width than the shift.
    """

    def __init__(
        self, system: VectorSystem, shift: LanguageShift, strength: float = 1.0, name: str | None = None
    ) -> None:
        if system.kind not in ("sparse", "dense"):
            raise ValueError(f"{system.name} is {system.kind}; a language shift is for sparse and dense vectors.")
        shifter = RowShifter(shift, shift.reference, strength=strength)
        model = getattr(system.encoder, "model", None)
        if model is not None:  # all weights are read for a fingerprint
            shifter.check(_width(system), "" if shift.fingerprint is None else model_fingerprint(model))
        digest = shifter.digest
        self.system = system
        self.shift = shift
        self.strength = strength
        self.name = name or f"{system.name}+shift"
        self.kind = system.kind
        self.fingerprint = hashlib.blake2b(f"{system.fingerprint} {digest}".encode(), digest_size=32).hexdigest()
        self.settings: dict[str, Any] = {**system.settings, "language_shift": digest, "shift_strength": strength}

    def index(self, parts: Sequence[tuple[str, Collection]], cache: VectorCache) -> VectorIndex:
        """See `evaluation.systems.base.System`; warns of languages whose documents stay as they are."""
        languages = {collection.document_language for _, collection in parts}
        if unknown := sorted(language for language in languages if self.shift.name(language) is None):
            logger.warning(
                "%s: documents in %s are not shifted, as the shift has no vector for them.",
                *(self.name, ", ".join(unknown)),
            )
        encoder = self.system.encoder
        pool = [
            (prefix, _Shifted(cache.documents(encoder, collection), self, collection.document_language))
            for prefix, collection in parts
        ]
        if isinstance(encoder, SparseSystemEncoder):
            encoder = copy.copy(encoder)
            encoder.prune = None  # `_Shifted` has done it
        return VectorIndex(encoder, pool, cache)


def shifted_systems(systems: Sequence[Any], shift: LanguageShift | str | Path) -> list[ShiftedSystem]:
    """Each of the systems that can be shifted, shifted; a warning names those whose vectors have another width.

    Args:
        systems: Such as `evaluation.open_systems` opens.
        shift: The shift, or the folder of one.

    Raises:
        ValueError: None of them can.
        FileNotFoundError: There is no shift in the folder.
    """
    loaded = shift if isinstance(shift, LanguageShift) else LanguageShift.load(shift)
    found = []
    for system in systems:
        if system.kind not in ("sparse", "dense"):
            continue
        if _width(system) in (None, loaded.width):
            found.append(ShiftedSystem(system, loaded))
        else:
            logger.warning(
                "%s is not shifted: its vectors have %d dimensions, and %r is for another model's.",
                *(system.name, _width(system), loaded),
            )
    if not found:
        names = ", ".join(system.name for system in systems)
        raise ValueError(
            f"{loaded!r} is for sparse or dense models with vectors of that width, and there is none among {names}."
        )
    return found


def _width(system: Any) -> int | None:
    """Dimensions of a system's vectors; None where nobody knows."""
    dimensions = getattr(getattr(system.encoder, "model", None), "get_embedding_dimension", None)
    return None if dimensions is None else dimensions()


class _Shifted:
    """Encoded documents of one language, shifted as they are loaded; those of a language without a vector are not."""

    def __init__(self, documents: EncodedDocuments, system: ShiftedSystem, language: str) -> None:
        self.documents = documents
        self.system = system
        self.language = language
        self.ids = documents.ids
        self.shards = documents.shards

    def load(self, shard: Shard) -> Vectors:
        """The vectors of one shard."""
        vectors: Any = self.documents.load(shard)
        shift, strength = self.system.shift, self.system.strength
        matrix, encoder = vectors.matrix, self.documents.encoder
        if isinstance(encoder, SparseSystemEncoder):
            matrix = _pruned(encoder, matrix)
        return type(vectors)(shift.apply(matrix, self.language, strength=strength, unknown="keep"))


def _pruned(encoder: SparseSystemEncoder, matrix: sparse.csr_array) -> sparse.csr_array:
    """Rows [n, V] as an encoder's `prune` leaves those of its view, in their own columns."""
    forms = parse(encoder.prune)
    if not forms:
        return matrix
    start, stop, _ = (encoder.columns or slice(None)).indices(matrix.shape[1])
    config = getattr(encoder.model.transformers_model, "config", None)
    terms = max(0, min(getattr(config, "pivot_vocab_size", stop), stop) - start)
    part = prune(matrix[:, start:stop], forms, terms)
    return sparse.csr_array((part.data, part.indices + start, part.indptr), shape=matrix.shape)


__all__ = ["ShiftedSystem", "shifted_systems"]
