"""Refuses a MILCO tokenizer that does not cut texts as its encoder's own tokenizer does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from transformers import PreTrainedTokenizerBase

SCRIPTS = (
    "Who wrote this book? The music of Baltimore, 1984 & naïve café — re-encoded.",
    "Qui a écrit ce livre ? Der höchste Berg; İstanbul'da müzik, Việt Nam âm nhạc.",
    "Кто написал эту книгу? Хто написав цю книгу і коли саме?",
    "Ποιος έγραψε αυτό το βιβλίο; Η μουσική.",
    "من كتب هذا الكتاب؟ مُوسِيقَى عَرَبِيَّة. کتاب کس نے لکھی؟",
    "מי כתב את הספר הזה? מוזיקה.",
    "यह किताब किसने लिखी? कितने ग्रह सौर मंडल में हैं?",
    "এই বইটি কে লিখেছেন? বাংলা সঙ্গীত।",
    "இந்தப் புத்தகத்தை எழுதியவர் யார்? ఈ పుస్తకం ఎవరు రాశారు?",
    "ใครเขียนหนังสือเล่มนี้ ดนตรีไทย",
    "누가 이 책을 썼습니까? 음악",
    "この本は誰が書きましたか?カタカナ、ひらがな、ｶﾀｶﾅ。",
    "谁写了这本书？陌陌直播音乐怎么导入手机？漢字",
    "ማን ጻፈው? ვინ დაწერა? Ո՞վ է գրել։ ആരാണ് എഴുതിയത്",
    "🎵🎶👩‍👩‍👧‍👦🇧🇩 ☃ 𝔪𝔲𝔰𝔦𝔠 ｍｕｓｉｃ ﬁne ½ ㎏ e\u0301 \u200b\u200d\ufeff \x00 \ufffd",
    "https://example.org/a_b?c=d#e f(x) = {y: [1, 2.5e-3]} <b>tag</b> $5 100% C++ @user #tag",
    "",
    " ",
    " \t\n\r\u00a0\u2003\u3000 ",
    "  two  spaces   three\nlines\n\n\tand tabs ",
)
"""Texts in many scripts, empty and blank ones, and the odd characters that normalizers treat each in their own way."""

_SPELLINGS = (
    "en: {0}",
    "en:{0}",
    "en:_{0}",
    "en_{0}",
    "e_{0}",
    "EN: {0}",
    "a en: {0} b",
    "  en:  {0}  ",
    "xen: {0}x en: {0}en: {0}",
    "en:\t{0}",
    "en:\n{0}",
    "en:\u00a0{0}",
    "en:\u3000{0}",
    "en:\u2581{0}",
    "\u2581en:\u2581{0}",
    "en:\u0120{0}",
    "\u0120en:\u0120{0}",
    "en:\u200b {0}",
    "ｅｎ：　{0}",
)
"""Ways in which a text may spell a pivot term's name out."""


def probe_texts(names: list[str], samples: int = 32) -> list[str]:
    """Texts that would show a difference: many scripts, and the pivot's names spelled out in many ways.

    Args:
        names: The pivot dimensions' names, such as `en: music`.
        samples: How many of the names, spread over the vocabulary, are spelled in every way.

    Returns:
        The texts of `SCRIPTS`, then the spellings of the sampled names.
    """
    some = names[:: max(1, len(names) // samples)]
    terms = ["music", "unused 1", *(name.partition(" ")[2] for name in some)]
    texts = [spelling.format(term) for term in terms for spelling in _SPELLINGS]
    return [*SCRIPTS, *texts, "<unused 1>", "music <unused 280> music"]


def check_vocabulary(
    source: PreTrainedTokenizerBase,
    tokenizer: PreTrainedTokenizerBase,
    names: list[str],
    source_vocab_size: int,
    texts: Iterable[str] | None = None,
) -> None:
    """Checks that a tokenizer speaks the one vocabulary: every dimension named, and texts cut as the encoder's are.

    Args:
        source: The encoder's own tokenizer.
        tokenizer: The one to check.
        names: Names of the V_e pivot dimensions.
        source_vocab_size: V_s.
        texts: Texts to compare on. Default: `probe_texts`, and every single name.

    Raises:
        ValueError: A dimension has no name or a wrong one, or some text is cut differently.
    """
    offset = len(names)
    vocab = tokenizer.get_vocab()
    expected = {name: i for i, name in enumerate(names)}
    expected.update((piece, i + offset) for piece, i in source.get_vocab().items())
    for piece, i in expected.items():
        if vocab.get(piece) != i:
            raise ValueError(
                f"The new vocabulary has token {piece!r} at {vocab.get(piece)}, and it belongs at {i}: the encoder's "
                "tokenizer holds ids in a way that this version cannot move."
            )
    # an id that the source tokenizer itself skips, below others, is never an input: it may go without a name
    known = set(source.get_vocab().values())
    skipped = {i + offset for i in range(max(known)) if i not in known}
    unnamed = sorted(set(range(offset + source_vocab_size)) - set(vocab.values()) - skipped)
    beyond = max(vocab.values()) + 1 - (offset + source_vocab_size)
    if unnamed or beyond > 0:
        raise ValueError(
            f"The new vocabulary should name dimensions 0 to {offset + source_vocab_size - 1}; "
            f"{len(unnamed)} have no name ({unnamed[:5]} …) and {max(beyond, 0)} names lie beyond."
        )
    with _settings_kept(source), _settings_kept(tokenizer):
        _check_pieces(source, tokenizer, offset, probe_texts(names) if texts is None else list(texts))
        if texts is None:
            _check_unreachable(tokenizer, offset, names)


@contextmanager
def _settings_kept(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Puts back the padding and truncation that every call of a tokenizer overwrites in its backend."""
    backend = tokenizer.backend_tokenizer
    padding, truncation = backend.padding, backend.truncation
    try:
        yield
    finally:
        if padding is not None:
            backend.enable_padding(**padding)
        if truncation is not None:
            backend.enable_truncation(**truncation)


def _check_pieces(
    source: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase, offset: int, texts: list[str]
) -> None:
    for special in (True, False):
        theirs = source(texts, add_special_tokens=special, truncation=False, verbose=False)["input_ids"]
        ours = tokenizer(texts, add_special_tokens=special, truncation=False, verbose=False)["input_ids"]
        for text, their_ids, our_ids in zip(texts, theirs, ours, strict=True):
            if our_ids != [i + offset for i in their_ids]:
                raise ValueError(
                    f"The encoder's tokenizer cuts {text!r} into {source.convert_ids_to_tokens(their_ids)}, and the "
                    f"new one into {tokenizer.convert_ids_to_tokens(our_ids)}. An English name can be reached from "
                    "text, most likely because this tokenizer keeps spaces as they are; it cannot be used for MILCO."
                )


def _check_unreachable(tokenizer: PreTrainedTokenizerBase, offset: int, names: list[str]) -> None:
    for start in range(0, len(names), 10_000):  # in parts: half a million encodings at once take gigabytes
        part = names[start : start + 10_000]
        for name, ids in zip(part, tokenizer(part, truncation=False, verbose=False)["input_ids"], strict=True):
            if any(i < offset for i in ids):
                raise ValueError(
                    f"The text {name!r} reaches the English dimension of that name: this tokenizer keeps spaces as "
                    "they are, so it cannot be used for MILCO."
                )
