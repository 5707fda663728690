"""What the server refuses, and how it says so: the error bodies of text-embeddings-inference."""

from __future__ import annotations

# `error_type` as text-embeddings-inference writes it, and where it has no word for it, ours.
VALIDATION = "Validation"
EMPTY = "Empty"
TOKENIZER = "Tokenizer"
BACKEND = "Backend"
OVERLOADED = "Overloaded"
UNHEALTHY = "Unhealthy"
UNAUTHORIZED = "Unauthorized"
NOT_FOUND = "NotFound"

ERROR_TYPES = (VALIDATION, EMPTY, TOKENIZER, BACKEND, OVERLOADED, UNHEALTHY, UNAUTHORIZED, NOT_FOUND)


class Refused(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        error_type: One of `ERROR_TYPES`.
        message: What is wrong and what can be done, for the caller.
        headers: Headers of the answer, such as `Retry-After`.
    """

    def __init__(self, status: int, error_type: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.message = message
        self.headers = headers or {}

    def body(self) -> dict[str, str]:
        """The answer's body."""
        return {"error": self.message, "error_type": self.error_type}


def overloaded(message: str, status: int = 429) -> Refused:
    """Too much at once: the same request may work a moment later."""
    return Refused(status, OVERLOADED, message, {"Retry-After": "1"})


__all__ = [
    "BACKEND",
    "EMPTY",
    "ERROR_TYPES",
    "NOT_FOUND",
    "OVERLOADED",
    "TOKENIZER",
    "UNAUTHORIZED",
    "UNHEALTHY",
    "VALIDATION",
    "Refused",
    "overloaded",
]
