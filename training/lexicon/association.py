"""IBM Model 1: which source token explains which English term, counted from pairs by expectation maximisation."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import sparse
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

PAIRS_AT_A_TIME = 20_000
TEXTS_AT_A_TIME = 50_000


def token_presence(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int = 60) -> sparse.csr_array:
    """Which tokens each text has: a 0/1 matrix [texts, tokenizer's size]. Special tokens are left out.

    Args:
        texts: the texts, N of them.
        tokenizer: its ids are the columns.
        max_tokens: texts are read up to this many tokens.
    """
    columns, sizes = [], []
    for start in range(0, len(texts), TEXTS_AT_A_TIME):
        encoded = tokenizer(
            list(texts[start : start + TEXTS_AT_A_TIME]),
            add_special_tokens=False,
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]
        for ids in encoded:
            distinct = np.unique(np.asarray(ids[:max_tokens], dtype=np.int32))
            columns.append(distinct)
            sizes.append(len(distinct))
    indices = np.concatenate(columns) if columns else np.empty(0, dtype=np.int32)
    pointers = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    ones = np.ones(len(indices), dtype=np.float32)
    return sparse.csr_array((ones, indices, pointers), shape=(len(texts), len(tokenizer)))


def ibm1(source: sparse.csr_array, english: sparse.csr_array, rounds: int = 4, min_count: int = 2) -> sparse.csr_array:
    """Share of a source token's texts in which it explains an English term.

    Each English term of a pair is explained by the source tokens of that pair together, in proportion to t[s, j]; the
    new t[s, j] is the sum of s's shares in j over all pairs, divided by the pairs with s. So tokens compete for a term,
    and a frequent one loses those that a rarer token explains better: what mere co-occurrence cannot tell.

    Args:
        source: presence of source tokens, [pairs, V_s].
        english: presence of English terms, [pairs, V_e].
        rounds: rounds of expectation maximisation.
        min_count: token pairs that occur together less often are left out.

    Returns:
        t, values in [0, 1], [V_s, V_e].

    Raises:
        ValueError: the two have different numbers of rows.
    """
    if source.shape[0] != english.shape[0]:
        raise ValueError(
            f"source has {source.shape[0]} rows and english {english.shape[0]}; they must be the same pairs."
        )
    together = sparse.csr_array(source.T @ english)
    together.data[together.data < min_count] = 0
    together.eliminate_zeros()
    together.sort_indices()
    of_token, of_term = _entries(together)
    texts_with = np.asarray(source.sum(axis=0)).ravel()
    terms_in = np.asarray(english.sum(axis=0)).ravel()
    # pointwise mutual information only decides where the first round starts
    information = np.log(together.data * source.shape[0] / (texts_with[of_token] * terms_in[of_term]))
    shares = np.maximum(information, 0.05) * together.data / texts_with[of_token]
    keys = of_token.astype(np.int64) * together.shape[1] + of_term
    alignments = list(tqdm(_alignments(source, english, keys), desc="aligning", unit=" blocks", mininterval=1))
    for number in range(rounds):
        counts = np.zeros(len(keys))
        for entry, occurrence, occurrences in alignments:
            weight = shares[entry]
            total = np.bincount(occurrence, weight, minlength=occurrences)
            counts += np.bincount(entry, weight / np.maximum(total[occurrence], 1e-12), minlength=len(keys))
        shares = counts / texts_with[of_token]
        logger.info("IBM Model 1, round %d of %d: %d token pairs", number + 1, rounds, len(keys))
    return sparse.csr_array((shares.astype(np.float32), together.indices, together.indptr), shape=together.shape)


def with_prior(
    table: sparse.csr_array, texts: np.ndarray, prior: sparse.csr_array, known: np.ndarray, strength: float
) -> sparse.csr_array:
    """A counted table that a dictionary fills in where little was counted.

    A dictionary counts as so many more texts with each of its tokens. It names all senses of a word and nothing of how
    frequent they are, so it must not outweigh what was seen: added to the pairs, it made milco-mini's table worse.

    Args:
        table: how surely a token explains a term, counted in texts, [V_s, V_e].
        texts: with how many texts each token was counted, [V_s].
        prior: the same, counted in a dictionary, [V_s, V_e].
        known: with how many of the dictionary's words each token was counted, [V_s].
        strength: the texts that the dictionary is worth.
    """
    worth = np.where(known > 0, strength, 0.0)
    total = np.maximum(texts + worth, 1e-12)
    counted, filled = sparse.diags_array(texts / total) @ table, sparse.diags_array(worth / total) @ prior
    return sparse.csr_array(counted + filled, dtype=np.float32)


def _entries(matrix: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each stored entry, in order."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)), matrix.indices


def _alignments(
    source: sparse.csr_array, english: sparse.csr_array, keys: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """For blocks of pairs: each possible alignment as (table entry, occurrence of an English term); the occurrences."""
    width = english.shape[1]
    for start in range(0, source.shape[0], PAIRS_AT_A_TIME):
        tokens, terms = source[start : start + PAIRS_AT_A_TIME], english[start : start + PAIRS_AT_A_TIME]
        term_counts = np.diff(terms.indptr).astype(np.int64)
        sizes = np.diff(tokens.indptr).astype(np.int64) * term_counts
        pair = np.repeat(np.arange(len(sizes)), sizes)
        within = np.arange(sizes.sum()) - (np.cumsum(sizes) - sizes)[pair]
        token = tokens.indices[tokens.indptr[pair] + within // term_counts[pair]]
        occurrence = terms.indptr[pair] + within % term_counts[pair]
        key = token.astype(np.int64) * width + terms.indices[occurrence]
        entry = np.minimum(np.searchsorted(keys, key), max(0, len(keys) - 1))
        kept = keys[entry] == key if len(keys) else np.zeros(len(key), dtype=bool)
        yield entry[kept].astype(np.int32), occurrence[kept].astype(np.int32), terms.nnz
