"""BM25 as sparse vectors: a passage's weights are bm25s's, a query's are how often it says each word."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np
import scipy.sparse

from milco_hf.scripts import words


class Bm25:
    """An index of bm25s (Lucene's BM25, k1 = 1.5, b = 0.75), whose score is an inner product of sparse vectors.

    Args:
        corpus: passages.

    Raises:
        ImportError: bm25s is missing.
    """

    def __init__(self, corpus: Sequence[str]) -> None:
        try:
            import bm25s
        except ImportError as error:
            raise ImportError('BM25 needs the package bm25s: pip install "milco-hf[evaluate]"') from error
        self.vocabulary: dict[str, int] = {}
        ids = [[self.vocabulary.setdefault(word, len(self.vocabulary)) for word in words(text)] for text in corpus]
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG
        index = bm25s.BM25(method="lucene")
        index.index((ids, dict(self.vocabulary)), show_progress=False)
        columns = index.scores  # by word: which passages, and the weight there
        shape = (len(corpus), len(columns["indptr"]) - 1)
        by_word = scipy.sparse.csc_array((columns["data"], columns["indices"], columns["indptr"]), shape=shape)
        self.passages = scipy.sparse.csr_array(by_word)  # [passages, words]

    def queries(self, texts: Sequence[str]) -> scipy.sparse.csr_array:
        """Counts of each query's words, fp32 [texts, words]; words that no passage has are left out."""
        counts, columns, ends = [], [], [0]
        for text in texts:
            known = Counter(self.vocabulary[word] for word in words(text) if word in self.vocabulary)
            columns += known.keys()
            counts += known.values()
            ends.append(len(columns))
        parts = (np.array(counts, np.float32), np.array(columns, np.int64), np.array(ends, np.int64))
        return scipy.sparse.csr_array(parts, shape=(len(texts), self.passages.shape[1]))
