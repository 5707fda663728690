"""`SentenceTransformer` and `MultiVectorEncoder` models: one vector a text, or one for each token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer

from milco_hf.evaluation.systems.base import Prepared
from milco_hf.evaluation.systems.encoding import in_batches, set_lengths
from milco_hf.evaluation.systems.fingerprint import model_fingerprint
from milco_hf.evaluation.vectors import DenseVectors, TokenVectors, Vectors


class _ModelEncoder:
    """What both kinds share; scores are the model's own similarity."""

    kind: ClassVar[str]
    vectors: ClassVar[type[Vectors]]
    rows_per_shard: ClassVar[int]
    matched_only: ClassVar = False

    def __init__(
        self,
        model: SentenceTransformer | MultiVectorEncoder,
        name: str,
        batch_size: int = 32,
        max_length: int | None = None,
        query_length: int | None = None,
    ) -> None:
        self.model = model
        self.name = name
        self.batch_size = batch_size
        lengths = set_lengths(model, max_length, query_length)
        self.fingerprint = model_fingerprint(model, truncate_dim=getattr(model, "truncate_dim", None))
        self.settings: dict[str, Any] = {
            **lengths,
            "dtype": str(model.dtype).removeprefix("torch."),
            "similarity": model.similarity_fn_name,
        }

    def routed(self, language: str | None) -> _ModelEncoder:
        """See `Encoder`: sentence-transformers passes no language to these models, so all are read alike."""
        return self

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """See `Encoder`."""
        return self._encode(self.model.encode_document, texts)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """See `Encoder`."""
        return self._encode(self.model.encode_query, texts)

    def prepare_queries(self, vectors: Vectors) -> Vectors:
        """See `Encoder`."""
        return vectors

    def query_statistics(self, vectors: Vectors) -> dict[str, float]:
        """Nothing: dense vectors have no active dimensions."""
        return {}

    def _encode(self, encode: Callable[..., Any], texts: Sequence[str]) -> Vectors:
        def batch(block: list[str]) -> Vectors:
            return self._collect(encode(block, batch_size=len(block), show_progress_bar=False, **self._options))

        return in_batches(self.vectors, batch, texts, self.batch_size, self.name)

    _options: ClassVar[dict[str, Any]] = {}

    def _collect(self, encoded: Any) -> Vectors:
        raise NotImplementedError


class DenseSystemEncoder(_ModelEncoder):
    """A `SentenceTransformer`: [N, d], scored with its own similarity (cosine, dot, …)."""

    kind = "dense"
    vectors: ClassVar = DenseVectors
    rows_per_shard: ClassVar = 16384
    _options: ClassVar = {"convert_to_tensor": True, "convert_to_numpy": False}  # bfloat16 has no numpy

    def prepare_documents(self, vectors: DenseVectors) -> Prepared:
        """See `Encoder`."""
        return Prepared(torch.from_numpy(vectors.matrix), len(vectors), vectors.matrix.nbytes)

    def scores(self, queries: DenseVectors, documents: Prepared) -> np.ndarray:
        """See `Encoder`."""
        return self.model.similarity(torch.from_numpy(queries.matrix), documents.content).float().numpy()

    def _collect(self, encoded: torch.Tensor) -> DenseVectors:
        return DenseVectors(encoded.float().cpu().numpy())


class MultiVectorSystemEncoder(_ModelEncoder):
    """A `MultiVectorEncoder`: a matrix for each text, scored by MaxSim (or its mean over the query's tokens)."""

    kind = "multi-vector"
    vectors: ClassVar = TokenVectors
    rows_per_shard: ClassVar = 512

    def prepare_documents(self, vectors: TokenVectors) -> Prepared:
        """See `Encoder`."""
        tensors = [torch.from_numpy(array) for array in vectors.lists()]
        return Prepared(tensors, len(vectors), vectors.tokens.nbytes)

    def scores(self, queries: TokenVectors, documents: Prepared) -> np.ndarray:
        """See `Encoder`; sentence-transformers bounds what MaxSim needs in between."""
        tensors = [torch.from_numpy(array) for array in queries.lists()]
        return self.model.similarity(tensors, documents.content).float().numpy()

    def _collect(self, encoded: list[torch.Tensor]) -> TokenVectors:
        return TokenVectors.from_lists([tensor.float().cpu().numpy() for tensor in encoded])


__all__ = ["DenseSystemEncoder", "MultiVectorSystemEncoder"]
