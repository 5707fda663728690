"""Opening a teacher by path or Hub id, whatever kind it is."""

from __future__ import annotations

import importlib
import json
import logging
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer
from transformers.utils import cached_file

from milco_hf.training.teachers.mlm import MlmTeacher
from milco_hf.training.teachers.static import StaticTeacher, Transform

logger = logging.getLogger(__name__)

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def load_teacher(
    path: str,
    dtype: str = "bfloat16",
    max_length: int = 512,
    transform: Transform = "identity",
    scale: float = 1.0,
    norm_power: float | None = None,
    batch_tokens: int = 4096,
) -> MlmTeacher | StaticTeacher:
    """Open a SPLADE checkpoint, or a static one.

    Args:
        path: folder or Hub id of a masked language model, or of a `SparseEncoder` whose first module is one or is a
            SparseStaticEmbedding.
        dtype: the neural teacher's, one of bfloat16, float16, float32.
        max_length: texts are cut to this many tokens.
        transform: how a static teacher's weights become logits, see `StaticTeacher`.
        scale: multiplies a static teacher's weights.
        norm_power: how far a static teacher's weights are divided by their length; by default 1 where a Normalize
            module follows in the `SparseEncoder`, and 0 elsewhere.
        batch_tokens: texts × tokens that a neural teacher reads at a time.

    Raises:
        ValueError: an unknown dtype, or a `SparseEncoder` whose first module is something else.
        OSError: nothing to open at `path`.
    """
    if dtype not in DTYPES:
        raise ValueError(f"teacher_dtype must be one of {', '.join(DTYPES)}, got {dtype!r}.")
    module_type, subfolder, normalized = _first_module(path)
    if module_type.endswith("SparseStaticEmbedding"):
        module = _static_class().load(path, subfolder=subfolder)
        power = float(normalized) if norm_power is None else norm_power
        return StaticTeacher(module.tokenizer, module.weight, transform, scale, power, max_length)
    if module_type and not module_type.endswith(("Transformer", "MLMTransformer")):
        raise ValueError(
            f"The teacher {path!r} starts with a {module_type} module; a teacher must be a masked language model "
            "(SPLADE) or a SparseStaticEmbedding."
        )
    model = AutoModelForMaskedLM.from_pretrained(path, subfolder=subfolder, dtype=DTYPES[dtype])
    tokenizer = AutoTokenizer.from_pretrained(path, subfolder=subfolder)
    longest = getattr(model.config, "max_position_embeddings", None) or max_length
    if getattr(model.config, "model_type", "") in ("roberta", "xlm-roberta", "camembert"):
        longest -= (model.config.pad_token_id or 0) + 1
    return MlmTeacher(model, tokenizer, min(max_length, longest), path, batch_tokens)


def _static_class() -> type:
    return importlib.import_module("sentence_transformers.sparse_encoder.modules").SparseStaticEmbedding


def _first_module(path: str) -> tuple[str, str, bool]:
    """What reads the text in a `SparseEncoder`: (type, subfolder, whether Normalize follows); "" for a plain model."""
    if Path(path).is_dir():
        file = Path(path) / "modules.json"
        if not file.exists():
            return "", "", False
    else:
        found = cached_file(path, "modules.json", _raise_exceptions_for_missing_entries=False)
        if found is None:
            return "", "", False
        file = Path(found)
    modules = sorted(json.loads(file.read_text(encoding="utf-8")), key=lambda module: module["idx"])
    first = modules[0]
    if first["type"].endswith("Router"):  # an inference-free SPLADE: a static module for queries, a model for documents
        raise ValueError(
            f"The teacher {path!r} routes queries and documents through different modules; give the folder of the one "
            "that shall teach, for example its document_0_MLMTransformer."
        )
    return first["type"], first["path"], any(module["type"].endswith("Normalize") for module in modules[1:])


def check_vocabulary(teacher_size: int, student_size: int, path: str) -> None:
    """Refuse a teacher over other terms than the student's.

    Raises:
        ValueError: the numbers of English terms differ.
    """
    if teacher_size != student_size:
        raise ValueError(
            f"The teacher {path!r} has {teacher_size} English terms and the student {student_size}. Both must share "
            "one English vocabulary: build the student with the teacher as pivot (milco build --pivot), or choose a "
            "teacher over the student's terms."
        )
