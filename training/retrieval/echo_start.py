"""Start [ECHO] from token statistics: SAP leaves it untrained, and SCT alone takes long to find what counting gives.

A row w and a bias b are fitted by ridge regression, over the states Z of a frozen model, such that token i of a text in
language ℓ weighs w_i = scale · √idf_ℓ(i). A token that both question and passage have then adds scale² · idf_ℓ(i)
to their score: BM25's weight of it (Robertson and Spärck Jones), without the term frequency. SCT goes on from there.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from milco_hf.modeling import MilcoForSparseEncoding
from milco_hf.training.collator import tokenize

logger = logging.getLogger(__name__)

ACTIVATIONS = {"log_sat": np.expm1, "relu": lambda weights: weights}
"""From a weight to the logit that gives it."""


@dataclass(frozen=True)
class EchoStartSettings:
    """What is fitted to.

    Attributes:
        scale: see the module. 0.12 gives the two views of milco-mini, whose English vectors are about of unit length, a
            like part in scores.
        counted: texts of a language in which tokens are counted.
        encoded: texts of a language whose states are fitted to.
        max_length: texts are cut to so many tokens.
        ridge: added to the diagonal of the normal equations, in parts of its mean.
        batch_size: texts at a time.
        seed: chooses the texts.
    """

    scale: float = 0.12
    counted: int = 1500
    encoded: int = 64
    max_length: int = 256
    ridge: float = 0.01
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name in ("scale", "counted", "encoded", "max_length", "batch_size"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        if self.ridge < 0:
            raise ValueError(f"ridge must not be negative, got {self.ridge}.")


def start_echo(
    model: MilcoForSparseEncoding,
    tokenizer: PreTrainedTokenizerBase,
    texts: Mapping[str, Sequence[str]],
    settings: EchoStartSettings | None = None,
) -> float:
    """Write the fitted row and bias into a model's decoder; nothing else of it changes.

    Args:
        model: with [ECHO] in the decoder.
        tokenizer: its tokenizer.
        texts: passages by language.
        settings: see there.

    Returns:
        R², the share of the logits' variance that the row explains on the texts that it was fitted to.

    Raises:
        ValueError: the model has no [ECHO] row in its decoder, or there are no texts, or none with a token.
    """
    settings = settings or EchoStartSettings()
    decoder = model.head.decoder
    if not decoder.echo_row:
        raise ValueError("This model's decoder has no [ECHO] row (config.echo, config.echo_source): nothing to start.")
    if not any(texts.values()):
        raise ValueError("No texts to count tokens in.")
    rng = np.random.default_rng(settings.seed)
    width = decoder.in_features + 1
    products = torch.zeros(width, width, dtype=torch.float64)
    targets = torch.zeros(width, dtype=torch.float64)
    tokens = total = squares = 0.0
    to_logits = ACTIVATIONS[model.config.echo_activation]
    model.eval()
    for language in tqdm(sorted(texts), desc="fitting [ECHO]", unit=" languages"):
        order = rng.permutation(len(texts[language]))[: settings.counted]
        chosen = [texts[language][number] for number in order]
        weights = _weights(tokenizer, chosen, settings)
        for start in range(0, min(settings.encoded, len(chosen)), settings.batch_size):
            part = chosen[start : min(start + settings.batch_size, settings.encoded)]
            ids, mask = tokenize(tokenizer, part, settings.max_length)
            of_tokens = weights[ids[mask.bool()]]
            kept = of_tokens > 0
            states = _states(model, ids, mask)[kept]
            found = torch.cat([states, states.new_ones(len(states), 1)], dim=1).double()
            wanted = torch.from_numpy(to_logits(of_tokens[kept].numpy()))
            products += found.T @ found
            targets += found.T @ wanted
            tokens, total, squares = tokens + len(wanted), total + float(wanted.sum()), squares + float(wanted @ wanted)
    if not tokens:
        raise ValueError("The texts have no tokens to fit [ECHO] to: they are empty, or hold unknown characters only.")
    ridge = settings.ridge * products.diagonal().mean() * torch.eye(width, dtype=torch.float64)
    solution = torch.linalg.solve(products + ridge, targets)
    with torch.no_grad():
        decoder.weight[-1], decoder.bias[-1] = solution[:-1].to(decoder.weight), solution[-1].to(decoder.bias)
    missed = squares - 2 * solution @ targets + solution @ products @ solution
    explained = 1 - float(missed) / max(squares - total**2 / tokens, 1e-12)
    logger.info("[ECHO] explains %.2f of the variance over %d tokens in %d languages", explained, tokens, len(texts))
    return explained


def _weights(tokenizer: PreTrainedTokenizerBase, texts: list[str], settings: EchoStartSettings) -> Tensor:
    """Scale · √idf of each token of the vocabulary, 0 for those that the texts do not have: [V_e + V_s] in fp64."""
    counts: Counter[int] = Counter()
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    for ids in tokenizer(texts, truncation=True, max_length=settings.max_length, **options)["input_ids"]:
        counts.update(set(ids))
    weights = torch.zeros(len(tokenizer), dtype=torch.float64)
    places, having = torch.tensor(list(counts)), torch.tensor(list(counts.values()), dtype=torch.float64)
    if len(places):
        idf = torch.log1p((len(texts) - having + 0.5) / (having + 0.5))
        weights[places] = settings.scale * idf.sqrt()
    return weights


@torch.no_grad()
def _states(model: MilcoForSparseEncoding, ids: Tensor, mask: Tensor) -> Tensor:
    """Z, what the decoder sees of each real token, text after text: [tokens, d_e]."""
    seen: list[Tensor] = []
    handle = model.head.norm.register_forward_hook(lambda _, __, output: seen.append(output))
    try:
        model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), return_embeddings=False)
    finally:
        handle.remove()
    states = seen[0].flatten(0, -2).float().cpu()
    return states[mask.flatten().bool()] if len(states) == mask.numel() else states  # the model may leave padding out
