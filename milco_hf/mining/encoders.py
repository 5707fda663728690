"""Any encoder of sentence-transformers, dense or sparse, giving numpy arrays or CSR matrices block by block."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.sparse
import torch
from tqdm.auto import tqdm

Vectors = np.ndarray | scipy.sparse.csr_array
BLOCK = 4096


def model_kind(name: str) -> str:
    """What a checkpoint is, by its files.

    Returns:
        "SentenceTransformer", "SparseEncoder", "CrossEncoder" or "MultiVectorEncoder"; "milco" for checkpoints of ours
        and of the research release; "" where the files do not say.
    """
    settings = _read(name, "config_sentence_transformers.json")
    config = _read(name, "config.json")
    if config is not None and config.get("model_type") in ("milco", "milco-hf"):
        return "milco"
    if settings is not None and settings.get("model_type"):
        return settings["model_type"]
    if settings is not None or _read(name, "modules.json") is not None:
        return "SentenceTransformer"
    architectures = (config or {}).get("architectures") or []
    if any(architecture.endswith("ForSequenceClassification") for architecture in architectures):
        return "CrossEncoder"
    return ""


def place(name: str) -> str:
    """The folder that a name means, one of its own or a bundled checkpoint's, or the name as it is."""
    from milco_hf import loading

    for folder in (Path(name).expanduser(), Path(loading.__file__).parent / "bundled" / name):
        if folder.is_dir():
            return str(folder)
    return name


def _read(name: str, filename: str) -> Any:
    """A JSON file of a folder or Hub repository, None where it has none."""
    from sentence_transformers.util import load_file_path

    path = load_file_path(place(name), filename)
    return None if path is None else json.loads(Path(path).read_text(encoding="utf-8"))


def load_options(dtype: str | None, trust_remote_code: bool, devices: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments for a model of sentence-transformers; a pool of several devices starts from the CPU."""
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if dtype is not None:
        options["model_kwargs"] = {"dtype": dtype}
    if devices:
        options["device"] = devices[0] if len(devices) == 1 else "cpu"
    return options


class Pooled:
    """A model of sentence-transformers, and the processes of its devices where there are several.

    Args:
        model: the model.
        devices: one process for each, where there are two or more.
    """

    def __init__(self, model: Any, devices: Sequence[str] = ()) -> None:
        self.model = model
        self.devices = list(devices)
        self._pool: dict[str, Any] | None = None

    @property
    def pool(self) -> dict[str, Any] | None:
        """The processes, started when first asked for; None on a single device."""
        if len(self.devices) > 1 and self._pool is None:
            self._pool = self.model.start_multi_process_pool(self.devices)
        return self._pool

    def close(self) -> None:
        """Stop the processes."""
        if self._pool is not None:
            self.model.stop_multi_process_pool(self._pool)
            self._pool = None

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Encoder(Pooled):
    """A bi-encoder.

    Args:
        model: a SentenceTransformer or SparseEncoder.
        batch_size: texts at a time.
        max_length: cuts texts to this many tokens, where that is shorter than the model's own limit.
        devices: as `Pooled`.
    """

    def __init__(
        self, model: Any, batch_size: int = 32, max_length: int | None = None, devices: Sequence[str] = ()
    ) -> None:
        from sentence_transformers import SparseEncoder

        super().__init__(model, devices)
        self.batch_size = batch_size
        self.sparse = isinstance(model, SparseEncoder)
        if max_length is not None:
            shorten(model, max_length)

    def encode(self, texts: list[str], task: Literal["query", "document"]) -> Vectors:
        """Vectors of some texts, with the model's own prompt and length for the task.

        Returns:
            fp32 array [len(texts), dimensions] or CSR matrix of that shape.
        """
        encode = self.model.encode_query if task == "query" else self.model.encode_document
        options: dict[str, Any] = {"batch_size": self.batch_size, "show_progress_bar": False}
        if self.pool is not None:
            options["pool"] = self.pool
        if not self.sparse:
            return np.asarray(encode(texts, convert_to_numpy=True, **options), dtype=np.float32)
        return to_csr(encode(texts, convert_to_tensor=True, save_to_cpu=True, **options))

    def blocks(self, texts: Sequence[str], task: Literal["query", "document"], size: int = BLOCK) -> list[Vectors]:
        """Vectors of many texts, a block of `size` texts at a time, with a progress bar."""
        found = []
        with tqdm(total=len(texts), desc=f"{task} vectors", unit="text") as bar:
            for start in range(0, len(texts), size):
                block = list(texts[start : start + size])
                found.append(self.encode(block, task))
                bar.update(len(block))
        return found


def open_encoder(
    name: str,
    batch_size: int = 32,
    max_length: int | None = None,
    devices: Sequence[str] = (),
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> Encoder:
    """Load a bi-encoder by the bundled checkpoint's name, folder or Hub id.

    Raises:
        ValueError: it is no bi-encoder.
    """
    from sentence_transformers import SentenceTransformer, SparseEncoder

    from milco_hf.loading import load

    kind = model_kind(name)
    options = load_options(dtype, trust_remote_code, devices)
    if kind in ("CrossEncoder", "MultiVectorEncoder"):
        raise ValueError(f"{name} is a {kind}, not a SentenceTransformer or SparseEncoder; it has no vector per text.")
    if kind == "milco":
        model: Any = load(place(name), **options)
    elif kind == "SparseEncoder":
        model = SparseEncoder(place(name), **options)
    else:
        model = SentenceTransformer(place(name), **options)
    return Encoder(model, batch_size, max_length, devices)


def shorten(model: Any, max_length: int) -> None:
    """Cut the texts of a model to so many tokens; never lets it read more than it did.

    Raises:
        ValueError: fewer than one token.
    """
    if max_length < 1:
        raise ValueError(f"max_length must be at least 1, got {max_length}.")
    first = model[0]
    # a tokenizer that has no limit of its own says so with a huge number
    model.max_seq_length = min(max_length, model.max_seq_length or max_length)
    for name in ("query_length", "document_length"):
        if getattr(first, name, None) is not None:
            setattr(first, name, min(max_length, getattr(first, name)))


def to_csr(embeddings: torch.Tensor) -> scipy.sparse.csr_array:
    """A sparse COO tensor [texts, dimensions] as an fp32 CSR matrix; explicit zeros are dropped."""
    embeddings = embeddings.cpu().coalesce()
    rows, columns = embeddings.indices().numpy()
    shape = tuple(embeddings.shape)
    matrix = scipy.sparse.csr_array((embeddings.values().float().numpy(), (rows, columns)), shape=shape)
    matrix.eliminate_zeros()
    return matrix
