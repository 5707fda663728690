"""A system of the evaluation whose documents are shifted, so that bias and quality can be measured before and after."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milco_hf.debias.language_shift import LanguageShift
from milco_hf.debias.shifting import RowShifter
from milco_hf.evaluation.cache import EncodedDocuments, Shard, VectorCache
from milco_hf.evaluation.collections import Collection
from milco_hf.evaluation.systems.base import VectorIndex, VectorSystem
from milco_hf.evaluation.vectors import Vectors


class ShiftedSystem:
    """A sparse or dense system, its documents shifted by the language of their collection.

    Vectors are cached as the model gives them and shifted (then pruned, where that is asked for) when they are
    searched, so another shift or strength costs no encoding.

    Args:
        system: Such as `evaluation.open_system` opens.
        shift: The shift.
        strength: See `LanguageShift.apply`.
        name: By default the system's with "+shift".

    Raises:
        ValueError: The system has other vectors than sparse or dense ones.
    """

    def __init__(
        self, system: VectorSystem, shift: LanguageShift, strength: float = 1.0, name: str | None = None
    ) -> None:
        if system.kind not in ("sparse", "dense"):
            raise ValueError(f"{system.name} is {system.kind}; a language shift is for sparse and dense vectors.")
        digest = RowShifter(shift, shift.reference, strength=strength).digest
        self.system = system
        self.shift = shift
        self.strength = strength
        self.name = name or f"{system.name}+shift"
        self.kind = system.kind
        self.fingerprint = hashlib.blake2b(f"{system.fingerprint} {digest}".encode(), digest_size=32).hexdigest()
        self.settings: dict[str, Any] = {**system.settings, "language_shift": digest, "shift_strength": strength}

    def index(self, parts: Sequence[tuple[str, Collection]], cache: VectorCache) -> VectorIndex:
        """See `evaluation.systems.base.System`."""
        encoder = self.system.encoder
        pool = [
            (prefix, _Shifted(cache.documents(encoder, collection), self, collection.document_language))
            for prefix, collection in parts
        ]
        return VectorIndex(encoder, pool, cache)


def shifted_systems(systems: Sequence[Any], shift: LanguageShift | str | Path) -> list[ShiftedSystem]:
    """Each of the systems that can be shifted, shifted.

    Raises:
        ValueError: None of them can.
        FileNotFoundError: There is no shift in the folder.
    """
    loaded = shift if isinstance(shift, LanguageShift) else LanguageShift.load(shift)
    found = [ShiftedSystem(system, loaded) for system in systems if system.kind in ("sparse", "dense")]
    if not found:
        names = ", ".join(system.name for system in systems)
        raise ValueError(f"A language shift is for sparse and dense models, and there is none among {names}.")
    return found


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
        return type(vectors)(shift.apply(vectors.matrix, self.language, strength=strength, unknown="keep"))


__all__ = ["ShiftedSystem", "shifted_systems"]
