"""One vocabulary: a tokenizer whose ids are the dimensions of a MILCO vector.

Dimensions 0 … V_e − 1 are the pivot's (English) terms, V_e … V_e + V_s − 1 the encoder's own tokens. `one_vocabulary`
rewrites the encoder's `tokenizer.json` so that it speaks these ids: every id moves up by V_e, and the English terms
take the ids below under names such as `en: music`. The space makes a name unreachable: tokenizers turn every space
into `▁` or `Ġ`, or split there, before their model looks anything up. `milco_hf.vocabulary_check` refuses a tokenizer
for which that does not hold.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from milco_hf.vocabulary_check import check_vocabulary

logger = logging.getLogger(__name__)

PIVOT_PREFIX = "en: "
"""What every pivot term's name starts with. The space is the point of it."""

_NONCHARACTER = "\uffff"
"""Unicode reserves this code point for internal use: no text that is meant to be exchanged contains it."""


def one_vocabulary(
    source_tokenizer: PreTrainedTokenizerBase,
    pivot_terms: PreTrainedTokenizerBase | Sequence[str],
    source_vocab_size: int | None = None,
    pivot_vocab_size: int | None = None,
    model_input_names: Sequence[str] | None = None,
) -> PreTrainedTokenizerFast:
    """Makes the tokenizer of a MILCO checkpoint from its encoder's.

    It cuts texts exactly as `source_tokenizer` does, with every id V_e higher, and names every dimension of the
    vector: `convert_ids_to_tokens(i)` is `en: music` for a pivot term and the encoder's own piece for a source token.

    Args:
        source_tokenizer: The encoder's tokenizer, a fast one (it is left as it is).
        pivot_terms: The pivot's tokenizer, or its terms in the order of the decoder's rows.
        source_vocab_size: V_s, the rows of the encoder's embedding, which may exceed the tokenizer's tokens: the rows
            without a token are named `<unused i>`. Default: the tokenizer's size.
        pivot_vocab_size: V_e, the rows of the pivot's decoder; the rows without a term are named `en: <unused i>`.
            Default: the number of terms.
        model_input_names: What the tokenizer returns, e.g. without `token_type_ids` for an encoder that takes none.
            Default: as the source tokenizer.

    Returns:
        A `PreTrainedTokenizerFast` with V_e + V_s tokens, which `AutoTokenizer` reloads without remote code.

    Raises:
        TypeError: The source tokenizer is not a fast one.
        ValueError: The sizes do not fit the tokenizers, the tokenizer has a part whose ids are not known, or the result
            would not cut texts as the source does.
    """
    if not isinstance(source_tokenizer, PreTrainedTokenizerBase) or not getattr(source_tokenizer, "is_fast", False):
        raise TypeError(
            f"{type(source_tokenizer).__name__} is not a fast tokenizer, and only those have the tokenizer.json that a "
            "MILCO vocabulary is made from. Convert it first (load it with AutoTokenizer where the `tokenizers` "
            "library has a converter for it, and save it again), or choose another encoder."
        )
    names = pivot_names(pivot_terms, pivot_vocab_size)
    offset = len(names)
    description = json.loads(source_tokenizer.backend_tokenizer.to_str())
    source_vocab = source_tokenizer.get_vocab()
    size = max(source_vocab.values(), default=-1) + 1
    source_vocab_size = size if source_vocab_size is None else source_vocab_size
    if source_vocab_size < size:
        raise ValueError(
            f"The encoder's embedding has {source_vocab_size} rows, but its tokenizer has ids up to {size - 1}. "
            "Resize the encoder's embeddings, or use the tokenizer it was trained with."
        )
    clash = next((name for name in names if name in source_vocab), None)
    if clash is not None:
        raise ValueError(
            f"The encoder's tokenizer already has a token {clash!r}: is it a MILCO checkpoint's? "
            "Give the multilingual encoder's own tokenizer."
        )
    fillers = {
        f"<unused {i}>": i for i in sorted(set(range(source_vocab_size)) - set(source_vocab.values()))
    }  # the space keeps these out of reach, as it does the pivot's names
    _move_up(description, offset, names, fillers)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(description, ensure_ascii=False)),
        **_carried_over(source_tokenizer, model_input_names),
    )
    check_vocabulary(source_tokenizer, tokenizer, names, source_vocab_size)
    return tokenizer


def pivot_names(terms: PreTrainedTokenizerBase | Sequence[str], size: int | None = None) -> list[str]:
    """Names the pivot's dimensions: `en: music`, each one unique.

    Args:
        terms: The pivot's tokenizer, or its terms in the order of the decoder's rows.
        size: V_e. Rows beyond the terms (decoders are often padded to a round number) become `en: <unused i>`.

    Returns:
        V_e names.

    Raises:
        ValueError: There are more terms than rows, or no term at all.
    """
    if isinstance(terms, PreTrainedTokenizerBase):
        by_id = {i: term for term, i in terms.get_vocab().items()}
        terms = [by_id.get(i, f"<unused {i}>") for i in range(max(by_id, default=-1) + 1)]
    elif isinstance(terms, str):
        raise ValueError(f"pivot_terms must be a tokenizer or a list of terms, got the string {terms!r}.")
    size = len(terms) if size is None else size
    if len(terms) > size:
        raise ValueError(
            f"The pivot has {len(terms)} terms, but its decoder has {size} rows: the first term without a row is "
            f"{terms[size]!r}. Use the tokenizer that the pivot was trained with."
        )
    if size == 0:
        raise ValueError("The pivot vocabulary is empty: give the pivot's tokenizer, or its terms as a list.")
    terms = [*terms, *(f"<unused {i}>" for i in range(len(terms), size))]
    names: dict[str, None] = {}
    for term in terms:
        name, copies = f"{PIVOT_PREFIX}{term}", 1
        while name in names:
            copies += 1
            name = f"{PIVOT_PREFIX}{term} ({copies})"
        names[name] = None
    return list(names)


def _move_up(description: dict[str, Any], offset: int, names: list[str], fillers: dict[str, int]) -> None:
    """Moves every id of a parsed `tokenizer.json` up by `offset`, in place, and puts the names into the room below."""
    model = description["model"]
    model_tokens = {piece for piece, _ in model["vocab"]} if isinstance(model["vocab"], list) else set(model["vocab"])
    added = description.get("added_tokens") or []
    added_only = [token for token in added if token["content"] not in model_tokens]
    # The library gives a token that its model does not know the next free id, whatever the file says. So where there
    # are such tokens, the unused ids that follow theirs can only be added tokens too; those are looked for in the raw
    # text, where a space does not keep them out of reach, but a noncharacter does.
    in_model = fillers
    if added_only:
        in_model = {}
        last = max(token["id"] for token in added_only)
        added.extend(_added_token(name + _NONCHARACTER, i) for name, i in fillers.items() if i > last)
    _move_model(model, offset, names, in_model)
    for token in added:
        token["id"] += offset
    description["added_tokens"] = sorted(added, key=lambda token: token["id"])
    if description.get("post_processor"):
        _move_post_processor(description["post_processor"], offset)
    if description.get("padding"):
        description["padding"]["pad_id"] += offset


def _added_token(content: str, token_id: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": token_id, "content": content, **flags}


def _move_model(model: dict[str, Any], offset: int, names: list[str], fillers: dict[str, int]) -> None:
    kind = model.get("type")
    if kind == "Unigram":
        # An unknown character costs the lowest score of the whole vocabulary, less ten: the new entries have that
        # score, because a lower one would change how unknown characters are cut, and a higher one would help a name.
        lowest = min((score for _, score in model["vocab"]), default=0.0)
        tail = sorted(fillers, key=fillers.__getitem__)
        model["vocab"] = [[name, lowest] for name in names] + model["vocab"] + [[name, lowest] for name in tail]
        if model.get("unk_id") is not None:
            model["unk_id"] += offset
    elif kind in ("BPE", "WordPiece", "WordLevel"):
        # BPE reaches a token by its merges, which no name has; the others look words up, and a word has no space.
        vocab = {name: i for i, name in enumerate(names)}
        vocab.update((piece, i + offset) for piece, i in model["vocab"].items())
        vocab.update((name, i + offset) for name, i in fillers.items())
        model["vocab"] = vocab
    else:
        raise ValueError(
            f"The encoder's tokenizer has a model of type {kind!r}; a MILCO vocabulary can be made from Unigram, BPE, "
            "WordPiece and WordLevel models."
        )


def _move_post_processor(processor: dict[str, Any], offset: int) -> None:
    kind = processor.get("type")
    if kind == "Sequence":
        for part in processor["processors"]:
            _move_post_processor(part, offset)
    elif kind == "TemplateProcessing":
        for token in processor["special_tokens"].values():
            token["ids"] = [i + offset for i in token["ids"]]
    elif kind in ("RobertaProcessing", "BertProcessing"):
        for end in ("sep", "cls"):
            processor[end] = [processor[end][0], processor[end][1] + offset]
    elif kind != "ByteLevel":  # ByteLevel only moves offsets in the text; it holds no ids
        raise ValueError(
            f"The encoder's tokenizer has a post-processor of type {kind!r}, whose ids cannot be moved; known are "
            "TemplateProcessing, RobertaProcessing, BertProcessing, ByteLevel and Sequences of them."
        )


def _carried_over(source: PreTrainedTokenizerBase, model_input_names: Sequence[str] | None) -> dict[str, Any]:
    """What a tokenizer has beside its `tokenizer.json`, as arguments for another one."""
    # `add_bos_token` and `add_eos_token` are left out on purpose: their effect is in the post-processor already, and
    # given again they would make the library write that anew.
    settings: dict[str, Any] = {
        "model_max_length": source.model_max_length,
        "padding_side": source.padding_side,
        "truncation_side": source.truncation_side,
        "clean_up_tokenization_spaces": source.clean_up_tokenization_spaces,
        "split_special_tokens": source.split_special_tokens,
        "model_input_names": list(model_input_names or source.model_input_names),
    }
    if "add_prefix_space" in source.init_kwargs:
        settings["add_prefix_space"] = source.init_kwargs["add_prefix_space"]
    settings.update(source.special_tokens_map)
    if source.extra_special_tokens:
        settings["extra_special_tokens"] = list(source.extra_special_tokens)
    return settings
