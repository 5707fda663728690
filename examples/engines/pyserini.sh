#!/bin/sh
# Index vectors with Pyserini (Lucene's impact index), search, and measure.
#
#   examples/engines/pyserini.sh corpus.jsonl.gz queries.tsv qrels.txt
#
# Needs: pip install pyserini, and Java 21. corpus.jsonl.gz and queries.tsv are what `milco encode --file` takes.
set -eu

milco encode --file "$1" --output vectors --prune mass:0.95
milco encode --file "$2" --as query --output queries

# Lucene's impacts are whole numbers: weight × 100, rounded; quantization.json says what that lost.
milco export vectors --to pyserini --output collection --factor 100
# A topic repeats each dimension as often as its weight, so a smaller factor makes shorter queries.
milco export queries --to pyserini --output topics --factor 50

python -m pyserini.index.lucene --collection JsonVectorCollection --input collection --index index \
    --generator DefaultLuceneDocumentGenerator --threads 8 --impact --pretokenized
python -m pyserini.search.lucene --index index --topics topics/topics.tsv.gz --output run.trec \
    --batch-size 32 --threads 8 --hits 1000 --impact
python -m pyserini.eval.trec_eval -c -m ndcg_cut.10 -m recall.100 "$3" run.trec
