"""Which parameters a recipe's `train` means: whole parts of a model, or parts of its encoder."""

from __future__ import annotations

import logging
from collections.abc import Callable

from milco_hf.modeling import MilcoForSparseEncoding
from milco_hf.training.stage_arguments import TRAINABLE

logger = logging.getLogger(__name__)

ADAPTERS = "adapters"
OF_ENCODER = ("embeddings", "shared", ADAPTERS)
_ADAPTER_PATH = ".adapter_modules."


def trained_parameters(model: MilcoForSparseEncoding, train: list[str]) -> set[str]:
    """Names of the parameters that learn.

    Beside encoder, connector and head, `train` can name parts of the encoder: its `embeddings`, all language adapters
    (`adapters`, X-MOD) or those of one language (`adapters:sw`), and the rest, which all languages share (`shared`).

    Args:
        model: the model.
        train: the parts.

    Raises:
        ValueError: an unknown part, one that this model does not have, or none.
    """
    wanted = {_named(part, model) for part in train}
    unknown = sorted(part for part in wanted if part.partition(":")[0] not in (*TRAINABLE, *OF_ENCODER))
    if unknown or not wanted:
        raise ValueError(
            f"train must name parts out of {', '.join(TRAINABLE)}, got {train}; of the encoder alone, "
            f"{', '.join(OF_ENCODER)}, or {ADAPTERS}:XX of one language."
        )
    parts_of = _parts_of(model)
    parts = {name: parts_of(name) for name, _ in model.named_parameters()}
    missing = sorted(wanted - set().union(*parts.values()))
    if missing:
        raise ValueError(
            f"train names {', '.join(missing)}, which this model with its {model.config.encoder_config.model_type} "
            "encoder does not have."
        )
    if model.config.languages and wanted & {"encoder", ADAPTERS}:
        logger.warning(
            "train names the adapters of all %d languages: those without data get no gradient, but weight decay. "
            "train: [shared, connector, head] leaves adapters as they are, %s:XX names those of one language.",
            *(len(model.config.languages), ADAPTERS),
        )
    return {name for name, found in parts.items() if found & wanted}


def _named(part: str, model: MilcoForSparseEncoding) -> str:
    """A part as `_parts_of` says it: `adapters:sw` with the adapter's own name."""
    kind, _, language = part.partition(":")
    return f"{ADAPTERS}:{model.config.language_adapter(language)}" if kind == ADAPTERS and language else part


def _parts_of(model: MilcoForSparseEncoding) -> Callable[[str], set[str]]:
    """All names by which `train` can mean a parameter, by the parameter's name."""
    embeddings = model.get_input_embeddings()
    path = next(name for name, module in model.encoder.named_modules() if module is embeddings)
    beginning = f"encoder.{path.split('.')[0]}."

    def parts(name: str) -> set[str]:
        part = name.split(".")[0]
        if part != "encoder":
            return {part}
        if _ADAPTER_PATH in name:
            return {part, ADAPTERS, f"{ADAPTERS}:{name.split(_ADAPTER_PATH)[1].split('.')[0]}"}
        if ".adapter_layer_norm." in name:
            return {part, ADAPTERS}
        return {part, "embeddings" if name.startswith(beginning) else "shared"}

    return parts


__all__ = ["ADAPTERS", "OF_ENCODER", "trained_parameters"]
