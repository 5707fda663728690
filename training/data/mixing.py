"""How often each pair is seen: mixing sources and languages by weight and temperature."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from milco_hf.training.data.pairs import PairDataset
from milco_hf.training.data.sources import SourceSpec

logger = logging.getLogger(__name__)


class PairMixture:
    """Draws each epoch's pairs.

    Pairs form groups by source, language and source tag. A (source, language) group of n pairs gets a share of the
    epoch proportional to weight · n^(1 / temperature), where weight is the source's times the language's; inside it,
    tags share by their weights. Temperature 1 keeps the data's own proportions, large ones make all groups alike.
    Within a group no pair comes again before every other one has come, over epochs too.

    Args:
        dataset: the pairs.
        specs: the sources that the dataset's `origins` number.
        temperature: see above; any positive number.
        language_weights: factors by language, 1 for those not named.
        tag_weights: factors by source tag, 1 for those not named.
        epoch_pairs: pairs in an epoch; as many as the dataset has where None.
        seed: seeds every draw.

    Raises:
        ValueError: a value that cannot work, or a language or tag that the data does not have.
    """

    def __init__(
        self,
        dataset: PairDataset,
        specs: Sequence[SourceSpec],
        temperature: float = 1.0,
        language_weights: Mapping[str, float] | None = None,
        tag_weights: Mapping[str, float] | None = None,
        epoch_pairs: int | None = None,
        seed: int = 0,
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}.")
        self.size = len(dataset) if epoch_pairs is None else epoch_pairs
        if self.size < 1:
            raise ValueError(f"epoch_pairs must be positive, got {epoch_pairs}.")
        self.seed = seed
        languages, language_names = dataset.codes("language")
        tags, tag_names = dataset.codes("source")
        by_language = _factors(language_names, language_weights or {}, "language_weights")
        by_tag = _factors(tag_names, tag_weights or {}, "tag_weights")
        if not tag_weights:
            tags = np.zeros_like(tags)
        by_source = np.array([spec.weight for spec in specs], dtype=np.float64)

        keys = (dataset.origins.astype(np.int64) * len(language_names) + languages) * max(1, len(tag_names)) + tags
        values, groups, counts = np.unique(keys, return_inverse=True, return_counts=True)
        order = np.argsort(groups, kind="stable")
        self.members = np.split(order, np.cumsum(counts)[:-1])
        parents = values // max(1, len(tag_names))
        parent_sizes = {parent: int(counts[parents == parent].sum()) for parent in np.unique(parents)}
        shares = np.empty(len(values))
        for number, (value, parent) in enumerate(zip(values, parents, strict=True)):
            siblings = parents == parent
            tag_shares = by_tag[values[siblings] % max(1, len(tag_names))] * counts[siblings]
            within = by_tag[value % max(1, len(tag_names))] * counts[number] / max(tag_shares.sum(), 1e-12)
            source, language = divmod(int(parent), len(language_names))
            factor = by_source[source] * by_language[language]
            shares[number] = within * factor * parent_sizes[parent] ** (1 / temperature)
        if not shares.sum() > 0:
            raise ValueError("Every group of pairs has weight 0; check language_weights and tag_weights.")
        self.shares = shares / shares.sum()
        self.even = temperature == 1.0 and len(set(by_source)) == 1 and not language_weights and not tag_weights

    def draw(self, epoch: int) -> np.ndarray:
        """The pairs of an epoch in random order, [size] row numbers. The same epoch always gives the same ones."""
        rng = np.random.default_rng([self.seed, epoch])
        if self.even and self.size == sum(len(rows) for rows in self.members):
            return rng.permutation(self.size)
        drawn = []
        for number, rows in enumerate(self.members):
            # Quotas are cut from one running total, so that they add up whatever the rounding.
            before, after = self.shares[:number].sum(), self.shares[: number + 1].sum()
            start = self._reached(epoch, before, after)
            drawn.append(self._take(number, rows, start, self._reached(epoch + 1, before, after) - start))
        return rng.permutation(np.concatenate(drawn))[: self.size]

    def _reached(self, epoch: int, before: float, after: float) -> int:
        """How many draws a group has had when an epoch begins."""
        return epoch * (round(after * self.size) - round(before * self.size))

    def _take(self, number: int, rows: np.ndarray, start: int, amount: int) -> np.ndarray:
        """Draws start … start + amount of a group: one shuffled round of its rows after the other."""
        taken = []
        while amount > 0:
            lap, offset = divmod(start, len(rows))
            shuffled = np.random.default_rng([self.seed, 1 + number, lap]).permutation(rows)
            part = shuffled[offset : offset + amount]
            taken.append(part)
            start, amount = start + len(part), amount - len(part)
        return np.concatenate(taken) if taken else np.empty(0, dtype=np.int64)


def _factors(names: Sequence[str], weights: Mapping[str, float], what: str) -> np.ndarray:
    unknown = sorted(set(weights) - set(names))
    if unknown:
        raise ValueError(f"{what} names {unknown}, which the training data does not have; it has {sorted(names)}.")
    factors = np.array([float(weights.get(name, 1.0)) for name in names], dtype=np.float64)
    if (factors < 0).any():
        raise ValueError(f"{what} must not be negative, got {dict(weights)}.")
    return factors
