"""BM25 over words, or character pairs where a script has no spaces, through bm25s."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from tqdm import tqdm

from milco_hf.evaluation.topk import Best, Ranking
from milco_hf.scripts import words

if TYPE_CHECKING:
    from milco_hf.evaluation.cache import VectorCache
    from milco_hf.evaluation.collections import Collection

_DOCUMENTS = 8192
_QUERIES = 256


class Bm25System:
    """BM25 with Lucene's formula.

    Terms are what `scripts.words` gives, the same rule for every language. Documents are indexed whole: BM25 knows no
    longest input, so a collection's passage length is not for it. The index is made anew for each pool, since its
    weights depend on the pool.

    Args:
        name: What tables call it.
        k1: How soon repeated terms stop to count.
        b: How much long documents are held back.
    """

    kind = "bm25"

    def __init__(self, name: str = "bm25", k1: float = 1.5, b: float = 0.75) -> None:
        try:
            import bm25s
        except ImportError as error:
            raise ImportError('BM25 needs bm25s: pip install "milco-hf[evaluate]"') from error
        self.name = name
        self.k1 = k1
        self.b = b
        self.settings: dict[str, Any] = {"k1": k1, "b": b, "formula": "lucene", "terms": "words or character bigrams"}
        self.fingerprint = hashlib.blake2b(repr((bm25s.__version__, self.settings)).encode()).hexdigest()

    def index(self, parts: Sequence[tuple[str, Collection]], cache: VectorCache) -> Bm25Index:
        """See `System.index`."""
        return Bm25Index(self, parts)


class Bm25Index:
    """The weights of every term in every document of a pool, [documents, terms], in memory."""

    def __init__(self, system: Bm25System, parts: Sequence[tuple[str, Collection]]) -> None:
        import bm25s

        self.ids: list[str] = []
        self.vocabulary: dict[str, int] = {}
        terms: list[np.ndarray] = []
        for prefix, collection in parts:
            for document in tqdm(
                collection.documents(), desc=f"{system.name}: {collection}", leave=False, disable=None
            ):
                self.ids.append(f"{prefix}{document.id}")
                ids = [self.vocabulary.setdefault(term, len(self.vocabulary)) for term in words(document.full_text)]
                terms.append(np.asarray(ids, dtype=np.int32))
        if not self.vocabulary:
            raise ValueError(f"{', '.join(str(collection) for _, collection in parts)}: no document has a word.")
        self._backwards = sorted(self.ids, reverse=True)
        places = {name: place for place, name in enumerate(self._backwards)}
        if len(places) < len(self.ids):
            twice = next(name for name, count in Counter(self.ids).items() if count > 1)
            raise ValueError(f"{parts[0][1]}: document {twice!r} is there twice.")
        self._places = np.asarray([places[name] for name in self.ids])
        scorer = bm25s.BM25(k1=system.k1, b=system.b, method="lucene")
        built = scorer.build_index_from_ids(list(range(len(self.vocabulary))), terms, show_progress=False)
        shape = (len(self.ids), len(self.vocabulary))
        self.weights = sparse.csc_array((built["data"], built["indices"], built["indptr"]), shape=shape).tocsr()

    def search(self, queries: Sequence[str], k: int) -> Ranking:
        """See `Index.search`; a term that the query repeats counts as often."""
        counts = [Counter(self.vocabulary[t] for t in words(text) if t in self.vocabulary) for text in queries]
        rows = np.repeat(np.arange(len(queries)), [len(count) for count in counts])
        columns = np.asarray([term for count in counts for term in count], dtype=np.int64)
        values = np.asarray([n for count in counts for n in count.values()], dtype=np.float32)
        matrix = sparse.csr_array((values, (rows, columns)), shape=(len(queries), len(self.vocabulary)))
        best = Best(len(queries), k, matched_only=True)
        for first in range(0, len(self.ids), _DOCUMENTS):
            block = self.weights[first : first + _DOCUMENTS].T.tocsr()
            places = self._places[first : first + _DOCUMENTS]
            best.merge(
                [
                    best.add(start, (matrix[start : start + _QUERIES] @ block).toarray(), places)
                    for start in range(0, len(queries), _QUERIES)
                ]
            )
        return best.ranking(self._backwards)

    def statistics(self) -> dict[str, float]:
        """Different terms of a document, in the mean."""
        return {"document_dimensions": self.weights.nnz / len(self.ids)}


__all__ = ["Bm25Index", "Bm25System"]
