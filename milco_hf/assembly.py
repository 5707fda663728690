"""Puts a MILCO together from its parts, with one copy of the weights in memory, and writes its folder.

What `build` and `convert` share: both have an encoder, a head and the tokenizers of both, and end with a checkpoint.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import MODEL_MAPPING, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from milco_hf.model_card import CardDetails, render_card
from milco_hf.modeling import MilcoConfig, MilcoForSparseEncoding
from milco_hf.vocabulary import one_vocabulary

# What a checkpoint may consist of; `overwrite` removes these, so that no file of an older checkpoint is left behind
# and read with the new ones.
_CHECKPOINT_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin*",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "*.py",
)


def check_output(output: str | Path, overwrite: bool, *sources: str | Path | None) -> Path:
    """Returns the output folder's path, and refuses one that holds something already.

    Args:
        output: The folder.
        overwrite: Whether files of a checkpoint in it may be replaced.
        *sources: What the checkpoint is made from; none of these may be in the output's place.

    Raises:
        FileExistsError: The folder is not empty and `overwrite` is False, or a file is in its place.
        ValueError: The folder is one of the sources.
    """
    path = Path(output).expanduser()
    for source in sources:
        if source is not None and path.exists() and path.resolve() == Path(source).expanduser().resolve():
            raise ValueError(f"The output {path} is where {source} lies, which it is made from; give another folder.")
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file; give the path of a folder for the checkpoint.")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise FileExistsError(
            f"{path} is not empty. Give another folder, or overwrite=True to replace the checkpoint in it."
        )
    return path


def load_encoder(
    config: PreTrainedConfig, location: Mapping[str, Any], dtype: str | torch.dtype, name: str, **options: Any
) -> tuple[PreTrainedModel, list[str]]:
    """Loads an encoder without its pooler, and refuses one that is not complete.

    Args:
        config: The encoder's configuration.
        location: Arguments for `from_pretrained` that say where it lies, or a `state_dict`.
        dtype: What to load it in, or "auto" for what it was saved in.
        name: What to call it in errors.
        **options: More arguments for `from_pretrained`.

    Returns:
        The encoder, and the names of the checkpoint's weights that are no part of it.

    Raises:
        ValueError: No encoder class belongs to the configuration, or weights are missing.
    """
    encoder_class = MODEL_MAPPING.get(type(config), None)
    if isinstance(encoder_class, tuple):
        encoder_class = encoder_class[0]
    if encoder_class is None:
        raise ValueError(f"{name} is of model_type {config.model_type!r}, which AutoModel has no class for.")
    if "add_pooling_layer" in inspect.signature(encoder_class.__init__).parameters:
        options["add_pooling_layer"] = False
    with _quiet_transformers():  # it would print a table about the pooler; what is left out is logged below
        encoder, info = encoder_class.from_pretrained(
            **location, config=config, dtype=dtype, output_loading_info=True, **options
        )
    # A pooler that the class cannot leave out is never used, so that it is missing does no harm.
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ValueError(
            f"{name} lacks weights of a {encoder_class.__name__}: {missing[:12]}. Give a complete encoder checkpoint."
        )
    return encoder, sorted(info["unexpected_keys"])


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)


def assemble(
    config: MilcoConfig, encoder: PreTrainedModel, tensors: Mapping[str, Tensor], seed: int = 0
) -> MilcoForSparseEncoding:
    """Puts an encoder and the tensors of everything else together.

    The encoder is taken as it is, not copied. Parameters that `tensors` does not hold are made new, and so are the rows
    that a tensor lacks at the end ([ECHO]'s in the decoder); the same seed makes the same.

    Args:
        config: The model's configuration.
        encoder: The encoder, loaded.
        tensors: Tensors by the model's parameter names, outside `encoder.`.
        seed: For the new weights.

    Returns:
        The model, in evaluation mode, in the encoder's dtype.

    Raises:
        ValueError: A tensor belongs to no parameter, or its shape does not fit.
    """
    config.encoder_config.dtype = encoder.dtype
    if Path(config.encoder_config.name_or_path).exists():
        config.encoder_config.name_or_path = ""  # a path of this machine is nobody's business
    with torch.device("meta"):
        model = MilcoForSparseEncoding(config)
    model.encoder = encoder
    parts = [part for part in (model.connector, model.head, model.echo) if part is not None]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in parts:
            part.to_empty(device="cpu").to(encoder.dtype)
            part.apply(model._init_weights)
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        parameter = parameters.get(name)
        if parameter is None or parameter.shape[1:] != tensor.shape[1:] or parameter.shape[0] < tensor.shape[0]:
            found = "no such parameter" if parameter is None else f"a parameter of shape {tuple(parameter.shape)}"
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, but the model has {found}.")
        with torch.no_grad():
            parameter[: tensor.shape[0]].copy_(tensor)
    return model.eval()


def milco_tokenizer(
    source: PreTrainedTokenizerBase, pivot: PreTrainedTokenizerBase, config: MilcoConfig
) -> PreTrainedTokenizerBase:
    """Makes the checkpoint's tokenizer, and tells the configuration which dimensions are special tokens.

    Args:
        source: The encoder's tokenizer.
        pivot: The pivot's.
        config: The model's configuration; `special_token_ids` and, where it has none, `pad_token_id` are set.
    """
    tokenizer = one_vocabulary(
        source,
        pivot,
        config.source_vocab_size,
        config.pivot_vocab_size,
        model_input_names=_input_names(source, config.encoder_config),
    )
    longest = config.max_position_embeddings
    if longest is not None and tokenizer.model_max_length > longest:
        tokenizer.model_max_length = longest
    added = tokenizer.added_tokens_decoder
    special = {i for i, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    config.special_token_ids = sorted(i for i in special if i is not None)
    return tokenizer


def _input_names(source: PreTrainedTokenizerBase, encoder_config: PreTrainedConfig) -> list[str]:
    """The tokenizer's outputs, without token types where the encoder has none or one only."""
    names = list(source.model_input_names)
    if getattr(encoder_config, "type_vocab_size", 0) < 2 and "token_type_ids" in names:
        names.remove("token_type_ids")
    return names


def write_checkpoint(
    model: MilcoForSparseEncoding, tokenizer: PreTrainedTokenizerBase, output: Path, details: CardDetails
) -> None:
    """Writes the folder of a checkpoint, in place of one that may be there.

    A model card (README.md) and the card.yaml that `milco push` fills it in from again are written where the folder
    has none: what somebody wrote there stays.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        output: The folder.
        details: For the model card.
    """
    output.mkdir(parents=True, exist_ok=True)
    for path in output.iterdir():
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in _CHECKPOINT_FILES):
            path.unlink()
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    if not (output / "README.md").exists() and not (output / "card.yaml").exists():
        details.to_file(output / "card.yaml")
        comment = (
            "Filled in from card.yaml, as `milco push` does again: edit that file, or delete it and edit this one."
        )
        card = render_card(output.resolve().name, model.config.to_dict(), details, comment)
        (output / "README.md").write_text(str(card), encoding="utf-8")


def sizes(model: MilcoForSparseEncoding) -> str:
    """One line on what a model is made of, for the log.

    Args:
        model: The model.
    """
    config = model.config
    encoder = sum(parameter.numel() for parameter in model.encoder.parameters())
    everything = sum(parameter.numel() for parameter in model.parameters())
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return (
        f"{config.encoder_config.model_type} encoder of {encoder / 1e6:.1f} M parameters and "
        f"{(everything - encoder) / 1e6:.1f} M in connector and head; {config.pivot_vocab_size} English terms + "
        f"{config.source_vocab_size} source tokens = {config.projection_dim} dimensions; inputs of up to "
        f"{config.max_position_embeddings or 'any number of'} tokens; {size / 1e9:.2f} GB in {model.dtype}"
    )
