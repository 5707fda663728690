"""A shift that goes along with texts while they are encoded, shard by shard: what `encode_corpus` uses."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from scipy import sparse

from milco_hf.debias.language_shift import Detect, LanguageShift

logger = logging.getLogger(__name__)


class RowShifter:
    """Sees the language of each text as its shard is read, and shifts its row when the shard is encoded.

    Args:
        shift: The shift, or the folder of one.
        languages: Of the texts, in their order: one for all, or one for each (None where nobody knows).
        detect: Called with a text whose language is not given; returns a code such as "de", or None.
        strength: See `LanguageShift.apply`.

    Raises:
        ValueError: Neither languages nor a detector is given, or the one language of all texts has no vector.
        FileNotFoundError: The folder holds no shift.
    """

    def __init__(
        self,
        shift: LanguageShift | str | Path,
        languages: str | Iterable[str | None] | None = None,
        detect: Detect | None = None,
        strength: float = 1.0,
    ) -> None:
        if languages is None and detect is None:
            raise ValueError(
                "A language shift needs the texts' languages: give language (one for each text, or one for all), or "
                "detect, a function from a text to its language."
            )
        self.shift = shift if isinstance(shift, LanguageShift) else LanguageShift.load(shift)
        if isinstance(languages, str) and self.shift.name(languages) is None:
            raise ValueError(
                f"{self.shift!r} has no vector for {languages!r}, the language of all texts: estimate one, or leave "
                "the shift out."
            )
        self.strength = strength
        self.detect = detect
        self._languages = languages
        self._seen: deque[str | None] = deque()
        self._waiting: dict[int, list[str | None]] = {}
        self._kept: Counter[str] = Counter()

    def passed_on(self, has_adapters: bool) -> str | Iterable[str | None] | None:
        """The languages for whoever reads them next, noted as they go by.

        Args:
            has_adapters: Whether the encoder has language adapters; one name for all texts is for the shift alone where
                it has none.

        Raises:
            ValueError: The encoder has adapters, and languages are to be detected: texts would be read through the
                default language's adapter, and shifted by another's vector.
        """
        if has_adapters and self.detect is not None:
            raise ValueError(
                "detect finds languages for the shift alone, and this encoder reads each text through its language's "
                "adapter: give language, one for each text."
            )
        if self._languages is None or isinstance(self._languages, str):
            return self._languages if has_adapters else None
        return self._noted(self._languages)

    def _noted(self, languages: Iterable[str | None]) -> Iterator[str | None]:
        for language in languages:
            self._seen.append(language)
            yield language

    @property
    def digest(self) -> str:
        """Changes when the shifted vectors would; what an encoding run is known by."""
        digest = hashlib.blake2b(digest_size=16)
        shift = self.shift
        digest.update(f"{shift.reference} {self.strength}".encode())
        for language in shift.languages:
            digest.update(language.encode())
            digest.update(shift.vectors[language].tobytes())
        return digest.hexdigest()

    def check(self, width: int | None, fingerprint: str) -> None:
        """Refuses a shift of other vectors, and warns of one that another model may have made.

        Args:
            width: Dimensions of the model's vectors; None where nobody knows.
            fingerprint: The model's, as `LanguageShift.estimate` takes it.

        Raises:
            ValueError: The width is another.
        """
        shift = self.shift
        if width not in (None, shift.width):
            raise ValueError(f"{shift!r} is for vectors of {shift.width} dimensions, and the model's have {width}.")
        if shift.fingerprint not in (None, fingerprint):
            # settings such as the longest input change it too, and leave the shift as good as it was
            logger.warning(
                "The language shift was estimated with %s of fingerprint %s, and this model's is %s: estimate it again "
                "if the weights are others.",
                *(shift.model, shift.fingerprint, fingerprint),
            )

    def read(self, number: int, texts: Sequence[str]) -> list[str | None]:
        """Takes the languages of a shard's texts; called once for each shard, in order, after they have gone by.

        Returns:
            The languages that its rows will be shifted by.
        """
        if self._languages is None or isinstance(self._languages, str):
            found: list[str | None] = [self._languages] * len(texts)
        else:
            found = [self._seen.popleft() for _ in texts]
        if self.detect is not None:
            found = [self.detect(text) if own is None else own for own, text in zip(found, texts)]
        self._waiting[number] = found
        return found

    def skip(self, number: int) -> None:
        """Forgets a shard that is there already."""
        del self._waiting[number]

    def finish(self, number: int, matrix: sparse.csr_array) -> sparse.csr_array:
        """The rows of a shard, [texts, V_e + V_s], shifted."""
        languages = self._waiting.pop(number)
        unknown = (language for language in languages if language is None or self.shift.name(language) is None)
        self._kept.update("unknown" if language is None else language for language in unknown)
        return self.shift.apply(matrix, languages, strength=self.strength, unknown="keep")

    def close(self) -> None:
        """Warns of texts that were left as they are."""
        if self._kept:
            logger.warning(
                "%d texts were not shifted, as the shift has no vector for their language: %s.",
                sum(self._kept.values()),
                ", ".join(f"{language} {count}" for language, count in sorted(self._kept.items())),
            )


__all__ = ["RowShifter"]
