"""The scale of an MLM head: measured, and multiplied by a constant before training.

"Rescaling MLM-Head for Neural Sparse Retrieval" (Jang, Hong, Turner, Lim, arXiv 2606.18811): encoders whose MLM head
has a large L2 norm (ModernBERT, Ettin) blow up activations and scores, so that sparse training degrades or collapses;
a constant on the head's projection, set once before training, mends it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from milco_hf.checkpoint_reader import CheckpointFiles
from milco_hf.modeling import MilcoConfig
from milco_hf.pivot_heads import PivotHead, head_layout, pivot_files, read_pivot_head, take_head

logger = logging.getLogger(__name__)

REFERENCE = "google-bert/bert-base-uncased"
"""The head whose scale "auto" aims at: it is measured when it is needed, so no number of it stands here."""

_ROWS = 8192  # at a time, so that a head in half precision is never whole in fp32


@dataclass(frozen=True)
class HeadNorms:
    """How large an MLM head is.

    Attributes:
        terms: V_e, rows of the decoder, [ECHO] left out.
        width: d_e.
        mean: L2 norm of a decoder row w_j, averaged over the terms.
        smallest: The smallest of these norms.
        largest: The largest.
        frobenius: L2 norm of the whole matrix.
        logit_scale: √(mean over j of ‖γ ⊙ w_j‖²), with γ the weight of the LayerNorm before the decoder: the standard
            deviation of a logit, over terms and inputs, for normalised activations that are independent and of unit
            variance. Unlike the rows' norms it does not change when a factor moves from γ into the rows.
    """

    terms: int
    width: int
    mean: float
    smallest: float
    largest: float
    frobenius: float
    logit_scale: float

    def __str__(self) -> str:
        return (
            f"{self.terms} × {self.width}, row L2 norm {self.mean:.4g} in the mean ({self.smallest:.4g} to "
            f"{self.largest:.4g}), logit scale {self.logit_scale:.4g}"
        )


def head_norms(
    source: str | Path | PivotHead | nn.Module, *, revision: str | None = None, token: str | bool | None = None
) -> HeadNorms:
    """Measures the MLM head of a checkpoint or a model.

    Args:
        source: Path or Hub id of a masked language model, a SPLADE or a MILCO checkpoint, or a bundled one's name; such
            a model loaded (also as a `SparseEncoder`); or a head that `read_pivot_head` read.
        revision: Branch, tag or commit on the Hub.
        token: Access token for the Hub.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It has no MLM head that is known.
    """
    weight, gamma = _projection(source, revision, token)
    gamma = gamma.detach().float()
    squares, scaled = [], []
    for rows in weight.detach().split(_ROWS):
        rows = rows.float()
        squares.append(rows.square().sum(dim=1))
        scaled.append((rows * gamma).square().sum(dim=1))
    norms = torch.cat(squares).double().sqrt()
    return HeadNorms(
        terms=weight.shape[0],
        width=weight.shape[1],
        mean=norms.mean().item(),
        smallest=norms.min().item(),
        largest=norms.max().item(),
        frobenius=norms.square().sum().sqrt().item(),
        logit_scale=torch.cat(scaled).double().mean().sqrt().item(),
    )


def given_factor(rescale: float | str) -> float | None:
    """The number that `rescale_head` is, or None for "auto": what can be checked before anything is opened.

    Raises:
        ValueError: It is neither.
    """
    if rescale == "auto":
        return None
    try:
        factor = float(rescale)
    except (TypeError, ValueError):
        factor = math.nan
    if not (factor > 0 and math.isfinite(factor)):
        raise ValueError(f'rescale_head has to be "auto" or a number above zero, got {rescale!r}.')
    return factor


def rescale_factor(
    rescale: float | str,
    norms: HeadNorms,
    reference: str | Path | nn.Module = REFERENCE,
    *,
    token: str | bool | None = None,
) -> float:
    """The constant C that a head's projection is multiplied by.

    A number stands for itself. The paper sets one by hand, reported as k = 16 for ModernBERT and Ettin; read as a
    division, that is C = 1/16. "auto" brings the logit scale σ (see `HeadNorms`) down to that of a reference head:

        C = min(1, σ_reference / σ_head)

    It never enlarges: only heads that are too large collapse.

    Args:
        rescale: "auto", or a number above zero.
        norms: Of the head.
        reference: For "auto": path or Hub id of the model whose head is the measure, or that model; by default BERT's.
            It is read from the Hub (or its cache), so without a network give the folder of one, or a number for
            `rescale`.
        token: Access token for the Hub.

    Raises:
        ValueError: `rescale` is neither, or the head or the reference's has no scale (0, or not finite).
        FileNotFoundError: The reference cannot be read.
    """
    if (given := given_factor(rescale)) is not None:
        return given
    if not (norms.logit_scale > 0 and math.isfinite(norms.logit_scale)):
        raise ValueError(f"The head's logit scale is {norms.logit_scale}, so there is no factor for it.")
    try:
        wanted = head_norms(reference, token=token)
    except OSError as error:
        raise FileNotFoundError(
            f'rescale_head="auto" measures the head of {reference!r}, which cannot be read: {error} Give another '
            "rescale_reference (--rescale-reference), such as a folder with a BERT, or a number for rescale_head."
        ) from error
    name = type(reference).__name__ if isinstance(reference, nn.Module) else reference
    logger.info("Reference head of %s: %s", name, wanted)
    if not (wanted.logit_scale > 0 and math.isfinite(wanted.logit_scale)):
        raise ValueError(f"The reference {name} has a head of logit scale {wanted.logit_scale}; give another one.")
    return min(1.0, wanted.logit_scale / norms.logit_scale)


def rescaled_head(head: PivotHead, factor: float) -> PivotHead:
    """A head whose projection is multiplied by a constant: W ← C·W and b ← C·b.

    The paper speaks of the projection. It is read here as the decoder with its bias, so that every logit becomes C
    times what it was: the same terms are active in the same order, and with C = 1/16 the bias does not come to weigh
    sixteen times as much as before.

    Args:
        head: As `read_pivot_head` reads it.
        factor: C.
    """
    tensors = dict(head.tensors)
    for name in ("decoder.weight", "decoder.bias"):
        tensors[name] = tensors[name] * factor
    return PivotHead(settings=head.settings, tensors=tensors)


@torch.no_grad()
def rescale_mlm_head(
    model: PreTrainedModel | nn.Module, rescale: float | str = "auto", reference: str | Path | nn.Module = REFERENCE
) -> float:
    """Multiplies the projection of a masked language model's head in place, before it is trained as a SPLADE.

    The same rule as `milco build --rescale-head`, for an English teacher. A decoder that is tied to the token
    embeddings is untied first, as the embeddings must keep their scale; the model is then larger by that matrix, and
    `save_pretrained` and `from_pretrained` keep it so.

    Args:
        model: A …ForMaskedLM of a class in `milco_hf.pivot_heads.LAYOUTS`, or a `SparseEncoder` that starts with one.
        rescale: "auto" or C, see `rescale_factor`.
        reference: See `rescale_factor`.

    Returns:
        C, as it was applied.

    Raises:
        ValueError: The model's class is not known, or `rescale` cannot be.
        FileNotFoundError: "auto", and the reference cannot be read.
    """
    model = _transformer(model)
    if getattr(model.config, "model_type", None) == MilcoConfig.model_type:
        raise ValueError(
            "rescale_mlm_head is for an English masked language model before it is a teacher; a MILCO's head is "
            "rescaled while it is built, with rescale_head (milco build --rescale-head)."
        )
    layout = head_layout(model.config, type(model).__name__)
    norms = head_norms(model)
    factor = rescale_factor(rescale, norms, reference)
    decoder = model.get_submodule(layout.decoder)
    if decoder.weight is model.get_input_embeddings().weight:
        # untied models tie no bias either (BERT's has two names), so it gets a place of its own too
        for name, parameter in list(decoder.named_parameters()):
            setattr(decoder, name, nn.Parameter(parameter.clone(), requires_grad=parameter.requires_grad))
        model.config.tie_word_embeddings = False
        model.all_tied_weights_keys = {}  # made from the configuration when the model was
    for parameter in decoder.parameters():
        parameter.mul_(factor)
    logger.info("Head of %s: %s; multiplied by %.4g", type(model).__name__, norms, factor)
    return factor


def _projection(
    source: str | Path | PivotHead | nn.Module, revision: str | None, token: str | bool | None
) -> tuple[Tensor, Tensor]:
    """(W [V_e, d_e] without [ECHO], γ [d_e])."""
    if isinstance(source, PivotHead):
        tensors: Mapping[str, Tensor] = source.tensors
    elif isinstance(source, nn.Module):
        model = _transformer(source)
        if getattr(model.config, "model_type", None) == MilcoConfig.model_type:
            return model.head.decoder.weight[: model.config.pivot_vocab_size], model.head.norm.weight
        name = type(model).__name__
        tensors = take_head(model.state_dict(), head_layout(model.config, name), model.config, name).tensors
    else:
        bundled = Path(__file__).parent / "bundled" / source
        if not Path(source).expanduser().is_dir() and (bundled / "config.json").is_file():
            source = bundled
        files = CheckpointFiles(source, revision=revision, token=token)
        config = files.json("config.json") or {}
        if config.get("model_type") == MilcoConfig.model_type:
            weight = files.tensors["head.decoder.weight"]
            return weight[: config["pivot_vocab_size"]], files.tensors["head.norm.weight"]
        tensors = read_pivot_head(pivot_files(str(source), revision, token)).tensors
    return tensors["decoder.weight"], tensors["norm.weight"]


def _transformer(model: Any) -> PreTrainedModel:
    """The transformers model in a `SparseEncoder`, or the model itself."""
    return getattr(model, "transformers_model", None) or model


__all__ = [
    "REFERENCE",
    "HeadNorms",
    "given_factor",
    "head_norms",
    "rescale_factor",
    "rescale_mlm_head",
    "rescaled_head",
]
