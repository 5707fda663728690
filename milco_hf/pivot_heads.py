"""Takes the MLM head out of an English checkpoint: the transform, its LayerNorm and the decoder, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from milco_hf.checkpoint_reader import CheckpointFiles

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HeadLayout:
    """How a family of models names its MLM head, and what its configuration says about it.

    Args:
        dense: The transform's linear layer.
        norm: Its LayerNorm.
        decoder: The linear layer onto the vocabulary.
        bias: The other name of the decoder's bias, None where it has one only.
        base: Prefix of everything that is not the head.
        embeddings: The token embeddings, to which a decoder that was not saved is tied.
        activation: Name of the transform's activation.
        norm_eps: LayerNorm's epsilon.
    """

    dense: str
    norm: str
    decoder: str
    bias: str | None
    base: str
    embeddings: str
    activation: Callable[[PreTrainedConfig], str]
    norm_eps: Callable[[PreTrainedConfig], float]


_BERT = HeadLayout(
    dense="cls.predictions.transform.dense",
    norm="cls.predictions.transform.LayerNorm",
    decoder="cls.predictions.decoder",
    bias="cls.predictions.bias",
    base="bert.",
    embeddings="bert.embeddings.word_embeddings.weight",
    activation=lambda config: config.hidden_act,
    norm_eps=lambda config: config.layer_norm_eps,
)
_ROBERTA = HeadLayout(
    dense="lm_head.dense",
    norm="lm_head.layer_norm",
    decoder="lm_head.decoder",
    bias="lm_head.bias",
    base="roberta.",
    embeddings="roberta.embeddings.word_embeddings.weight",
    activation=lambda config: "gelu",  # whatever hidden_act says: the class has it written in
    norm_eps=lambda config: config.layer_norm_eps,
)
_DISTILBERT = HeadLayout(
    dense="vocab_transform",
    norm="vocab_layer_norm",
    decoder="vocab_projector",
    bias=None,
    base="distilbert.",
    embeddings="distilbert.embeddings.word_embeddings.weight",
    activation=lambda config: config.activation,
    norm_eps=lambda config: 1e-12,  # written into the class
)
_MODERNBERT = HeadLayout(
    dense="head.dense",
    norm="head.norm",
    decoder="decoder",
    bias=None,
    base="model.",
    embeddings="model.embeddings.tok_embeddings.weight",
    activation=lambda config: config.classifier_activation,
    norm_eps=lambda config: config.norm_eps,
)
LAYOUTS: Mapping[str, HeadLayout] = {
    "bert": _BERT,
    "camembert": _ROBERTA,
    "distilbert": _DISTILBERT,
    "modernbert": _MODERNBERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "xmod": _ROBERTA,
}
"""The layouts by the configuration's `model_type`."""

# BERT's next-sentence head is no part of its MLM head; position ids were saved as a buffer once.
_NOT_THE_HEAD = ("cls.seq_relationship.", "embeddings.position_ids")


@dataclass(frozen=True)
class PivotHead:
    """An MLM head: its configuration as `MilcoConfig` names it, and its tensors as `model.head` does.

    Args:
        settings: `pivot_*` values for a `MilcoConfig`.
        tensors: `dense.weight` [d_e, d_e], `dense.bias`, `norm.weight`, `norm.bias`, `decoder.weight` [V_e, d_e] and
            `decoder.bias` [V_e], those of them that the head has. The decoder always has a bias, of zeros where the
            checkpoint has none.
    """

    settings: dict[str, Any]
    tensors: dict[str, Tensor]


def pivot_files(source: str, revision: str | None = None, token: str | bool | None = None) -> CheckpointFiles:
    """Finds the masked language model in a checkpoint of transformers or of sentence-transformers' `SparseEncoder`.

    Args:
        source: Folder or Hub id.
        revision: Branch, tag or commit on the Hub.
        token: Access token for the Hub.

    Returns:
        Where its `config.json` lies: the root, or the folder of its transformer module, such as `0_MLMTransformer`.

    Raises:
        FileNotFoundError: There is no configuration in any of these places.
    """
    root = CheckpointFiles(source, revision=revision, token=token)
    if "model_type" in (root.json("config.json") or {}):
        return root
    for folder in _transformer_folders(root):
        files = CheckpointFiles(source, subfolder=folder, revision=revision, token=token)
        if "model_type" in (files.json("config.json") or {}):
            return files
    raise FileNotFoundError(
        f"{source} has no config.json with a model_type, neither at its root nor in a transformer module of its "
        "modules.json: it is no checkpoint of transformers or sentence-transformers with an MLM head"
        f"{root.reach}."
    )


def _transformer_folders(root: CheckpointFiles) -> list[str]:
    folders = []
    for module in root.json("modules.json") or []:
        kind = module["type"].rpartition(".")[2]
        if kind.endswith("Transformer"):
            folders.append(module["path"])
        elif kind == "Router":  # one route for queries and one for documents; only one of them has a transformer
            router = CheckpointFiles(root.source, module["path"], root.revision, root.token)
            for name, route_kind in ((router.json("router_config.json") or {}).get("types") or {}).items():
                if route_kind.endswith("Transformer"):
                    folders.append("/".join(part for part in (module["path"], name) if part))
    return folders


def read_pivot_head(files: CheckpointFiles) -> PivotHead:
    """Reads the MLM head, and nothing else, from a checkpoint's weights.

    Args:
        files: The checkpoint, as `pivot_files` finds it.

    Returns:
        The head.

    Raises:
        ValueError: The model's class is not known, or weights of its head are missing, left over or of odd shapes.
    """
    config = AutoConfig.from_pretrained(**files.location)
    layout = head_layout(config, str(files))
    return take_head(files.tensors, layout, config, str(files))


def head_layout(config: PreTrainedConfig, name: str) -> HeadLayout:
    """Returns how the MLM head of a configuration's class is laid out.

    Args:
        config: The pivot's configuration.
        name: What to call the checkpoint in errors.

    Raises:
        ValueError: The class is not one of `LAYOUTS`.
    """
    if config.model_type not in LAYOUTS:
        raise ValueError(
            f"{name} is of model_type {config.model_type!r}; the MLM head is known for {sorted(LAYOUTS)}. Give an "
            "English masked language model or SPLADE checkpoint of one of these."
        )
    return LAYOUTS[config.model_type]


def take_head(tensors: Mapping[str, Tensor], layout: HeadLayout, config: PreTrainedConfig, name: str) -> PivotHead:
    """Picks the head's tensors out of a checkpoint's, and accounts for every other one outside the base model.

    Args:
        tensors: The checkpoint's tensors.
        layout: The names of the head's.
        config: The pivot's configuration.
        name: What to call the checkpoint in errors.

    Raises:
        ValueError: Weights of the head are missing, left over or of shapes that do not fit together.
    """
    outside = {key for key in tensors if not key.startswith(layout.base)}
    outside = {key for key in outside if not any(part in key for part in _NOT_THE_HEAD)}
    parts = {
        "dense.weight": f"{layout.dense}.weight",
        "dense.bias": f"{layout.dense}.bias",
        "norm.weight": f"{layout.norm}.weight",
        "norm.bias": f"{layout.norm}.bias",
        "decoder.weight": f"{layout.decoder}.weight",
        "decoder.bias": f"{layout.decoder}.bias",
    }
    found = {part: key for part, key in parts.items() if key in tensors}
    left_over = outside - set(found.values())
    if layout.bias is not None and layout.bias in tensors:
        # saved beside decoder.bias, or in place of it; where both are there, the classes use the decoder's
        left_over.discard(layout.bias)
        found.setdefault("decoder.bias", layout.bias)
    # transformers does not save a decoder that is tied to the embeddings
    if "decoder.weight" not in found and layout.embeddings in tensors and config.tie_word_embeddings:
        found["decoder.weight"] = layout.embeddings
    missing = [parts[part] for part in _required(layout, config) if part not in found]
    if missing or left_over:
        raise ValueError(
            f"{name} ({config.architectures or config.model_type}) does not hold the MLM head of a {config.model_type} "
            f"model: missing {_some(missing)}; not accounted for {_some(sorted(left_over))}. Give a masked language "
            "model (…ForMaskedLM) or a SPLADE checkpoint."
        )
    head = {part: tensors[key] for part, key in found.items()}
    return PivotHead(settings=_settings(head, layout, config, name), tensors=head)


def _required(layout: HeadLayout, config: PreTrainedConfig) -> list[str]:
    optional = {
        "dense.bias": getattr(config, "classifier_bias", True),
        "norm.bias": getattr(config, "norm_bias", True),
        "decoder.bias": getattr(config, "decoder_bias", True),
    }
    if layout is not _MODERNBERT:  # the only one whose biases are a choice
        optional = dict.fromkeys(optional, True)
    always = ["dense.weight", "norm.weight", "decoder.weight"]
    return always + [part for part, needed in optional.items() if needed]


def _settings(head: dict[str, Tensor], layout: HeadLayout, config: PreTrainedConfig, name: str) -> dict[str, Any]:
    terms, width = head["decoder.weight"].shape
    head.setdefault("decoder.bias", torch.zeros(terms, dtype=head["decoder.weight"].dtype))
    shapes = dict.fromkeys(head, (width,)) | {"dense.weight": (width, width)}
    shapes |= {"decoder.weight": (terms, width), "decoder.bias": (terms,)}
    odd = {part: tuple(tensor.shape) for part, tensor in head.items() if tuple(tensor.shape) != shapes[part]}
    if odd:
        raise ValueError(f"{name}: the MLM head's shapes do not fit a decoder of {terms} × {width}: {odd}.")
    return {
        "pivot_vocab_size": terms,
        "pivot_hidden_size": width,
        "pivot_hidden_act": layout.activation(config),
        "pivot_norm_eps": layout.norm_eps(config),
        "pivot_transform_bias": "dense.bias" in head,
        "pivot_norm_bias": "norm.bias" in head,
    }


def _some(names: list[str]) -> str:
    if not names:
        return "nothing"
    return f"{names[:12]}" + (f" and {len(names) - 12} more" if len(names) > 12 else "")
