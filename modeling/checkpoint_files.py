"""The three files that open a MILCO checkpoint in `SparseEncoder`, with stock modules only."""

import json
from os import PathLike
from pathlib import Path

_TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
# What `SparseEncoder.encode` hands on to the model's `forward`: whether a text is a query or a document, which may be
# pruned differently, and `max_active_dims`, which is pruning that was asked for and so wins over the configuration's.
FORWARD_KWARGS = ("task", "max_active_dims")


def sentence_transformers_files(
    query_length: int | None, document_length: int | None, language: bool = False
) -> dict[str, object]:
    """Contents of modules.json, sentence_bert_config.json and config_sentence_transformers.json.

    Args:
        query_length: Longest query in tokens; None for as long as fits.
        document_length: Longest document in tokens; None for as long as fits.
        language: Whether `SparseEncoder.encode` takes a `language` (encoders with language adapters).

    Returns:
        The files' names and their JSON values.
    """
    transformer = {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward", "method_output_name": "embeddings"}},
        "module_output_name": "sentence_embedding",
    }
    lengths = {"query_length": query_length, "document_length": document_length}
    transformer.update({name: length for name, length in lengths.items() if length is not None})
    kwargs = [*FORWARD_KWARGS, *(["language"] if language else [])]
    return {
        "modules.json": [{"idx": 0, "name": "0", "path": "", "type": _TRANSFORMER, "kwargs": kwargs}],
        "sentence_bert_config.json": transformer,
        "config_sentence_transformers.json": {
            "model_type": "SparseEncoder",
            "similarity_fn_name": "dot",
            "prompts": {"query": "", "document": ""},
            "default_prompt_name": None,
        },
    }


def write_sentence_transformers_files(
    folder: str | PathLike,
    query_length: int | None = None,
    document_length: int | None = None,
    language: bool = False,
) -> None:
    """Writes the three files into a checkpoint's folder; those already there stay as they are.

    Args:
        folder: Folder of the checkpoint.
        query_length: Longest query in tokens; None for as long as fits.
        document_length: Longest document in tokens; None for as long as fits.
        language: Whether `SparseEncoder.encode` takes a `language` (encoders with language adapters).
    """
    for name, content in sentence_transformers_files(query_length, document_length, language).items():
        path = Path(folder) / name
        if not path.exists():
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


__all__ = ["FORWARD_KWARGS", "sentence_transformers_files", "write_sentence_transformers_files"]
