"""Collections that know answers in place of relevant documents (MKQA): a passage that contains one is relevant."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

import regex

from milco_hf.evaluation.collections import Collection, Qrels

_WORD = regex.compile(r"[\p{L}\p{N}\p{M}]+")
NOWHERE = "-"


def tokens(text: str) -> list[str]:
    """Case-folded words without accents."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text.casefold()) if not unicodedata.combining(c))
    return _WORD.findall(plain)


def contains(passage: list[str], answer: list[str]) -> bool:
    """Whether an answer's tokens stand in a passage's, one after the other."""
    size = len(answer)
    return bool(size) and any(passage[place : place + size] == answer for place in range(len(passage) - size + 1))


def judge(collection: Collection, run: Mapping[str, Mapping[str, float]]) -> Qrels:
    """Judgements of everything that a run found, by whether it contains an answer of the query.

    One pass over the documents; only texts of found ones are looked at. Measures that need to know all relevant
    documents (nDCG, recall) mean nothing with these judgements; Success@k is what BGE-M3's and DPR's papers call
    Recall@k of MKQA.

    Raises:
        ValueError: The collection has no answers.
    """
    if collection.answers is None:
        raise ValueError(f"{collection} has judgements, and no answers to judge by.")
    wanted: dict[str, list[str]] = {}
    for query, found in run.items():
        for document in found:
            wanted.setdefault(document, []).append(query)
    answers = {query: [tokens(answer) for answer in collection.answers[query]] for query in collection.queries}
    qrels: Qrels = {query: {NOWHERE: 0} for query in collection.queries}
    for document in collection.documents():
        asking = wanted.get(document.id)
        if not asking:
            continue
        passage = tokens(document.full_text)
        for query in asking:
            qrels[query][document.id] = int(any(contains(passage, answer) for answer in answers[query]))
    return qrels


__all__ = ["contains", "judge", "tokens"]
