"""A made-up retrieval task that a tiny random MILCO learns in seconds on one core.

A passage is four of a topic's eight words, and its question the other four: what a word means has to be learned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import BertConfig

from milco_hf.modeling import MilcoConfig, MilcoForSparseEncoding

TERMS, TOPICS, WORDS = 200, 48, 8
FIRST = 2  # the encoder's own ids of padding and of what begins a text come before the words


def fresh(seed: int) -> MilcoForSparseEncoding:
    """A tiny random MILCO without the source view, whose head has rows of norm 1.6."""
    torch.manual_seed(seed)
    encoder = BertConfig(
        vocab_size=FIRST + TOPICS * WORDS,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        pad_token_id=0,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config = MilcoConfig(
        encoder_config=encoder, pivot_vocab_size=TERMS, pivot_hidden_size=64, echo=False, initializer_range=0.2
    )
    return MilcoForSparseEncoding(config)


def batch(size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Questions and passages of different topics, [size, 5] each; row i answers row i."""
    topics = torch.randperm(TOPICS, generator=generator)[:size]
    words = torch.stack([torch.randperm(WORDS, generator=generator) for _ in range(size)])
    ids = TERMS + FIRST + topics[:, None] * WORDS + words
    start = torch.full((size, 1), TERMS + 1)
    return torch.cat([start, ids[:, :4]], dim=1), torch.cat([start, ids[:, 4:]], dim=1)


def train(
    model: MilcoForSparseEncoding,
    steps: int,
    learning_rate: float,
    sparsity: float,
    at: Sequence[int] = (),
    measure: Callable[[MilcoForSparseEncoding], dict[str, float]] | None = None,
) -> list[dict[str, float]]:
    """In-batch cross-entropy of inner products, and L1 whose weight grows over the first half, as SCT has them.

    Args:
        model: Trained in place.
        steps: Of 32 questions.
        learning_rate: AdamW's.
        sparsity: Weight of L1 at its end.
        at: Numbers of steps after which to measure.
        measure: What to measure; `quality` by default.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    generator = torch.Generator().manual_seed(1)
    found = []
    for step in range(steps + 1):
        if step in at:
            found.append((measure or quality)(model))
        if step == steps:
            return found
        queries, passages = (model(ids).pivot_view for ids in batch(32, generator))
        weight = sparsity * min(1.0, 2 * step / steps) ** 2
        loss = torch.nn.functional.cross_entropy(queries @ passages.T, torch.arange(len(queries)))
        loss = loss + weight * (queries.sum(1).mean() + passages.sum(1).mean())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return found


@torch.no_grad()
def quality(model: MilcoForSparseEncoding, batches: int = 8) -> dict[str, float]:
    """Share of questions whose passage is found among one of every topic, and active terms of a passage."""
    generator = torch.Generator().manual_seed(2)
    right = active = 0.0
    for _ in range(batches):
        queries, passages = (model(ids).pivot_view for ids in batch(TOPICS, generator))
        scores = queries @ passages.T
        # a tie, as between empty vectors, is none found
        right += (scores.diag()[:, None] > scores).sum(1).eq(TOPICS - 1).float().mean().item()
        active += (passages > 0).sum(1).float().mean().item()
    return {"found": right / batches, "active terms": active / batches}
