"""What is done once to trained weights before they are shipped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from milco_hf.model_card import render_card
from milco_hf.modeling import MilcoForSparseEncoding
from milco_hf.pruning import parse
from milco_hf.training.tokenizer_lengths import without_lengths

DTYPES = ("float16", "bfloat16", "float32")
VOCABULARY_DTYPES = ("float8_e4m3fn", *DTYPES)


def finish(
    checkpoint: str | Path,
    output: str | Path,
    dtype: str = "float16",
    vocabulary_dtype: str | None = None,
    bias_shift: float = 0.0,
    card: str | Path | None = None,
    query_pruning: str | Sequence[str] | None = None,
    document_pruning: str | Sequence[str] | None = None,
) -> dict[str, float | str]:
    """Write a checkpoint's final form.

    The weights are stored in half precision, and config.json asks for float32: they are small to ship, and compute as
    they did in training wherever they are loaded with the default dtype.

    Args:
        checkpoint: folder of the trained checkpoint, with its tokenizer.
        output: folder to write.
        dtype: of the stored weights.
        vocabulary_dtype: of both vocabularies' rows, the source tokens' embeddings and the decoder's English terms and
            [ECHO], most of a small model; None for `dtype`. In float8_e4m3fn an entry takes one byte and keeps
            three bits after its first. Loading gives the dtype that is asked for, as with any other.
        bias_shift: added to the decoder's bias of every English term. A negative one takes away terms that hardly
            count, where training left many of them just above zero.
        card: YAML or JSON file for the model card, see `milco_hf.model_card.CardDetails`.
        query_pruning: how `encode_query` prunes from now on, such as "top_k:40" or ["english=top_k:40"], see
            `milco_hf.pruning.parse`; None leaves what the checkpoint says.
        document_pruning: documents likewise.

    Returns:
        Parameters in millions, megabytes of safetensors, and the folder.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: the dtype is unknown, a weight does not fit in it, or a pruning is none.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {DTYPES}, got {dtype!r}.")
    if vocabulary_dtype not in (None, *VOCABULARY_DTYPES):
        raise ValueError(f"vocabulary_dtype must be one of {VOCABULARY_DTYPES}, got {vocabulary_dtype!r}.")
    if not (Path(checkpoint) / "config.json").is_file():
        raise FileNotFoundError(f"There is no checkpoint in {str(checkpoint)!r}: give a folder that training wrote.")
    output = Path(output)
    model = MilcoForSparseEncoding.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.no_grad():
        model.head.decoder.bias[: model.config.pivot_vocab_size] += bias_shift
    for name, how in (("query_pruning", query_pruning), ("document_pruning", document_pruning)):
        if how is not None:
            setattr(model.config, name, {view: str(form) for view, form in parse(how).items()} or None)
    model.save_pretrained(output)
    without_lengths(AutoTokenizer.from_pretrained(checkpoint)).save_pretrained(output)
    weights = output / "model.safetensors"
    rows = {id(model.get_input_embeddings().weight), id(model.head.decoder.weight)}
    of_vocabulary = {name for name, parameter in model.named_parameters() if id(parameter) in rows}
    trained = load_file(weights)
    dtypes = {name: (vocabulary_dtype if name in of_vocabulary else None) or dtype for name in trained}
    stored = {name: tensor.to(getattr(torch, dtypes[name])) for name, tensor in trained.items()}
    lost = [name for name, tensor in stored.items() if not torch.isfinite(tensor.float()).all()]
    if lost:
        small = " and ".join(sorted({dtypes[name] for name in lost}))
        raise ValueError(f"{small} cannot hold the weights of {', '.join(lost[:5])}; choose bfloat16 or float32.")
    save_file(stored, weights, metadata={"format": "pt"})
    config = json.loads((output / "config.json").read_text(encoding="utf-8"))
    (output / "README.md").write_text(str(render_card(output.name, config, card)), encoding="utf-8")
    parameters = sum(tensor.numel() for tensor in stored.values())
    size = weights.stat().st_size
    return {"parameters_in_millions": parameters / 1e6, "megabytes": size / 1e6, "folder": str(output)}
