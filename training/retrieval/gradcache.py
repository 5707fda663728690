"""GradCache (Gao et al., 2021): batches larger than memory, with the gradient of the whole batch.

Texts are encoded in chunks without gradient, the loss and its gradient by the vectors are computed on all of them, then
each chunk is encoded again, with the same dropout, and its part of that gradient sent through the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from milco_hf.training.retrieval.processes import largest_over_processes
from milco_hf.training.retrieval.views import Views

Encode = Callable[[Tensor, Tensor, "Tensor | None"], Views]


class RandomState:
    """The state of the generators that dropout draws from, on the CPU and on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        """Go back to this state."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Draw once more what was drawn from this state on, then go on from where the generators were."""
        now = RandomState(self.device)
        self.restore()
        try:
            yield
        finally:
            now.restore()


class CachedTexts:
    """Texts encoded in chunks, whose vectors collect gradients.

    Processes make the same number of chunks, whatever their numbers of texts: sharded models exchange weights in each.

    Args:
        encode: the model, from (input_ids, attention_mask, lang_ids) to views.
        input_ids, attention_mask: the texts, [B, n].
        lang_ids: numbers of their language adapters, [B]; None for encoders without adapters.
        size: texts in a chunk.
    """

    def __init__(
        self, encode: Encode, input_ids: Tensor, attention_mask: Tensor, lang_ids: Tensor | None, size: int
    ) -> None:
        self.encode, self.input_ids, self.attention_mask = encode, input_ids, attention_mask
        self.lang_ids = lang_ids
        total = len(input_ids)
        (chunks,) = largest_over_processes(-(-total // size), device=input_ids.device)
        self.chunks = [slice(start, min(start + size, total)) for start in range(0, total, size)]
        self.spare = chunks - len(self.chunks)  # encoded for the other processes' sake, and not used
        self.states: list[RandomState] = []
        parts = []
        with torch.no_grad():
            for chunk in self.chunks:
                self.states.append(RandomState(input_ids.device))
                parts.append(self._run(chunk))
            for _ in range(self.spare):
                self._run(self.chunks[0])
        self.views = _joined(parts, input_ids)
        self.leaves = [tensor for tensor in (self.views.pivot, self.views.weights) if tensor is not None]
        for leaf in self.leaves:
            leaf.requires_grad_()

    def __len__(self) -> int:
        return len(self.chunks) + self.spare

    def surrogates(self, gradients: Sequence[Tensor | None]) -> Iterator[Tensor]:
        """Scalars, chunk by chunk, whose gradients by the model's parameters add up to the loss's.

        Args:
            gradients: the loss's by `leaves`.
        """
        for chunk, state in zip(self.chunks, self.states, strict=True):
            with state.replayed():
                views = self._run(chunk)
            yield _product(views, [None if grad is None else grad[chunk] for grad in gradients])
        for _ in range(self.spare):
            views = self._run(self.chunks[0])
            yield _product(views, [None if leaf is None else torch.zeros_like(leaf) for leaf in _tensors(views)])

    def _run(self, chunk: slice) -> Views:
        lang_ids = None if self.lang_ids is None else self.lang_ids[chunk]
        return self.encode(self.input_ids[chunk], self.attention_mask[chunk], lang_ids)


def _tensors(views: Views) -> list[Tensor | None]:
    return [views.pivot, views.weights]


def _joined(parts: Sequence[Views], input_ids: Tensor) -> Views:
    weights = None if parts[0].weights is None else torch.cat([part.weights for part in parts])  # type: ignore[misc]
    return Views(torch.cat([part.pivot for part in parts]), input_ids, weights, parts[0].pooling)


def _product(views: Views, gradients: Sequence[Tensor | None]) -> Tensor:
    pairs = zip(_tensors(views), gradients, strict=False)
    return sum((tensor * grad).sum() for tensor, grad in pairs if tensor is not None and grad is not None)  # type: ignore[return-value]
