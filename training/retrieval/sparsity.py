"""What keeps vectors sparse: L1 and FLOPS, by view."""

from __future__ import annotations

import torch
from torch import Tensor

from milco_hf.training.retrieval.processes import sum_over_processes
from milco_hf.training.retrieval.views import ViewChoice, Views


def l1(texts: Views, views: ViewChoice = "both") -> Tensor:
    """‖t‖₁, ‖s‖₁ or their sum for each text, [B]."""
    found = texts.pivot.new_zeros(len(texts), dtype=torch.float32)
    if views != "source":
        found = found + texts.pivot.float().sum(dim=1)
    if views != "pivot":
        rows, _, values = texts.entries()
        found = found.index_add(0, rows, values.float())
    return found


def flops(texts: Views, occurrences: Tensor, dimensions: int, views: ViewChoice = "both") -> tuple[Tensor, Tensor]:
    """FLOPS (Paria et al., 2020) over the texts of all processes: Σ_j (mean over texts of x_j)².

    It is no mean over texts: it depends on which ones are together. So the means are taken over all processes, and
    one process with a batch of 2b gives what two with b give; only accumulation, which never sees two micro-batches
    together, makes a difference. Only one sum a dimension travels between processes, not the vectors.

    Args:
        texts: this process's.
        occurrences: how often each text counts, [B].
        dimensions: V_e + V_s.
        views: which dimensions.

    Returns:
        (FLOPS, texts of all processes), two scalars; each process has the same.
    """
    occurrences = occurrences.to(torch.float32)
    sums = []
    if views != "source":
        sums.append(occurrences @ texts.pivot.float())  # [V_e]
    if views != "pivot":
        rows, ids, values = texts.entries()
        sums.append(values.new_zeros(dimensions).index_add(0, ids, values.float() * occurrences[rows]))
    total = sum_over_processes(occurrences.sum())
    means = sum_over_processes(torch.cat(sums)) / total
    return means.square().sum(), total
