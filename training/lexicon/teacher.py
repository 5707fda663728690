"""The static English teacher: saturated IDF of a text's content words, of unit length."""

from __future__ import annotations

import logging
import os

import numpy as np
import torch
from scipy import sparse
from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def saturated_idf(
    presence: sparse.csr_array, slope: float = 0.25, stop_below: float = 2.5
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of English terms: log(1 + slope · idf), and 0 for terms that too many texts have.

    The logarithm keeps rare terms, names above all, from deciding a match alone.

    Args:
        presence: which terms each English text has, [texts, V_e].
        slope: how soon the weight saturates.
        stop_below: terms with a smaller idf = log((N + 1) / (df + 1)) are stop words.

    Returns:
        (weights [V_e], idf [V_e]), both fp32; terms that no text has weigh 0.

    Raises:
        ValueError: there is no text.
    """
    if presence.shape[0] == 0:
        raise ValueError("No English texts to count terms in.")
    frequency = np.asarray(presence.sum(axis=0)).ravel()
    idf = np.log((presence.shape[0] + 1) / (frequency + 1)).astype(np.float32)
    weights = np.where((frequency > 0) & (idf > stop_below), np.log1p(slope * idf), 0).astype(np.float32)
    logger.info("teacher: %d of %d terms have weight", int((weights > 0).sum()), len(weights))
    return weights, idf


def save_teacher(tokenizer: PreTrainedTokenizerBase, weights: np.ndarray, output: str | os.PathLike) -> None:
    """Save a teacher as a `SparseEncoder`: the weights of a text's terms, divided by their Euclidean length.

    Without the division long texts are near everything: in a dot product it is worth more than any choice of weights.

    Args:
        tokenizer: the English tokenizer; its ids are the English terms.
        weights: weight of each term, [V_e].
        output: folder to write.
    """
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sentence_transformer.modules import Normalize
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

    static = SparseStaticEmbedding(tokenizer, torch.from_numpy(weights.copy()), frozen=True)
    SparseEncoder(modules=[static, Normalize()]).save_pretrained(str(output))
