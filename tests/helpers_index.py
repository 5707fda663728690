"""Documents in several languages with metadata, and what exact search has to find among them."""

from __future__ import annotations

import argparse

import numpy as np

import tiny
from helpers_tokenizers import SENTENCES
from milco_hf import encode_corpus
from milco_hf.cli import index as index_verb
from milco_hf.cli import search as search_verb

DOCUMENTS = [
    {
        "id": f"{language}-{number}",
        "text": text,
        "language": ["de", "ru", "zh"][place % 3],
        "year": 2000 + place,
        "tags": [language, number],
    }
    for place, (language, pair) in enumerate(SENTENCES.items())
    for number, text in enumerate(pair)
]
TEXTS = [document["text"] for document in DOCUMENTS]
QUERIES = ["old city", "music", "Wer hat dieses Buch geschrieben", tiny.TEXTS[-1]]


def expected(model, texts, queries, k=10, **options):
    """(rows, scores) of each query by dense products, best first, of equal scores the first document first."""
    documents = encode_corpus(model, texts, progress=False, **options).toarray()
    asked = encode_corpus(model, queries, kind="query", progress=False, **options).toarray()
    result = []
    for row in asked @ documents.T:
        order = [place for place in np.argsort(-row, kind="stable")[:k] if row[place] > 0]
        result.append((order, row[order]))
    return result


def assert_found(hits, wanted, ids):
    """The same documents with the same scores; neighbours may change places where scores are equal but for rounding."""
    for found, (order, scores) in zip(hits, wanted, strict=True):
        np.testing.assert_allclose([hit.score for hit in found], scores, rtol=1e-5)
        for hit, place, score in zip(found, order, scores, strict=True):
            assert hit.id == ids[place] or np.isclose(score, hit.score, rtol=1e-5)
        clear = [place for place in order if np.sum(np.isclose(scores, scores[order.index(place)], rtol=1e-5)) == 1]
        assert {ids[place] for place in clear[:-1]} <= {hit.id for hit in found}


def command(*arguments):
    """`milco index …` or `milco search …`, with the errors as they are."""
    root = argparse.ArgumentParser()
    verbs = root.add_subparsers(required=True)
    for verb in (index_verb, search_verb):
        verb.add_parser(verbs, [])
    options = root.parse_args([str(argument) for argument in arguments])
    options.run(options)
