"""Training items: a question with one positive and the negatives that an epoch gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from milco_hf.training.retrieval.dataset import RetrievalDataset, text_codes
from milco_hf.training.retrieval.sampling import Method, sample_negatives


class CandidateDataset(Dataset):
    """Draws each row's candidates by (seed, epoch, row), so that resuming and processes change nothing.

    An item is a dictionary: `query`; `passages`, texts with the positive first; `passage_numbers`, what they are;
    `answers`, numbers of what is no negative of it in a batch, its positives among them; `scores`, the teacher's,
    NaN where there is none; `bridged`, whether its passages are English and its question is not; `query_language` and
    `passage_language`. Indices are (row, epoch), as `RowSampler` gives them, or plain rows of epoch 0.

    Args:
        data: the rows.
        negatives: negatives an item has, of the row's own.
        method: how they are chosen, see `sample_negatives`.
        corpus_negatives: further ones, at random from all passages of the language of the row's passages; no teacher
            scored them.
        seed: seeds every draw.

    Raises:
        ValueError: corpus negatives are asked for in a language without enough passages.
    """

    def __init__(
        self,
        data: RetrievalDataset,
        negatives: int = 7,
        method: Method = "random",
        corpus_negatives: int = 0,
        seed: int = 0,
    ) -> None:
        for name, value in (("negatives", negatives), ("corpus_negatives", corpus_negatives)):
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}.")
        self.data, self.negatives, self.method = data, negatives, method
        self.corpus_negatives, self.seed = corpus_negatives, seed
        self.languages, names = data.codes("passage_language")
        self.bridged = data.bridged
        self.languages_of = [data.codes(f"{side}_language") for side in ("query", "passage")]
        self.pools: list[np.ndarray] = []
        if corpus_negatives:
            codes, found = text_codes(data.passages, "language")
            self.pools = [np.flatnonzero(codes == found.index(name)) if name in found else codes[:0] for name in names]
            for name, pool in zip(names, self.pools, strict=True):
                if len(pool) <= corpus_negatives:
                    raise ValueError(
                        f"corpus_negatives: {corpus_negatives}, but the corpus has {len(pool)} passages in {name!r}. "
                        "Passages' languages come from a column `language`, or from their file's name (sw.jsonl)."
                    )
        if method != "random" and negatives:
            data.check_scores(f"negative_sampling: {method}", data.has_negatives)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int | tuple[int, int]]) -> list[dict[str, Any]]:
        """Take many items at once, as torch's fetcher asks for a batch."""
        pairs = [index if isinstance(index, tuple) else (int(index), 0) for index in indices]
        drawn = [self._draw(row, epoch) for row, epoch in pairs]
        queries = self.data.queries([row for row, _ in pairs])
        texts = self.data.texts(np.concatenate([numbers for numbers, _ in drawn]))
        ends = np.cumsum([len(numbers) for numbers, _ in drawn])
        return [
            {
                "query": query,
                "passages": texts[end - len(numbers) : end],
                "passage_numbers": numbers.tolist(),
                "answers": self.data.answers[row].tolist(),
                "scores": scores.tolist(),
                "bridged": bool(self.bridged[row]),
                **{
                    f"{side}_language": names[codes[row]]
                    for side, (codes, names) in zip(("query", "passage"), self.languages_of, strict=True)
                },
            }
            for query, end, (numbers, scores), (row, _) in zip(queries, ends, drawn, pairs, strict=True)
        ]

    def _draw(self, row: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and scores of a row's candidates, the positive first."""
        rng = np.random.default_rng([self.seed, epoch, row])
        positives, negatives = self.data.positives[row], self.data.negatives[row]
        positive = int(rng.integers(len(positives)))
        scores = self.data.negative_scores[row]
        chosen = sample_negatives(scores, self.negatives, self.method, rng)
        numbers = [positives[positive : positive + 1], negatives[chosen]]
        found = [self.data.positive_scores[row][positive : positive + 1], scores[chosen]]
        if self.corpus_negatives:
            pool = self.pools[self.languages[row]]
            taken = np.concatenate([self.data.answers[row], negatives])
            drawn = rng.choice(pool, min(len(pool), self.corpus_negatives + len(taken)), replace=False)
            others = drawn[~np.isin(drawn, taken)][: self.corpus_negatives]
            numbers.append(others)
            found.append(np.full(len(others), np.nan))
        return np.concatenate(numbers), np.concatenate(found).astype(np.float32)
