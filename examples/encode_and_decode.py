"""Encode texts in any language and read their vectors as weighted terms.

python examples/encode_and_decode.py
python examples/encode_and_decode.py --model ./milco-560m "Кто написал эту книгу?" "誰がこの本を書きましたか。"
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import milco_hf

TEXTS = ["Who wrote this book?", "Кто написал эту книгу?", "誰がこの本を書きましたか。", "Nani aliandika kitabu hiki?"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Encode, decode, and compare the first text with the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts in any language")
    parser.add_argument("--model", default="milco-mini", help="bundled name, folder or Hub id (default: milco-mini)")
    parser.add_argument("--top-k", type=int, default=8, help="terms to show of each text (default: 8)")
    options = parser.parse_args(arguments)
    texts = options.texts or TEXTS

    # milco_hf.load returns a sentence-transformers SparseEncoder
    model = milco_hf.load(options.model)
    embeddings = model.encode_document(texts)  # sparse, [texts, V_e + V_s]

    for text, terms in zip(texts, model.decode(embeddings, top_k=options.top_k)):
        # English terms are named "en: book", echoed source tokens by their own piece
        print(text)
        print("   ", ", ".join(f"{term} {weight:.2f}" for term, weight in terms))

    print("\nSimilarity to the first text (dot product):")
    for text, score in zip(texts, model.similarity(embeddings, embeddings).to_dense()[0].tolist()):
        print(f"{score:8.2f}  {text}")

    statistics = model.sparsity(embeddings)
    print(f"\n{statistics['active_dims']:.0f} of {embeddings.shape[1]:,} dimensions are active in a text, on average.")


if __name__ == "__main__":
    main()
