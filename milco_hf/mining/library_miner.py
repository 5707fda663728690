"""Negatives through sentence-transformers' own `mine_hard_negatives`, for dense encoders."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from milco_hf.mining.encoders import Encoder
from milco_hf.mining.passages import Passages
from milco_hf.mining.search import SCORES_AT_A_TIME

if TYPE_CHECKING:
    from milco_hf.mining.hard_negatives import Found, MiningOptions


def mine_with_library(
    encoder: Encoder,
    queries: list[str],
    positives: Sequence[Sequence[int]],
    candidates: Iterable[int],
    passages: Passages,
    options: MiningOptions,
) -> list[Found]:
    """The same as `mine_in_blocks`, by sentence-transformers' miner.

    It takes pairs of texts and gives texts, so passages are told apart by what models read of them. It normalizes
    vectors whatever the model's similarity, and keeps vectors and results of all queries in memory.

    Raises:
        ImportError: `datasets` is missing.
    """
    try:
        from datasets import Dataset
    except ImportError as error:
        raise ImportError(
            'sentence-transformers\' miner needs the package datasets: pip install "milco-hf[train]", or mine with '
            "--backend blocks."
        ) from error
    from sentence_transformers.util import mine_hard_negatives

    numbers = list(dict.fromkeys([*candidates, *(number for some in positives for number in some)]))
    by_text = {passages.texts[number]: number for number in numbers}
    pairs = [(query, passages.texts[number]) for query, some in zip(queries, positives) for number in some]
    dataset = Dataset.from_dict({"query": [query for query, _ in pairs], "positive": [text for _, text in pairs]})
    state = random.getstate()
    random.seed(options.seed)  # it draws from Python's own generator
    try:
        mined = mine_hard_negatives(
            dataset,
            encoder.model,
            anchor_column_name="query",
            positive_column_name="positive",
            corpus=[passages.texts[number] for number in numbers],
            range_min=options.range_min,
            range_max=options.last,
            absolute_margin=options.absolute_margin,
            relative_margin=options.relative_margin,
            num_negatives=options.num_negatives,
            sampling_strategy=options.sampling,
            output_format="labeled-list",
            output_scores=True,
            batch_size=encoder.batch_size,
            # the miner's name for how many queries meet the corpus at a time, with faiss or without
            faiss_batch_size=max(1, SCORES_AT_A_TIME // max(1, len(numbers))),
            use_multi_process=encoder.devices if len(encoder.devices) > 1 else False,
            verbose=False,
        )
    finally:
        random.setstate(state)
    found: dict[str, Found] = {}
    for query, texts, scores in zip(mined["query"], mined["positive"], mined["scores"]):
        found[query] = [(by_text[text], score) for text, score in zip(texts[1:], scores[1:])]
    return [found.get(query, []) for query in queries]
