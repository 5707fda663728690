"""Models without [ECHO], for training and ablations without the source view."""

from __future__ import annotations

import torch
from torch import nn

from milco_hf.modeling import MilcoForSparseEncoding


def remove_echo(model: MilcoForSparseEncoding) -> None:
    """Take [ECHO] out of a model for good: its row of the decoder or its own layer goes, and `config.echo` is off.

    Its vectors keep their V_e + V_s dimensions, the source tokens' ones at 0; its pivot view stays as it is.
    """
    model.config.echo = False
    model.echo = None
    decoder = model.head.decoder
    if not decoder.echo_row:
        return
    terms = model.config.pivot_vocab_size
    with torch.no_grad():
        decoder.weight = nn.Parameter(decoder.weight[:terms].clone())
        decoder.bias = nn.Parameter(decoder.bias[:terms].clone())
    decoder.out_features, decoder.echo_row = terms, False
