r"""Search an Elasticsearch index (8.15 or newer) with questions in any language.

    docker run -p 9200:9200 -e discovery.type=single-node -e xpack.security.enabled=false \
        docker.elastic.co/elasticsearch/elasticsearch:9.2.0
    python examples/engines/elasticsearch_search.py "Regen und Sturm an der Küste"

With security on: ELASTICSEARCH_API_KEY, or ELASTICSEARCH_USERNAME and ELASTICSEARCH_PASSWORD, and --ca for the
certificate.
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
    parser.add_argument("--url", default="http://localhost:9200")
    parser.add_argument("--ca", help="file of the authority that signed the server's certificate")
    options = parser.parse_args()

    texts = {f"demo-{number}": text.text for number, text in enumerate(load_texts())}
    with tempfile.TemporaryDirectory() as folder:
        # a real corpus stays on disk: `milco encode --file corpus.jsonl.gz --output vectors`, then `milco export`
        vectors = milco_hf.encode_corpus("milco-mini", texts.values(), ids=texts, output=f"{folder}/vectors")
        engine = export(
            vectors, "elasticsearch", "milco_demo", url=options.url, verify=options.ca or True, replace=True
        )
    for query, hits in zip(options.queries, engine.search(_encoded(options.queries), k=5)):
        print(query)
        for name, score in hits:
            print(f"  {score:7.2f}  {texts[name]}")
    engine.close()


def _encoded(queries: list[str]) -> object:
    return milco_hf.encode_corpus("milco-mini", queries, kind="query", progress=False)


if __name__ == "__main__":
    main()
