"""A static teacher: every token of a text has a fixed weight, as in sentence-transformers' SparseStaticEmbedding."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from milco_hf.training.teachers.targets import SparseTargets

Transform = Literal["identity", "inverse_log_sat"]
TRANSFORMS = ("identity", "inverse_log_sat")


class StaticTeacher:
    """Gives each text the weights of the tokens in it.

    SMSE works on logits, before LogSat, and a static teacher only has weights. So the logits are made of them:

    - ``inverse_log_sat``: exp(scale · weight) − 1, which LogSat takes back to scale · weight: the student's pivot view
      approaches the teacher's own weights. IDF weights reach 10, whose logits of 22,025 no regression survives: use a
      scale near 0.2 with it.
    - ``identity``: scale · weight itself; the student's pivot view approaches log(1 + scale · weight), which keeps the
      order of the terms and damps rare ones.

    Before that, a text's weights may be divided by their length: w ← scale · w / ‖w‖₂^norm_power. Without it, dot
    products favour long texts; on 26 languages' dev pairs a counted lexicon found 71 % of the translations with raw
    weights and 85 % with unit length.

    Args:
        tokenizer: the English tokenizer; its ids are the English terms.
        weights: a weight per term, [V_e]; terms at or below 0 are never targets.
        transform: how weights become logits, see above.
        scale: multiplies the weights first.
        norm_power: how far a text's weights are divided by their length: 0 not at all, 1 to unit length.
        max_length: texts are cut to this many tokens; None for no limit.

    Raises:
        ValueError: unknown transform, or a scale that is not positive.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        weights: torch.Tensor,
        transform: Transform = "identity",
        scale: float = 1.0,
        norm_power: float = 0.0,
        max_length: int | None = None,
    ) -> None:
        if transform not in TRANSFORMS:
            raise ValueError(f"teacher_transform must be one of {TRANSFORMS}, got {transform!r}.")
        if not scale > 0:
            raise ValueError(f"teacher_scale must be positive, got {scale}.")
        if norm_power < 0:
            raise ValueError(f"teacher_norm_power must not be negative, got {norm_power}.")
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.weights = weights.detach().float().cpu().numpy()
        self.transform, self.scale, self.norm_power = transform, scale, norm_power
        self.vocabulary_size = len(self.weights)

    @property
    def fingerprint(self) -> str:
        """Changes when the teacher would give other targets."""
        digest = hashlib.sha256(self.weights.tobytes())
        digest.update("\n".join(self.tokenizer.convert_ids_to_tokens(range(self.vocabulary_size))).encode())
        digest.update(f"{self.max_length} {self.transform} {self.scale} {self.norm_power}".encode())
        return digest.hexdigest()[:16]

    def targets(self, texts: Sequence[str]) -> SparseTargets:
        """Logits of texts."""
        encoded = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            truncation=self.max_length is not None,
            max_length=self.max_length,
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]
        rows = []
        for ids in encoded:
            columns = np.unique(np.asarray(ids, dtype=np.int64))
            columns = columns[self.weights[columns] > 0]
            rows.append((columns, self._logits(self.weights[columns])))
        return SparseTargets.from_rows(rows, self.vocabulary_size)

    def _logits(self, weights: np.ndarray) -> np.ndarray:
        scaled = weights * self.scale
        if self.norm_power:
            scaled = scaled / max(float(np.linalg.norm(weights)), 1e-6) ** self.norm_power
        return np.expm1(scaled) if self.transform == "inverse_log_sat" else scaled

    def to(self, device: torch.device | str) -> StaticTeacher:
        """Itself: there is nothing to move."""
        return self
