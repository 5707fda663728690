"""`SparseEncoder` models, MILCO checkpoints among them: CSR rows and their inner products."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from scipy import sparse
from sentence_transformers import SparseEncoder
from sentence_transformers.base import BaseModel
from torch import Tensor

from milco_hf.evaluation.systems.base import Prepared
from milco_hf.evaluation.systems.encoding import in_batches, set_lengths
from milco_hf.evaluation.systems.fingerprint import model_fingerprint
from milco_hf.evaluation.vectors import SparseVectors
from milco_hf.modeling import MilcoConfig
from milco_hf.pruning import VIEWS, Prune, default_pruning, parse, unpruned
from milco_hf.pruning import prune as pruned


class SparseSystemEncoder:
    """A `SparseEncoder`. A MILCO whose encoder has language adapters (X-MOD) is `routed` to that of a text's language.

    Vectors are cached whole; views and pruning are applied when they are searched, so trying others costs no encoding.

    Args:
        model: The model.
        name: What tables call it.
        batch_size: Texts in a batch.
        max_length: Documents are cut to so many tokens; None for what the model says.
        query_length: Queries likewise.
        view: "both", or only the "english" or "source" dimensions of a MILCO vector.
        prune: Of documents (see `milco_hf.pruning.parse`); by default as the checkpoint's `document_pruning` says.
        prune_queries: Of queries, by default as `query_pruning` says.

    Raises:
        ValueError: The view is unknown or the model has no views; the similarity is neither dot nor cosine.
    """

    kind = "sparse"
    vectors: ClassVar = SparseVectors
    rows_per_shard: ClassVar = 8192
    matched_only: ClassVar = True

    def __init__(
        self,
        model: SparseEncoder,
        name: str,
        batch_size: int = 32,
        max_length: int | None = None,
        query_length: int | None = None,
        view: str = "both",
        prune: Prune = None,
        prune_queries: Prune = None,
    ) -> None:
        if model.similarity_fn_name not in ("dot", "cosine"):
            raise ValueError(
                f"{name} scores with {model.similarity_fn_name}; sparse vectors can be searched by dot or cosine."
            )
        self.model = model
        self.name = name
        self.batch_size = batch_size
        self.view = view
        self.columns = _columns(model, view)
        self.adapter: str | None = None
        # what `max_active_dims` leaves out, the vectors that are cached do not hold either
        own = {kind: default_pruning(model, kind, max_active_dims=False) for kind in ("document", "query")}
        self.prune: Prune = own["document"] if prune is None else parse(prune)
        self.prune_queries: Prune = own["query"] if prune_queries is None else parse(prune_queries)
        lengths = set_lengths(model, max_length, query_length)
        with unpruned(model):  # vectors are cached whole
            self.fingerprint = model_fingerprint(model, max_active_dims=model.max_active_dims)
        self.settings: dict[str, Any] = {
            **lengths,
            "dtype": str(model.dtype).removeprefix("torch."),
            "similarity": model.similarity_fn_name,
            "view": view,
            "prune": shown(self.prune),
            "prune_queries": shown(self.prune_queries),
            **({"language": "each collection's"} if adapter_config(model) else {}),
        }

    def routed(self, language: str | None) -> SparseSystemEncoder:
        """See `Encoder`."""
        config = adapter_config(self.model)
        if config is None:
            return self
        found = copy.copy(self)
        found.adapter = config.languages[config.adapter_ids([language])[0]]
        found.fingerprint = hashlib.blake2b(f"{self.fingerprint} {found.adapter}".encode(), digest_size=32).hexdigest()
        return found

    def encode_documents(self, texts: Sequence[str]) -> SparseVectors:
        """See `Encoder`."""
        return self._encode(self.model.encode_document, texts)

    def encode_queries(self, texts: Sequence[str]) -> SparseVectors:
        """See `Encoder`."""
        return self._encode(self.model.encode_query, texts)

    def prepare_documents(self, vectors: SparseVectors) -> Prepared:
        """See `Encoder`: the view, pruned, transposed so that a product need not do it."""
        matrix = self._view(vectors.matrix, self.prune)
        across = matrix.T.tocsr()
        size = across.data.nbytes + across.indices.nbytes + across.indptr.nbytes
        return Prepared(across, matrix.shape[0], size, active=matrix.nnz)

    def prepare_queries(self, vectors: SparseVectors) -> SparseVectors:
        """See `Encoder`."""
        return SparseVectors(self._view(vectors.matrix, self.prune_queries))

    def scores(self, queries: SparseVectors, documents: Prepared) -> np.ndarray:
        """See `Encoder`: inner products."""
        return (queries.matrix @ documents.content).toarray()

    def query_statistics(self, vectors: SparseVectors) -> dict[str, float]:
        """Active dimensions of a query, in the mean."""
        return {"query_dimensions": vectors.matrix.nnz / max(1, len(vectors))}

    def _encode(self, encode: Any, texts: Sequence[str]) -> SparseVectors:
        language = {} if self.adapter is None else {"language": self.adapter}

        def batch(block: list[str]) -> SparseVectors:
            tensor = encode(
                block,
                batch_size=len(block),
                convert_to_sparse_tensor=True,
                save_to_cpu=True,
                show_progress_bar=False,
                **language,
            )
            return SparseVectors(to_csr(tensor))

        with unpruned(self.model):
            return in_batches(SparseVectors, batch, texts, self.batch_size, self.name)

    def _view(self, matrix: sparse.csr_array, prune: Prune) -> sparse.csr_array:
        """Pruning sees what is searched: the columns of the view, and lengths as the cosine wants them."""
        matrix = matrix if self.columns is None else matrix[:, self.columns]
        forms = parse(prune)
        if forms:
            terms = matrix.shape[1]
            if self.view == "source":
                terms = 0
            elif set(forms) != {"both"}:
                terms = _boundary(self.model, "english")
            matrix = pruned(matrix, forms, terms)
        if self.model.similarity_fn_name == "cosine":
            norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1))).ravel()
            scale = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
            matrix = sparse.csr_array(matrix.multiply(scale[:, None]), dtype=np.float32)
        return sparse.csr_array(matrix)


def to_csr(tensor: Tensor) -> sparse.csr_array:
    """A sparse tensor [N, V] as a float32 CSR with sorted columns."""
    tensor = tensor.coalesce()
    rows, columns = tensor.indices().numpy()
    values = tensor.values().float().numpy()
    return sparse.csr_array((values, (rows, columns)), shape=tuple(tensor.shape))


def adapter_config(model: BaseModel) -> MilcoConfig | None:
    """The configuration of a MILCO whose encoder has language adapters; None of other models."""
    config = getattr(model.transformers_model, "config", None)
    return config if isinstance(config, MilcoConfig) and config.languages else None


def _columns(model: SparseEncoder, view: str) -> slice | None:
    if view not in VIEWS:
        raise ValueError(f"view has to be one of {', '.join(VIEWS)}, got {view!r}.")
    if view == "both":
        return None
    boundary = _boundary(model, view)
    return slice(0, boundary) if view == "english" else slice(boundary, None)


def _boundary(model: SparseEncoder, view: str) -> int:
    """V_e, where the source view begins."""
    boundary = getattr(getattr(model.transformers_model, "config", None), "pivot_vocab_size", None)
    if boundary is None:
        raise ValueError(f"Only MILCO checkpoints have an English and a source view; leave view={view!r} out.")
    return boundary


def shown(prune: Prune) -> str | None:
    """Pruning as tables show it, None for none."""
    forms = parse(prune)
    if set(forms) == {"both"}:
        return str(forms["both"])
    return " ".join(f"{view}={form}" for view, form in sorted(forms.items())) or None


__all__ = ["SparseSystemEncoder", "adapter_config", "to_csr"]
