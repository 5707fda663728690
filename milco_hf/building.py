"""A fresh MILCO: a multilingual encoder, a new connector, and the MLM head of an English model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from milco_hf.assembly import assemble, check_output, load_encoder, milco_tokenizer, sizes, write_checkpoint
from milco_hf.checkpoint_reader import CheckpointFiles
from milco_hf.model_card import CardDetails
from milco_hf.modeling import MilcoConfig
from milco_hf.pivot_heads import pivot_files, read_pivot_head

logger = logging.getLogger(__name__)

CONNECTOR_INITS = ("normal", "orthogonal", "identity")

_SETTINGS = (
    "connector_act",
    "default_language",
    "document_length",
    "echo",
    "echo_activation",
    "echo_bias_init",
    "echo_pooling",
    "echo_source",
    "echo_special_tokens",
    "head_backend",
    "head_chunk_elements",
    "initializer_range",
    "query_length",
)
"""Values of `MilcoConfig` that are the caller's to choose; the others follow from the encoder and the pivot."""


def build(
    encoder: str | Path,
    pivot: str | Path,
    output: str | Path,
    *,
    encoder_revision: str | None = None,
    pivot_revision: str | None = None,
    token: str | bool | None = None,
    dtype: str | torch.dtype = "float32",
    connector_init: str = "normal",
    seed: int = 0,
    overwrite: bool = False,
    **settings: Any,
) -> Path:
    """Builds a fresh MILCO checkpoint from a multilingual encoder and an English MLM or SPLADE checkpoint.

    The encoder and the English MLM head keep their weights; the connector between them and [ECHO] are new. So the
    model is of use only after sparse alignment pretraining (`training/sap.py`).

    Args:
        encoder: Path or Hub id of the multilingual encoder.
        pivot: Path or Hub id of a BERT, DistilBERT, RoBERTa, XLM-R or ModernBERT class masked language model, such as a
            SPLADE, also as saved by sentence-transformers.
        output: Folder for the checkpoint.
        encoder_revision: Branch, tag or commit of the encoder on the Hub.
        pivot_revision: The same for the pivot.
        token: Access token for the Hub.
        dtype: What to store the weights in: "float32", which training wants, "bfloat16", "float16", or "auto" for what
            the encoder is stored in.
        connector_init: How the connector starts: "normal" (N(0, initializer_range²)), "orthogonal", or "identity",
            for an encoder and a pivot that share a space.
        seed: For the new weights: the same seed builds the same checkpoint.
        overwrite: Whether a checkpoint in the output folder may be replaced.
        **settings: Values for `MilcoConfig`: `echo`, `echo_source`, `echo_activation`, `echo_pooling`,
            `echo_special_tokens`, `echo_bias_init`, `connector_act`, `query_length`, `document_length`,
            `default_language`, `head_backend`, `head_chunk_elements`, `initializer_range`.

    Returns:
        Path of the checkpoint's folder.

    Raises:
        TypeError: A setting is none of these.
        ValueError: A setting's value cannot work, the encoder or the head is not complete, or the encoder's tokenizer
            cannot carry the English vocabulary.
        FileExistsError: The output folder is not empty, and `overwrite` is False.
        FileNotFoundError: The encoder or the pivot is not there.
    """
    unknown = sorted(set(settings) - set(_SETTINGS))
    if unknown:
        raise TypeError(f"build() has no option {', '.join(unknown)}; its settings are {', '.join(_SETTINGS)}.")
    if connector_init not in CONNECTOR_INITS:
        raise ValueError(f"connector_init must be one of {list(CONNECTOR_INITS)}, got {connector_init!r}.")
    folder = check_output(output, overwrite, encoder, pivot)

    encoder_files = CheckpointFiles(encoder, revision=encoder_revision, token=token)
    mlm_files = pivot_files(str(pivot), pivot_revision, token)
    head = read_pivot_head(mlm_files)
    encoder_config = AutoConfig.from_pretrained(**encoder_files.location)
    config = MilcoConfig(encoder_config=encoder_config, **head.settings, **settings)
    # before the weights: the tokenizer is what may have to be refused
    tokenizer = milco_tokenizer(
        AutoTokenizer.from_pretrained(**encoder_files.location),
        AutoTokenizer.from_pretrained(**mlm_files.location),
        config,
    )
    loaded, left_out = load_encoder(encoder_config, encoder_files.location, dtype, str(encoder_files))
    if left_out:
        logger.info("Left out of %s, as no part of the encoder: %s", encoder_files, left_out)
    model = assemble(config, loaded, {f"head.{name}": tensor for name, tensor in head.tensors.items()}, seed)
    if connector_init != "normal":
        _start_connector(model.connector.dense.weight, connector_init, seed)
    details = CardDetails(encoder=encoder_files.public_name, pivot=mlm_files.public_name)
    write_checkpoint(model, tokenizer, folder, details)
    logger.info("Built %s: %s", folder, sizes(model))
    return folder


@torch.no_grad()
def _start_connector(weight: torch.Tensor, kind: str, seed: int) -> None:
    """Fills the connector's matrix, [d_e, d_L], in place."""
    if kind == "identity":
        weight.copy_(torch.eye(*weight.shape))
    else:
        start = torch.empty(weight.shape)  # the decomposition behind it has no half precision
        torch.nn.init.orthogonal_(start, generator=torch.Generator().manual_seed(seed))
        weight.copy_(start)
