"""Building a static IDF teacher from the English side of parallel text.

python -m milco_hf.training.teachers.idf --data DATA --tokenizer DIR --output runs/idf-teacher
"""

from __future__ import annotations

import argparse
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from milco_hf.training.data.files import ReadCount
from milco_hf.training.data.sources import SourceSpec, iterate_source, log_count

logger = logging.getLogger(__name__)

BATCH = 10_000


def idf_weights(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Inverse document frequency of each English term, [V_e].

    log(1 + (N − df + 0.5) / (df + 0.5)), BM25's, always positive; special tokens and terms that no text has get 0.

    Raises:
        ValueError: no texts.
    """
    frequency = np.zeros(len(tokenizer), dtype=np.int64)
    number = 0
    stream = iter(texts)
    while batch := list(islice(stream, BATCH)):
        encoded = tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        for ids in encoded:
            frequency[np.unique(np.asarray(ids, dtype=np.int64))] += 1
        number += len(batch)
    if number == 0:
        raise ValueError("No texts to count; the IDF teacher needs the English side of the training data.")
    weights = np.log1p((number - frequency + 0.5) / (frequency + 0.5))
    weights[frequency == 0] = 0.0
    weights[tokenizer.all_special_ids] = 0.0
    logger.info("IDF over %d texts: %d of %d terms seen", number, int((frequency > 0).sum()), len(frequency))
    return torch.from_numpy(weights.astype(np.float32))


def build_idf_teacher(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, output: str | os.PathLike
) -> torch.Tensor:
    """Count IDF and save it as a `SparseEncoder` with one frozen SparseStaticEmbedding module.

    Args:
        texts: English texts, each pair's once.
        tokenizer: the English tokenizer; its ids are the student's English terms.
        output: folder to write.

    Returns:
        The weights, [V_e].
    """
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

    weights = idf_weights(texts, tokenizer)
    SparseEncoder(modules=[SparseStaticEmbedding(tokenizer, weights.clone(), frozen=True)]).save_pretrained(str(output))
    return weights


def english_texts(paths: Sequence[str], exclude_sources: Iterable[str] = ()) -> Iterator[str]:
    """The distinct English texts of some data sources."""
    seen: set[int] = set()
    for path in paths:
        spec, count = SourceSpec.parse(path), ReadCount()
        for pair in iterate_source(spec, frozenset(exclude_sources), count):
            key = hash(pair.english)
            if key not in seen:
                seen.add(key)
                yield pair.english
        log_count(spec.name, count)


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the teacher from the command line."""
    parser = argparse.ArgumentParser(description="Build a static IDF teacher from the English side of parallel text.")
    parser.add_argument("--data", nargs="+", required=True, help="files, folders, globs or Hub ids of parallel text")
    parser.add_argument("--tokenizer", required=True, help="folder or Hub id of the English tokenizer")
    parser.add_argument("--output", required=True, help="folder to write the SparseEncoder to")
    parser.add_argument("--exclude-sources", nargs="*", default=[], help="source tags to leave out")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    weights = build_idf_teacher(english_texts(options.data, options.exclude_sources), tokenizer, options.output)
    logger.info(
        "wrote %s; the largest weight is %.2f (%d terms)", options.output, weights.max(), math.prod(weights.shape)
    )


if __name__ == "__main__":
    main()
