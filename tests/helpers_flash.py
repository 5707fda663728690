"""Flash attention's functions in plain PyTorch, so that what transformers does with them runs on a CPU."""

from __future__ import annotations

import torch
from transformers import modeling_flash_attention_utils as utils

CALLS: list[int] = []
"""Texts of each call without padding, so that tests see that it happened."""


def _attend(q, k, v, softmax_scale, window_size):
    """One text: [tokens, heads, width] each."""
    scale = softmax_scale or q.shape[-1] ** -0.5
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    if window_size != (-1, -1):
        place = torch.arange(len(q))
        distance = place[None] - place[:, None]
        scores = scores.masked_fill((distance < -window_size[0]) | (distance > window_size[1]), float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1)):
    """[batch, tokens, heads, width], no padding."""
    assert not causal
    assert not dropout_p
    return torch.stack([_attend(*text, softmax_scale, window_size) for text in zip(q, k, v, strict=True)])


def flash_attn_varlen_func(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
):
    """[tokens of all texts, heads, width]."""
    assert not causal
    assert not dropout_p
    lengths = cu_seqlens_q.diff()
    assert cu_seqlens_q.dtype == torch.int32
    assert torch.equal(cu_seqlens_q, cu_seqlens_k)
    assert int(lengths.max()) == max_seqlen_q == max_seqlen_k
    assert int(cu_seqlens_q[-1]) == len(q)
    CALLS.append(len(lengths))
    parts = (tensor.split(lengths.tolist()) for tensor in (q, k, v))
    return torch.cat([_attend(*text, softmax_scale, window_size) for text in zip(*parts, strict=True)])


def install(monkeypatch) -> None:
    """Lets transformers find these functions as flash_attention_2."""
    found = (flash_attn_func, flash_attn_varlen_func, None, utils._pad_input, utils._unpad_input)
    monkeypatch.setattr(utils, "_loaded_implementation", "flash_attention_2")
    for name, function in zip(
        ("_flash_fn", "_flash_varlen_fn", "_flash_with_kvcache_fn", "_pad_fn", "_unpad_fn"), found, strict=True
    ):
        monkeypatch.setattr(utils, name, function)
    monkeypatch.setattr(utils, "_process_flash_kwargs_fn", utils._lazy_define_process_function(flash_attn_varlen_func))
    monkeypatch.setattr(utils, "_process_with_kvcache_kwargs_fn", dict)
    CALLS.clear()


def switch_on(model) -> None:
    """What `attn_implementation="flash_attention_2"` does, without its look for a GPU."""
    model.config._attn_implementation = "flash_attention_2"
    model.encoder.config._attn_implementation = "flash_attention_2"
