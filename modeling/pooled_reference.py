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


def max_over_segments(hidden: Tensor, weight: Tensor, cu_seqlens: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """As `max_over_tokens`, of texts that lie one after the other without padding.

    Args:
        hidden: Shape [tokens of all texts, d_e].
        weight: Shape [V_e, d_e].
        cu_seqlens: Where each text begins, and at last where the last one ends, shape [batch + 1].
        dtype: What the products are computed in.

    Returns:
        Maxima and winners as `max_over_tokens`; winners count from each text's first token.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    with torch.autocast(hidden.device.type, enabled=False):
        logits = hidden.to(dtype) @ weight.to(dtype).T  # [tokens, terms]
        found = [_largest(text) for text in logits.split(cu_seqlens.diff().tolist())]
    if not found:
        return logits[:0].to(wide), torch.zeros_like(logits[:0], dtype=torch.int64)
    maxima, winners = (torch.stack(parts) for parts in zip(*found, strict=True))
    return maxima.to(wide), winners


def _largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum and place over the tokens of one text; a sum of none where it has none."""
    if len(logits) == 0:
        return logits.sum(dim=0), torch.zeros(logits.shape[1], dtype=torch.int64, device=logits.device)
    return logits.max(dim=0)


__all__ = ["max_over_segments", "max_over_tokens"]
