"""A neural teacher: any English masked language model trained as SPLADE."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from milco_hf.training.teachers.targets import SparseTargets


class MlmTeacher:
    """Pooled logits of a masked language model: per term, the largest logit over the text's tokens, before LogSat.

    Args:
        model: an `AutoModelForMaskedLM`; frozen and put into evaluation mode here.
        tokenizer: its tokenizer.
        max_length: texts are cut to this many tokens.
        name: enters the fingerprint, with the weights.
        batch_tokens: texts × tokens that the model reads at a time; it makes as many times V_e logits.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 512,
        name: str = "",
        batch_tokens: int = 4096,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.name = name
        self.batch_tokens = batch_tokens
        self.vocabulary_size = model.get_output_embeddings().weight.shape[0]

    @property
    def fingerprint(self) -> str:
        """Changes when the teacher would give other targets: with its weights, dtype, tokenizer or longest input."""
        digest = hashlib.sha256(f"{self.name} {self.max_length} {self.model.dtype} {len(self.tokenizer)}".encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            # A strided sample tells checkpoints apart; hashing half a gigabyte at every start would not do it better.
            flat = tensor.detach().flatten()
            sample = flat[:: max(1, flat.numel() // 64)][:64].float().cpu().numpy()
            digest.update(name.encode() + str(tuple(tensor.shape)).encode() + np.ascontiguousarray(sample).tobytes())
        return digest.hexdigest()[:16]

    def to(self, device: torch.device | str) -> MlmTeacher:
        """Move the model."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def logits(self, texts: Sequence[str]) -> Tensor:
        """Pooled logits of texts, [P, V_e] in fp32 on the model's device, negative ones included."""
        device = self.model.device
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.max_length, verbose=False)["input_ids"]
        order = sorted(range(len(texts)), key=lambda row: len(encoded[row]))
        pooled = torch.empty(len(texts), self.vocabulary_size, device=device)
        start = 0
        while start < len(order):
            end = start + 1
            while end < len(order) and (end + 1 - start) * len(encoded[order[end]]) <= self.batch_tokens:
                end += 1
            rows = order[start:end]
            batch = self.tokenizer.pad({"input_ids": [encoded[row] for row in rows]}, return_tensors="pt").to(device)
            with torch.autocast(device.type, enabled=False):  # the teacher has its own dtype
                logits = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            # padding enters the max as the dtype's minimum, never as zero
            hidden = ~batch["attention_mask"].bool().unsqueeze(-1)
            pooled[rows] = logits.masked_fill(hidden, torch.finfo(logits.dtype).min).amax(dim=1).float()
            start = end
        return pooled

    def targets(self, texts: Sequence[str]) -> SparseTargets:
        """The positive logits of texts, on the model's device; negative ones count as zero."""
        return SparseTargets.from_dense(self.logits(texts))
