"""Low-rank updates of the encoder (LoRA): put in, merged into whole weights for checkpoints, saved as an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from milco_hf.modeling import MilcoForSparseEncoding

ADAPTER = "adapter"
_PREFIX = "encoder."
_PEFT_PREFIX = "base_model.model."


def add_lora(
    model: MilcoForSparseEncoding, r: int, alpha: float, dropout: float, targets: list[str] | None = None
) -> None:
    """Put updates beside linear layers of the encoder, and let them learn in place of the encoder's weights.

    Args:
        model: changed in place; connector and head stay as they are.
        r: rank.
        alpha: updates are scaled by alpha / r.
        dropout: dropout before the updates.
        targets: last parts of the layers' names; every linear layer where empty.

    Raises:
        ImportError: peft is not installed.
        ValueError: no linear layer has such a name.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError('lora needs the library "peft": pip install "milco-hf[train]"') from error
    linear = [name for name, module in model.encoder.named_modules() if isinstance(module, nn.Linear)]
    chosen = [name for name in linear if not targets or any(f".{name}".endswith(f".{end}") for end in targets)]
    if not chosen:
        last = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise ValueError(f"lora_targets {targets} fits no linear layer of the encoder; its layers end in {last}.")
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=chosen)
    inject_adapter_in_model(config, model.encoder)
    for name, parameter in model.encoder.named_parameters():
        parameter.requires_grad_("lora_" in name)


def has_lora(model: nn.Module) -> bool:
    """Whether a model has low-rank updates."""
    return any(".lora_A." in name for name, _ in model.named_parameters())


def merged_state(model: MilcoForSparseEncoding, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that a model without updates needs to do the same: W + alpha / r · B A.

    Args:
        model: tells the scale.
        state: its state dictionary, or the gathered one of a sharded model.
    """
    config = model.encoder.peft_config["default"]
    scale = config.lora_alpha / config.r
    merged = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        if ".base_layer." in name:
            layer, kind = name.split(".base_layer.")
            if kind == "weight":
                down, up = (state[f"{layer}.lora_{side}.default.weight"].float() for side in "AB")
                tensor = (tensor.float() + scale * (up @ down)).to(tensor.dtype)
            name = f"{layer}.{kind}"
        merged[name] = tensor
    return merged


def save_adapter(model: MilcoForSparseEncoding, state: Mapping[str, Tensor], checkpoint: str | Path) -> None:
    """Write the updates alone into a checkpoint's folder `adapter`, as peft does.

    `peft.PeftModel.from_pretrained(model.encoder, checkpoint / "adapter")` puts them over the encoder that training
    started from; connector and head, where they learned, are in the checkpoint's own weights only.
    """
    from safetensors.torch import save_file

    folder = Path(checkpoint) / ADAPTER
    folder.mkdir(parents=True, exist_ok=True)
    model.encoder.peft_config["default"].save_pretrained(str(folder))
    updates = {
        _PEFT_PREFIX + name.removeprefix(_PREFIX).replace(".default.", "."): tensor.detach().cpu().contiguous()
        for name, tensor in state.items()
        if ".lora_" in name
    }
    save_file(updates, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def load_adapter(model: MilcoForSparseEncoding, checkpoint: str | Path) -> None:
    """Read a checkpoint's updates back into a model that has some, bit by bit as they were saved."""
    from safetensors.torch import load_file

    updates = load_file(Path(checkpoint) / ADAPTER / "adapter_model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(updates[_PEFT_PREFIX + name.removeprefix(_PREFIX).replace(".default.", ".")])
