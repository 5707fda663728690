"""New vocabularies: entmax and combinations by hand, tokens matched across tokenizers, and `build` with another one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModel, PreTrainedTokenizerFast

from helpers_tokenizers import bpe_tokenizer, unigram_tokenizer, wordpiece_file, wordpiece_tokenizer
from milco_hf import MilcoForSparseEncoding
from milco_hf.bridging import Bridge, combine, entmax
from milco_hf.building import build
from milco_hf.new_vocabulary import started_rows
from milco_hf.token_matching import Matching, match_tokens
from test_build import save_encoder, save_pivot

WORDS = {"klang": "music", "stadt": "city"}


class WordBridge:
    """Says that a German word is close to its English one, and everything else to itself alone."""

    def encode(self, texts, **options):
        rng = np.random.default_rng(0)
        own = {text: rng.normal(size=64) for text in sorted({WORDS.get(text, text) for text in texts})}
        return np.stack([own[WORDS.get(text, text)] for text in texts]).astype(np.float32)


def changed_tokenizer(keep=lambda token: True, words=()) -> PreTrainedTokenizerFast:
    """The WordPiece tokenizer with some tokens left out (ids close up) and whole words added."""
    description = json.loads(wordpiece_file())
    vocab = description["model"]["vocab"]
    tokens = [token for token in sorted(vocab, key=vocab.get) if token.startswith("[") or keep(token)]
    description["model"]["vocab"] = {token: i for i, token in enumerate([*tokens, *words])}
    model = wordpiece_tokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(description)),
        model_max_length=model.model_max_length,
        model_input_names=model.model_input_names,
        **model.special_tokens_map,
    )


def test_entmax_by_hand():
    # sparsemax: with two weights τ = (0.9 + 0.8 − 1) / 2 = 0.35, and 0.1 lies below it
    torch.testing.assert_close(
        entmax(torch.tensor([0.9, 0.8, 0.1])), torch.tensor([0.55, 0.45, 0.0], dtype=torch.float64)
    )
    assert entmax(torch.tensor([0.9, 0.8, 0.1]))[2] == 0
    # 1.5-entmax of equal scores is even; of (1, 0): √p = s/2 − τ, so with a = 1/2 − τ: a² + (a − 1/2)² = 1
    weight = ((1 / 2 + (2 - 1 / 4) ** 0.5) / 2) ** 2
    torch.testing.assert_close(
        entmax(torch.tensor([1.0, 0.0]), 1.5), torch.tensor([weight, 1 - weight], dtype=torch.float64)
    )
    scores = torch.randn(5, 7)
    torch.testing.assert_close(entmax(scores, 1), scores.double().softmax(-1))
    torch.testing.assert_close(entmax(scores, 1.0001), scores.double().softmax(-1), atol=1e-3, rtol=0)
    torch.testing.assert_close(entmax(scores, 4).sum(-1), torch.ones(5, dtype=torch.float64))
    assert (entmax(scores, 4) > 0).sum() <= (entmax(scores, 1.5) > 0).sum()
    with pytest.raises(ValueError, match=r"at least 1 .*got 0.5"):
        entmax(scores, 0.5)


def test_combinations_by_hand():
    known = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    rows = torch.tensor([[10.0, 0.0, 0.0], [0.0, 10.0, 0.0], [0.0, 0.0, 10.0]])
    wanted = torch.tensor([[0.8, 0.6], [5.0, 0.0]])  # cosines 0.8, 0.6, −0.8 and 1, 0, −1
    made, found, weights = combine(wanted, known, rows, neighbours=2)
    assert found.tolist() == [[0, 1], [0, 1]]
    torch.testing.assert_close(weights, torch.tensor([[0.6, 0.4], [1.0, 0.0]]))
    torch.testing.assert_close(made, torch.tensor([[6.0, 4.0, 0.0], [10.0, 0.0, 0.0]]))
    assert combine(wanted, known, rows, neighbours=99)[1].shape == (2, 3)
    for bad in ((wanted, known[:0], rows[:0]), (wanted, known, rows[:2]), (wanted[:, :1], known, rows)):
        with pytest.raises(ValueError, match="do not fit together"):
            combine(*bad)
    with pytest.raises(ValueError, match="neighbours"):
        combine(wanted, known, rows, neighbours=0)
    with pytest.raises(ValueError, match="bridge_neighbours"):
        Bridge(WordBridge(), neighbours=0)
    with pytest.raises(ValueError, match="bridge_alpha"):
        Bridge(WordBridge(), alpha=0)


@pytest.mark.parametrize("make", [unigram_tokenizer, bpe_tokenizer, wordpiece_tokenizer])
def test_a_tokenizer_matches_itself_whole(make):
    tokenizer = make()
    matching = match_tokens(tokenizer, tokenizer)
    assert all(new == old for new, old in matching.same.items())
    assert not matching.wanted
    unread = set(tokenizer.get_vocab().values()) - set(matching.same)
    # only parts of characters, and what is nothing but a space
    assert all("\ufffd" in text or not text.strip() for text in (tokenizer.decode([i]) for i in unread))
    assert matching.size == len(tokenizer)


def test_tokens_are_matched_across_tokenizers():
    unigram, wordpiece, bpe = unigram_tokenizer(), wordpiece_tokenizer(), bpe_tokenizer()
    same = match_tokens(unigram, wordpiece).same
    named = {wordpiece.convert_ids_to_tokens(new): unigram.convert_ids_to_tokens(old) for new, old in same.items()}
    assert named["[CLS]"] == "<s>"
    assert named["[PAD]"] == "<pad>"
    assert all(named[token].startswith("▁") != token.startswith("##") for token in named if token[0] != "[")
    assert all(named[token].strip("▁") == token.removeprefix("##") for token in named if token[0] != "[")
    back = match_tokens(bpe, unigram)
    named = {unigram.convert_ids_to_tokens(new): bpe.convert_ids_to_tokens(old) for new, old in back.same.items()}
    pairs = [(a, b) for a, b in named.items() if a.startswith("▁") and a.isascii() is False and len(a) > 2]
    assert pairs
    assert all(b.startswith("Ġ") for _, b in pairs)
    assert any(text.isalpha() and not text.isascii() for text in back.wanted.values())


def test_started_rows():
    rows = torch.tensor([[0.0, 2.0], [4.0, 2.0], [2.0, 8.0]])
    matching = Matching(size=4, same={3: 1}, wanted={1: "klang"}, known={0: "city", 1: "book", 2: "music"})
    mean = started_rows(rows, matching)
    assert mean.tolist() == [[2.0, 4.0], [2.0, 4.0], [2.0, 4.0], [4.0, 2.0]]
    random = started_rows(rows, matching, "random", seed=1)
    torch.testing.assert_close(random, started_rows(rows, matching, "random", seed=1))
    assert not torch.equal(random, started_rows(rows, matching, "random", seed=2))
    assert random[3].tolist() == [4.0, 2.0]
    many = started_rows(rows, Matching(20_000, {}, {}, matching.known), "random")
    torch.testing.assert_close(many.mean(0), torch.tensor([2.0, 4.0]), atol=0.1, rtol=0)
    torch.testing.assert_close(many.std(0), rows.std(0, correction=0), atol=0.1, rtol=0)
    made = started_rows(rows, matching, "sembridge", Bridge(WordBridge(), neighbours=1))
    assert made.tolist() == [[2.0, 4.0], [2.0, 8.0], [2.0, 4.0], [4.0, 2.0]]  # klang is music
    with pytest.raises(ValueError, match="ids up to 2"):
        started_rows(rows[:2], matching)
    with pytest.raises(ValueError, match="needs a bridge"):
        started_rows(rows, matching, "sembridge")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("vocabulary")
    save_encoder(root / "encoder", "bert")
    save_encoder(root / "roberta", "xlm-roberta")
    save_pivot(root / "pivot")
    changed_tokenizer(lambda token: len(token) > 1, [*WORDS]).save_pretrained(root / "other")
    return root


def test_build_with_another_encoder_vocabulary(folders, tmp_path):
    bridge = WordBridge()
    options = {"tokenizer": folders / "other", "init": "sembridge", "bridge": bridge, "bridge_neighbours": 1}
    path = build(folders / "encoder", folders / "pivot", tmp_path / "milco", **options)
    model = MilcoForSparseEncoding.from_pretrained(path)
    old, new = wordpiece_tokenizer(), changed_tokenizer(lambda token: len(token) > 1, [*WORDS])
    assert model.config.source_vocab_size == len(new) < len(old)
    assert model.config.pad_token_id == model.config.pivot_vocab_size + new.pad_token_id
    before = AutoModel.from_pretrained(folders / "encoder").get_input_embeddings().weight
    after = model.get_input_embeddings().weight
    for token, i in new.get_vocab().items():
        kept = old.get_vocab().get(WORDS.get(token, token))
        torch.testing.assert_close(after[i], before[kept], rtol=1e-6, atol=1e-6)
    texts = ["klang in the old stadt", "music"]
    with torch.no_grad():
        vectors = model.encode_document(texts)
    assert vectors is not None
    # a text without a new or lost token comes out as from the encoder's own vocabulary
    plain = MilcoForSparseEncoding.from_pretrained(build(folders / "encoder", folders / "pivot", tmp_path / "plain"))
    terms = plain.config.pivot_vocab_size
    text = "the city is great"
    assert plain.tokenizer.tokenize(text) == model.tokenizer.tokenize(text)
    views = [m(**m.tokenizer(text, return_tensors="pt")).pivot_view for m in (plain, model)]
    assert views[0].shape == (1, terms)
    torch.testing.assert_close(*views)


def test_build_with_another_english_vocabulary(folders, tmp_path):
    own = wordpiece_tokenizer()
    added = changed_tokenizer(words=[*WORDS])
    path = build(
        folders / "encoder",
        folders / "pivot",
        tmp_path / "milco",
        pivot_tokenizer=added,
        init="sembridge",
        bridge=WordBridge(),
        bridge_neighbours=1,
    )
    model = MilcoForSparseEncoding.from_pretrained(path)
    plain = MilcoForSparseEncoding.from_pretrained(build(folders / "encoder", folders / "pivot", tmp_path / "plain"))
    assert model.config.pivot_vocab_size == len(own) + 2
    for word, english in WORDS.items():
        row, same = added.get_vocab()[word], own.get_vocab()[english]
        torch.testing.assert_close(model.head.decoder.weight[row], plain.head.decoder.weight[same])
        torch.testing.assert_close(model.head.decoder.bias[row], plain.head.decoder.bias[same])
        assert model.tokenizer.convert_ids_to_tokens(row) == f"en: {word}"
    torch.testing.assert_close(model.head.decoder.weight[: len(own)], plain.head.decoder.weight[: len(own)])


def test_what_does_not_go_together_is_refused(folders, tmp_path):
    def attempt(encoder="encoder", **options):
        build(folders / encoder, folders / "pivot", tmp_path / "milco", **options)

    with pytest.raises(ValueError, match="there is no new vocabulary"):
        attempt(init="mean")
    with pytest.raises(ValueError, match="needs a bridge"):
        attempt(tokenizer=folders / "other", init="sembridge")
    with pytest.raises(ValueError, match="give that too"):
        attempt(tokenizer=folders / "other", bridge=WordBridge())
    with pytest.raises(ValueError, match=r"one of mean, random, sembridge, got 'zero'"):
        attempt(tokenizer=folders / "other", init="zero")
    with pytest.raises(ValueError, match="counts positions from its padding id, 1, and the new tokenizer pads with 0"):
        attempt("roberta", tokenizer=folders / "other")
    assert not (tmp_path / "milco").exists()
