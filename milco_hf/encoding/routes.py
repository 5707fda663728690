"""Which language adapter reads each text of a corpus."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from milco_hf.modeling import MilcoConfig


class Routes:
    """The adapters' numbers of texts that come one after the other.

    Args:
        config: The model's.
        language: Of all texts; or one for each, where None is the default language; or None, the default for all.

    Attributes:
        name: What a manifest says of it: None, where nothing was asked for or the encoder has no adapters; the adapter
            of all texts; or "each".

    Raises:
        ValueError: One name for all texts has no adapter, or the encoder has none at all. One for each is data, which
            encoders without adapters pass over.
    """

    def __init__(self, config: MilcoConfig, language: str | Iterable[str | None] | None) -> None:
        self.config = config
        self.one = config.language_adapter(language) if isinstance(language, str) else None
        self.each = None if language is None or isinstance(language, str) else iter(language)
        self.name = self.one if self.each is None else "each" if config.languages else None

    def take(self, first: int, count: int) -> list[int] | None:
        """Numbers of the next texts' adapters; None for encoders without adapters.

        Args:
            first: The number of the first of these texts.
            count: How many.

        Raises:
            ValueError: There are more texts than languages, or a language has no adapter.
        """
        if self.each is None:
            return self.config.adapter_ids([self.one] * count)
        names = list(islice(self.each, count))
        if len(names) < count:
            raise ValueError(f"There are {first + len(names)} languages, but more texts; give each text one.")
        try:
            return self.config.adapter_ids(names)
        except ValueError:
            for place, name in enumerate(names, start=first):  # which of them it was
                try:
                    self.config.adapter_ids([name])
                except ValueError as error:
                    raise ValueError(f"Text number {place}: {error}") from None
            raise

    def check_end(self, texts: int) -> None:
        """Refuses languages that no text is left for.

        Raises:
            ValueError: There is one.
        """
        if self.each is not None and any(True for _ in self.each):
            raise ValueError(f"There are {texts} texts, but more languages; give each text one.")


__all__ = ["Routes"]
