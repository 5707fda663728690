"""Texts one after the other, without padding: what goes through the encoder with flash attention, and the head."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_milco import OFFSET_POSITIONS

# Encoders that hand the cumulative lengths on to every attention layer and let nothing else mix tokens. Language
# adapters (X-MOD) know rows of a batch only, and RoFormer counts positions from the row's beginning.
_TAKE_UNPADDED = frozenset({"bert", "camembert", "eurobert", "modernbert", "roberta", "xlm-roberta"})
# Without one of the lengths, transformers would look for the borders of texts in the positions, which ModernBERT does
# not pass on to its attention: texts would see each other.
_FLASH_ARGUMENTS = ("position_ids", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")


class Unpadded(NamedTuple):
    """Where the real tokens of a padded batch are, one text after the other.

    Args:
        places: Their places in the batch, flattened, shape [tokens].
        cu_seqlens: Where each text begins among them, and at last their number, shape [batch + 1], int32.
        shape: Of the padded batch, (batch, longest).
    """

    places: Tensor
    cu_seqlens: Tensor
    shape: tuple[int, int]

    def take(self, padded: Tensor) -> Tensor:
        """The real tokens' part of a [batch, longest, …] tensor: [tokens, …]."""
        return padded.flatten(0, 1)[self.places]

    def put_back(self, values: Tensor) -> Tensor:
        """Values of the real tokens as [batch, longest, …], zero for padding."""
        batch, longest = self.shape
        padded = values.new_zeros((batch * longest, *values.shape[1:]))
        return padded.index_copy(0, self.places, values).unflatten(0, self.shape)


def unpad(mask: Tensor) -> Unpadded | None:
    """The real tokens of a batch; None where there is no padding, or nothing but padding.

    Args:
        mask: Nonzero for real tokens, shape [batch, longest].
    """
    mask = mask.bool()
    places = mask.flatten().nonzero().squeeze(1)
    if len(places) in (0, mask.numel()):
        return None
    cu_seqlens = torch.nn.functional.pad(mask.sum(dim=1).cumsum(0), (1, 0)).int()
    return Unpadded(places, cu_seqlens, tuple(mask.shape))


def takes_unpadded(encoder: PreTrainedConfig) -> bool:
    """Whether an encoder, as it is set up, keeps texts in one row apart: flash attention by cumulative lengths."""
    return "flash" in (encoder._attn_implementation or "") and encoder.model_type in _TAKE_UNPADDED


def check_unpadded(encoder: PreTrainedConfig, input_ids: Tensor, attention_mask: Tensor | None) -> None:
    """Refuses what would let texts attend to each other.

    Raises:
        ValueError: The encoder cannot take texts without padding, or they do not lie in one row.
    """
    if not takes_unpadded(encoder):
        raise ValueError(
            "cu_seq_lens_q says that texts lie one after the other without padding, but a "
            f"{encoder.model_type} encoder with {encoder._attn_implementation!r} attention would mix them; that needs "
            f"flash attention and one of {sorted(_TAKE_UNPADDED)}. Pad the texts (SparseEncoder: "
            "model[0].unpad_inputs = False)."
        )
    if input_ids.shape[0] != 1 or attention_mask is not None:
        raise ValueError(
            "With cu_seq_lens_q, input_ids is one row, [1, tokens of all texts], and there is no attention_mask; got "
            f"{list(input_ids.shape)} and {'no' if attention_mask is None else 'an'} attention_mask."
        )


def flash_arguments(encoder: PreTrainedConfig, cu_seqlens: Tensor, tokens: int) -> dict[str, Any]:
    """What transformers passes to flash attention, and the tokens' positions in their texts.

    Args:
        encoder: The encoder's configuration.
        cu_seqlens: Where each text begins, and at last the number of tokens, shape [batch + 1].
        tokens: That number.
    """
    lengths = cu_seqlens.diff()
    starts = cu_seqlens[:-1].repeat_interleave(lengths, output_size=tokens)
    positions = torch.arange(tokens, device=cu_seqlens.device) - starts
    if encoder.model_type in OFFSET_POSITIONS:
        positions = positions + (encoder.pad_token_id or 0) + 1
    longest = int(lengths.max())
    return {
        "position_ids": positions.unsqueeze(0),
        "cu_seq_lens_q": cu_seqlens,
        "cu_seq_lens_k": cu_seqlens,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def encode(
    encoder: PreTrainedModel, source_ids: Tensor, mask: Tensor, arguments: dict[str, Any]
) -> tuple[Tensor, Unpadded | None, ModelOutput]:
    """Runs the encoder, and takes padding away as early as it can be.

    Args:
        encoder: The encoder.
        source_ids: Its own ids, shape [batch, tokens], or [1, tokens of all texts] with `cu_seq_lens_q`.
        mask: Nonzero for real tokens, shaped as `source_ids`.
        arguments: What else it is given.

    Returns:
        Hidden states, [batch, tokens, d_L] or, without padding, [tokens of all texts, d_L]; where these are in the
        padded batch, if there was one; and all that the encoder returned.
    """
    config = encoder.config
    given = arguments.get("cu_seq_lens_q")
    if given is not None:
        if any(arguments.get(name) is None for name in _FLASH_ARGUMENTS):
            told = {name: value for name, value in arguments.items() if value is not None}
            arguments = {**flash_arguments(config, given, source_ids.shape[1]), **told}
        encoded = encoder(input_ids=source_ids, attention_mask=None, return_dict=True, **arguments)
        return encoded.last_hidden_state.squeeze(0), None, encoded
    asked = arguments.keys() - {"token_type_ids"} or config.output_hidden_states or config.output_attentions
    whole = takes_unpadded(config) and not asked  # who asks for more than vectors gets it padded
    unpadded = None
    # An accelerator has to wait until it is known how many tokens are real: that pays for a whole encoder, not for the
    # head alone; and a compiled graph would break there.
    if not torch.compiler.is_compiling() and not mask.is_meta and (whole or mask.device.type == "cpu"):
        unpadded = unpad(mask)
    if unpadded is None or not whole:
        encoded = encoder(input_ids=source_ids, attention_mask=mask, return_dict=True, **arguments)
        hidden = encoded.last_hidden_state
        return hidden if unpadded is None else unpadded.take(hidden), unpadded, encoded
    flash = flash_arguments(config, unpadded.cu_seqlens, len(unpadded.places))
    rows = {name: unpadded.take(tensor).unsqueeze(0) for name, tensor in arguments.items()}  # token types
    row = unpadded.take(source_ids).unsqueeze(0)  # [1, tokens of all texts]
    encoded = encoder(input_ids=row, attention_mask=None, return_dict=True, **flash, **rows)
    return encoded.last_hidden_state.squeeze(0), unpadded, encoded


__all__ = ["Unpadded", "check_unpadded", "encode", "flash_arguments", "takes_unpadded", "unpad"]
