"""The model behind a name or an object, and how it wants queries and documents to be read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SparseEncoder

from milco_hf.modeling import MilcoConfig, MilcoForSparseEncoding

KINDS = ("document", "query")
# Of batches, padding included. A CPU wants what stays near its caches, a GPU what fills it.
_BATCH_TOKENS = {"cpu": 4096}
_BATCH_TOKENS_ELSEWHERE = 32768
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Opened:
    """A model, ready to encode.

    Args:
        whole: What it came as: its fingerprint is the vectors'.
        milco: The MILCO itself.
        name: What manifests call it.
        devices: Where it runs; one is this process.
    """

    whole: SparseEncoder | MilcoForSparseEncoding
    milco: MilcoForSparseEncoding
    name: str
    devices: list[str]

    def prompt(self, kind: str) -> str:
        """What goes before every text, as `SparseEncoder.encode_query` and `encode_document` choose it."""
        if not isinstance(self.whole, SparseEncoder):
            return ""
        for name in ("query",) if kind == "query" else ("document", "passage", "corpus"):
            if name in self.whole.prompts:
                return self.whole.prompts[name] or ""
        return self.whole.prompts.get(self.whole.default_prompt_name) or ""

    def max_length(self, kind: str, asked: int | None) -> int | None:
        """The longest text in tokens.

        Raises:
            ValueError: The model cannot read so many tokens, or so few leave no room for any.
        """
        tokenizer = self.whole.tokenizer
        limits = [self.milco.config.max_position_embeddings, tokenizer.model_max_length]
        longest = min((limit for limit in limits if limit is not None and limit < 1 << 40), default=None)
        if asked is None:
            source: Any = self.whole[0] if isinstance(self.whole, SparseEncoder) else self.milco.config
            return getattr(source, f"{kind}_length", None) or longest
        smallest = tokenizer.num_special_tokens_to_add() + 1
        if asked < smallest or (longest is not None and asked > longest):
            raise ValueError(
                f"max_length has to be between {smallest} (one token and the special ones) and {longest}, the longest "
                f"this model reads; got {asked}."
            )
        return asked


def open_model(model: str | Path | SparseEncoder | MilcoForSparseEncoding, devices: Sequence[str] | None) -> Opened:
    """Opens what `encode_corpus` takes as a model.

    Raises:
        TypeError: It is no model.
        ValueError: It is a SparseEncoder of another kind, or lies on another device than the one named.
    """
    named = [devices] if isinstance(devices, str) else [str(device) for device in devices or []]
    try:
        wanted = [torch.device(device) for device in named]
    except RuntimeError as error:
        raise ValueError(f"devices has to name devices such as cpu or cuda:0, got {devices!r}: {error}") from error
    if isinstance(model, (str, os.PathLike)):
        from milco_hf.loading import load

        # several processes load it themselves
        whole: Any = load(model, device="cpu" if len(named) > 1 else next(iter(named), None))
        name = str(model)
    else:
        whole = model
        card = getattr(getattr(model, "model_card_data", None), "base_model", None)
        name = str(card or getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__)
    milco = whole
    if isinstance(whole, SparseEncoder):
        milco = whole.transformers_model
        if len(whole) > 1 or getattr(getattr(milco, "config", None), "model_type", None) != MilcoConfig.model_type:
            raise ValueError(
                f"encode_corpus needs a MILCO checkpoint, and {name} is a SparseEncoder of other modules: use its own "
                "encode_document."
            )
    elif not isinstance(whole, MilcoForSparseEncoding):
        raise TypeError(
            "model has to be a checkpoint's name or folder, a SparseEncoder or a MilcoForSparseEncoding, got "
            f"{type(model).__name__}."
        )
    here = str(milco.device)
    if len(wanted) == 1 and (wanted[0].type, wanted[0].index or 0) != (milco.device.type, milco.device.index or 0):
        raise ValueError(f"The model is on {here}, not {named[0]}: move it there, or give its name and not the model.")
    return Opened(whole, milco, name, named if len(named) > 1 else [here])


def autocast_dtype(dtype: str | torch.dtype | None, devices: Sequence[str]) -> torch.dtype | None:
    """The dtype of autocast: None for none; "auto" is bf16 where every device has arithmetic for it.

    Raises:
        ValueError: Another dtype than None, "auto", "bfloat16" and "float16".
    """
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if name == "auto":
        return torch.bfloat16 if all(map(fast_in_bf16, devices)) else None
    if name not in _DTYPES:
        raise ValueError(f"dtype has to be None (as the weights are), auto, bfloat16 or float16, got {name!r}.")
    return _DTYPES[name]


def default_batch_tokens(devices: Sequence[str]) -> int:
    """Tokens in a batch where nobody says."""
    return min(_BATCH_TOKENS.get(torch.device(device).type, _BATCH_TOKENS_ELSEWHERE) for device in devices)


def fast_in_bf16(device: str) -> bool:
    """Whether a device has arithmetic for bf16, which a CPU without it multiplies several times slower than fp32."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))


__all__ = ["KINDS", "Opened", "autocast_dtype", "default_batch_tokens", "open_model"]
