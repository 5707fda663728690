"""Checkpoints of the MILCO research release, into this package's format, exactly.

How the release differs from the paper: [ECHO] is a linear layer on the encoder's hidden states with `relu(·) * scale`
and no log, and special tokens echo too. The rest is the paper's: its `projector` is followed by an exact GELU, its
columns run English first.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from milco_hf.assembly import assemble, check_output, load_encoder, milco_tokenizer, sizes, write_checkpoint
from milco_hf.checkpoint_reader import CheckpointFiles
from milco_hf.model_card import CardDetails
from milco_hf.modeling import MilcoConfig
from milco_hf.pivot_heads import PivotHead, head_layout, pivot_files, take_head

logger = logging.getLogger(__name__)

_ENCODER = "m_model."
_TEACHER = "en_lsr."
"""The frozen teacher, which checkpoints of the alignment stage hold, and which is no part of the model."""

_RENAMED = {
    "projector.weight": "connector.dense.weight",
    "projector.bias": "connector.dense.bias",
    "echo.weight": "echo.dense.weight",
    "echo.bias": "echo.dense.bias",
    "scale": "echo.scale",
}
_STAGES = {"MILCOModel": ["sap"], "ContrastiveMILCOModel": ["sap", "sct"]}
"""What each of the release's classes has been through."""


def convert(
    checkpoint: str | Path,
    output: str | Path,
    *,
    encoder: str | Path | None = None,
    pivot: str | Path | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    overwrite: bool = False,
) -> Path:
    """Converts a checkpoint of the research release: the same vectors, number for number and dimension for dimension.

    Args:
        checkpoint: Folder or Hub id of the release's checkpoint. Pickled weights are read with `weights_only=True`.
        output: Folder for the converted checkpoint.
        encoder: Path or Hub id of the multilingual encoder, for its configuration and tokenizer. Default: what the
            checkpoint's configuration names, first as a path in the checkpoint's folder, in that one's parent or here,
            then as a Hub id.
        pivot: The same for the English model.
        revision: Branch, tag or commit of the checkpoint on the Hub.
        token: Access token for the Hub.
        overwrite: Whether a checkpoint in the output folder may be replaced.

    Returns:
        Path of the converted checkpoint's folder.

    Raises:
        ValueError: It is no checkpoint of the release, its weights are not all accounted for, or the encoder or the
            pivot does not belong to it.
        FileExistsError: The output folder is not empty, and `overwrite` is False.
        FileNotFoundError: The checkpoint, the encoder or the pivot is not there.
    """
    files = CheckpointFiles(checkpoint, revision=revision, token=token)
    released = _released_config(files)
    encoder_place = _place(encoder, released, "multilingual_encoder_checkpoint", "encoder", files)
    pivot_place = _place(pivot, released, "lsr_encoder_checkpoint", "pivot", files)
    folder = check_output(output, overwrite, checkpoint, encoder_place, pivot_place)
    encoder_files = CheckpointFiles(encoder_place, token=token)
    mlm_files = pivot_files(pivot_place, token=token)

    parts, head = _take_apart(files, mlm_files)
    encoder_config = AutoConfig.from_pretrained(**encoder_files.location)
    _check_sizes(released, files, head, encoder_config.vocab_size)
    echo = bool(released.get("echo", False))
    config = MilcoConfig(
        encoder_config=encoder_config,
        **head.settings,
        connector_act="gelu",
        echo=echo,
        echo_source="encoder" if echo else "pivot",
        echo_activation="relu",
        echo_pooling="sum",
        echo_special_tokens=True,
        training_stages=next((_STAGES[name] for name in released.get("architectures") or [] if name in _STAGES), []),
    )
    tensors = {f"head.{name}": tensor for name, tensor in head.tensors.items()}
    tensors.update((_RENAMED[name], parts[name]) for name in parts if name in _RENAMED)
    _check_complete(tensors, echo, files)
    tokenizer = milco_tokenizer(
        AutoTokenizer.from_pretrained(**encoder_files.location),
        AutoTokenizer.from_pretrained(**mlm_files.location),
        config,
    )
    weights = {name.removeprefix(_ENCODER): parts[name] for name in parts if name.startswith(_ENCODER)}
    loaded, left_out = load_encoder(
        encoder_config,
        {"pretrained_model_name_or_path": None, "state_dict": weights},
        tensors["connector.dense.weight"].dtype,
        f"{files} ({_ENCODER}*)",
    )
    _refuse_left_over([_ENCODER + name for name in left_out if not name.startswith("pooler.")], files)
    model = assemble(config, loaded, tensors)
    details = CardDetails(encoder=encoder_files.public_name, pivot=mlm_files.public_name)
    write_checkpoint(model, tokenizer, folder, details)
    logger.info("Converted %s into %s: %s", files, folder, sizes(model))
    return folder


def _released_config(files: CheckpointFiles) -> dict[str, Any]:
    config = files.json("config.json")
    if config is None:
        raise FileNotFoundError(
            f"{files} has no config.json{files.reach}: give the folder or Hub id of a research checkpoint."
        )
    if config.get("model_type") == MilcoConfig.model_type:
        raise ValueError(f"{files} is a checkpoint of milco-hf already; it needs no conversion.")
    if config.get("model_type") != "milco":
        raise ValueError(
            f"{files} has model_type {config.get('model_type')!r}, and checkpoints of the research release have "
            "'milco'. To make a new model from an encoder and an English head, use milco_hf.build."
        )
    return config


def _place(
    given: str | Path | None, released: Mapping[str, Any], field: str, option: str, files: CheckpointFiles
) -> str:
    """Where the encoder or the pivot lies: as given, or as the release's configuration says."""
    if given is not None:
        return str(given)
    named = released.get(field)
    if not named:
        raise ValueError(f"The config.json of {files} has no {field}; say where it is with {option}=.")
    for parent in (files.folder, files.folder.resolve().parent, Path()) if files.is_local else (Path(),):
        if (parent / named).is_dir():
            return str(parent / named)
    try:
        found = CheckpointFiles(named, token=files.token).find("config.json")
    except FileNotFoundError:
        found = None
    if found is None:
        raise FileNotFoundError(
            f"{files} names {named!r} as its {field}: there is no such folder in it, beside it or here, and it could "
            f"not be had from the Hub. Say where it is with {option}= (--{option})."
        )
    return named


def _take_apart(files: CheckpointFiles, mlm_files: CheckpointFiles) -> tuple[Mapping[str, Tensor], PivotHead]:
    """The checkpoint's tensors, and its MLM head; every name must be one that is known."""
    parts = files.tensors
    pivot_config = AutoConfig.from_pretrained(**mlm_files.location)
    layout = head_layout(pivot_config, str(mlm_files))
    # the release keeps the pivot's `cls` or `lm_head` as `mlm_head`
    module = layout.dense.partition(".")[0] + "."
    head = {module + name.removeprefix("mlm_head."): parts[name] for name in parts if name.startswith("mlm_head.")}
    known = ("mlm_head.", _ENCODER, _TEACHER)
    _refuse_left_over([name for name in parts if not name.startswith(known) and name not in _RENAMED], files)
    return parts, take_head(head, layout, pivot_config, f"{files} (mlm_head.*)")


def _refuse_left_over(names: list[str], files: CheckpointFiles) -> None:
    if names:
        raise ValueError(
            f"{files} holds weights that a checkpoint of the research release does not have: {sorted(names)}. It was "
            "made by other code, and converting it would lose them."
        )


def _check_sizes(released: Mapping[str, Any], files: CheckpointFiles, head: PivotHead, source_vocab_size: int) -> None:
    # The columns of existing indexes are numbered by these.
    for field, size, option in (
        ("en_vocab_size", head.settings["pivot_vocab_size"], "pivot"),
        ("m_vocab_size", source_vocab_size, "encoder"),
    ):
        if released.get(field) not in (None, size):
            raise ValueError(
                f"{files} has {field}={released[field]}, but there are {size} rows: another model than the one it was "
                f"trained with. Give the right one with {option}= (--{option})."
            )


def _check_complete(tensors: Mapping[str, Tensor], echo: bool, files: CheckpointFiles) -> None:
    needed = [released for released, ours in _RENAMED.items() if echo or ours.startswith("connector.")]
    missing = [released for released in needed if _RENAMED[released] not in tensors]
    if missing:
        raise ValueError(f"{files} lacks {missing}: it is not complete.")
    _refuse_left_over([name for name in _RENAMED if name not in needed and _RENAMED[name] in tensors], files)
