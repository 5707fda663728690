"""A small X-MOD as MILCO's encoder, to see whether training on English alone carries over to other languages.

    python benchmarks/small_xmod.py milco-mini --tokenizers runs/mini --languages en de el ar zh --output runs/xmod/new
    python benchmarks/variants.py training/recipes/milco-mini.yaml benchmarks/variants/xmod_alignment.yaml --seeds 0 \
        --data PARALLEL/dev --languages de el ar zh --keep --output runs/xmod/sap
    python benchmarks/variants.py training/recipes/milco-mini-sct.yaml benchmarks/variants/xmod_english.yaml --seeds 0 \
        --data XQUAD-R --languages en de el ar zh --output runs/xmod/sct

facebook/xmod-base, pretrained on 81 languages, is what one would take; this stands in for it where nothing can be
downloaded. Token embeddings, connector and head are the checkpoint's, layers and adapters are new: some minutes
of SAP with all languages take the place of pretraining. Then SCT sees English alone.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from new_vocabulary import KEPT
from transformers import AutoTokenizer, XmodConfig, XmodModel, set_seed

import milco_hf
from milco_hf.assembly import assemble, milco_tokenizer, write_checkpoint
from milco_hf.model_card import CardDetails
from milco_hf.modeling import MilcoConfig


def main() -> None:
    """Build and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="a MILCO checkpoint, for all but the layers")
    parser.add_argument(
        "--tokenizers", type=Path, required=True, metavar="DIR", help="with its source-tokenizer and pivot-tokenizer"
    )
    parser.add_argument("--languages", nargs="+", required=True, metavar="XX", help="each gets an adapter")
    parser.add_argument("--layers", type=int, default=3, help="(default: 3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    set_seed(options.seed)

    model = milco_hf.load(options.checkpoint).transformers_model
    like = model.encoder.config
    encoder_config = XmodConfig(
        vocab_size=like.vocab_size,
        hidden_size=like.hidden_size,
        num_hidden_layers=options.layers,
        num_attention_heads=like.num_attention_heads,
        intermediate_size=like.intermediate_size,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=like.pad_token_id,
        bos_token_id=like.bos_token_id,
        eos_token_id=like.eos_token_id,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        languages=options.languages,
        default_language="en" if "en" in options.languages else options.languages[0],
    )
    encoder = XmodModel(encoder_config, add_pooling_layer=False)
    with torch.no_grad():
        encoder.get_input_embeddings().weight.copy_(model.get_input_embeddings().weight)
    settings = {name: getattr(model.config, name) for name in KEPT}
    config = MilcoConfig(encoder_config=encoder_config, default_language=encoder_config.default_language, **settings)
    source, terms = (
        AutoTokenizer.from_pretrained(options.tokenizers / name) for name in ("source-tokenizer", "pivot-tokenizer")
    )
    tokenizer = milco_tokenizer(source, terms, config)
    tensors = {name: value for name, value in model.state_dict().items() if not name.startswith("encoder.")}
    write_checkpoint(assemble(config, encoder, tensors, options.seed), tokenizer, options.output, CardDetails())


if __name__ == "__main__":
    main()
