"""Dense and sparse rows: their means, and what is subtracted from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy import sparse


def as_means(own: Any, translated: Any) -> tuple[np.ndarray, np.ndarray]:
    """Means of two sides of parallel rows, [d] each, in fp64.

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
    if sparse.issparse(rows):
        return np.asarray(rows.sum(axis=0, dtype=np.float64)).ravel() / rows.shape[0]
    if isinstance(rows, torch.Tensor):
        rows = rows.detach().float().to_dense().cpu().numpy()
    return np.asarray(rows).mean(axis=0, dtype=np.float64)


def subtract_dense(
    vectors: Any, rows: Mapping[str, np.ndarray], shifts: Mapping[str, np.ndarray], strength: float, normalize: bool
) -> Any:
    """Dense vectors [n, d], numpy or torch, less strength · v_L in the rows of each language."""
    if isinstance(vectors, torch.Tensor):
        if vectors.is_sparse or vectors.layout != torch.strided:
            raise ValueError("Sparse torch tensors are not shifted; give scipy's CSR, as encode_corpus returns it.")
        made = vectors.detach().clone()
        for language, places in rows.items():
            shift = torch.from_numpy(shifts[language]).to(made.device, torch.float32)
            where = torch.from_numpy(places).to(made.device)
            made[where] = (made[where].float() - strength * shift).to(made.dtype)
        return torch.nn.functional.normalize(made, dim=1) if normalize else made
    made = np.array(vectors)
    if not np.issubdtype(made.dtype, np.floating):
        raise ValueError(f"vectors has to hold floating-point numbers, got {made.dtype}.")
    for language, places in rows.items():
        made[places] = made[places] - strength * shifts[language]
    if normalize:
        made /= np.maximum(np.linalg.norm(made, axis=1, keepdims=True), np.finfo(made.dtype).tiny)
    return made


def subtract_sparse(
    matrix: sparse.csr_array, rows: Mapping[str, np.ndarray], shifts: Mapping[str, np.ndarray], strength: float
) -> sparse.csr_array:
    """Sparse rows [n, d], less strength · v_L where they have an entry; entries that are not above zero go."""
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


def encoder_of(
    model: Any, batch_size: int, options: Mapping[str, Any]
) -> tuple[Callable[[list[str]], Any], str | None, str | None]:
    """(a function from texts to document vectors, the model's name, its fingerprint)."""
    from sentence_transformers import SentenceTransformer, SparseEncoder

    from milco_hf.encoding.opening import open_model
    from milco_hf.fingerprint import model_fingerprint
    from milco_hf.modeling import MilcoForSparseEncoding

    sparse_kind = isinstance(model, SparseEncoder)
    if isinstance(model, (SentenceTransformer, SparseEncoder)) and not (
        sparse_kind and isinstance(getattr(model, "transformers_model", None), MilcoForSparseEncoding)
    ):
        if options:
            raise ValueError(f"{', '.join(options)}: options of encode_corpus, which is for MILCO checkpoints.")

        def encode(texts: list[str]) -> Any:
            found = model.encode_document(texts, batch_size=batch_size, convert_to_tensor=True)
            return csr_of(found) if sparse_kind else found.float().cpu().numpy()

        name = getattr(model.model_card_data, "base_model", None) or type(model).__name__
        return encode, str(name), model_fingerprint(model)
    if isinstance(model, (str, os.PathLike, SparseEncoder, MilcoForSparseEncoding)):
        from milco_hf.encoding import encode_corpus

        opened = open_model(model, options.get("devices"))
        settings = {"prune": "none", "progress": False, **options}
        return (
            lambda texts: encode_corpus(opened.whole, texts, kind="document", **settings),
            opened.name,
            model_fingerprint(opened.whole),
        )
    if callable(model):
        return model, None, None
    raise TypeError(
        "model has to be a checkpoint's name or folder, a model of sentence-transformers, a MilcoForSparseEncoding or "
        f"a function from texts to vectors, got {type(model).__name__}."
    )


def csr_of(rows: torch.Tensor) -> sparse.csr_array:
    """A sparse torch matrix, as `SparseEncoder` returns it, as CSR in fp32."""
    rows = rows.to_sparse_coo().coalesce().cpu()
    place, column = rows.indices().numpy()
    return sparse.csr_array((rows.values().float().numpy(), (place, column)), shape=tuple(rows.shape))


__all__ = ["as_means", "csr_of", "encoder_of", "subtract_dense", "subtract_sparse"]
