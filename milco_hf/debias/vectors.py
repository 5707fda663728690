"""Dense and sparse rows: their means, and what is subtracted from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy import sparse

# Options of `encode_corpus` that an estimate chooses itself.
_FIXED = {"detect", "ids", "kind", "language", "language_shift", "output"}


def as_means(own: Any, translated: Any) -> tuple[np.ndarray, np.ndarray]:
    """Means of two sides of parallel rows, [d] each, in fp64.

    Args:
        own: Vectors of the texts, [n, d]: numpy, torch (dense or sparse) or CSR.
        translated: Of their translations, likewise.

    Raises:
        ValueError: They do not have the same shape, or there are no rows.
    """
    if own.ndim != 2 or tuple(own.shape) != tuple(translated.shape) or not own.shape[0]:
        raise ValueError(
            f"Texts and their translations have vectors of shapes {tuple(own.shape)} and {tuple(translated.shape)}; "
            "give [n, d] for both, row by row."
        )
    return _mean(own), _mean(translated)


def _mean(rows: Any) -> np.ndarray:
    if isinstance(rows, torch.Tensor) and rows.layout != torch.strided:
        rows = csr_of(rows.detach())
    if sparse.issparse(rows):
        return np.asarray(rows.sum(axis=0, dtype=np.float64)).ravel() / rows.shape[0]
    if isinstance(rows, torch.Tensor):
        rows = rows.detach().float().cpu().numpy()
    return np.asarray(rows).mean(axis=0, dtype=np.float64)


def subtract_dense(
    vectors: Any, rows: Mapping[str, np.ndarray], shifts: Mapping[str, np.ndarray], strength: float, normalize: bool
) -> Any:
    """Dense vectors less strength · v_L in the rows of each language.

    Args:
        vectors: [n, d], numpy or torch.
        rows: Numbers of the rows by language.
        shifts: v_L by language, [d].
        strength: What they are multiplied by.
        normalize: Whether all rows get unit length then.

    Returns:
        New vectors [n, d], of the same kind and dtype.

    Raises:
        ValueError: A torch tensor is sparse, or the numbers are no floating-point ones.
    """
    if isinstance(vectors, torch.Tensor):
        if vectors.is_sparse or vectors.layout != torch.strided:
            raise ValueError("Sparse torch tensors are not shifted; give scipy's CSR, as encode_corpus returns it.")
        _check_floating(vectors.dtype, vectors.is_floating_point())
        made = vectors.detach().clone()
        for language, places in rows.items():
            shift = torch.from_numpy(shifts[language]).to(made.device, torch.float32)
            where = torch.from_numpy(places).to(made.device)
            made[where] = (made[where].float() - strength * shift).to(made.dtype)
        return torch.nn.functional.normalize(made, dim=1) if normalize else made
    made = np.array(vectors)
    _check_floating(made.dtype, np.issubdtype(made.dtype, np.floating))
    for language, places in rows.items():
        made[places] = made[places] - strength * shifts[language]
    if normalize:
        made /= np.maximum(np.linalg.norm(made, axis=1, keepdims=True), np.finfo(made.dtype).tiny)
    return made


def subtract_sparse(
    matrix: sparse.csr_array, rows: Mapping[str, np.ndarray], shifts: Mapping[str, np.ndarray], strength: float
) -> sparse.csr_array:
    """Sparse rows less strength · v_L where they have an entry; entries that are not above zero go.

    Args:
        matrix: [n, d]; it is left as it is.
        rows: Numbers of the rows by language.
        shifts: v_L by language, [d].
        strength: What they are multiplied by.

    Returns:
        A new matrix [n, d] of the same dtype.

    Raises:
        ValueError: The numbers are no floating-point ones.
    """
    _check_floating(matrix.dtype, np.issubdtype(matrix.dtype, np.floating))
    if not matrix.has_canonical_format:  # an entry in two parts would be shifted twice
        matrix = matrix.copy()
        matrix.sum_duplicates()
    data = matrix.data.copy()
    for language, places in rows.items():
        first, counts = matrix.indptr[places], np.diff(matrix.indptr)[places]
        before = counts.cumsum() - counts
        entries = np.repeat(first - before, counts) + np.arange(int(counts.sum()))
        data[entries] -= (strength * shifts[language][matrix.indices[entries]]).astype(data.dtype)
        data[entries] = np.maximum(data[entries], 0)
    made = sparse.csr_array((data, matrix.indices.copy(), matrix.indptr.copy()), shape=matrix.shape)
    made.eliminate_zeros()
    return made


def _check_floating(dtype: Any, floating: bool) -> None:
    if not floating:
        raise ValueError(f"vectors has to hold floating-point numbers, got {dtype}.")


def encoder_of(
    model: Any, batch_size: int, options: Mapping[str, Any]
) -> tuple[Callable[[list[str], str], Any], str | None, str | None]:
    """How a model encodes documents.

    Args:
        model: See `LanguageShift.estimate`.
        batch_size: See there.
        options: Of `encode_corpus`.

    Returns:
        A function from texts and their language to document vectors [n, d], the model's name, and its fingerprint.

    Raises:
        ValueError: Options for a model that does without `encode_corpus`, or one that cannot be chosen here.
        TypeError: The model is none.
    """
    from sentence_transformers import SentenceTransformer, SparseEncoder

    from milco_hf.encoding import encode_corpus
    from milco_hf.encoding.opening import open_model
    from milco_hf.fingerprint import model_fingerprint
    from milco_hf.modeling import MilcoForSparseEncoding

    milco = isinstance(getattr(model, "transformers_model", model), MilcoForSparseEncoding)
    if isinstance(model, (str, os.PathLike)) or (milco and isinstance(model, (SparseEncoder, MilcoForSparseEncoding))):
        if fixed := _FIXED & set(options):
            raise ValueError(f"{', '.join(sorted(fixed))} cannot be chosen: documents are encoded, and returned.")
        opened = open_model(model, options.get("devices"))
        settings = {"prune": "none", "progress": False, **options}
        adapters = bool(opened.milco.config.languages)

        def encode_milco(texts: list[str], language: str) -> Any:
            routed = {"language": language} if adapters else {}
            return encode_corpus(opened.whole, texts, kind="document", **routed, **settings)

        return encode_milco, opened.name, model_fingerprint(opened.whole)
    if options:
        raise ValueError(f"{', '.join(options)}: options of encode_corpus, which is for MILCO checkpoints.")
    if isinstance(model, (SentenceTransformer, SparseEncoder)):
        sparse_kind = isinstance(model, SparseEncoder)

        def encode(texts: list[str], language: str) -> Any:
            found = model.encode_document(texts, batch_size=batch_size, convert_to_tensor=True)
            return csr_of(found) if sparse_kind else found.float().cpu().numpy()

        name = getattr(model.model_card_data, "base_model", None) or type(model).__name__
        return encode, str(name), model_fingerprint(model)
    if callable(model) and not isinstance(model, torch.nn.Module):
        return lambda texts, language: model(texts), None, None
    raise TypeError(
        "model has to be a checkpoint's name or folder, a SparseEncoder or SentenceTransformer, a "
        f"MilcoForSparseEncoding or a function from texts to vectors, got {type(model).__name__}."
    )


def csr_of(rows: torch.Tensor) -> sparse.csr_array:
    """A sparse torch matrix [n, d], as `SparseEncoder` returns it, as CSR in fp32."""
    rows = rows.to_sparse_coo().coalesce().cpu()
    place, column = rows.indices().numpy()
    return sparse.csr_array((rows.values().float().numpy(), (place, column)), shape=tuple(rows.shape))


__all__ = ["as_means", "csr_of", "encoder_of", "subtract_dense", "subtract_sparse"]
