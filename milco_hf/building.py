"""A fresh MILCO: a multilingual encoder, a new connector, and the MLM head of an English model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from milco_hf.assembly import assemble, check_output, load_encoder, milco_tokenizer, sizes, write_checkpoint
from milco_hf.bridging import ALPHA, NEIGHBOURS
from milco_hf.checkpoint_reader import CheckpointFiles
from milco_hf.head_scale import REFERENCE, given_factor, head_norms, rescale_factor, rescaled_head
from milco_hf.model_card import CardDetails
from milco_hf.modeling import MilcoConfig
from milco_hf.new_vocabulary import (
    NewVocabulary,
    encoder_config_for,
    match_tokens,
    pivot_head_for,
    replace_embeddings,
    started_rows,
    told,
    with_bias,
)
from milco_hf.pivot_heads import PivotHead, pivot_files, read_pivot_head

logger = logging.getLogger(__name__)

CONNECTOR_INITS = ("normal", "orthogonal", "identity")

_SETTINGS = (
    "connector_act",
    "default_language",
    "document_length",
    "document_pruning",
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
    "query_pruning",
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
    rescale_head: float | str | None = None,
    rescale_reference: str | Path = REFERENCE,
    tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    pivot_tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    init: str | None = None,
    bridge: str | Path | Any | None = None,
    bridge_neighbours: int = NEIGHBOURS,
    bridge_alpha: float = ALPHA,
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
        rescale_head: What the head's projection is multiplied by: a number, or "auto" for the one that brings a head
            that is too large down to the reference's scale (see `head_scale.rescale_factor`; arXiv 2606.18811). None
            leaves it as it is. The head's norms are logged either way.
        rescale_reference: For "auto", and refused without: path or Hub id of the model whose head is the measure, by
            default BERT's.
        tokenizer: Path or Hub id of another tokenizer for the encoder (or the tokenizer): a new or a trimmed
            vocabulary. Tokens that the encoder knows keep their embeddings.
        pivot_tokenizer: The same for the English terms, such as the pivot's with words added to it. Whatever teaches
            the model has to speak these terms too.
        init: How rows of new tokens start: "mean" (the default), "random", or "sembridge", as combinations of close
            tokens (see `new_vocabulary.started_rows`; arXiv 2605.26002).
        bridge: For "sembridge": path or Hub id of a multilingual sentence-transformers model (or one that is loaded)
            that says which tokens are close.
        bridge_neighbours: For "sembridge": from how many close tokens a new one is combined.
        bridge_alpha: Likewise: α of the entmax that weighs them: 1 is softmax, 2 sparsemax, more leaves fewer of them.
        seed: For the new weights: the same seed builds the same checkpoint.
        overwrite: Whether a checkpoint in the output folder may be replaced.
        **settings: Values for `MilcoConfig`: `echo`, `echo_source`, `echo_activation`, `echo_pooling`,
            `echo_special_tokens`, `echo_bias_init`, `connector_act`, `query_length`, `document_length`,
            `query_pruning`, `document_pruning`, `default_language`, `head_backend`, `head_chunk_elements`,
            `initializer_range`.

    Returns:
        Path of the checkpoint's folder.

    Raises:
        TypeError: A setting is none of these.
        ValueError: A setting's value cannot work, the encoder or the head is not complete, or the encoder's tokenizer
            cannot carry the English vocabulary.
        FileExistsError: The output folder is not empty, and `overwrite` is False.
        FileNotFoundError: The encoder, the pivot, a tokenizer or what "auto" or "sembridge" reads is not there.
    """
    unknown = sorted(set(settings) - set(_SETTINGS))
    if unknown:
        raise TypeError(f"build() has no option {', '.join(unknown)}; its settings are {', '.join(_SETTINGS)}.")
    if connector_init not in CONNECTOR_INITS:
        raise ValueError(f"connector_init must be one of {list(CONNECTOR_INITS)}, got {connector_init!r}.")
    if rescale_head is not None:
        given_factor(rescale_head)
    if rescale_head != "auto" and str(rescale_reference) != REFERENCE:
        raise ValueError(
            f'rescale_reference={str(rescale_reference)!r} (--rescale-reference) is what rescale_head="auto" '
            "(--rescale-head auto) measures; give that too."
        )
    vocabularies = NewVocabulary(
        tokenizer, pivot_tokenizer, init, bridge, bridge_neighbours, bridge_alpha, seed=seed, token=token
    )
    folder = check_output(output, overwrite, encoder, pivot, rescale_reference, *vocabularies.folders)

    encoder_files = CheckpointFiles(encoder, revision=encoder_revision, token=token)
    mlm_files = pivot_files(str(pivot), pivot_revision, token)
    head = _scaled(read_pivot_head(mlm_files), rescale_head, rescale_reference, str(mlm_files), token)
    stored_config = encoder_config = AutoConfig.from_pretrained(**encoder_files.location)
    source_tokenizer = AutoTokenizer.from_pretrained(**encoder_files.location)
    pivot_terms = AutoTokenizer.from_pretrained(**mlm_files.location)
    opened_bridge = vocabularies.opened_bridge()
    start = {"init": init or "mean", "bridge": opened_bridge, "seed": seed}
    matching = None
    if pivot_tokenizer is not None:
        old, pivot_terms = pivot_terms, vocabularies.opened(pivot_tokenizer)
        terms = match_tokens(old, pivot_terms)
        told("English terms", terms, start["init"])
        head = pivot_head_for(head, started_rows(with_bias(head), terms, **start))
    if tokenizer is not None:
        old, source_tokenizer = source_tokenizer, vocabularies.opened(tokenizer)
        matching = match_tokens(old, source_tokenizer)
        told("Encoder's vocabulary", matching, start["init"])
        encoder_config = encoder_config_for(encoder_config, source_tokenizer, matching)
    config = MilcoConfig(encoder_config=encoder_config, **head.settings, **settings)
    # before the weights: the tokenizer is what may have to be refused
    milco = milco_tokenizer(source_tokenizer, pivot_terms, config)
    loaded, left_out = load_encoder(stored_config, encoder_files.location, dtype, str(encoder_files))
    if left_out:
        logger.info("Left out of %s, as no part of the encoder: %s", encoder_files, left_out)
    if matching is not None:
        rows = started_rows(loaded.get_input_embeddings().weight.detach(), matching, **start)
        replace_embeddings(loaded, encoder_config, rows)
    model = assemble(config, loaded, {f"head.{name}": tensor for name, tensor in head.tensors.items()}, seed)
    if connector_init != "normal":
        _start_connector(model.connector.dense.weight, connector_init, seed)
    details = CardDetails(encoder=encoder_files.public_name, pivot=mlm_files.public_name)
    write_checkpoint(model, milco, folder, details)
    logger.info("Built %s: %s", folder, sizes(model))
    return folder


def _scaled(
    head: PivotHead, rescale: float | str | None, reference: str | Path, name: str, token: str | bool | None
) -> PivotHead:
    """The head as it was asked for, and a log line on how large it is."""
    norms = head_norms(head)
    if rescale is None:
        logger.info("Head of %s: %s", name, norms)
        return head
    factor = rescale_factor(rescale, norms, reference, token=token)
    logger.info("Head of %s: %s; multiplied by %.4g", name, norms, factor)
    return head if factor == 1 else rescaled_head(head, factor)


@torch.no_grad()
def _start_connector(weight: torch.Tensor, kind: str, seed: int) -> None:
    """Fills the connector's matrix, [d_e, d_L], in place."""
    if kind == "identity":
        weight.copy_(torch.eye(*weight.shape))
    else:
        start = torch.empty(weight.shape)  # the decomposition behind it has no half precision
        torch.nn.init.orthogonal_(start, generator=torch.Generator().manual_seed(seed))
        weight.copy_(start)
