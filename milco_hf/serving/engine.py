"""The model behind the endpoints: kinds of texts, devices, and vectors for whoever asks."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse

from milco_hf.allocator import GivesBack
from milco_hf.encoding.opening import Opened, default_batch_tokens
from milco_hf.encoding.routes import Routes
from milco_hf.encoding.rows import Job, encode_batch
from milco_hf.fingerprint import model_fingerprint
from milco_hf.pruning import Pruning, prune
from milco_hf.serving.batching import Batcher, Row, waited_too_long
from milco_hf.serving.errors import VALIDATION, Refused
from milco_hf.serving.metrics import Metrics
from milco_hf.serving.reading import Kind, TextReader
from milco_hf.serving.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoded:
    """Vectors of one request's texts.

    Args:
        rows: Columns and weights of each text, [texts].
        tokens: Tokens of all texts, special ones included.
        cut_tokens: Tokens that were cut off.
        queue_seconds: How long the request waited for the model.
        inference_seconds: How long the forward passes took that its texts were in.
    """

    rows: list[Row]
    tokens: int
    cut_tokens: int
    queue_seconds: float
    inference_seconds: float

    def matrix(self, width: int) -> sparse.csr_array:
        """The vectors as one matrix [texts, V_e + V_s]."""
        ends = np.cumsum([0, *(len(columns) for columns, _ in self.rows)])
        columns = np.concatenate([columns for columns, _ in self.rows]) if self.rows else np.zeros(0, dtype=np.int32)
        weights = np.concatenate([weights for _, weights in self.rows]) if self.rows else np.zeros(0, dtype=np.float32)
        return sparse.csr_array((weights, columns, ends), shape=(len(self.rows), width))


class Engine:
    """Encodes texts for any number of callers.

    Args:
        models: The same model on each device.
        kinds: How "query" and "document" are read and encoded.
        settings: Limits and defaults.
        metrics: What is counted.
    """

    def __init__(
        self, models: Sequence[Opened], kinds: Mapping[str, Kind], settings: Settings, metrics: Metrics
    ) -> None:
        self.models = list(models)
        self.kinds = dict(kinds)
        self.settings = settings
        self.metrics = metrics
        self.devices = [opened.devices[0] for opened in self.models]
        self.max_batch_tokens = settings.max_batch_tokens or default_batch_tokens(self.devices)
        self.fingerprint = model_fingerprint(self.models[0].whole)
        tokenizer = self.models[0].whole.tokenizer
        self._reader = TextReader(tokenizer)
        self.gives_back = GivesBack()
        for opened in self.models:
            opened.milco.eval()
        self._batcher = Batcher(
            [partial(encode_batch, opened.milco) for opened in self.models],
            self.max_batch_tokens,
            settings.limits.max_queue,
            tokenizer.pad_token_id or 0,
            self._batch_done,
        )
        metrics.watch_queue(lambda: self._batcher.waiting)
        metrics.describe(model=self.name, fingerprint=self.fingerprint, devices=" ".join(self.devices))

    @property
    def name(self) -> str:
        """What the model is called; of a folder its last part, as callers need not know where it lies."""
        path = Path(self.models[0].name)
        return path.name if path.is_absolute() or path.is_dir() else self.models[0].name

    @property
    def width(self) -> int:
        """V_e + V_s."""
        return self.models[0].milco.config.projection_dim

    @property
    def prompts(self) -> Mapping[str, str]:
        """The checkpoint's prompts by their names."""
        return getattr(self.models[0].whole, "prompts", None) or {}

    @property
    def fp32_on_cpu(self) -> bool:
        """Whether all is computed in fp32, on CPUs."""
        dtypes = {opened.milco.dtype for opened in self.models} | {kind.job.dtype for kind in self.kinds.values()}
        return dtypes <= {torch.float32, None} and all(torch.device(name).type == "cpu" for name in self.devices)

    @property
    def healthy(self) -> bool:
        """Whether texts are taken and every device works."""
        return self._batcher.alive

    @property
    def waiting(self) -> int:
        """Texts that wait for the model."""
        return self._batcher.waiting

    async def encode(
        self,
        texts: Sequence[str],
        kind: str,
        *,
        truncate: bool | None = None,
        direction: str = "right",
        prompt: str | None = None,
        job: Job | None = None,
        language: str | Sequence[str | None] | None = None,
    ) -> Encoded:
        """Encodes a request's texts together with those of others.

        Args:
            texts: The texts, within the limits.
            kind: "query" or "document".
            truncate: Cut what is too long; None as the server does by default.
            direction: Where is cut.
            prompt: Goes before every text; None for the kind's.
            job: What is made of them; None for the kind's.
            language: Of all texts, or one for each, as `encode_corpus` takes it.

        Raises:
            Refused: The encoder has no adapter for a language, a text cannot be encoded, the queue is full or too slow,
                or the model failed.
        """
        how = self.kinds[kind]
        adapters = self.adapters(language, len(texts))
        cut = self.settings.auto_truncate if truncate is None else truncate
        read = await asyncio.to_thread(
            self._reader.read, texts, how.prompt if prompt is None else prompt, how.max_length, cut, direction
        )
        timeout = self.settings.limits.queue_timeout
        request = self._batcher.submit(read.tokens, job or how.job, timeout, adapters)
        future = asyncio.wrap_future(request.future)
        await asyncio.wait({future}, timeout=timeout)
        if not future.done() and self._batcher.give_up(request):
            raise waited_too_long(timeout)
        rows = await future
        tokens = sum(map(len, read.tokens))
        self.metrics.texts.labels(kind).inc(len(texts))
        self.metrics.tokens.labels(kind).inc(tokens)
        self.metrics.cut.inc(read.cut_tokens)
        self.metrics.queue_seconds.observe(request.queue_seconds)
        return Encoded(rows, tokens, read.cut_tokens, request.queue_seconds, request.inference_seconds)

    async def document_rows(self, texts: Sequence[str], languages: Sequence[str | None]) -> list[Row]:
        """Vectors of an index's documents, a request's worth at a time, cut where they are too long.

        Args:
            texts: The documents.
            languages: Theirs.

        Raises:
            Refused: The queue is full or too slow, or the model failed.
        """
        size, rows = self.settings.limits.max_client_batch_size, []
        for start in range(0, len(texts), size):
            part = slice(start, start + size)
            rows += (await self.encode(texts[part], "document", truncate=True, language=languages[part])).rows
        return rows

    def pruned(self, matrix: sparse.csr_array, how: Mapping[str, Pruning]) -> sparse.csr_array:
        """Some vectors with less in them."""
        return prune(matrix, how, self.models[0].milco.config.pivot_vocab_size)

    def names(self, columns: Sequence[int]) -> list[str]:
        """The names of dimensions, English terms as `en: music`."""
        return self.models[0].whole.tokenizer.convert_ids_to_tokens([int(column) for column in columns])

    def about(self) -> dict[str, Any]:
        """What is served and how, with text-embeddings-inference's names where it has one."""
        from milco_hf import __version__

        milco = self.models[0].milco
        limits = self.settings.limits
        document = self.kinds["document"]
        return {
            "model_id": self.name,
            "model_sha": getattr(milco.config, "_commit_hash", None),
            "model_dtype": str(milco.dtype).removeprefix("torch."),
            "model_type": {"embedding": {"pooling": "splade"}},
            "max_concurrent_requests": limits.max_concurrent_requests,
            "max_input_length": document.max_length,
            "max_batch_tokens": self.max_batch_tokens,
            "max_batch_requests": None,
            "max_client_batch_size": limits.max_client_batch_size,
            "auto_truncate": self.settings.auto_truncate,
            "tokenization_workers": min(32, (os.cpu_count() or 1) + 4),  # those of asyncio.to_thread
            "version": __version__,
            "fingerprint": self.fingerprint,
            "devices": self.devices,
            "language_adapters": milco.config.languages,
            "dimensions": {"english": milco.config.pivot_vocab_size, "source": milco.config.source_vocab_size},
            "query": _about_kind(self.kinds["query"]),
            "document": _about_kind(document),
            "payload_limit": limits.payload_limit,
            "max_characters": limits.max_characters,
            "max_queue": limits.max_queue,
            "queue_timeout": limits.queue_timeout,
        }

    def adapters(self, language: str | Sequence[str | None] | None, texts: int) -> list[int] | None:
        """The number of each text's language adapter; None for encoders without adapters.

        Raises:
            Refused: There is none for a language, or one name is asked of an encoder without any (422).
        """
        try:
            routes = Routes(self.models[0].milco.config, language)
            adapters = routes.take(0, texts)
            routes.check_end(texts)
        except ValueError as error:
            raise Refused(422, VALIDATION, str(error)) from error
        return adapters

    def _batch_done(self, number: int, texts: int, tokens: int, seconds: float) -> None:
        self.metrics.batch_done(self.devices[number], texts, tokens, seconds)
        self.gives_back()

    def close(self, timeout: float | None = None) -> None:
        """Works off what waits and ends the workers."""
        if not self._batcher.close(timeout):
            logger.warning("The model was still busy after %s s; what it worked on is lost.", timeout)


def _about_kind(kind: Kind) -> dict[str, Any]:
    dtype: torch.dtype | None = kind.job.dtype
    return {
        "prompt": kind.prompt,
        "max_length": kind.max_length,
        "views": kind.job.views,
        "prune": {view: str(form) for view, form in sorted(kind.job.prune.items())},
        "autocast": None if dtype is None else str(dtype).removeprefix("torch."),
    }


__all__ = ["Encoded", "Engine"]
