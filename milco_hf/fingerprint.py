"""What a model's vectors depend on, as one digest."""

from __future__ import annotations

import ast
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
    sentence-transformers the version counts, of a model's own code (MILCO's, or remote code) the source, with the
    siblings that it imports.

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
    """Digests of the files that define the model's classes outside of the libraries, and of all that these import.

    Only relative imports are followed, which is how code that travels with a checkpoint imports its siblings; what else
    it imports is a library.
    """
    files = set()
    for module in model.modules():
        if type(module).__module__.split(".")[0] in _LIBRARIES:
            continue
        try:
            files.add(Path(inspect.getfile(type(module))).resolve())
        except (OSError, TypeError):  # made in a session that has no file
            continue
    waiting = list(files)
    while waiting:
        found = _siblings(waiting.pop()) - files
        files |= found
        waiting += found
    return sorted(hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest() for file in files)


def _siblings(file: Path) -> set[Path]:
    """The files that a file imports relatively, anywhere in it; those that are not there are left out."""
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:  # compiled, or of a notebook
        return set()
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        folder = file.parents[node.level - 1]
        place = folder.joinpath(*(node.module or "").split("."))
        # `from .name import …`; or `from . import name`, where a name may be a module
        for path in (place, *(place / name.name for name in node.names)):
            found |= {option for option in (path.with_suffix(".py"), path / "__init__.py") if option.is_file()}
    return found


__all__ = ["model_fingerprint"]
