"""Where a run cut and padded its texts: the tokenizer remembers it, and a checkpoint must not."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

_REMEMBERED = (
    "max_length",
    "stride",
    "truncation_strategy",
    "pad_to_multiple_of",
    "pad_token_type_id",
    "padding_strategy",
)


def without_lengths(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Forget where the last call cut and padded its texts.

    transformers sets both anew with each call, but tokenizer.json keeps them, and those who read it without
    transformers would cut their texts there too.

    Args:
        tokenizer: changed in place.

    Returns:
        The same tokenizer.
    """
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    for name in _REMEMBERED:
        tokenizer.init_kwargs.pop(name, None)
    return tokenizer
