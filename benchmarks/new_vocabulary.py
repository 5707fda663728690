"""A trained checkpoint with another vocabulary for its source tokens, whose rows start in three ways (SemBridge).

    python benchmarks/new_vocabulary.py milco-mini --tokenizers runs/mini --data PARALLEL/train \
        --languages el ar he te th --output runs/new-vocabulary
    python benchmarks/variants.py training/recipes/milco-mini.yaml benchmarks/variants/new_vocabulary.yaml \
        --data PARALLEL/dev --languages el ar he te th --output runs/new-vocabulary/runs

The first command trains a tokenizer on some languages (and their English sides), which gets whole words where the old
one has crumbs, and writes the checkpoints mean, random and sembridge. Connector, head and layers stay. The bridge is
the checkpoint itself: the English terms that it reads in a token's text, projected at random to --width dimensions.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

import milco_hf
from milco_hf.assembly import assemble, milco_tokenizer, write_checkpoint
from milco_hf.bridging import Bridge
from milco_hf.model_card import CardDetails
from milco_hf.modeling import MilcoConfig
from milco_hf.new_vocabulary import INITS, encoder_config_for, match_tokens, replace_embeddings, started_rows, told
from milco_hf.training.data.files import find_files, read_pairs
from milco_hf.training.lexicon.tokenizers import train_source_tokenizer

logger = logging.getLogger(__name__)

KEPT = (
    *("pivot_vocab_size", "pivot_hidden_size", "pivot_hidden_act", "pivot_norm_eps", "pivot_norm_bias"),
    *("pivot_transform_bias", "connector_act", "echo", "echo_source", "echo_activation", "echo_pooling"),
)


class PivotBridge:
    """A MILCO checkpoint as a bridge: dense vectors of the English terms that it reads in a text."""

    def __init__(self, checkpoint: str, width: int, seed: int = 0) -> None:
        self.model = milco_hf.load(checkpoint)
        self.terms = self.model.transformers_model.config.pivot_vocab_size
        # inner products survive a random projection up to about 1 / √width
        self.projection = np.random.default_rng(seed).normal(size=(self.terms, width)).astype(np.float32)

    def encode(self, texts: Sequence[str], **options: object) -> np.ndarray:
        """[texts, width]."""
        return milco_hf.encode_corpus(self.model, list(texts))[:, : self.terms] @ self.projection


def main() -> None:
    """Train the tokenizer, start the rows, write the checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a MILCO checkpoint")
    parser.add_argument(
        "--tokenizers", type=Path, required=True, metavar="DIR", help="with its source-tokenizer and pivot-tokenizer"
    )
    parser.add_argument("--data", required=True, metavar="PATH", help="parallel text for the tokenizer")
    parser.add_argument("--languages", nargs="+", required=True, metavar="XX", help="of --data")
    parser.add_argument("--pairs", type=int, default=20000, help="of a language at most (default: 20000)")
    parser.add_argument("--size", type=int, default=32000, help="of the new vocabulary (default: 32000)")
    parser.add_argument("--width", type=int, default=1024, help="of the bridge's vectors (default: 1024)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for the checkpoints")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")

    old = AutoTokenizer.from_pretrained(options.tokenizers / "source-tokenizer")
    terms = AutoTokenizer.from_pretrained(options.tokenizers / "pivot-tokenizer")
    new = new_tokenizer(options)
    matching = match_tokens(old, new)
    bridge = Bridge(PivotBridge(options.checkpoint, options.width))
    for init in INITS:
        told("Source tokens", matching, init)
        model = milco_hf.load(options.checkpoint).transformers_model
        rows = started_rows(model.get_input_embeddings().weight.detach(), matching, init, bridge)
        encoder_config = encoder_config_for(model.encoder.config, new, matching)
        replace_embeddings(model.encoder, encoder_config, rows)
        config = MilcoConfig(
            encoder_config=encoder_config,
            **{name: getattr(model.config, name) for name in KEPT},
            training_stages=["sap"],
        )
        tokenizer = milco_tokenizer(new, terms, config)
        tensors = {name: value for name, value in model.state_dict().items() if not name.startswith("encoder.")}
        write_checkpoint(assemble(config, model.encoder, tensors), tokenizer, options.output / init, CardDetails())


def new_tokenizer(options: argparse.Namespace) -> PreTrainedTokenizerBase:
    """Trained on both sides of the pairs, or read from --output."""
    folder = options.output / "tokenizer"
    if not folder.is_dir():
        counts: dict[str, int] = {}
        texts = []
        for file in find_files(options.data):
            for pair in read_pairs(file):
                if pair.language in options.languages and counts.get(pair.language, 0) < options.pairs:
                    counts[pair.language] = counts.get(pair.language, 0) + 1
                    texts += [pair.other, pair.english]
        logger.info("%d texts: pairs by language %s", len(texts), counts)
        train_source_tokenizer(texts, options.size).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


if __name__ == "__main__":
    main()
