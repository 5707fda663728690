"""Search texts in many languages with a query in any other.

    python examples/cross_lingual_search.py "Regen und Sturm an der Küste" "old books in the library"
    python examples/cross_lingual_search.py --texts my_sentences.txt "…"

Exact search over sparse vectors with torch: enough for tens of thousands of texts in memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import milco_hf
from milco_hf.demo import load_texts


def main(arguments: Sequence[str] | None = None) -> None:
    """Encode the texts once, then answer each query."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("queries", nargs="*", metavar="QUERY", default=["Regen und Sturm an der Küste"])
    parser.add_argument("--model", default="milco-mini", help="bundled name, folder or Hub id (default: milco-mini)")
    parser.add_argument("--texts", type=Path, help="file with one text a line (default: the demo's texts)")
    parser.add_argument("--count", type=int, default=5, help="hits for each query (default: 5)")
    options = parser.parse_args(arguments)

    if options.texts:
        texts = [line for line in options.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        texts = [text.text for text in load_texts()]
    model = milco_hf.load(options.model)
    documents = model.encode_document(texts, show_progress_bar=len(texts) > 1000)
    queries = model.encode_query(options.queries)

    scores = model.similarity(queries, documents).to_dense()  # [queries, texts]
    best = scores.topk(min(options.count, len(texts)))
    for i, query in enumerate(options.queries):
        print(query)
        for score, j in zip(best.values[i].tolist(), best.indices[i].tolist()):
            # the dimensions that both vectors have, and what each adds to the score
            shared = model.intersection(queries[i], documents[j])
            reasons = ", ".join(f"{term} {weight:.1f}" for term, weight in model.decode(shared, top_k=4))
            print(f"  {score:7.2f}  {texts[j]}\n           ({reasons})")


if __name__ == "__main__":
    main()
