"""The LexEcho head's pooling where only positive logits count, as in LogSat: bf16 finds them, fp32 computes them.

A CPU with bf16 arithmetic multiplies twice as fast in it as in fp32. Of a text's thousands of logits a few hundred are
positive; only these, and those so near to zero that bf16 cannot tell, are computed again in fp32.
"""

import torch
from torch import Tensor

from .pooled_chunked import vocabulary_slices
from .pooled_segments import carry, check_bounds, pieces, rows_in_order

# Rounding a number to bf16 changes it by 2⁻⁸ of it at most, and by 0.0017 in the root mean square over mantissas; so a
# product z_i w_i by 0.0024, and a sum of d_e of them by 0.0024 √(Σ z_i² w_i²). This is eight times that: with d_e = 256
# numbers of one size and errors that are independent, Bernstein's inequality leaves a chance of 1e-9 for a larger one.
# What were passed over then would be a logit that is nearer to zero than this.
_SAFETY = 8 * 0.0024
# Share of the terms above which computing all of them in fp32 is quicker.
_MOST = 0.1
_FEWEST_WEIGHTS = 2**20  # of a decoder; a smaller one is not worth the trouble


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies in bf16."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return False
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))


def pays(hidden: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether screening is quicker: fp32 products of a decoder that is no toy, on a CPU that multiplies in bf16."""
    return (
        hidden.device.type == "cpu"
        and hidden.dtype == weight.dtype == dtype == torch.float32
        and weight.numel() >= _FEWEST_WEIGHTS
        and cpu_has_bf16()
    )


@torch.no_grad()
def forward(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, cu_seqlens: Tensor, chunk_elements: int
) -> Tensor | None:
    """Pooled logits: those that are positive as fp32 has them, the others not above zero.

    Args:
        hidden: States of all tokens, text after text, shape [tokens of all texts, d_e], fp32.
        weight: Shape [V_e, d_e].
        bias: Shape [V_e], or None.
        cu_seqlens: Where each text begins, and at last where the last one ends, shape [batch + 1].
        chunk_elements: About how many products exist at a time.

    Returns:
        Shape [batch, V_e], anything for texts without tokens; or None where so many terms are near zero that computing
        all in fp32 is quicker.

    Raises:
        ValueError: `cu_seqlens` does not rise from 0 to the number of tokens.
    """
    lengths = cu_seqlens.diff()
    check_bounds(cu_seqlens, lengths, len(hidden))
    batch, terms = len(lengths), len(weight)
    bias = weight.new_zeros(terms) if bias is None else bias
    pooled = weight.new_zeros((batch, terms))
    if batch == 0 or len(hidden) == 0:
        return pooled
    order = lengths.argsort(stable=True)
    states = hidden.bfloat16()[rows_in_order(cu_seqlens, lengths, order)]
    slices, limit = vocabulary_slices(terms, len(hidden), chunk_elements)
    blocks = pieces(lengths[order].tolist(), limit)
    squares = hidden.new_zeros((batch, hidden.shape[1]))  # the largest z_i² of each text
    carry(lambda where: states[where].float().square_(), blocks, order, slice(None), squares, None)
    near, found = torch.zeros((batch, terms), dtype=torch.bool), 0
    for term in slices:
        rows = weight[term]
        short = rows.bfloat16()
        carry(lambda where, short=short: states[where] @ short.T, blocks, order, term, pooled, None)
        approximate = pooled[:, term]
        unsure = _SAFETY * (squares @ rows.square().T).sqrt_()
        unsure += 2.0**-8 * approximate.abs()  # the products were rounded to bf16 too
        approximate += bias[term]
        near[:, term] = approximate > -unsure
        found += int(near[:, term].sum())
        if found > _MOST * batch * term.stop:
            return None
    pooled.clamp_(max=0)
    bounds = cu_seqlens.tolist()
    for text, of_text in enumerate(near):
        chosen = of_text.nonzero().squeeze(1)
        own = hidden[bounds[text] : bounds[text + 1]]
        if len(own) and len(chosen):
            pooled[text, chosen] = (weight[chosen] @ own.T).amax(dim=1) + bias[chosen]
    return pooled


__all__ = ["cpu_has_bf16", "forward", "pays"]
