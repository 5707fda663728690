"""Vectors of many texts, in the three shapes that encoders give: sparse rows, dense rows, a matrix for each text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import sparse
from typing_extensions import Self


class Vectors(Protocol):
    """Vectors of N texts."""

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray | slice) -> Self:
        """Some of the texts, in the order given."""

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """All texts of some parts, one part after the other."""

    def arrays(self) -> dict[str, np.ndarray]:
        """What a file has to hold."""

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Self:
        """Back from `arrays`."""


@dataclass
class SparseVectors:
    """Sparse rows: `matrix` [N, V], float32."""

    matrix: sparse.csr_array

    def __len__(self) -> int:
        return self.matrix.shape[0]

    def take(self, rows: np.ndarray | slice) -> SparseVectors:
        """Some rows."""
        return SparseVectors(self.matrix[rows])

    @classmethod
    def concatenate(cls, parts: Sequence[SparseVectors]) -> SparseVectors:
        """All rows."""
        return cls(sparse.csr_array(sparse.vstack([part.matrix for part in parts], format="csr")))

    def arrays(self) -> dict[str, np.ndarray]:
        """The CSR's own arrays."""
        matrix = self.matrix
        return {
            "data": matrix.data,
            "indices": matrix.indices,
            "indptr": matrix.indptr,
            "shape": np.asarray(matrix.shape, dtype=np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> SparseVectors:
        """Back from `arrays`."""
        shape = tuple(int(size) for size in arrays["shape"])
        return cls(sparse.csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape))


@dataclass
class DenseVectors:
    """Dense rows: `matrix` [N, d], float32."""

    matrix: np.ndarray

    def __len__(self) -> int:
        return len(self.matrix)

    def take(self, rows: np.ndarray | slice) -> DenseVectors:
        """Some rows."""
        return DenseVectors(self.matrix[rows])

    @classmethod
    def concatenate(cls, parts: Sequence[DenseVectors]) -> DenseVectors:
        """All rows."""
        return cls(np.concatenate([part.matrix for part in parts]))

    def arrays(self) -> dict[str, np.ndarray]:
        """The matrix."""
        return {"matrix": self.matrix}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> DenseVectors:
        """Back from `arrays`."""
        return cls(arrays["matrix"])


@dataclass
class TokenVectors:
    """A matrix for each text: `tokens` [T, d] of all texts, and where each text starts, `starts` [N + 1]."""

    tokens: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def lists(self) -> list[np.ndarray]:
        """One [tokens, d] array for each text."""
        return [self.tokens[start:end] for start, end in zip(self.starts[:-1], self.starts[1:])]

    @classmethod
    def from_lists(cls, lists: Sequence[np.ndarray]) -> TokenVectors:
        """From one [tokens, d] array for each text."""
        starts = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(array) for array in lists], out=starts[1:])
        return cls(np.concatenate(lists) if len(lists) else np.zeros((0, 0), dtype=np.float32), starts)

    def take(self, rows: np.ndarray | slice) -> TokenVectors:
        """Some texts."""
        lists = self.lists()
        chosen = lists[rows] if isinstance(rows, slice) else [lists[row] for row in rows]
        return self.from_lists(chosen)

    @classmethod
    def concatenate(cls, parts: Sequence[TokenVectors]) -> TokenVectors:
        """All texts."""
        return cls.from_lists([array for part in parts for array in part.lists()])

    def arrays(self) -> dict[str, np.ndarray]:
        """Tokens and starts."""
        return {"tokens": self.tokens, "starts": self.starts}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> TokenVectors:
        """Back from `arrays`."""
        return cls(arrays["tokens"], arrays["starts"])


__all__ = ["DenseVectors", "SparseVectors", "TokenVectors", "Vectors"]
