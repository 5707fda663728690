"""Which tokens two tokenizers share, and what the others say."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import NamedTuple

from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerBase

# Roles of special tokens, each with the role that stands in for it where a tokenizer has none of its own.
_ROLES = {"pad": "pad", "unk": "unk", "mask": "mask", "bos": "cls", "cls": "bos", "eos": "sep", "sep": "eos"}
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")  # how Unigram and BPE models with byte fallback write a byte


@dataclass(frozen=True)
class Matching:
    """Two vocabularies, token by token.

    Attributes:
        size: Rows that the new vocabulary needs: its largest id and one more.
        same: Id in the old vocabulary by id in the new one, of tokens that both have.
        wanted: Text by id, of the new vocabulary's other tokens, as far as they can be read.
        known: Text by id, of the old vocabulary's tokens that can be read, special ones left out. A part of a
            character, and a space alone, cannot be read.
    """

    size: int
    same: dict[int, int]
    wanted: dict[int, str]
    known: dict[int, str]


def match_tokens(old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase) -> Matching:
    """Compares two vocabularies.

    A token is in both if it has the same text there and begins a word in both or in neither, however the tokenizers
    write that (`music` and `##s`, `▁music` and `s`, `Ġmusic` and `s`); if it is a part of a character, of the same
    bytes and written in the same way; or if it is a special token of the same role, or spelled the same and added by
    hand in both.

    Args:
        old: Whose rows there are.
        new: Whose rows are wanted.

    Raises:
        TypeError: A tokenizer is not a fast one.
    """
    known, wanted = _surfaces(old), _surfaces(new)
    spelled = old.get_vocab()
    names = {token_id: token for token, token_id in new.get_vocab().items()}
    places: dict[_Surface, int] = {}
    for token_id, surface in known.items():
        places.setdefault(surface, token_id)
    same = {}
    for token_id, surface in wanted.items():
        twin = spelled.get(names[token_id])  # where several read alike (`▁a` and `▁▁a`), the one spelled alike
        if twin is not None and known.get(twin) == surface:
            same[token_id] = twin
        elif surface in places:
            same[token_id] = places[surface]
    same |= _special(old, new)
    return Matching(
        size=max(new.get_vocab().values(), default=-1) + 1,
        same=same,
        wanted={token_id: each.text for token_id, each in wanted.items() if each.text and token_id not in same},
        known={token_id: each.text for token_id, each in known.items() if each.text},
    )


def _special(old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase) -> dict[int, int]:
    """Old id by new id of special and added tokens."""
    ours, theirs = _added(old), _added(new)
    found = {token_id: ours[token] for token, token_id in theirs.items() if token in ours}
    for role, other in _ROLES.items():
        wanted = getattr(new, f"{role}_token_id", None)
        there = [getattr(old, f"{name}_token_id", None) for name in (role, other)]
        there = [token_id for token_id in there if token_id is not None]
        if wanted is not None and there:
            found[wanted] = there[0]
    return found


def _added(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    return {token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items()}


class _Surface(NamedTuple):
    """What makes a token the same in another vocabulary.

    Attributes:
        kind: "begins" or "inside" a word; "bytes" of a part of a character; "space" alone.
        text: What it says, "" of parts and spaces.
        raw: How parts and spaces are written, "" of others.
    """

    kind: str
    text: str
    raw: str = ""


def _surfaces(tokenizer: PreTrainedTokenizerBase) -> dict[int, _Surface]:
    """What each ordinary token is, by id in ascending order; special ones left out.

    Raises:
        TypeError: The tokenizer is not a fast one.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise TypeError(
            f"{type(tokenizer).__name__} is not a fast tokenizer: load it with AutoTokenizer where the `tokenizers` "
            "library has a converter for it, and save it again."
        )
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    model = description["model"]
    by_bytes = '"ByteLevel"' in json.dumps([description.get("pre_tokenizer"), description.get("decoder")])
    decoder = ByteLevel()
    prefix = model.get("continuing_subword_prefix") if model["type"] == "WordPiece" else None
    left_out = set(tokenizer.added_tokens_decoder) & set(tokenizer.all_special_ids)
    left_out |= {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    added = set(tokenizer.added_tokens_decoder) - left_out
    found = {}
    for token, token_id in tokenizer.get_vocab().items():
        if token_id in left_out:
            continue
        if token_id in added:  # matched in the raw text, wherever it stands
            begins, text = True, token
        elif _BYTE.fullmatch(token):
            begins, text = False, "\ufffd"
        elif prefix:
            begins, text = not token.startswith(prefix), token.removeprefix(prefix)
        else:
            text = decoder.decode([token]) if by_bytes else token.replace("▁", " ")
            begins = text.startswith(" ")
        if "\ufffd" in text:
            found[token_id] = _Surface("bytes", "", token)
        elif not text.strip():
            found[token_id] = _Surface("space", "", text)
        else:
            found[token_id] = _Surface("begins" if begins else "inside", text.strip())
    return dict(sorted(found.items()))


__all__ = ["Matching", "match_tokens"]
