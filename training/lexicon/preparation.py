"""From parallel text to what SAP starts from: two tokenizers, a static teacher, a MILCO that holds the lexicon."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from transformers import ModernBertConfig, PreTrainedTokenizerBase

from milco_hf.modeling import MilcoConfig, MilcoForSparseEncoding
from milco_hf.training.data.pairs import PairDataset, load_pairs
from milco_hf.training.data.sources import SourceSpec
from milco_hf.training.lexicon.association import ibm1, token_presence, with_prior
from milco_hf.training.lexicon.factorization import fit_lexicon, lexicon_logits, start_as_lexicon
from milco_hf.training.lexicon.teacher import saturated_idf, save_teacher
from milco_hf.training.lexicon.tokenizers import (
    train_pivot_tokenizer,
    train_romanized_tokenizer,
    train_source_tokenizer,
)
from milco_hf.vocabulary import one_vocabulary

logger = logging.getLogger(__name__)

_OWN_LETTERS = {"ar", "fa", "he", "ja", "ko", "th", "zh"}


@dataclass
class PreparationSettings:
    """Sizes and settings of milco-mini's start.

    Attributes:
        romanize: whether the source tokenizer writes other alphabets in Latin letters, spelt alike, and cuts words from
            their beginning (`tokenizers.train_romanized_tokenizer`), or is a Unigram model of the text as it is.
        letters: Latin letters of a piece, at most, where romanised.
        source_vocab_size: V_s, pieces of the multilingual tokenizer.
        pivot_vocab_size: V_e, English terms.
        tokenizer_texts: texts per language that the source tokenizer is trained on; English gets six times as many.
        own_letters: how many times as many a language gets whose letters are no others' (Chinese, Japanese, Korean,
            Thai, Hebrew; Arabic and Persian), since nothing else brings its pieces.
        hidden_size: d_L = d_e.
        layers, heads, intermediate_size: of the encoder.
        max_length: longest text in tokens that the encoder takes.
        lexicon_pairs: pairs per language that associations are counted in.
        lexicon_english: English texts that associations are counted in, each beside itself.
        dictionary_words: words per language of the dictionaries that are counted.
        dictionary_tokens: words of more tokens are left out: of what the whole means, a part tells little.
        dictionary_strength: texts that dictionaries are worth, for each token, see `association.with_prior`.
        rounds: rounds of IBM Model 1.
        threshold, power: see `factorization.lexicon_logits`.
        slope, stop_below: see `teacher.saturated_idf`.
        lexicon_scale: about 1 / ‖teacher weights of a sentence‖.
        fit_rounds, fit_embeddings_rate: see `factorization.fit_lexicon`.
        echo_bias: where [ECHO]'s bias starts; small beside the teacher's unit vectors.
        seed: seeds every draw.
    """

    romanize: bool = False
    letters: int = 5
    source_vocab_size: int = 32_000
    pivot_vocab_size: int = 12_000
    tokenizer_texts: int = 10_000
    own_letters: float = 1.0
    hidden_size: int = 256
    layers: int = 3
    heads: int = 4
    intermediate_size: int = 512
    max_length: int = 512
    lexicon_pairs: int = 30_000
    lexicon_english: int = 150_000
    dictionary_words: int = 120_000
    dictionary_tokens: int = 2
    dictionary_strength: float = 3.0
    rounds: int = 4
    threshold: float = 0.01
    power: float = 0.4
    slope: float = 0.25
    stop_below: float = 2.5
    lexicon_scale: float = 0.35
    fit_rounds: int = 14
    fit_embeddings_rate: float = 4.5e-2
    echo_bias: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        if self.letters != type(self).letters and not self.romanize:
            raise ValueError(f"letters={self.letters} cuts romanised words only: set romanize (--romanize) as well.")
        if self.letters < 1:
            raise ValueError(
                f"letters must be at least 1, got {self.letters}: so many Latin letters a piece has at most."
            )
        if self.fit_embeddings_rate <= 0:
            raise ValueError(
                f"fit_embeddings_rate must be above 0, got {self.fit_embeddings_rate}: a step moves embeddings so far."
            )
        for name in ("dictionary_words", "dictionary_tokens", "dictionary_strength"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"{name} must be above 0, got {getattr(self, name)}: to leave dictionaries out, give none."
                )
        if self.own_letters <= 0:
            raise ValueError(f"own_letters must be above 0, got {self.own_letters}: 1 treats all languages alike.")


def prepare(
    data: Sequence[str],
    output: str | Path,
    exclude_sources: Iterable[str],
    settings: PreparationSettings,
    dictionaries: Sequence[str] = (),
) -> MilcoForSparseEncoding:
    """Write `output`/source-tokenizer, /pivot-tokenizer, /teacher and /start, the checkpoint that SAP begins with.

    Args:
        data: files, folders or globs of parallel text.
        output: folder to write.
        exclude_sources: source tags to leave out.
        settings: sizes and settings.
        dictionaries: files, folders or globs of words beside their English glosses, as dictionary_pairs.py writes them.
            They say what words mean, and nothing of how frequent English terms are.

    Returns:
        The model in /start.
    """
    output = Path(output)
    torch.manual_seed(settings.seed)
    words = load_pairs([SourceSpec.parse(path) for path in dictionaries]) if dictionaries else None
    pairs = load_pairs([SourceSpec.parse(path) for path in data], exclude_sources)
    english = sorted(set(pairs.texts("english")))
    logger.info("%d pairs, %d distinct English texts", len(pairs), len(english))

    texts = _tokenizer_texts(pairs, english, settings)
    if words is not None:
        texts += words.texts("other", _balanced_rows(words, settings.tokenizer_texts // 2, settings.seed))
    if settings.romanize:
        source_tokenizer = train_romanized_tokenizer(
            texts, settings.source_vocab_size, settings.letters, max_length=settings.max_length
        )
    else:
        source_tokenizer = train_source_tokenizer(texts, settings.source_vocab_size, settings.max_length)
    source_tokenizer.save_pretrained(output / "source-tokenizer")
    pivot_tokenizer = train_pivot_tokenizer(english, settings.pivot_vocab_size)
    pivot_tokenizer.save_pretrained(output / "pivot-tokenizer")

    english_terms = token_presence(english, pivot_tokenizer, max_tokens=512)
    weights, idf = saturated_idf(english_terms, settings.slope, settings.stop_below)
    save_teacher(pivot_tokenizer, weights, output / "teacher")

    chosen = _balanced_rows(pairs, settings.lexicon_pairs, settings.seed)
    tokens = token_presence(pairs.texts("other", chosen), source_tokenizer)
    place = {text: number for number, text in enumerate(english)}
    terms = english_terms[np.array([place[text] for text in pairs.texts("english", chosen)])]
    # English texts beside themselves: without them English tokens would only mean what they mean inside other languages
    own = np.random.default_rng(settings.seed).permutation(len(english))[: settings.lexicon_english]
    own_texts = [english[number] for number in own]
    tokens = sparse.vstack([tokens, token_presence(own_texts, source_tokenizer)], format="csr")
    terms = sparse.vstack([terms, english_terms[own]], format="csr")
    table = ibm1(tokens, _content(terms, weights), settings.rounds)
    frequencies = np.asarray(tokens.sum(axis=0)).ravel()
    if words is not None:
        prior, known = _dictionary_table(words, source_tokenizer, pivot_tokenizer, weights, settings)
        table = with_prior(table, frequencies, prior, known, settings.dictionary_strength)
    logits = lexicon_logits(table, idf, settings.threshold, settings.power, settings.slope, settings.lexicon_scale)
    logger.info("lexicon: %d entries, %.1f a token", logits.nnz, logits.nnz / logits.shape[0])

    model = _fresh_model(source_tokenizer, settings)
    start_as_lexicon(model, logits, settings.seed)
    fit_lexicon(
        model,
        logits,
        frequencies,
        settings.fit_rounds,
        embeddings_learning_rate=settings.fit_embeddings_rate,
        seed=settings.seed,
    )
    model.save_pretrained(output / "start")
    tokenizer = one_vocabulary(source_tokenizer, pivot_tokenizer, settings.source_vocab_size, settings.pivot_vocab_size)
    tokenizer.save_pretrained(output / "start")
    return model


def _dictionary_table(
    words: PairDataset,
    source_tokenizer: PreTrainedTokenizerBase,
    pivot_tokenizer: PreTrainedTokenizerBase,
    weights: np.ndarray,
    settings: PreparationSettings,
) -> tuple[sparse.csr_array, np.ndarray]:
    """How surely a token explains a term by dictionaries' short words [V_s, V_e]; how many have the token [V_s]."""
    rows = _balanced_rows(words, settings.dictionary_words, settings.seed)
    tokens = token_presence(words.texts("other", rows), source_tokenizer)
    short = np.diff(tokens.indptr) <= settings.dictionary_tokens
    tokens = sparse.csr_array(tokens[short])
    terms = token_presence(words.texts("english", rows[short]), pivot_tokenizer)
    table = ibm1(tokens, _content(terms, weights), settings.rounds, min_count=1)
    return table, np.asarray(tokens.sum(axis=0)).ravel()


def _content(terms: sparse.csr_array, weights: np.ndarray) -> sparse.csr_array:
    """Presence of terms without stop words, which weigh nothing."""
    kept = sparse.csr_array(terms, copy=True)
    kept.data *= (weights > 0)[kept.indices]
    kept.eliminate_zeros()
    return kept


def _balanced_rows(pairs: PairDataset, limit: int, seed: int, own_letters: float = 1.0) -> np.ndarray:
    """At most `limit` pairs of each language, drawn at random, [n] row numbers; more where its letters are its own."""
    generator = np.random.default_rng(seed)
    drawn = []
    for language, rows in pairs.by_language().items():
        share = own_letters if language in _OWN_LETTERS else 1.0
        drawn.append(generator.permutation(rows)[: round(limit * share)])
    return np.sort(np.concatenate(drawn))


def _tokenizer_texts(pairs: PairDataset, english: Sequence[str], settings: PreparationSettings) -> list[str]:
    """Texts that the source tokenizer is trained on, English ones among them."""
    generator = np.random.default_rng(settings.seed)
    texts = pairs.texts("other", _balanced_rows(pairs, settings.tokenizer_texts, settings.seed, settings.own_letters))
    count = min(len(english), 6 * settings.tokenizer_texts)
    texts += [english[number] for number in generator.choice(len(english), count, replace=False)]
    return [texts[number] for number in generator.permutation(len(texts))]


def _fresh_model(tokenizer: PreTrainedTokenizerBase, settings: PreparationSettings) -> MilcoForSparseEncoding:
    encoder = ModernBertConfig(
        vocab_size=settings.source_vocab_size,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=settings.max_length,
        layer_types=["full_attention"] * settings.layers,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        cls_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.eos_token_id,
        sep_token_id=tokenizer.sep_token_id,
    )
    config = MilcoConfig(
        encoder_config=encoder,
        pivot_vocab_size=settings.pivot_vocab_size,
        pivot_hidden_size=settings.hidden_size,
        echo_bias_init=settings.echo_bias,
        special_token_ids=[settings.pivot_vocab_size + i for i in tokenizer.all_special_ids],
        query_length=None,
        document_length=None,
    )
    return MilcoForSparseEncoding(config)
