"""SHIFT: a relative language vector, estimated on translation pairs, subtracted from document vectors.

"SHIFT: Semantic Harmonization via Index-side Feature Transformation for Multilingual Information Retrieval" (Jang,
Hong, Moon, Lim, arXiv 2606.18801).
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from scipy import sparse

from milco_hf.debias.vectors import as_means, encoder_of, subtract_dense, subtract_sparse

logger = logging.getLogger(__name__)

FORMAT = "milco-language-shift"
_VERSION = 1
_JSON = "language_shift.json"
_TENSORS = "language_shift.safetensors"

Rows = TypeVar("Rows", np.ndarray, torch.Tensor, sparse.csr_array)
Detect = Callable[[str], str | None]


class LanguageShift:
    """Relative language vectors, and their subtraction from the vectors of documents.

    The paper's abstract leaves the estimate open; the reading here, for a language L and pairs of a text in L and its
    translation into the reference language (English), is the mean difference

        v_L = 1/n · Σ_i (e(x_i in L) − e(translation of x_i))

    of document vectors e. A document of L is indexed as e(d) − strength · v_L. Documents of the reference language and
    all queries stay as they are.

    A dense vector (`numpy`, `torch`) is shifted in every dimension. A sparse row (CSR) is shifted only in the
    dimensions that it has, and what falls to zero or below is dropped:

        w'_j = max(0, w_j − strength · v_Lj)   where w_j > 0

    In the other dimensions the subtraction would mean nothing: sparse weights are never negative, and where v_Lj is
    negative every document of L would get the same thousands of English terms, whatever it says. An entry may grow: an
    English term that translations have more of than their originals.

    Args:
        vectors: v_L by language, [d] each; they are copied.
        reference: The language that the others are brought to.
        pairs: From how many pairs each was estimated.
        model: What the model was called.
        fingerprint: Of the model, so that another model's vectors are refused where that can be checked.

    Raises:
        ValueError: There are no languages, the vectors' widths differ, one is no vector or not finite, or it is the
            reference's.
    """

    def __init__(
        self,
        vectors: Mapping[str, np.ndarray],
        reference: str = "en",
        pairs: Mapping[str, int] | None = None,
        model: str | None = None,
        fingerprint: str | None = None,
    ) -> None:
        if not vectors:
            raise ValueError("A LanguageShift needs the vector of at least one language.")
        # whole copies: safetensors would write a view's neighbours
        self.vectors = {language: np.array(vector, dtype=np.float32, order="C") for language, vector in vectors.items()}
        self.reference = reference
        self.pairs = dict(pairs or {})
        self.model = model
        self.fingerprint = fingerprint
        self.width = next(iter(self.vectors.values())).size
        for language, vector in self.vectors.items():
            if vector.shape != (self.width,) or not np.isfinite(vector).all():
                raise ValueError(
                    f"The vector of {language!r} has shape {vector.shape}, or numbers that are not finite; all have to "
                    f"be [{self.width}] and finite."
                )
        if reference in self.vectors:
            raise ValueError(f"{reference!r} is the reference, which has no vector of its own.")
        self._names = {_plain(name): name for name in (reference, *self.vectors)}

    def __repr__(self) -> str:
        return f"LanguageShift({', '.join(self.languages)} → {self.reference}, {self.width} dimensions)"

    @property
    def languages(self) -> list[str]:
        """The languages that are shifted."""
        return sorted(self.vectors)

    def name(self, language: str) -> str | None:
        """What a language is called here, whatever its case and with "-" or "_"; None if unknown.

        A name that is not known as it stands is looked up without its region or script: `pt-BR` is pt, `de_DE` de.
        """
        if language == self.reference or language in self.vectors:
            return language
        plain = _plain(language)
        return self._names.get(plain) or self._names.get(plain.split("-")[0])

    @classmethod
    def estimate(
        cls,
        model: Any,
        pairs: Mapping[str, Iterable[tuple[str, str]]],
        *,
        reference: str = "en",
        batch_size: int = 32,
        **options: Any,
    ) -> LanguageShift:
        """Estimates the vectors with a model.

        Both sides are encoded as documents, unpruned where nothing else is asked for, since it is documents that are
        shifted. An encoder with language adapters reads each side through its own language's, as it will the documents.

        Args:
            model: A MILCO checkpoint (as `encode_corpus` takes one), or any `SparseEncoder` or `SentenceTransformer`;
                or a function from a list of texts to vectors (numpy, torch or CSR).
            pairs: By language, (text in that language, its translation into the reference language).
            reference: The language of the translations.
            batch_size: Texts at a time, for models of sentence-transformers other than MILCO.
            **options: For `encode_corpus`, such as `prune`, `max_length`, `devices`; of MILCO checkpoints alone.

        Raises:
            ValueError: A language has no pairs, is the reference, or has no adapter in an encoder with adapters; or an
                option cannot be chosen here.
            TypeError: The model is none.
        """
        if reference in pairs:
            raise ValueError(f"{reference!r} is the reference, which has no vector of its own.")
        encode, name, fingerprint = encoder_of(model, batch_size, options)
        vectors, counts = {}, {}
        for language, texts in pairs.items():
            texts = list(texts)
            if not texts:
                raise ValueError(f"There are no pairs of {language!r} and {reference!r}.")
            own, translated = as_means(
                encode([own for own, _ in texts], language), encode([other for _, other in texts], reference)
            )
            vectors[language], counts[language] = own - translated, len(texts)
            logger.info("%s: ‖v‖ = %.4g from %d pairs", language, np.linalg.norm(vectors[language]), len(texts))
        return cls(vectors, reference, counts, name, fingerprint)

    @classmethod
    def from_vectors(
        cls, vectors: Mapping[str, tuple[Any, Any]], *, reference: str = "en", **about: Any
    ) -> LanguageShift:
        """Estimates the vectors from document vectors that there are already.

        Args:
            vectors: By language (vectors of texts in it, vectors of their translations), [n, d] each, row by row:
                numpy, torch or CSR.
            reference: The language of the translations.
            **about: `model` and `fingerprint`, see `LanguageShift`.

        Raises:
            ValueError: Both sides do not have the same shape, or there are no rows.
        """
        means = {language: as_means(*both) for language, both in vectors.items()}
        counts = {language: own.shape[0] for language, (own, _) in vectors.items()}
        return cls({language: own - other for language, (own, other) in means.items()}, reference, counts, **about)

    def apply(
        self,
        vectors: Rows,
        languages: str | Sequence[str | None],
        *,
        strength: float = 1.0,
        normalize: bool = False,
        unknown: str = "error",
    ) -> Rows:
        """Subtracts each document's language vector.

        Args:
            vectors: Document vectors [n, d]: a numpy array, a torch tensor or a CSR matrix. They are left as they are.
            languages: Of the documents, one for each or one for all; where it is None (unknown), a row stays as it is.
            strength: What the language vectors are multiplied by; 1 is the paper's.
            normalize: Whether dense rows are brought back to unit length, for indexes that take inner products of a
                model that normalises.
            unknown: What becomes of rows in a language without a vector: "error", or "keep" leaves them as they are.

        Returns:
            The vectors, of the same kind and dtype.

        Raises:
            ValueError: A language has no vector; there are more languages than rows or fewer; the width is another; the
                vectors hold whole numbers; `strength` is not finite; or `normalize` is asked of sparse rows.
        """
        if not math.isfinite(strength):
            raise ValueError(f"strength has to be a finite number, got {strength}.")
        if vectors.ndim != 2 or vectors.shape[1] != self.width:
            raise ValueError(f"vectors has to be [documents, {self.width}] for {self!r}, got {tuple(vectors.shape)}.")
        if unknown not in ("error", "keep"):
            raise ValueError(f'unknown has to be "error" or "keep", got {unknown!r}.')
        rows = self._rows(languages, vectors.shape[0], unknown)
        if sparse.issparse(vectors):
            if normalize:
                raise ValueError("normalize is for dense vectors; sparse ones are indexed with the weights they have.")
            return subtract_sparse(sparse.csr_array(vectors), rows, self.vectors, strength)
        return subtract_dense(vectors, rows, self.vectors, strength, normalize)

    def save(self, path: str | Path) -> Path:
        """Writes a folder: the vectors as safetensors, the rest as JSON.

        Args:
            path: The folder; files of another shift in it are replaced.

        Returns:
            The folder.
        """
        folder = Path(path).expanduser()
        about = {"format": FORMAT, "version": _VERSION, "reference": self.reference, "width": self.width}
        about |= {"pairs": self.pairs, "model": self.model, "fingerprint": self.fingerprint}
        text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _JSON).unlink(missing_ok=True)  # never another shift's beside these vectors
        save_file(self.vectors, folder / _TENSORS)
        (folder / _JSON).write_text(text, encoding="utf-8")
        return folder

    @classmethod
    def load(cls, path: str | Path) -> LanguageShift:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is something else, or of a later version.
        """
        folder = Path(path).expanduser()
        if not (folder / _JSON).is_file():
            raise FileNotFoundError(f"{folder} holds no {_JSON}, so no LanguageShift; LanguageShift.save writes one.")
        about = json.loads((folder / _JSON).read_text(encoding="utf-8"))
        if about.get("format") != FORMAT or about.get("version", 0) > _VERSION:
            raise ValueError(
                f"{folder / _JSON} is of format {about.get('format')!r}, version {about.get('version')!r}; this "
                f"version reads {FORMAT!r} up to {_VERSION}."
            )
        known = {name: about.get(name) for name in ("pairs", "model", "fingerprint")}
        return cls(load_file(folder / _TENSORS), about["reference"], **known)

    def _rows(self, languages: str | Sequence[str | None], count: int, unknown: str) -> dict[str, np.ndarray]:
        """Numbers of the rows that are shifted, by language."""
        languages = [languages] * count if isinstance(languages, str) else list(languages)
        if len(languages) != count:
            raise ValueError(f"There are {len(languages)} languages for {count} vectors; give one for each, or one.")
        found: dict[str, list[int]] = {}
        missing: set[str] = set()
        for row, language in enumerate(languages):
            name = None if language is None else self.name(language)
            if name in self.vectors:
                found.setdefault(name, []).append(row)
            elif name is None and language is not None:
                missing.add(language)
        if missing and unknown == "error":
            raise ValueError(
                f"{self!r} has no vector for {', '.join(sorted(missing))}: estimate one, or leave such documents as "
                'they are with unknown="keep".'
            )
        return {language: np.asarray(rows) for language, rows in found.items()}


def _plain(language: str) -> str:
    return language.strip().lower().replace("_", "-")


__all__ = ["FORMAT", "Detect", "LanguageShift"]
