"""Tiny X-MODs whose language adapters differ, and vectors by the plainest route through them."""

from __future__ import annotations

from pathlib import Path

import torch

import tiny
from milco_hf import MilcoForSparseEncoding

TEXTS = ["old city music", "Wer hat dieses Buch geschrieben?", "the great shop", "Buch", "who wrote the old book"]
LANGUAGES = ["en", "de_DE", None, "de", "en-GB"]
ADAPTERS = ["en_XX", "de_DE", "en_XX", "de_DE", "en_XX"]


def stir(model: MilcoForSparseEncoding) -> MilcoForSparseEncoding:
    """Moves the adapters apart; they start near zero, where all languages are alike."""
    torch.manual_seed(7)
    for name, parameter in model.named_parameters():
        if ".adapter_modules." in name and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def xmod(**settings) -> MilcoForSparseEncoding:
    """A tiny model that reads English and German through different adapters, English by default."""
    return stir(tiny.model("xmod", **settings))


def checkpoint(folder: Path, **settings) -> Path:
    """`xmod`, saved."""
    model = xmod(**settings)
    model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def by_hand(model: MilcoForSparseEncoding, texts=TEXTS, adapters=ADAPTERS) -> torch.Tensor:
    """One text at a time through the encoder whose default adapter was set, as X-MOD's card does it: [texts, dims]."""
    before = model.encoder.config.default_language
    rows = []
    for text, adapter in zip(texts, adapters, strict=True):
        model.encoder.set_default_language(adapter)
        ids = torch.tensor([tiny.tokenizer()(text, truncation=True)["input_ids"]])
        hidden = model.encoder(input_ids=ids - len(tiny.TERMS)).last_hidden_state
        pivot, echo = model.head(model.connector(hidden), torch.ones_like(ids))
        weights = (
            echo[0].relu().log1p().masked_fill(torch.isin(ids[0], torch.tensor(model.config.special_token_ids)), 0)
        )
        row = torch.zeros(model.config.projection_dim)
        row[: len(tiny.TERMS)] = pivot[0].relu().log1p()
        rows.append(row.index_add(0, ids[0], weights))
    model.encoder.set_default_language(before)
    return torch.stack(rows)
