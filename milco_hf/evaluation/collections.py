"""A collection: documents that are read when needed, queries, and who is relevant to whom."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

Qrels = dict[str, dict[str, int]]
_NAMED = 3  # ids that an error message names


@dataclass(frozen=True)
class Document:
    """One document as it lies in its collection."""

    id: str
    text: str
    title: str = ""

    @property
    def full_text(self) -> str:
        """Title and text, as BEIR's own code joins them."""
        return f"{self.title} {self.text}".strip()


@dataclass
class Collection:
    """One language's queries with the documents they are put to.

    Attributes:
        name: What the collection is called; the languages of a parallel collection share it.
        language: The queries' language code, "und" where nobody said; models with language adapters read by it.
        queries: Text by query id.
        qrels: Relevance by query id and document id; every query has a relevant document (`checked` sees to it).
        read: Gives a fresh pass over the documents, which are never all in memory.
        corpus_key: Changes whenever the documents do; cached vectors are found by it.
        document_language: The documents' language where it is another.
        passage_length: Documents are split into passages of this many words (see `passages.py`); None: not at all.
        answers: Answer strings by query id in place of qrels (MKQA): a passage that contains one is relevant.
        ignore_same_id: Never count a document whose id is the query's: the query itself (ArguAna, Quora).
        dropped: What `checked` left out.
    """

    name: str
    language: str
    queries: dict[str, str]
    qrels: Qrels
    read: Callable[[], Iterable[Document]]
    corpus_key: str
    document_language: str = ""
    passage_length: int | None = None
    answers: Mapping[str, tuple[str, ...]] | None = None
    ignore_same_id: bool = False
    dropped: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.document_language = self.document_language or self.language
        documents = {document for row in self.qrels.values() for document in row}
        for kind, ids in (("query", self.queries), ("document", documents)):
            for identifier in ids:
                _check_id(self, kind, identifier)

    def __str__(self) -> str:
        return f"{self.name} [{self.language}]"

    def documents(self) -> Iterator[Document]:
        """A fresh pass over the documents.

        Raises:
            ValueError: An id is empty, holds whitespace, or there are no documents at all.
        """
        empty = True
        for document in self.read():
            empty = False
            _check_id(self, "document", document.id)
            yield document
        if empty:
            raise ValueError(f"{self} has no documents.")

    @classmethod
    def from_texts(
        cls,
        name: str,
        language: str,
        documents: Mapping[str, str],
        queries: Mapping[str, str],
        qrels: Mapping[str, Mapping[str, int]],
    ) -> Collection:
        """A collection whose texts are in memory.

        Raises:
            ValueError: Judgements and queries do not fit each other.
        """
        texts = dict(documents)
        key = hashlib.blake2b(repr(sorted(texts.items())).encode(), digest_size=16).hexdigest()
        return checked(
            cls(
                name=name,
                language=language,
                queries=dict(queries),
                qrels={query: dict(row) for query, row in qrels.items()},
                read=lambda: (Document(identifier, text) for identifier, text in texts.items()),
                corpus_key=key,
            )
        )


def checked(collection: Collection, lenient: bool = False, other_splits: bool = False) -> Collection:
    """The collection with queries and judgements that fit each other.

    Args:
        collection: As it was read.
        lenient: Drop queries without relevant documents, and judgements of unknown queries, in place of an error.
        other_splits: The queries may belong to other splits too (BEIR's `queries.jsonl` holds them all), so those that
            the judgements do not name are left out without a word.

    Raises:
        ValueError: Judgements name unknown queries, or a query has no relevant document.
    """
    if collection.answers is not None:
        return collection
    unknown = [query for query in collection.qrels if query not in collection.queries]
    if unknown and not lenient:
        raise ValueError(
            f"{collection}: the judgements name {len(unknown)} queries that are not among its "
            f"{len(collection.queries)}: {_some(unknown)}. Put them right, or drop them with lenient (--lenient)."
        )
    queries, without = {}, []
    for query, text in collection.queries.items():
        if any(relevance > 0 for relevance in collection.qrels.get(query, {}).values()):
            queries[query] = text
        elif query in collection.qrels or not other_splits:
            without.append(query)
    if without and not lenient:
        raise ValueError(
            f"{collection}: {len(without)} of {len(collection.queries)} queries have no relevant document: "
            f"{_some(without)}. Put them right, or drop them with lenient (--lenient)."
        )
    if not queries:
        raise ValueError(f"{collection} has no query with a relevant document.")
    if unknown or without:
        logger.warning("%s: dropped %d queries without relevant documents.", collection, len(without))
        collection.dropped = {"queries_without_relevant_documents": len(without), "unknown_queries": len(unknown)}
    collection.queries = queries
    collection.qrels = {query: collection.qrels[query] for query in queries}
    return collection


def check_documents(collection: Collection, qrels: Qrels, known: Iterable[str], lenient: bool = False) -> None:
    """Makes sure that relevant documents exist, once their ids are known.

    Raises:
        ValueError: A judgement names a document that the collection does not have.
    """
    known = known if isinstance(known, set | dict) else set(known)
    missing = {document for row in qrels.values() for document, relevance in row.items() if relevance > 0}
    missing = sorted(document for document in missing if document not in known)
    if not missing:
        return
    text = (
        f"{collection}: the judgements name {len(missing)} documents that are not among its {len(known)} documents: "
        f"{_some(missing)}."
    )
    if not lenient:
        raise ValueError(f"{text} Put them right, or count them as never found with lenient (--lenient).")
    logger.warning("%s They count as never found.", text)


def _check_id(collection: Collection, kind: str, identifier: str) -> None:
    if identifier.split() != [identifier]:
        raise ValueError(
            f"{collection}: {kind} id {identifier!r} is empty or holds whitespace, which run files cannot."
        )


def _some(ids: Iterable[str]) -> str:
    ids = list(ids)
    return ", ".join(ids[:_NAMED]) + (", …" if len(ids) > _NAMED else "")


__all__ = ["Collection", "Document", "Qrels", "check_documents", "checked"]
