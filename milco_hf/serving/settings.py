"""What a server does by default, and how much it takes on."""

from __future__ import annotations

from dataclasses import dataclass, field, fields


@dataclass(frozen=True)
class Limits:
    """How much a server takes on; each limit has an answer of its own.

    Args:
        payload_limit: Bytes of a request's body (413).
        max_client_batch_size: Texts of a request (413).
        max_characters: Characters of a request's texts together (413).
        body_timeout: Seconds that a request's body may take to arrive (408).
        max_concurrent_requests: Requests that are being read, waited for or answered (429).
        max_queue: Texts that wait for the model (429).
        queue_timeout: Seconds that a text may wait for the model, or a request for search and explanation (503).
        max_explanations: Explanations, and likewise searches, that wait for their turn (429).
        max_hits: Documents of one search (413).
    """

    payload_limit: int = 2_000_000
    max_client_batch_size: int = 32
    max_characters: int = 1_000_000
    body_timeout: float = 60.0
    max_concurrent_requests: int = 512
    max_queue: int = 2048
    queue_timeout: float = 30.0
    max_explanations: int = 64
    max_hits: int = 1000

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if not value > 0:
                raise ValueError(f"{limit.name} has to be above 0, got {value}.")
        if self.max_queue < self.max_client_batch_size:
            raise ValueError(
                f"max_queue ({self.max_queue}) has to hold one request of max_client_batch_size "
                f"({self.max_client_batch_size}) texts."
            )


@dataclass(frozen=True)
class Settings:
    """What a server does where a request does not say.

    Args:
        limits: How much it takes on.
        auto_truncate: Cut texts that are too long, where a request has no `truncate`; else they are refused with their
            length (413).
        max_batch_tokens: Tokens in a forward pass, padding included; by default 4,096 on a CPU and 32,768 elsewhere.
        api_key: What callers have to send as `Authorization: Bearer …`; None asks for nothing.
    """

    limits: Limits = field(default_factory=Limits)
    auto_truncate: bool = False
    max_batch_tokens: int | None = None
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.max_batch_tokens is not None and self.max_batch_tokens < 1:
            raise ValueError(f"max_batch_tokens has to be at least 1, got {self.max_batch_tokens}.")
        if self.api_key is not None and (not self.api_key.strip() or not self.api_key.isascii()):
            raise ValueError("The API key has to be of ASCII characters, and not empty.")


__all__ = ["Limits", "Settings"]
