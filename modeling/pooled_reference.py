"""The LexEcho head's pooling as the paper writes it: every logit, then the maximum. The others must equal it."""

import torch
from torch import Tensor


def max_over_tokens(hidden: Tensor, weight: Tensor, mask: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The largest inner product over a text's real tokens, with all batch × tokens × terms of them in memory.

    Autograd does the backward pass.

    Args:
        hidden: Shape [batch, tokens, d_e].
        weight: Shape [V_e, d_e].
        mask: True for real tokens, shape [batch, tokens].
        dtype: What the products are computed in.

    Returns:
        Maxima [batch, V_e] in fp32 or wider, and the token that each one comes from, the lowest where several are
        equal, [batch, V_e] in int64. Both hold anything for a text without real tokens.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    if hidden.shape[1] == 0:  # nothing to take a maximum of, but the result still hangs on its inputs
        maxima = hidden.sum(dim=1).to(wide) @ weight.to(wide).T
        return maxima, torch.zeros_like(maxima, dtype=torch.int64)
    with torch.autocast(hidden.device.type, enabled=False):
        logits = hidden.to(dtype) @ weight.to(dtype).T  # [batch, tokens, terms]
        logits = logits.masked_fill(~mask.unsqueeze(-1), torch.finfo(dtype).min)
        maxima, winners = logits.max(dim=1)
    return maxima.to(wide), winners


__all__ = ["max_over_tokens"]
