"""Convert a checkpoint of the MILCO research release, and look at what it gives.

    python examples/convert_release.py released --output milco-converted
    python examples/convert_release.py released --output milco-converted --encoder ./bge-m3 --pivot ./splade-v3

The converted folder needs neither the encoder's nor the English model's repository any more, and its dimensions keep
their order: indexes built with the release stay valid. `milco convert` does the same from a shell.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import milco_hf


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert, load, encode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="folder or Hub id of the research checkpoint")
    parser.add_argument("--output", required=True, help="folder for the converted checkpoint")
    parser.add_argument("--encoder", help="the multilingual encoder (default: the one its config names)")
    parser.add_argument("--pivot", help="the English model with the tokenizer (default: the one its config names)")
    options = parser.parse_args(arguments)

    milco_hf.convert(options.checkpoint, options.output, encoder=options.encoder, pivot=options.pivot)

    model = milco_hf.load(options.output)
    texts = ["Who wrote this book?", "¿Quién escribió este libro?"]
    embeddings = model.encode_document(texts)
    for text, terms in zip(texts, model.decode(embeddings, top_k=6)):
        print(text, "→", ", ".join(f"{term} {weight:.2f}" for term, weight in terms))

    # The release's own calls work on the AutoModel as well, with its argument names and its dictionaries.
    automodel = model[0].auto_model
    (weights,) = automodel.encode_query(texts[:1], return_dict=True)
    print("the release's format:", dict(list(weights.items())[:4]))


if __name__ == "__main__":
    main()
