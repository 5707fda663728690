"""A multilingual head in place of connector and English head: the paper's Table of ablations, its first row.

    python benchmarks/multilingual_head.py runs/mini/start --tokenizers runs/mini --data PARALLEL/train \
        --output runs/ablation/multilingual-head
    python benchmarks/variants.py training/recipes/milco-mini-sct.yaml benchmarks/variants/ablation.yaml …

Its terms are the source tokens that most texts of all languages have; their rows start from the tokens' embeddings, as
a masked language model ties them. Connector and transform start as identities, without activation, so that nothing
lies between encoder and head. The encoder is the checkpoint's; [ECHO] is taken out, since all terms are source tokens.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

import milco_hf
from milco_hf.assembly import assemble, milco_tokenizer, write_checkpoint
from milco_hf.model_card import CardDetails
from milco_hf.modeling import MilcoConfig
from milco_hf.training.data.pairs import load_pairs
from milco_hf.training.data.sources import SourceSpec
from milco_hf.training.lexicon.association import token_presence


def main() -> None:
    """Count, build, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a MILCO checkpoint, for its encoder")
    parser.add_argument("--tokenizers", type=Path, required=True, metavar="DIR", help="with its source-tokenizer")
    parser.add_argument("--data", required=True, metavar="PATH", help="parallel text, in which tokens are counted")
    parser.add_argument("--pairs", type=int, default=5000, help="of a language at most (default: 5000)")
    parser.add_argument("--terms", type=int, default=12000, help="(default: 12000, as many as milco-mini's English)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")

    encoder = milco_hf.load(options.checkpoint).transformers_model.encoder
    source = AutoTokenizer.from_pretrained(options.tokenizers / "source-tokenizer")
    pairs = load_pairs([SourceSpec(options.data, max_pairs=options.pairs)])
    chosen = frequent_tokens(source, [*pairs.texts("other"), *pairs.texts("english")], options.terms)
    width = encoder.config.hidden_size
    config = MilcoConfig(
        encoder_config=encoder.config,
        pivot_vocab_size=len(chosen),
        pivot_hidden_size=width,
        pivot_hidden_act="linear",
        connector_act="linear",
        echo=False,
    )
    tokenizer = milco_tokenizer(source, source.convert_ids_to_tokens(chosen), config)
    rows = encoder.get_input_embeddings().weight.detach()[torch.tensor(chosen)]
    model = assemble(config, encoder, head_tensors(rows))
    write_checkpoint(model, tokenizer, options.output, CardDetails())


def frequent_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], number: int) -> list[int]:
    """The tokens that most texts have, special ones left out, in the order of their ids."""
    presence = token_presence(texts, tokenizer)
    texts_with = np.asarray(presence.sum(axis=0)).ravel()
    texts_with[tokenizer.all_special_ids] = 0
    return sorted(np.argsort(-texts_with, kind="stable")[:number].tolist())


def head_tensors(rows: Tensor, weight: float = 0.1, threshold: float = 0.4) -> dict[str, Tensor]:
    """Everything but the encoder, so that a state which is a term's own embedding gets that term.

    Args:
        rows: The terms' embeddings, [terms, width].
        weight: The logit of a term whose own direction a state has. At 0.1, passages get vectors of about unit length,
            as SAP's are.
        threshold: The cosine between a state and a term from which on the term is active.
    """
    terms, width = rows.shape
    length = width**0.5  # of a state after the head's LayerNorm
    slope = weight / (1 - threshold)
    return {
        "connector.dense.weight": torch.eye(width),
        "connector.dense.bias": torch.zeros(width),
        "head.dense.weight": torch.eye(width),
        "head.dense.bias": torch.zeros(width),
        "head.norm.weight": torch.ones(width),
        "head.norm.bias": torch.zeros(width),
        "head.decoder.weight": torch.nn.functional.normalize(rows) * (slope / length),
        "head.decoder.bias": torch.full((terms,), -slope * threshold),
    }


if __name__ == "__main__":
    main()
