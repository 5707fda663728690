"""`encode_query`, `encode_document` and `encode_text` on the model itself, as in the research release."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# What `from_pretrained` was told about where the checkpoint lies, so that the tokenizer comes from the same place.
_LOCATION = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token", "trust_remote_code")


class TextEncodingMixin:
    """Texts in, sparse vectors out, on the device that the model is on; it is never moved."""

    _tokenizer: PreTrainedTokenizerBase | None = None
    _tokenizer_location: dict | None = None

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike | None, *model_args: Any, **kwargs: Any
    ) -> Any:
        """As `PreTrainedModel.from_pretrained`; remembers where the checkpoint came from, for its tokenizer."""
        location = {name: kwargs[name] for name in _LOCATION if name in kwargs}
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # a tuple with output_loading_info=True
        model._tokenizer_location = {"pretrained_model_name_or_path": pretrained_model_name_or_path, **location}
        return loaded

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The checkpoint's tokenizer, which speaks English terms and source tokens in one vocabulary.

        Raises:
            ValueError: The model was not loaded from a checkpoint, or that has no tokenizer.
        """
        if self._tokenizer is None:
            where = (self._tokenizer_location or {}).get("pretrained_model_name_or_path")
            way_out = "Set model.tokenizer to the tokenizer that belongs to these weights."
            if where is None:
                raise ValueError(f"This model was not loaded from a checkpoint, so it has no tokenizer. {way_out}")
            try:
                self._tokenizer = AutoTokenizer.from_pretrained(config=self.config, **self._tokenizer_location)
            except (OSError, ValueError) as error:
                raise ValueError(f"The checkpoint {where!r} holds no tokenizer that loads. {way_out}") from error
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if len(tokenizer) > self.config.vocab_size:
            raise ValueError(
                f"The tokenizer has {len(tokenizer)} tokens, the model's vocabulary {self.config.vocab_size}: it "
                "belongs to another model."
            )
        self._tokenizer = tokenizer

    def encode_query(self, texts: str | Sequence[str], **kwargs) -> Tensor | list[dict[str, float]]:
        """`encode_text` with `config.query_length` as the default for `max_length`, pruned as `query_pruning` says."""
        kwargs["max_length"] = kwargs.get("max_length") or self.config.query_length
        return self.encode_text(texts, **{"task": "query", **kwargs})

    def encode_document(self, texts: str | Sequence[str], **kwargs) -> Tensor | list[dict[str, float]]:
        """`encode_text` with `config.document_length` as the default for `max_length`, pruned as `document_pruning`."""
        kwargs["max_length"] = kwargs.get("max_length") or self.config.document_length
        return self.encode_text(texts, **{"task": "document", **kwargs})

    @torch.no_grad()
    def encode_text(
        self,
        texts: str | Sequence[str],
        batch_size: int = 32,
        max_length: int | None = None,
        return_dict: bool = False,
        source_view: bool = True,
        language: str | Sequence[str | None] | None = None,
        show_progress_bar: bool = False,
        task: str | None = None,
    ) -> Tensor | dict[str, float] | list[dict[str, float]]:
        """Encodes texts into sparse vectors, in batches of similar length.

        Args:
            texts: One text or several.
            batch_size: Texts in one forward pass.
            max_length: Longest text in tokens, special tokens included; by default as long as the model takes. What
                is longer is cut, and one log line says how much.
            return_dict: Whether to return `{"e_music": 1.2, "m_▁Musik": 0.4}` for each text, heaviest first, in
                place of a tensor.
            source_view: Whether source tokens echo.
            language: For encoders with language adapters (X-MOD): the language of all texts, such as "de" or "de_DE",
                or one for each, where None is the configuration's `default_language`. Other encoders read all languages
                alike: they refuse the one name, which was asked for in vain, and pass over one for each, which is data.
            show_progress_bar: Whether to show progress.
            task: "query" or "document" prunes as the configuration says; None prunes nothing.

        Returns:
            A sparse tensor [texts, V_e + V_s] in fp32 on the model's device ([V_e + V_s] for one text), or the
            dictionaries.

        Raises:
            TypeError: `texts` holds something that is no string.
            ValueError: A number cannot work, or a language has no adapter; the message names it.
        """
        if task not in (None, "query", "document"):
            raise ValueError(f'task must be "query", "document" or None, got {task!r}.')
        single = isinstance(texts, str)
        texts = [texts] if single else list(texts)
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"texts must be strings, got {text!r} of type {type(text).__name__}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer, got {batch_size}.")
        adapters = self._adapters(language, len(texts))
        encodings = self._tokenize(texts, self._checked_length(max_length))

        order = sorted(range(len(texts)), key=lambda i: -len(encodings[i]))
        was_training = self.training
        self.eval()
        try:
            rows = self._encode_rows(encodings, order, batch_size, source_view, adapters, show_progress_bar, task)
        finally:
            self.train(was_training)
        if return_dict:
            result = [self._as_dict(dims, weights) for dims, weights in rows]
        else:
            result = self._as_sparse(rows)
        return result[0] if single else result

    def _adapters(self, language: str | Sequence[str | None] | None, texts: int) -> list[int] | None:
        """The number of each text's language adapter; None for encoders without adapters."""
        if language is None or isinstance(language, str):
            name = None if language is None else self.config.language_adapter(language)
            return self.config.adapter_ids([name] * texts)
        if len(language) != texts:
            raise ValueError(
                f"language names {len(language)} languages for {texts} texts; give one each, or one for all."
            )
        return self.config.adapter_ids(language)

    def _checked_length(self, max_length: int | None) -> int | None:
        limits = (self.config.max_position_embeddings, self.tokenizer.model_max_length)
        longest = min((limit for limit in limits if limit is not None), default=None)
        if max_length is None:
            return longest
        smallest = self.tokenizer.num_special_tokens_to_add() + 1
        if max_length < smallest:
            raise ValueError(
                f"max_length must be at least {smallest} (one token and the special ones), got {max_length}."
            )
        if longest is not None and max_length > longest:
            raise ValueError(f"max_length={max_length} is more than the {longest} tokens that this model takes.")
        return max_length

    def _tokenize(self, texts: list[str], max_length: int | None) -> list[list[int]]:
        """Token ids of each text, cut to `max_length`; says once how much was cut."""
        if not texts:
            return []
        ids = self.tokenizer(texts, truncation=False, return_attention_mask=False, verbose=False)["input_ids"]
        if max_length is None:
            return ids
        long = [i for i, tokens in enumerate(ids) if len(tokens) > max_length]
        if long:
            total, cut = sum(map(len, ids)), sum(len(ids[i]) - max_length for i in long)
            logger.warning(
                "%d of %d texts are longer than max_length=%d: %d of %d tokens were cut off (%.1f %%).",
                *(len(long), len(texts), max_length, cut, total, 100 * cut / total),
            )
            again = self.tokenizer([texts[i] for i in long], truncation=True, max_length=max_length)["input_ids"]
            for i, tokens in zip(long, again, strict=True):
                ids[i] = tokens
        return ids

    def _encode_rows(
        self,
        encodings: list[list[int]],
        order: list[int],
        batch_size: int,
        source_view: bool,
        adapters: list[int] | None,
        show_progress_bar: bool,
        task: str | None,
    ) -> list[tuple[Tensor, Tensor]]:
        """(dimensions, weights) of each text's nonzero entries, in the texts' own order."""
        rows = [None] * len(order)
        for start in tqdm(range(0, len(order), batch_size), desc="Encoding", disable=not show_progress_bar):
            batch = order[start : start + batch_size]
            padded = self.tokenizer.pad({"input_ids": [encodings[i] for i in batch]}, return_tensors="pt")
            lang_ids = None if adapters is None else torch.tensor([adapters[i] for i in batch], device=self.device)
            vectors = self(
                **padded.to(self.device), source_view=source_view, lang_ids=lang_ids, task=task, return_dict=True
            ).embeddings
            for i, vector in zip(batch, vectors, strict=True):
                dims = vector.nonzero().squeeze(1)
                rows[i] = (dims, vector[dims])
        return rows

    def _as_sparse(self, rows: list[tuple[Tensor, Tensor]]) -> Tensor:
        shape = (len(rows), self.config.projection_dim)
        if not rows:
            return torch.sparse_coo_tensor(torch.empty(2, 0, dtype=torch.long), torch.empty(0), shape).to(self.device)
        lengths = torch.tensor([len(dims) for dims, _ in rows], device=rows[0][0].device)
        texts = torch.repeat_interleave(torch.arange(len(rows), device=lengths.device), lengths)
        indices = torch.stack([texts, torch.cat([dims for dims, _ in rows])])
        weights = torch.cat([weights for _, weights in rows])
        # rows come in order and dimensions ascend in each, so the tensor is coalesced as it stands
        return torch.sparse_coo_tensor(indices, weights, shape, is_coalesced=True, check_invariants=False)

    def _as_dict(self, dims: Tensor, weights: Tensor) -> dict[str, float]:
        heaviest = weights.argsort(descending=True, stable=True)
        dims, weights = dims[heaviest].tolist(), weights[heaviest].tolist()
        tokens = self.tokenizer.convert_ids_to_tokens(dims)
        return {self._name(token, dim): weight for token, dim, weight in zip(tokens, dims, weights, strict=True)}

    def _name(self, token: str, dim: int) -> str:
        if dim < self.config.pivot_vocab_size:
            return "e_" + token.removeprefix("en: ")
        return f"m_{token}"


__all__ = ["TextEncodingMixin"]
