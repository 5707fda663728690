"""The index behind `/search` and `/explain`, and which terms made its documents match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from milco_hf.index.documents import Document
from milco_hf.serving.batching import Row
from milco_hf.serving.errors import NOT_FOUND, VALIDATION, Refused
from milco_hf.vocabulary import PIVOT_PREFIX

if TYPE_CHECKING:
    from scipy import sparse

    from milco_hf.index import Hit, Index


class Searcher:
    """An index, asked by one caller at a time (see `Lane`).

    Args:
        index: The index.
    """

    def __init__(self, index: Index) -> None:
        self.index = index

    def about(self) -> dict[str, Any]:
        """What the index says of itself."""
        return dict(self.index.info)

    def search(
        self, query: sparse.csr_array, k: int, language: str | None, wanted: Mapping[str, Any] | None
    ) -> list[Hit]:
        """The best documents of a query [1, V_e + V_s].

        Raises:
            Refused: The index cannot filter like this (422).
        """
        try:
            (hits,) = self.index.search_vectors(query, k, language=language, filter=wanted)
        except (ValueError, TypeError, KeyError) as error:
            raise Refused(422, VALIDATION, str(error)) from error
        return hits

    def text(self, name: str, passage: tuple[int, int] | None = None) -> tuple[str, str | None]:
        """What the model reads of a document, or of a passage of it, and in which language.

        Raises:
            Refused: The index has no such document (404).
        """
        try:
            (document,) = self.index.documents([name])
        except KeyError:
            raise Refused(404, NOT_FOUND, f"The index has no document {name!r}.") from None
        return document.encoded_text(*(passage or ())), document.language


def read_text(hit: Hit) -> str:
    """What the model reads of a document that was found: the title, and the text or the passage that matched."""
    return Document(hit.text, title=hit.title).encoded_text(*(hit.passage or ()))


def matched_terms(query: Row, document: Row, names: Sequence[str], limit: int) -> list[dict[str, Any]]:
    """The dimensions that two vectors share, what adds most to the score first.

    Args:
        query: The query's columns and weights.
        document: The document's.
        names: The names of the query's columns.
        limit: How many are listed; shares are of all of them.
    """
    shared, mine, theirs = np.intersect1d(query[0], document[0], assume_unique=True, return_indices=True)
    products = query[1][mine].astype(np.float64) * document[1][theirs]
    total = products.sum()
    found = []
    for place in np.argsort(-products, kind="stable")[:limit] if len(shared) else []:
        name = names[mine[place]]
        found.append(
            {
                "term": name.removeprefix(PIVOT_PREFIX),
                "view": "english" if name.startswith(PIVOT_PREFIX) else "source",
                "query": round(float(query[1][mine[place]]), 4),
                "document": round(float(document[1][theirs[place]]), 4),
                "share": round(float(products[place] / total), 4),
            }
        )
    return found


__all__ = ["Searcher", "matched_terms", "read_text"]
