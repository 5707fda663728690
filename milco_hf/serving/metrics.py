"""What `/metrics` tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_POWERS = tuple(2**power for power in range(16))


class Metrics:
    """A server's counters, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # resident memory among others, on Linux
        PlatformCollector(registry=registry)
        self.requests = Counter("milco_requests", "Requests answered.", ["path", "status"], registry=registry)
        self.request_seconds = Histogram(
            "milco_request_seconds",
            "From a request's head to its answer's end.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge("milco_requests_in_flight", "Requests that are being answered.", registry=registry)
        self.texts = Counter("milco_texts", "Texts encoded, by kind.", ["kind"], registry=registry)
        self.tokens = Counter("milco_tokens", "Tokens encoded, without padding, by kind.", ["kind"], registry=registry)
        self.cut = Counter("milco_cut_tokens", "Tokens cut off from texts that were too long.", registry=registry)
        self.queue_seconds = Histogram(
            "milco_queue_seconds", "How long requests waited for the model.", buckets=_SECONDS, registry=registry
        )
        self.batch_texts = Histogram(
            "milco_batch_texts", "Texts in a forward pass.", ["device"], buckets=_POWERS, registry=registry
        )
        self.batch_tokens = Histogram(
            "milco_batch_tokens",
            "Tokens in a forward pass, with padding.",
            ["device"],
            buckets=_POWERS,
            registry=registry,
        )
        self.inference_seconds = Histogram(
            "milco_inference_seconds", "How long forward passes took.", ["device"], buckets=_SECONDS, registry=registry
        )
        self._queue = Gauge("milco_queue_texts", "Texts that wait for the model.", registry=registry)
        self._info = Info("milco_server", "What is served.", registry=registry)

    def watch_queue(self, waiting: Callable[[], int]) -> None:
        """Reads the queue's length whenever somebody asks."""
        self._queue.set_function(waiting)

    def describe(self, **labels: str) -> None:
        """Names the model and what else does not change."""
        self._info.info(labels)

    def batch_done(self, device: str, texts: int, tokens: int, seconds: float) -> None:
        """Notes a forward pass."""
        self.batch_texts.labels(device).observe(texts)
        self.batch_tokens.labels(device).observe(tokens)
        self.inference_seconds.labels(device).observe(seconds)

    def text(self) -> bytes:
        """The whole, in Prometheus' text format."""
        return generate_latest(self.registry)


__all__ = ["Metrics"]
