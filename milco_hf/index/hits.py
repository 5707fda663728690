"""What a search gives back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Hit:
    """A document that was found.

    Attributes:
        id: The document's.
        score: The inner product with the query; of its best passage, where documents were split.
        text: The whole text, without the title.
        title: "" where it has none.
        language: None where nobody said.
        metadata: Whatever else the document came with.
        passage: Where the best passage begins and ends in `text`; None where documents were not split.
    """

    id: str
    score: float
    text: str
    title: str = ""
    language: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    passage: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The hit as JSON has it."""
        return asdict(self)


__all__ = ["Hit"]
