"""Language bias in a pool of all languages: what is ranked high for its language, not for what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from milco_hf.evaluation.collections import Qrels

SEPARATOR = ":"
ENGLISH = "en"
TOP = 10


@dataclass(frozen=True)
class Bias:
    """How a query language's rankings favour one language.

    Attributes:
        share_in_top: Share of the first ten documents that are in the language, averaged over queries that found any.
        share_among_relevant: Share of the relevant documents that are in it, averaged over queries.
        excess: `share_in_top` − `share_among_relevant`; 0 for a system without bias (and with nothing but relevant
            documents on top), positive when the language is favoured.
        outranked: Of all pairs of a query and a relevant document that is *not* in the language, the share in which at
            least one unrelated document that is in it stands above the relevant one. Where the run does not hold the
            relevant document, every unrelated document of the run stands above it.
        pairs: How many such pairs.
    """

    share_in_top: float
    share_among_relevant: float
    excess: float
    outranked: float
    pairs: int

    def as_dict(self) -> dict[str, float]:
        """By name, for JSON."""
        return asdict(self)


def language_bias(run: Mapping[str, Mapping[str, float]], qrels: Qrels, language: str) -> Bias:
    """How rankings of a mixed pool favour one language.

    Args:
        run: Scores by query id and document id, best first; document ids start with their language and a colon.
        qrels: Relevance by query id and document id, of every query.
        language: The language that may be favoured: the queries' own, or English.

    Raises:
        ValueError: There are no queries.
    """
    if not qrels:
        raise ValueError("Language bias needs at least one query.")
    top, relevant, outranked = [], [], []
    for query, row in qrels.items():
        wanted = {document for document, relevance in row.items() if relevance > 0}
        relevant.append(np.mean([_in(document, language) for document in wanted]))
        found = list(run.get(query, ()))
        if found:
            top.append(np.mean([_in(document, language) for document in found[:TOP]]))
        rank = {document: place for place, document in enumerate(found)}
        unrelated = next((p for p, d in enumerate(found) if d not in wanted and _in(d, language)), len(found) + 1)
        outranked += [unrelated < rank.get(document, len(found)) for document in wanted if not _in(document, language)]
    share, expected = float(np.mean(top)) if top else 0.0, float(np.mean(relevant))
    return Bias(
        share_in_top=share,
        share_among_relevant=expected,
        excess=share - expected,
        outranked=float(np.mean(outranked)) if outranked else 0.0,
        pairs=len(outranked),
    )


def _in(document: str, language: str) -> bool:
    return document.startswith(f"{language}{SEPARATOR}")


__all__ = ["ENGLISH", "SEPARATOR", "TOP", "Bias", "language_bias"]
