"""The three settings: whose queries are put to which documents, and what is relevant there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from milco_hf.evaluation.bias import SEPARATOR
from milco_hf.evaluation.collections import Collection, Qrels

SETTINGS = ("monolingual", "matrix", "mixed")
POOL = "all"


@dataclass(frozen=True)
class Pool:
    """Documents that are searched together.

    Attributes:
        name: Their language, or "all".
        parts: Collections, each with the prefix of its documents' ids.
    """

    name: str
    parts: tuple[tuple[str, Collection], ...]


@dataclass
class Trial:
    """One language's queries against one pool."""

    queries: Collection
    pool: Pool
    qrels: Qrels = field(repr=False)

    @property
    def label(self) -> str:
        """For file names and messages: de, de-en or de-all."""
        own = self.pool.name == self.queries.document_language and self.pool.parts[0][1] is self.queries
        return self.queries.language if own else f"{self.queries.language}-{self.pool.name}"


def plan(setting: str, collections: Sequence[Collection]) -> list[tuple[Pool, list[Trial]]]:
    """Every pool with what is asked of it.

    - `monolingual`: each language's queries to its own documents.
    - `matrix`: every language's queries to every language's documents. The languages are parallel: a document has the
      same id in each of them.
    - `mixed`: every language's queries to one pool of all documents, whose ids become `de:p7`; relevant are the
      relevant documents in every language.

    Raises:
        ValueError: An unknown setting; fewer than two languages, or a language twice, where they are put together;
            answer strings in place of judgements in a mixed pool.
    """
    if setting not in SETTINGS:
        raise ValueError(f"setting has to be one of {', '.join(SETTINGS)}, got {setting!r}.")
    if setting == "monolingual":
        pools = [Pool(each.document_language, (("", each),)) for each in collections]
        return [(pool, [Trial(each, pool, each.qrels)]) for pool, each in zip(pools, collections)]
    name = collections[0].name
    languages = [each.language for each in collections]
    if len(languages) < 2 or len(set(languages)) < len(languages):
        raise ValueError(
            f"The {setting} setting needs at least two different languages of a parallel collection; {name} has "
            f"{', '.join(languages)}."
        )
    if any(each.answers is not None or each.document_language != each.language for each in collections):
        raise ValueError(
            f"{name} has one language of documents (or answers in place of judgements), so the {setting} setting "
            "means nothing for it; use monolingual."
        )
    if setting == "matrix":
        pools = [Pool(each.language, (("", each),)) for each in collections]
        return [(pool, [Trial(each, pool, each.qrels) for each in collections]) for pool in pools]
    pool = Pool(POOL, tuple((f"{each.language}{SEPARATOR}", each) for each in collections))
    return [(pool, [Trial(each, pool, _everywhere(each.qrels, languages)) for each in collections])]


def _everywhere(qrels: Qrels, languages: Sequence[str]) -> Qrels:
    return {
        query: {f"{code}{SEPARATOR}{document}": value for code in languages for document, value in row.items()}
        for query, row in qrels.items()
    }


__all__ = ["POOL", "SETTINGS", "Pool", "Trial", "plan"]
