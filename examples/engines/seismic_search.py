"""Write vectors as Seismic's JSON lines, build its index, and search with questions in any language.

    pip install pyseismic-lsr
    python examples/engines/seismic_search.py "Regen und Sturm an der Küste"

`milco_hf.Index` does all of this, and keeps texts and the model's fingerprint beside the index; this is for those who
tune Seismic themselves.
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np
from seismic import SeismicIndex, get_seismic_string

import milco_hf
from milco_hf.demo import load_texts
from milco_hf.engines import write_seismic


def main() -> None:
    """Encode, write, build, search."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("queries", nargs="*", metavar="QUERY", default=["Regen und Sturm an der Küste"])
    options = parser.parse_args()

    texts = {f"demo-{number}": text.text for number, text in enumerate(load_texts())}
    with tempfile.TemporaryDirectory() as folder:
        vectors = milco_hf.encode_corpus("milco-mini", texts.values(), ids=texts, output=f"{folder}/vectors")
        write_seismic(vectors, f"{folder}/documents.jsonl")
        index = SeismicIndex.build(f"{folder}/documents.jsonl")
    queries = milco_hf.encode_corpus("milco-mini", options.queries, kind="query", progress=False)
    for number, query in enumerate(options.queries):
        row = queries[[number]]
        terms = row.indices.astype(str).astype(get_seismic_string())  # dimensions are named by their numbers
        hits = index.search(str(number), terms, row.data.astype(np.float32), k=5, query_cut=20, heap_factor=0.9)
        print(query)
        for _, score, name in hits:
            print(f"  {score:7.2f}  {texts[name]}")


if __name__ == "__main__":
    main()
