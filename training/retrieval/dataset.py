"""Questions and passages held in two Arrow tables, each passage once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milco_hf.training.retrieval.reading import ENGLISH

ROW_SCHEMA = pa.schema(
    [
        ("query", pa.large_string()),
        ("language", pa.string()),
        ("source", pa.string()),
        ("place", pa.string()),
        ("query_language", pa.string()),
        ("passage_language", pa.string()),
        ("parallel_id", pa.string()),
        ("origin", pa.int16()),
        ("pos", pa.large_list(pa.int64())),
        ("neg", pa.large_list(pa.int64())),
        ("pos_scores", pa.large_list(pa.float32())),
        ("neg_scores", pa.large_list(pa.float32())),
    ]
)
PASSAGE_SCHEMA = pa.schema([("text", pa.large_string()), ("language", pa.string())])


@dataclass
class Ragged:
    """Lists of unequal length, one after the other.

    Attributes:
        offsets: where each of N lists begins, and where the last ends, [N + 1].
        values: all entries, [M].
    """

    offsets: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def rows(self) -> np.ndarray:
        """Which list each entry belongs to, [M]."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def select(self, kept: np.ndarray) -> Ragged:
        """The same lists with only some entries, [M] booleans."""
        counts = np.bincount(self.rows[kept], minlength=len(self))
        return Ragged(np.concatenate([[0], counts.cumsum()]), self.values[kept])

    def joined(self, other: Ragged) -> Ragged:
        """Each list with another's after it."""
        rows = np.concatenate([self.rows, other.rows])
        order = np.argsort(rows, kind="stable")
        values = np.concatenate([self.values, other.values])[order]
        return Ragged(self.offsets + other.offsets, values)

    @classmethod
    def of_column(cls, column: pa.ChunkedArray) -> Ragged:
        """An Arrow column of lists."""
        lengths = np.asarray(pc.list_value_length(column).combine_chunks(), dtype=np.int64)
        values = np.asarray(pc.list_flatten(column).combine_chunks())
        return cls(np.concatenate([[0], lengths.cumsum()]).astype(np.int64), values)


class RetrievalDataset:
    """Questions with the passages that answer them, negatives, and a teacher's scores of both.

    Args:
        rows: one question a row, see `ROW_SCHEMA`; passages are numbers of rows of `passages`. Scores are NaN where a
            teacher gave none.
        passages: each text once, see `PASSAGE_SCHEMA`.

    Attributes:
        positives, negatives, positive_scores, negative_scores: of each row.
        answers: passages that are no negatives of a row, wherever they come from: its positives, what was dropped
            from its negatives as a likely answer, and those of rows with the same `parallel_id`, its translations.
    """

    def __init__(self, rows: pa.Table, passages: pa.Table) -> None:
        self.rows, self.passages = rows.combine_chunks(), passages.combine_chunks()
        self.origins = np.asarray(self.rows.column("origin").combine_chunks())
        self.positives, self.negatives = (Ragged.of_column(self.rows.column(side)) for side in ("pos", "neg"))
        self.answers = self.shared(self.positives)
        self.positive_scores, self.negative_scores = (
            Ragged.of_column(self.rows.column(f"{side}_scores")) for side in ("pos", "neg")
        )

    def __len__(self) -> int:
        return len(self.rows)

    def codes(self, column: str) -> tuple[np.ndarray, list[str]]:
        """A text column of the rows as numbers: (codes [N], the distinct values they stand for)."""
        return text_codes(self.rows, column)

    def queries(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Some rows' questions."""
        return self.rows.column("query").take(pa.array(rows, pa.int64())).to_pylist()

    def texts(self, numbers: Sequence[int] | np.ndarray) -> list[str]:
        """Some passages' texts."""
        return self.passages.column("text").take(pa.array(numbers, pa.int64())).to_pylist()

    @property
    def bridged(self) -> np.ndarray:
        """Whether each row has English passages and a question in another language, [N] booleans."""
        found = []
        for column in ("query_language", "passage_language"):
            codes, names = self.codes(column)
            found.append(codes == (names.index(ENGLISH) if ENGLISH in names else -1))
        return ~found[0] & found[1]

    def shared(self, answers: Ragged) -> Ragged:
        """Answers of each row, together with those of its translations: rows that have its `parallel_id`.

        Args:
            answers: passages of each row.
        """
        groups, names = self.codes("parallel_id")
        groups = np.where(groups == names.index(""), -1, groups) if "" in names else groups
        members = np.flatnonzero(groups >= 0)
        if not len(members):
            return answers
        of_entries = groups[answers.rows]
        grouped = of_entries >= 0
        pairs = np.unique(np.stack([of_entries[grouped], answers.values[grouped]], axis=1), axis=0)
        sizes = np.bincount(pairs[:, 0], minlength=len(names))
        begins = sizes.cumsum() - sizes
        lengths = sizes[groups[members]]
        offsets = np.zeros(len(self) + 1, dtype=np.int64)
        offsets[1 + members] = lengths
        first = lengths.cumsum() - lengths
        places = np.arange(lengths.sum()) + np.repeat(begins[groups[members]] - first, lengths)
        return answers.select(~grouped).joined(Ragged(offsets.cumsum(), pairs[places, 1]))

    def place(self, row: int) -> str:
        """Where a row came from, with its question, for messages."""
        return f"{self.rows.column('place')[row].as_py()} ({self.queries([row])[0][:80]!r})"

    def by_language(self) -> dict[str, np.ndarray]:
        """Rows of each language in order."""
        codes, names = self.codes("language")
        rows = {name: np.flatnonzero(codes == code) for code, name in enumerate(names)}
        return dict(sorted((name, found) for name, found in rows.items() if len(found)))

    @property
    def has_scores(self) -> np.ndarray:
        """Whether each row has a teacher's scores, [N] booleans."""
        missing = np.zeros(len(self), dtype=bool)
        for scores in (self.positive_scores, self.negative_scores):
            missing[scores.rows[np.isnan(scores.values)]] = True
        return ~missing

    @property
    def has_negatives(self) -> np.ndarray:
        """Whether each row has a negative, [N] booleans."""
        return np.diff(self.negatives.offsets) > 0

    def check_scores(self, reason: str, rows: np.ndarray | None = None) -> None:
        """Refuse rows without a teacher's scores.

        Args:
            reason: what needs them.
            rows: which rows do, [N] booleans; all by default.

        Raises:
            ValueError: there is one; the message names the first.
        """
        missing = np.flatnonzero(~self.has_scores if rows is None else rows & ~self.has_scores)
        if len(missing):
            raise ValueError(
                f"{reason} needs a teacher's scores, but {self.place(int(missing[0]))} has none, and {len(missing)} of "
                f"{len(self)} rows lack them. Let `milco score` write pos_scores and neg_scores, or train with "
                "infonce_weight alone."
            )


def text_codes(table: pa.Table, column: str) -> tuple[np.ndarray, list[str]]:
    """A text column as numbers: (codes [N], the distinct values they stand for)."""
    encoded = table.column(column).combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    return np.asarray(encoded.indices), [str(value) for value in encoded.dictionary.to_pylist()]
