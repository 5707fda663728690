"""Search a Milvus collection with questions in any language.

    python examples/engines/milvus_search.py --url milvus_demo.db "Regen und Sturm an der Küste"
    python examples/engines/milvus_search.py --url http://localhost:19530

A file NAME.db is Milvus Lite (`pip install milvus-lite`); MILVUS_TOKEN holds a server's credentials.
"""

from __future__ import annotations

import argparse
import tempfile

import milco_hf
from milco_hf.demo import load_texts
from milco_hf.engines import export


def main() -> None:
    """Encode, upload, search."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("queries", nargs="*", metavar="QUERY", default=["Regen und Sturm an der Küste"])
    parser.add_argument("--url", default="milvus_demo.db")
    options = parser.parse_args()

    texts = {f"demo-{number}": text.text for number, text in enumerate(load_texts())}
    with tempfile.TemporaryDirectory() as folder:
        # a real corpus stays on disk: `milco encode --file corpus.jsonl.gz --output vectors`, then `milco export`
        vectors = milco_hf.encode_corpus("milco-mini", texts.values(), ids=texts, output=f"{folder}/vectors")
        engine = export(vectors, "milvus", "milco_demo", url=options.url, replace=True)
    for query, hits in zip(options.queries, engine.search(_encoded(options.queries), k=5)):
        print(query)
        for name, score in hits:
            print(f"  {score:7.2f}  {texts[name]}")
    engine.close()


def _encoded(queries: list[str]) -> object:
    return milco_hf.encode_corpus("milco-mini", queries, kind="query", progress=False)


if __name__ == "__main__":
    main()
