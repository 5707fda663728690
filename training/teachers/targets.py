"""Teacher vectors as sparse rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass
class SparseTargets:
    """Teacher logits of P texts over the English vocabulary; unlisted terms have logit 0.

    Attributes:
        counts: entries of each text, [P] integers.
        columns: English terms of the entries, text by text, [M] integers, none twice in a text.
        values: their logits, [M].
        width: V_e.
    """

    counts: Tensor
    columns: Tensor
    values: Tensor
    width: int

    def __len__(self) -> int:
        return len(self.counts)

    def to(self, device: torch.device | str) -> SparseTargets:
        """The same targets on a device."""
        return SparseTargets(self.counts.to(device), self.columns.to(device), self.values.to(device), self.width)

    def expand(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Entries for texts that refer to these targets.

        Args:
            rows: a target of each of B texts, [B].

        Returns:
            (text number, English term, logit) of every entry, each [M'], text by text.
        """
        counts = self.counts[rows]  # [B]
        texts = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), counts)  # [M']
        starts = (self.counts.cumsum(0) - self.counts)[rows]  # [B]
        first = counts.cumsum(0) - counts  # [B]
        places = torch.arange(len(texts), device=rows.device) - first[texts] + starts[texts]
        return texts, self.columns[places], self.values[places]

    def dense(self) -> Tensor:
        """The same logits as one tensor, [P, V_e] in fp32."""
        rows = torch.repeat_interleave(torch.arange(len(self), device=self.counts.device), self.counts)
        dense = torch.zeros(len(self), self.width, device=self.counts.device)
        dense[rows, self.columns] = self.values.float()
        return dense

    @classmethod
    def from_dense(cls, logits: Tensor) -> SparseTargets:
        """Keep the positive logits of [P, V_e]."""
        rows, columns = (logits > 0).nonzero(as_tuple=True)
        counts = torch.bincount(rows, minlength=len(logits))
        return cls(counts, columns, logits[rows, columns].float(), logits.shape[1])

    @classmethod
    def from_rows(cls, rows: Sequence[tuple[np.ndarray, np.ndarray]], width: int) -> SparseTargets:
        """Put together (terms, logits) of each text."""
        counts = torch.tensor([len(columns) for columns, _ in rows], dtype=torch.int64)
        columns = np.concatenate([columns for columns, _ in rows]) if rows else np.empty(0)
        values = np.concatenate([values for _, values in rows]) if rows else np.empty(0)
        return cls(
            counts, torch.from_numpy(columns.astype(np.int64)), torch.from_numpy(values.astype(np.float32)), width
        )

    def rows(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(terms, logits) of each text, on the CPU."""
        ends = self.counts.cumsum(0).cpu().numpy()[:-1]
        columns, values = self.columns.cpu().numpy(), self.values.float().cpu().numpy()
        return list(zip(np.split(columns, ends), np.split(values, ends), strict=True))
