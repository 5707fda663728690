"""What a model's vectors depend on, as one digest."""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any

import sentence_transformers
import torch
import transformers
from sentence_transformers.base import BaseModel
from transformers import PreTrainedModel

# Their versions are in the fingerprint; the source of everything else is.
_LIBRARIES = ("torch", "transformers", "sentence_transformers")


def model_fingerprint(model: BaseModel | PreTrainedModel, **settings: Any) -> str:
    """A digest of a model's weights, tokenizer, modules' settings, prompts and code, and of some settings more.

    The weights are read from memory, so adapters, dtypes and changes after loading count too. Of transformers and
    sentence-transformers the version counts, of a model's own code (MILCO's, or remote code) the source.

    Args:
        model: Any model of sentence-transformers, or a transformers model with a `tokenizer`, as MILCO's is.
        **settings: What else vectors depend on; anything `json` can write.
    """
    digest = hashlib.blake2b(digest_size=32)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    pipeline = isinstance(model, BaseModel)
    note = {
        "class": type(model).__name__,
        "modules": [_module_settings(module) for module in (model if pipeline else [model])],
        "prompts": [model.prompts, model.default_prompt_name] if pipeline else None,
        "length": model.max_seq_length if pipeline else model.tokenizer.model_max_length,
        "tokenizer": _tokenizer(model),
        "code": _code(model),
        "versions": [transformers.__version__, sentence_transformers.__version__],
        "settings": settings,
    }
    digest.update(json.dumps(note, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _module_settings(module: torch.nn.Module) -> dict[str, Any]:
    """A module's own settings, and its transformers configuration where it has one."""
    settings = dict(module.get_config_dict()) if hasattr(module, "get_config_dict") else {}
    for name in ("query_length", "document_length"):
        settings[name] = getattr(module, name, None)
    config = getattr(module, "config", None)
    if hasattr(config, "to_diff_dict"):
        settings["config"] = {
            k: v for k, v in config.to_diff_dict().items() if k not in ("_name_or_path", "name_or_path")
        }
    return {"class": type(module).__qualname__, **settings}


def _tokenizer(model: BaseModel | PreTrainedModel) -> str:
    tokenizer = model.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # truncation and padding are set anew with each batch
        state = json.loads(backend.to_str())
        state = {name: value for name, value in state.items() if name not in ("truncation", "padding")}
        return hashlib.blake2b(json.dumps(state, sort_keys=True).encode(), digest_size=16).hexdigest()
    return f"{type(tokenizer).__name__} {len(tokenizer) if hasattr(tokenizer, '__len__') else ''}"


def _code(model: BaseModel | PreTrainedModel) -> list[str]:
    """Digests of the files that define the model's classes outside of the libraries."""
    files = set()
    for module in model.modules():
        if type(module).__module__.split(".")[0] in _LIBRARIES:
            continue
        try:
            files.add(inspect.getfile(type(module)))
        except (OSError, TypeError):  # made in a session that has no file
            continue
    return sorted(hashlib.blake2b(Path(file).read_bytes(), digest_size=16).hexdigest() for file in files)


__all__ = ["model_fingerprint"]
