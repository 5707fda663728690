"""Another vocabulary for the encoder or for the English head: rows that are shared stay, the others are started."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from milco_hf.bridging import ALPHA, NEIGHBOURS, Bridge, check_weighing, combine
from milco_hf.modeling.configuration_milco import OFFSET_POSITIONS
from milco_hf.pivot_heads import PivotHead
from milco_hf.token_matching import Matching, match_tokens

logger = logging.getLogger(__name__)

INITS = ("mean", "random", "sembridge")
_TOKEN_IDS = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")


@dataclass(frozen=True)
class NewVocabulary:
    """What `build` was asked to do about vocabularies; see there.

    Raises:
        ValueError: The options do not go together; the message says why.
    """

    tokenizer: str | Path | PreTrainedTokenizerBase | None = None
    pivot_tokenizer: str | Path | PreTrainedTokenizerBase | None = None
    init: str | None = None
    bridge: str | Path | Any | None = None
    neighbours: int = NEIGHBOURS
    alpha: float = ALPHA
    seed: int = 0
    token: str | bool | None = None

    def __post_init__(self) -> None:
        if self.init is not None and self.init not in INITS:
            raise ValueError(f"init has to be one of {', '.join(INITS)}, got {self.init!r}.")
        if self.init is not None and self.tokenizer is None and self.pivot_tokenizer is None:
            raise ValueError(
                f"init={self.init!r} says how rows of new tokens start, but there is no new vocabulary: give tokenizer "
                "(--tokenizer) for the encoder or pivot_tokenizer (--pivot-tokenizer) for the English terms."
            )
        if self.init == "sembridge" and self.bridge is None:
            raise ValueError(
                'init="sembridge" needs a bridge (--bridge): a multilingual sentence-transformers model, such as '
                "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2."
            )
        if self.init != "sembridge" and self.bridge is not None:
            raise ValueError('bridge (--bridge) is what init="sembridge" (--init sembridge) reads; give that too.')
        check_weighing(self.neighbours, self.alpha)
        if self.init != "sembridge" and (self.neighbours, self.alpha) != (NEIGHBOURS, ALPHA):
            raise ValueError(
                "bridge_neighbours and bridge_alpha (--bridge-neighbours, --bridge-alpha) say how "
                'init="sembridge" (--init sembridge) combines rows; give that too.'
            )

    @property
    def folders(self) -> list[str | Path]:
        """What is read from a path, or the Hub."""
        return [each for each in (self.tokenizer, self.pivot_tokenizer, self.bridge) if isinstance(each, (str, Path))]

    def opened(self, tokenizer: str | Path | PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        """A tokenizer, loaded where it is a path or Hub id.

        Raises:
            FileNotFoundError: There is none.
        """
        if not isinstance(tokenizer, (str, Path)):
            return tokenizer
        try:
            return AutoTokenizer.from_pretrained(str(tokenizer), token=self.token)
        except OSError as error:
            raise FileNotFoundError(
                f"The tokenizer {str(tokenizer)!r} cannot be read: {str(error).splitlines()[0]} Give a folder or a Hub "
                "id that has one."
            ) from error

    def opened_bridge(self) -> Bridge | None:
        """The bridge, loaded; None where none is needed.

        Raises:
            FileNotFoundError: There is no such model.
        """
        if self.init != "sembridge":
            return None
        return Bridge(self.bridge, self.neighbours, self.alpha, progress=logger.isEnabledFor(logging.INFO))


def started_rows(
    rows: Tensor, matching: Matching, init: str = "mean", bridge: Bridge | None = None, seed: int = 0
) -> Tensor:
    """Rows of a new vocabulary.

    Tokens of both vocabularies keep their rows. The others start, by `init`:

    - "mean": at the mean of the known tokens' rows;
    - "random": at random, each dimension from N(mean, variance) of the known tokens' rows;
    - "sembridge": as `bridging.combine` says; a token without a text of its own (a part of a character or a special
      token, where the old vocabulary lacks it) starts at the mean.

    Args:
        rows: Of the old vocabulary, [old, width].
        matching: Of the two vocabularies.
        init: One of `INITS`.
        bridge: For "sembridge".
        seed: For "random".

    Returns:
        [new, width], in the rows' dtype.

    Raises:
        ValueError: The old vocabulary has ids beyond its rows, or no token that can be read; or "sembridge" comes
            without a bridge.
    """
    known = torch.tensor(list(matching.known), dtype=torch.long)
    highest = max([*matching.known, *matching.same.values()], default=-1)
    if highest >= len(rows) or not len(known):
        raise ValueError(
            f"There are {len(rows)} rows for a vocabulary of {len(known)} readable tokens with ids up to {highest}: "
            "give the tokenizer that the rows were trained with."
        )
    old = rows[known].float()
    mean, deviation = old.mean(dim=0), old.std(dim=0, correction=0)
    made = mean.repeat(matching.size, 1)
    if init == "random":
        noise = torch.randn(made.shape, generator=torch.Generator().manual_seed(seed))
        made += noise * deviation
    elif init == "sembridge" and matching.wanted:
        if bridge is None:
            raise ValueError('init="sembridge" needs a bridge.')
        vectors = bridge.vectors([*matching.known.values(), *matching.wanted.values()])
        combined, _, _ = combine(vectors[len(known) :], vectors[: len(known)], old, bridge.neighbours, bridge.alpha)
        made[torch.tensor(list(matching.wanted), dtype=torch.long)] = combined
    made = made.to(rows.dtype)
    if matching.same:
        new, kept = (torch.tensor(part, dtype=torch.long) for part in zip(*matching.same.items()))
        made[new] = rows[kept]
    return made


def encoder_config_for(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, matching: Matching
) -> PreTrainedConfig:
    """The encoder's configuration with another vocabulary.

    Args:
        config: The encoder's own; it is left as it is.
        tokenizer: The new one.
        matching: Of the two vocabularies.

    Raises:
        ValueError: The new tokenizer has no padding token; or the encoder counts positions from the padding id, and the
            new tokenizer's is another.
    """
    if tokenizer.pad_token_id is None:
        raise ValueError(
            "The new tokenizer has no padding token, and texts are encoded in padded batches: set its pad_token and "
            "save it again."
        )
    if config.model_type in OFFSET_POSITIONS and tokenizer.pad_token_id != config.pad_token_id:
        raise ValueError(
            f"A {config.model_type} encoder counts positions from its padding id, {config.pad_token_id}, and the new "
            f"tokenizer pads with {tokenizer.pad_token_id}: give its padding token the id {config.pad_token_id}."
        )
    config = copy.deepcopy(config)
    config.vocab_size = matching.size
    for role in _TOKEN_IDS:
        token_id, name = getattr(tokenizer, f"{role}_token_id", None), f"{role}_token_id"
        if hasattr(config, name) and (token_id is not None or (getattr(config, name) or 0) >= matching.size):
            setattr(config, name, token_id)
    return config


@torch.no_grad()
def replace_embeddings(encoder: PreTrainedModel, config: PreTrainedConfig, rows: Tensor) -> None:
    """Gives an encoder other token embeddings and the configuration that belongs to them, in place.

    Args:
        encoder: The encoder.
        config: From `encoder_config_for`.
        rows: [new vocabulary, d_L].
    """
    embedding = encoder.get_input_embeddings()
    embedding.weight = nn.Parameter(rows)
    embedding.num_embeddings = len(rows)
    if embedding.padding_idx is not None:
        embedding.padding_idx = config.pad_token_id
    encoder.config.vocab_size = config.vocab_size
    for name in (f"{role}_token_id" for role in _TOKEN_IDS):
        if hasattr(config, name):
            setattr(encoder.config, name, getattr(config, name))


def pivot_head_for(head: PivotHead, rows: Tensor) -> PivotHead:
    """A head with other English terms.

    Args:
        head: The head.
        rows: [V_e, d_e + 1]: each term's decoder row and, last, its bias; what `with_bias` gives, started anew.
    """
    tensors = {**head.tensors, "decoder.weight": rows[:, :-1].contiguous(), "decoder.bias": rows[:, -1].contiguous()}
    return PivotHead(settings={**head.settings, "pivot_vocab_size": len(rows)}, tensors=tensors)


def with_bias(head: PivotHead) -> Tensor:
    """The decoder's rows with the bias as a last column, [V_e, d_e + 1]: biases start as rows do."""
    weight, bias = head.tensors["decoder.weight"], head.tensors["decoder.bias"]
    return torch.cat([weight, bias.to(weight.dtype)[:, None]], dim=1)


def told(what: str, matching: Matching, init: str) -> None:
    """One line on what becomes of a vocabulary, for the log."""
    new = matching.size - len(matching.same)
    logger.info(
        "%s: of %d tokens %d keep their rows and %d start by %s%s",
        *(what, matching.size, len(matching.same), new, init),
        f" ({new - len(matching.wanted)} without a text start at the mean)" if init == "sembridge" and new else "",
    )


__all__ = [
    "INITS",
    "NewVocabulary",
    "encoder_config_for",
    "match_tokens",
    "pivot_head_for",
    "replace_embeddings",
    "started_rows",
    "told",
    "with_bias",
]
