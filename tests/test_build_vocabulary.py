"""New vocabularies: entmax and combinations by hand, tokens matched across tokenizers, and `build` with another one."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModel, PreTrainedTokenizerFast

from helpers_tokenizers import bpe_tokenizer, unigram_tokenizer, wordpiece_file, wordpiece_tokenizer
from milco_hf import MilcoForSparseEncoding, bridging
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
    for bad in (0.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"at least 1 .*got {bad}"):
            entmax(scores, bad)


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


def test_combinations_are_made_in_parts(monkeypatch):
    """So that neither all similarities nor all neighbours' rows are held at once."""
    wanted, known, rows = torch.randn(5, 6), torch.randn(3, 6), torch.randn(3, 4)
    whole = combine(wanted, known, rows, neighbours=2)
    sizes = []

    def counted(cosines, alpha):
        sizes.append(len(cosines))
        return entmax(cosines, alpha)

    monkeypatch.setattr(bridging, "_ELEMENTS", 16)
    monkeypatch.setattr(bridging, "entmax", counted)
    for part, expected in zip(combine(wanted, known, rows, neighbours=2), whole):
        torch.testing.assert_close(part, expected)
    assert sizes == [2, 2, 1]  # of 2 neighbours with 4 numbers each


def test_a_bridge_that_gives_no_numbers_is_refused():
    class Overflowing:
        def encode(self, texts, **options):
            return np.array([[1.0, np.inf if text == "b" else 2.0] for text in texts])

    assert Bridge(Overflowing()).vectors(["a", "a"]).tolist() == [[1.0, 2.0]] * 2
    with pytest.raises(ValueError, match="vector of 'b' has numbers that are not finite"):
        Bridge(Overflowing()).vectors(["a", "b"])


@pytest.mark.parametrize("make", [unigram_tokenizer, bpe_tokenizer, wordpiece_tokenizer])
def test_a_tokenizer_matches_itself_whole(make):
    """Spaces and parts of characters too: a vocabulary that is only trimmed loses no row that it keeps."""
    tokenizer = make()
    matching = match_tokens(tokenizer, tokenizer)
    assert matching.same == {number: number for number in tokenizer.get_vocab().values()}
    assert not matching.wanted
    assert matching.size == len(tokenizer)
    parts = [i for i in matching.same if "\ufffd" in tokenizer.decode([i])]
    assert bool(parts) == (make is bpe_tokenizer)
    assert not set(parts) & set(matching.known)  # nothing that a bridge could read
    rows = torch.randn(len(tokenizer), 4)
    assert torch.equal(started_rows(rows, matching), rows)


def test_tokens_that_read_alike_are_told_apart_by_their_spelling():
    """Bytes, spaces, and two that a bridge would read as the same word."""
    tokens = ["<unk>", "<0xE8>", "▁", "▁▁a", "▁a", "▁▁"]

    def tokenizer(tokens):
        vocab = {token: number for number, token in enumerate(tokens)}
        model = models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>")
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), unk_token="<unk>")

    old, new = tokenizer(tokens), tokenizer([*tokens[::-1], "<0xE9>"])
    assert match_tokens(old, new).same == {5: 0, 4: 1, 3: 2, 2: 3, 1: 4, 0: 5}
    assert match_tokens(old, new).wanted == {}
    bpe = bpe_tokenizer()
    named = {bpe.convert_ids_to_tokens(new): tokens[old] for new, old in match_tokens(old, bpe).same.items()}
    assert named["Ġ"] == "▁"
    assert "<0xE8>" not in named.values()  # a byte that is written in another way


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
    # a text without a new or lost token comes out as from the encoder's own vocabulary, and a new one as its neighbour
    plain = MilcoForSparseEncoding.from_pretrained(build(folders / "encoder", folders / "pivot", tmp_path / "plain"))
    terms = plain.config.pivot_vocab_size
    for own, other in (("the city is great", "the city is great"), ("the music city", "the klang stadt")):
        pieces = plain.tokenizer.tokenize(own)
        assert [WORDS.get(piece, piece) for piece in model.tokenizer.tokenize(other)] == pieces
        with torch.no_grad():
            views = [
                m(**m.tokenizer(text, return_tensors="pt")).pivot_view for m, text in ((plain, own), (model, other))
            ]
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
    new = {"tokenizer": folders / "other"}
    for weighing in ({"bridge_neighbours": 3}, {"bridge_alpha": 1.5}):
        with pytest.raises(ValueError, match="bridge_neighbours and bridge_alpha .* give that too"):
            attempt(**new, **weighing)
    with pytest.raises(ValueError, match="bridge_neighbours has to be at least 1, got 0"):
        attempt("nowhere", **new, init="sembridge", bridge=WordBridge(), bridge_neighbours=0)  # before anything is read
    with pytest.raises(ValueError, match="bridge_alpha has to be at least 1 .*finite, got inf"):
        attempt("nowhere", **new, init="sembridge", bridge=WordBridge(), bridge_alpha=float("inf"))
    with pytest.raises(FileNotFoundError, match="The tokenizer '.*no-tokenizer' cannot be read"):
        attempt(tokenizer=folders / "no-tokenizer")
    with pytest.raises(FileNotFoundError, match="The bridge '.*no-bridge' .* cannot be read"):
        attempt(**new, init="sembridge", bridge=folders / "no-bridge")
    unpadded = changed_tokenizer(words=[*WORDS])
    unpadded.pad_token = None
    with pytest.raises(ValueError, match="The new tokenizer has no padding token"):
        attempt(tokenizer=unpadded)
    with pytest.raises(ValueError, match="counts positions from its padding id, 1, and the new tokenizer pads with 0"):
        attempt("roberta", tokenizer=folders / "other")
    assert not (tmp_path / "milco").exists()


@pytest.mark.parametrize("role", ["tokenizer", "pivot_tokenizer", "bridge", "rescale_reference"])
def test_what_a_checkpoint_is_made_from_is_not_replaced_by_it(folders, tmp_path, role):
    shutil.copytree(folders / ("pivot" if role == "rescale_reference" else "other"), tmp_path / "source")
    before = {path.name: path.read_bytes() for path in (tmp_path / "source").iterdir()}
    options = {"rescale_reference": {"rescale_head": "auto"}, "bridge": {"init": "sembridge"}}.get(role, {})
    if role == "bridge":
        options["tokenizer"] = folders / "other"
    options[role] = tmp_path / "source"
    with pytest.raises(ValueError, match="source is where .*source lies, which it is made from"):
        build(folders / "encoder", folders / "pivot", tmp_path / "source", overwrite=True, **options)
    assert {path.name: path.read_bytes() for path in (tmp_path / "source").iterdir()} == before
