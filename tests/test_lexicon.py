"""The counted lexicon: against numbers worked by hand, and as the start of a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from transformers import AutoTokenizer, ModernBertConfig

from milco_hf import MilcoConfig, MilcoForSparseEncoding
from milco_hf.training.lexicon.association import ibm1, token_presence, with_prior
from milco_hf.training.lexicon.factorization import fit_lexicon, lexicon_logits, start_as_lexicon
from milco_hf.training.lexicon.preparation import PreparationSettings, prepare
from milco_hf.training.lexicon.teacher import saturated_idf, save_teacher
from milco_hf.training.lexicon.tokenizers import train_pivot_tokenizer, train_source_tokenizer

ENGLISH = ["the red house", "the red car", "a blue house", "a blue car", "the old car", "an old red house"] * 4
GERMAN = [
    "das rote haus",
    "das rote auto",
    "ein blaues haus",
    "ein blaues auto",
    "das alte auto",
    "ein altes rotes haus",
] * 4


def matrix(rows: list[list[float]]) -> sparse.csr_array:
    return sparse.csr_array(np.array(rows, dtype=np.float32))


def test_ibm1_one_round_matches_hand_computation():
    # two pairs: tokens {0, 1} with term {0}; token {0} with term {1}
    source, english = matrix([[1, 1], [1, 0]]), matrix([[1, 0], [0, 1]])
    table = ibm1(source, english, rounds=1, min_count=1).toarray()
    # information: (0, 0) log(1·2 / (2·1)) = 0 → 0.05; (0, 1) the same; (1, 0) log(1·2 / (1·1)) = log 2
    first, second = 0.05 * 1 / 2, np.log(2) * 1 / 1  # shares before the round, of tokens 0 and 1 in term 0
    expected = [[first / (first + second) / 2, 1 / 2], [second / (first + second), 0]]
    np.testing.assert_allclose(table, expected, rtol=1e-5)


def test_ibm1_lets_the_better_explanation_win():
    # token 0 is in every text, token 1 exactly where term 0 is: more rounds give term 0 to token 1
    source = matrix([[1, 1], [1, 1], [1, 0], [1, 0]])
    english = matrix([[1, 0], [1, 0], [0, 1], [0, 1]])
    table = ibm1(source, english, rounds=6).toarray()
    assert table[1, 0] > 0.95
    assert table[0, 0] < 0.05
    assert table[0, 1] == pytest.approx(0.5)


def test_ibm1_refuses_unequal_numbers_of_texts():
    with pytest.raises(ValueError, match="source has 2 rows and english 1"):
        ibm1(matrix([[1], [1]]), matrix([[1]]))


def test_saturated_idf_matches_hand_computation():
    weights, idf = saturated_idf(matrix([[1, 1, 0], [1, 0, 0], [1, 0, 0]]), slope=0.5, stop_below=0.5)
    np.testing.assert_allclose(idf, np.log([4 / 4, 4 / 2, 4 / 1]), rtol=1e-6)
    # in every text: a stop word; in one: kept; in none: no weight
    np.testing.assert_allclose(weights, [0, np.log1p(0.5 * np.log(2)), 0], rtol=1e-6)


def test_lexicon_logits_are_the_teacher_weights_as_logits():
    table = matrix([[0.25, 0.005], [0, 1.0]])
    logits = lexicon_logits(table, np.array([4.0, 8.0], dtype=np.float32), 0.01, 0.5, slope=0.25, scale=2.0)
    # log1p of a logit: 2 · log(1 + 0.25 · √t · idf)
    expected = [[2 * np.log(1 + 0.25 * 0.5 * 4), 0], [0, 2 * np.log(1 + 0.25 * 8)]]
    np.testing.assert_allclose(np.log1p(logits.toarray()), expected, rtol=1e-5)
    assert table.data[0] == 0.25  # the table is left as it was


def tiny_model(tokens: int = 40, terms: int = 20, width: int = 16) -> MilcoForSparseEncoding:
    encoder = ModernBertConfig(
        vocab_size=tokens, hidden_size=width, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, pad_token_id=1, bos_token_id=0, cls_token_id=0, eos_token_id=2, sep_token_id=2,
    )  # fmt: skip
    config = MilcoConfig(
        encoder_config=encoder, pivot_vocab_size=terms, pivot_hidden_size=width, echo_bias_init=0.02,
        special_token_ids=[terms, terms + 1, terms + 2],
    )  # fmt: skip
    torch.manual_seed(0)
    return MilcoForSparseEncoding(config)


def random_lexicon(tokens: int = 40, terms: int = 20) -> sparse.csr_array:
    generator = np.random.default_rng(0)
    wanted = np.zeros((tokens, terms), dtype=np.float32)
    wanted[np.arange(4, tokens), generator.integers(0, terms, tokens - 4)] = 0.5
    return sparse.csr_array(wanted)


def test_fitted_model_gives_each_token_its_terms():
    model, lexicon = tiny_model(), random_lexicon()
    start_as_lexicon(model, lexicon)
    missed = fit_lexicon(model, lexicon, np.ones(40), rounds=150, batch_size=40, learning_rate=0.02)
    assert missed < 0.1
    ids = torch.arange(4, 40)[:, None] + 20
    with torch.no_grad():
        found = model.eval()(ids, torch.ones_like(ids)).pivot_logits
    # the whole model, layers included, says what the fit said: the layers are identities
    torch.testing.assert_close(found.argmax(dim=1), torch.from_numpy(lexicon.toarray()[4:].argmax(axis=1)))


def test_few_rounds_fit_tokens_that_few_steps_see():
    missed = []
    for rate in (1.5e-3, 4.5e-2):  # of the embeddings
        model, lexicon = tiny_model(tokens=400, terms=60), random_lexicon(400, 60)
        start_as_lexicon(model, lexicon)
        missed.append(fit_lexicon(model, lexicon, np.ones(400), 14, batch_size=20, embeddings_learning_rate=rate))
    assert missed[1] < missed[0] / 2


def test_every_token_echoes_alike_at_the_start():
    model = tiny_model()
    start_as_lexicon(model, random_lexicon())
    ids = torch.tensor([[20, 25, 30, 22]])
    with torch.no_grad():
        weights = model(ids, torch.ones_like(ids)).source_weights
    expected = float(np.log1p(0.02))
    torch.testing.assert_close(weights, torch.tensor([[0.0, expected, expected, 0.0]]))


def test_lexicon_start_refuses_unequal_widths():
    model = tiny_model()
    model.config.pivot_hidden_size = 8
    with pytest.raises(ValueError, match="equal widths, got 16 and 8"):
        start_as_lexicon(model, random_lexicon())


def test_tokenizers_and_presence():
    source = train_source_tokenizer(GERMAN + ENGLISH, 26)
    ids = source("Das ROTE Haus!")["input_ids"]
    assert ids == source("das rote haus!")["input_ids"]
    assert (ids[0], ids[-1]) == (0, 2)
    pivot = train_pivot_tokenizer(ENGLISH, 40, min_frequency=1)
    presence = token_presence(["red red house", ""], pivot).toarray()
    expected = np.zeros((2, 40))
    expected[0, pivot.convert_tokens_to_ids(pivot.tokenize("red house"))] = 1
    np.testing.assert_array_equal(presence, expected)


def test_tokenizer_larger_than_the_text_is_refused():
    with pytest.raises(ValueError, match="not 5000"):
        train_source_tokenizer(GERMAN, 5000)
    with pytest.raises(ValueError, match="not 5000"):
        train_pivot_tokenizer(ENGLISH, 5000)


def test_saved_teacher_gives_unit_vectors(tmp_path):
    from sentence_transformers import SparseEncoder

    pivot = train_pivot_tokenizer(ENGLISH, 40, min_frequency=1)
    weights, _ = saturated_idf(token_presence(ENGLISH, pivot), stop_below=0.8)
    save_teacher(pivot, weights, tmp_path)
    vector = SparseEncoder(str(tmp_path), device="cpu").encode("the blue house").to_dense()
    present = token_presence(["the blue house"], pivot).toarray()[0] * weights
    assert 0 < np.count_nonzero(present) < len(pivot.tokenize("the blue house"))  # stop words are gone
    expected = present / np.linalg.norm(present)
    np.testing.assert_allclose(vector.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("romanize", [False, True])
def test_prepare_writes_a_start_that_opens(romanize, tmp_path):
    lines = [f"{english}\t{german}\ttoy\n" for english, german in zip(ENGLISH, GERMAN, strict=True)]
    (tmp_path / "en-de.tsv").write_text("".join(lines), encoding="utf-8")
    settings = PreparationSettings(
        source_vocab_size=26, pivot_vocab_size=25, hidden_size=16, layers=1, heads=2, intermediate_size=24,
        max_length=32, stop_below=0.5, fit_rounds=2, romanize=romanize, letters=2 if romanize else 5,
    )  # fmt: skip
    model = prepare([str(tmp_path / "en-de.tsv")], tmp_path / "out", [], settings)
    opened = MilcoForSparseEncoding.from_pretrained(tmp_path / "out" / "start")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "start")
    assert len(tokenizer) == 51 == opened.config.projection_dim
    inputs = tokenizer(["das rote haus", "auto"], padding=True, return_tensors="pt")
    assert (tokenizer.tokenize("häuser") == tokenizer.tokenize("hauser")) is romanize
    with torch.no_grad():
        torch.testing.assert_close(opened(**inputs).embeddings, model.eval()(**inputs).embeddings)


def test_a_dictionary_fills_in_where_little_was_counted():
    table = sparse.csr_array([[0.8, 0.0], [0.0, 0.0], [0.5, 0.5]])
    prior = sparse.csr_array([[0.0, 1.0], [0.0, 0.6], [0.0, 0.0]])
    found = with_prior(table, np.array([9.0, 0.0, 4.0]), prior, np.array([2.0, 1.0, 0.0]), strength=3)
    np.testing.assert_allclose(found.toarray(), [[0.6, 0.25], [0.0, 0.6], [0.5, 0.5]], rtol=1e-6)


def test_prepare_learns_words_that_only_a_dictionary_has(tmp_path):
    lines = [f"{english}\t{german}\ttoy\n" for english, german in zip(ENGLISH, GERMAN, strict=True)]
    (tmp_path / "en-de.tsv").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "en-el.tsv").write_text("house\tω\tgreek\n" * 3, encoding="utf-8")
    settings = PreparationSettings(
        source_vocab_size=27, pivot_vocab_size=25, hidden_size=16, layers=1, heads=2, intermediate_size=24,
        max_length=32, stop_below=0.0, fit_rounds=60,
    )  # fmt: skip
    logits = {}
    for name, dictionaries in (("with", [str(tmp_path / "words")]), ("without", [])):
        if not dictionaries:
            settings.source_vocab_size = 26
        model = prepare([str(tmp_path / "en-de.tsv")], tmp_path / name, [], settings, dictionaries).eval()
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name / "start")
        known = tokenizer.unk_token_id not in tokenizer("ω")["input_ids"]
        assert known is (name == "with")
        with torch.no_grad():
            logits[name] = model(**tokenizer("ω", return_tensors="pt")).pivot_logits[0]
    pivot = AutoTokenizer.from_pretrained(tmp_path / "with" / "pivot-tokenizer")
    house = pivot.convert_tokens_to_ids(pivot.tokenize("house"))
    assert (logits["with"][house] > 0).sum() >= len(house) - 1  # a piece that every text has weighs nothing
    assert (logits["without"][house] <= 0).all()


def test_settings_that_would_do_nothing_are_refused():
    with pytest.raises(ValueError, match="dictionary_tokens must be above 0, got 0: to leave dictionaries out"):
        PreparationSettings(dictionary_tokens=0)
    with pytest.raises(ValueError, match="letters=4 cuts romanised words only"):
        PreparationSettings(letters=4)
    with pytest.raises(ValueError, match="letters must be at least 1, got 0"):
        PreparationSettings(romanize=True, letters=0)
    with pytest.raises(ValueError, match=r"own_letters must be above 0, got -1"):
        PreparationSettings(own_letters=-1)
    with pytest.raises(ValueError, match=r"fit_embeddings_rate must be above 0, got 0"):
        PreparationSettings(fit_embeddings_rate=0)


def test_training_without_its_extra_says_what_to_install(monkeypatch):
    import importlib

    import milco_hf.training

    with monkeypatch.context() as patched:
        patched.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r'pip install "milco-hf\[train\]"'):
            importlib.reload(milco_hf.training)
    importlib.reload(milco_hf.training)
