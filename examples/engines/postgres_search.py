"""Search a table of PostgreSQL with pgvector (0.7 or newer) with questions in any language.

docker run -p 5432:5432 -e POSTGRES_PASSWORD=example pgvector/pgvector:pg17
PGPASSWORD=example python examples/engines/postgres_search.py --url postgresql://postgres@localhost/postgres
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
    parser.add_argument("--url", default="postgresql://postgres@localhost/postgres")
    parser.add_argument("--hnsw", action="store_true", help="approximate search with an index")
    options = parser.parse_args()

    texts = {f"demo-{number}": text.text for number, text in enumerate(load_texts())}
    with tempfile.TemporaryDirectory() as folder:
        # a real corpus stays on disk: `milco encode --file corpus.jsonl.gz --output vectors`, then `milco export`
        vectors = milco_hf.encode_corpus("milco-mini", texts.values(), ids=texts, output=f"{folder}/vectors")
        engine = export(vectors, "postgres", "milco_demo", url=options.url, hnsw=options.hnsw, replace=True)
    for query, hits in zip(options.queries, engine.search(_encoded(options.queries), k=5)):
        print(query)
        for name, score in hits:
            print(f"  {score:7.2f}  {texts[name]}")
    engine.close()


def _encoded(queries: list[str]) -> object:
    return milco_hf.encode_corpus("milco-mini", queries, kind="query", progress=False)


if __name__ == "__main__":
    main()
