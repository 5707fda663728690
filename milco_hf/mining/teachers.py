"""Teachers: what gives a pair of query and passage a score. Cross-encoders, bi-encoders and BM25."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import scipy.sparse
import torch

from milco_hf.mining.bm25 import Bm25
from milco_hf.mining.encoders import Encoder, Pooled, Vectors, load_options, model_kind, open_encoder, place, shorten
from milco_hf.mining.vectors import StoredVectors, encode_into

KINDS = ("auto", "cross-encoder", "bi-encoder", "bm25")
PAIRS_AT_A_TIME = 8192


class Teacher(Protocol):
    """Scores pairs of texts that were shown to it before."""

    def prepare(self, queries: Sequence[str], passages: Sequence[str], folder: Path) -> None:
        """Read all texts; what takes long is kept in `folder`, and found there by a run that goes on."""

    def scores(self, queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
        """fp32 scores [pairs] of pairs given by the numbers of their texts, both int64 [pairs]."""

    def close(self) -> None:
        """Stop its processes."""


class CrossEncoderTeacher(Pooled):
    """A CrossEncoder; scores are those of its `predict`.

    Args:
        model: a CrossEncoder with one label.
        batch_size: pairs at a time.
        max_length: cuts pairs to this many tokens.
        devices: as `Pooled`.
        activation: "own", as the model has it (often a sigmoid), or "none" for its logits.

    Raises:
        ValueError: the model has several labels.
    """

    def __init__(
        self,
        model: Any,
        batch_size: int = 32,
        max_length: int | None = None,
        devices: Sequence[str] = (),
        activation: Literal["own", "none"] = "own",
    ) -> None:
        super().__init__(model, devices)
        if model.num_labels != 1:
            raise ValueError(f"A teacher needs one score for a pair, but this CrossEncoder gives {model.num_labels}.")
        if max_length is not None:
            shorten(model, max_length)
        self.batch_size = batch_size
        self.activation = torch.nn.Identity() if activation == "none" else None
        self.queries: Sequence[str] = ()
        self.passages: Sequence[str] = ()

    def prepare(self, queries: Sequence[str], passages: Sequence[str], folder: Path) -> None:
        """Keep the texts: pairs are read when they are scored."""
        self.queries, self.passages = queries, passages

    def scores(self, queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
        """What `predict` gives for the pairs."""
        pairs = [(self.queries[query], self.passages[passage]) for query, passage in zip(queries, passages)]
        options = {} if self.pool is None else {"pool": self.pool}
        found = self.model.predict(
            pairs, batch_size=self.batch_size, activation_fn=self.activation, show_progress_bar=False, **options
        )
        return np.asarray(found, dtype=np.float32)


class BiEncoderTeacher:
    """A SentenceTransformer or SparseEncoder; scores are those of its `similarity`.

    Args:
        encoder: the encoder.

    Raises:
        ValueError: a SparseEncoder with another similarity than dot or cosine.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.similarity = encoder.model.similarity_fn_name
        if encoder.sparse and self.similarity not in ("dot", "cosine"):
            raise ValueError(f"A SparseEncoder's similarity must be dot or cosine here, got {self.similarity!r}.")
        self._queries: StoredVectors | None = None
        self._passages: StoredVectors | None = None

    def prepare(self, queries: Sequence[str], passages: Sequence[str], folder: Path) -> None:
        """Encode every text once."""
        self._queries = encode_into(folder / "queries", self.encoder, queries, "query")
        self._passages = encode_into(folder / "passages", self.encoder, passages, "document")

    def scores(self, queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
        """The similarity of the pairs' vectors."""
        found = []
        for start in range(0, len(queries), PAIRS_AT_A_TIME):
            part = slice(start, start + PAIRS_AT_A_TIME)
            found.append(self._similarity(self._queries.rows(queries[part]), self._passages.rows(passages[part])))  # type: ignore[union-attr]
        return np.concatenate(found) if found else np.empty(0, np.float32)

    def _similarity(self, queries: Vectors, passages: Vectors) -> np.ndarray:
        if not self.encoder.sparse:
            pair = torch.from_numpy(np.array(queries)), torch.from_numpy(np.array(passages))
            return self.encoder.model.similarity_pairwise(*pair).cpu().numpy()
        products = rowwise(queries, passages)
        if self.similarity == "cosine":
            products /= np.maximum(np.sqrt(rowwise(queries, queries) * rowwise(passages, passages)), 1e-12)
        return products

    def close(self) -> None:
        """Stop the encoder's processes."""
        self.encoder.close()


class Bm25Teacher:
    """BM25 of bm25s.

    Args:
        corpus: what document frequencies are counted in; the passages to be scored where None.
    """

    def __init__(self, corpus: Sequence[str] | None = None) -> None:
        self.corpus = corpus
        self._queries: scipy.sparse.csr_array | None = None
        self._passages: scipy.sparse.csr_array | None = None

    def prepare(self, queries: Sequence[str], passages: Sequence[str], folder: Path) -> None:
        """Index the corpus and find the passages in it."""
        corpus = list(dict.fromkeys([*(self.corpus or ()), *passages]))
        where = {text: number for number, text in enumerate(corpus)}
        bm25 = Bm25(corpus)
        self._passages = bm25.passages[np.array([where[text] for text in passages], np.int64)]
        self._queries = bm25.queries(queries)

    def scores(self, queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
        """BM25 of the pairs."""
        return rowwise(self._queries[queries], self._passages[passages])  # type: ignore[index]

    def close(self) -> None:
        """Nothing runs."""


def rowwise(left: scipy.sparse.csr_array, right: scipy.sparse.csr_array) -> np.ndarray:
    """Inner products of rows of the same number, fp32 [rows]."""
    return np.asarray(left.multiply(right).sum(axis=1), dtype=np.float32).reshape(-1)


def open_teacher(
    name: str,
    kind: str = "auto",
    *,
    corpus: Sequence[str] | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    devices: Sequence[str] = (),
    dtype: str | None = None,
    activation: Literal["own", "none"] = "own",
    trust_remote_code: bool = False,
) -> Teacher:
    """Load a teacher.

    Args:
        name: "bm25", a bundled checkpoint's name, a folder or a Hub id.
        kind: "cross-encoder", "bi-encoder", "bm25", or "auto" to go by the checkpoint's files.
        corpus: BM25's corpus.
        batch_size: texts or pairs at a time.
        max_length: cuts texts or pairs to this many tokens.
        devices: a process for each, where there are several.
        dtype: what the model is loaded in.
        activation: of a cross-encoder: its own, or none.
        trust_remote_code: run code that a model brings along.

    Raises:
        ValueError: an unknown kind, or a checkpoint whose files do not say what it is.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")
    if kind == "bm25" or (kind == "auto" and name == "bm25"):
        return Bm25Teacher(corpus)
    if kind == "auto":
        found = model_kind(name)
        if not found:
            raise ValueError(
                f"The files of {name!r} do not say whether it is a cross-encoder or a bi-encoder (or there is no such "
                "folder or repository): say --kind cross-encoder or --kind bi-encoder."
            )
        kind = "cross-encoder" if found == "CrossEncoder" else "bi-encoder"
    if kind == "cross-encoder":
        from sentence_transformers import CrossEncoder

        model = CrossEncoder(place(name), **load_options(dtype, trust_remote_code, devices))
        return CrossEncoderTeacher(model, batch_size, max_length, devices, activation)
    return BiEncoderTeacher(open_encoder(name, batch_size, max_length, devices, dtype, trust_remote_code))
