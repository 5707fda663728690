"""LanguageShift: its formula on numbers worked by hand, files, and shifted rows from `encode_corpus` and `Index`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import sparse

import helpers_language as h
import tiny
from helpers_index import DOCUMENTS, command
from milco_hf import Index, encode_corpus
from milco_hf.debias import LanguageShift

# two German texts and their translations: the mean difference is (1, −2, 0.5)
GERMAN = np.array([[3.0, 0.0, 1.0], [1.0, 2.0, 2.0]], dtype=np.float32)
ENGLISH = np.array([[1.0, 2.0, 2.0], [1.0, 4.0, 0.0]], dtype=np.float32)
SHIFT = LanguageShift.from_vectors({"de": (GERMAN, ENGLISH)})
TEXTS = tiny.TEXTS[:8]
LANGUAGES = ["de", "en", None, "de", "xx", "en", "de", None]


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def shift(model):
    """Estimated with the model itself on made-up pairs."""
    pairs = [(text, other) for text, other in zip(tiny.TEXTS[2:10], tiny.TEXTS[:2] * 4)]
    return LanguageShift.estimate(model, {"de": pairs})


def test_the_vector_by_hand():
    assert SHIFT.vectors["de"].tolist() == [1.0, -2.0, 0.5]
    assert SHIFT.pairs == {"de": 2}
    assert SHIFT.languages == ["de"]
    for kind in (torch.from_numpy, sparse.csr_array, lambda rows: torch.from_numpy(rows).to_sparse_csr()):
        same = LanguageShift.from_vectors({"de": (kind(GERMAN), kind(ENGLISH))})
        assert same.vectors["de"].tolist() == [1.0, -2.0, 0.5]
    assert LanguageShift.estimate(
        lambda texts: np.array([[float(len(text)), 1.0] for text in texts]), {"de": [("abc", "a"), ("ab", "abcd")]}
    ).vectors["de"].tolist() == [0.0, 0.0]


def test_the_mean_of_sparse_tensors_needs_no_dense_ones(monkeypatch):
    dense = torch.Tensor.to_dense
    monkeypatch.setattr(torch.Tensor, "to_dense", lambda *_: pytest.fail("a dense matrix of all rows"))
    for sparser in (torch.Tensor.to_sparse_coo, torch.Tensor.to_sparse_csr):
        both = [sparser(torch.from_numpy(rows)) for rows in (GERMAN, ENGLISH)]
        assert LanguageShift.from_vectors({"de": both}).vectors["de"].tolist() == [1.0, -2.0, 0.5]
    monkeypatch.setattr(torch.Tensor, "to_dense", dense)


def test_dense_rows_by_hand():
    rows = np.array([[2.0, 0.0, 1.0], [2.0, 0.0, 1.0], [2.0, 0.0, 1.0]], dtype=np.float32)
    expected = [[1.0, 2.0, 0.5], [2.0, 0.0, 1.0], [2.0, 0.0, 1.0]]
    assert SHIFT.apply(rows, ["de", "en", None]).tolist() == expected
    assert rows[0].tolist() == [2.0, 0.0, 1.0]
    assert SHIFT.apply(torch.from_numpy(rows), ["de", "en", None]).tolist() == expected
    assert SHIFT.apply(rows, ["de-AT", "en_XX", "de_DE"])[:2].tolist() == expected[:2]
    assert SHIFT.apply(rows, "de", strength=0.5)[2].tolist() == [1.5, 1.0, 0.75]
    half = SHIFT.apply(torch.from_numpy(rows).bfloat16(), "de")
    assert half.dtype == torch.bfloat16
    assert half.tolist() == [[1.0, 2.0, 0.5]] * 3
    unit = SHIFT.apply(rows, ["de", "en", "en"], normalize=True)
    np.testing.assert_allclose(unit[0], np.array([1.0, 2.0, 0.5]) / np.sqrt(5.25), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)


def test_sparse_rows_by_hand():
    rows = sparse.csr_array(
        np.array([[1.5, 0.0, 0.5], [0.0, 0.0, 0.0], [0.0, 1.0, 0.25], [1.5, 0.0, 0.5]], dtype=np.float32)
    )
    found = SHIFT.apply(rows, ["de", "de", "de", "en"])
    # where there is no entry there is none afterwards; 0.5 − 0.5 and 0.25 − 0.5 are gone; 1 − (−2) has grown
    assert found.toarray().tolist() == [[0.5, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 3.0, 0.0], [1.5, 0.0, 0.5]]
    assert found.nnz == 4
    assert found.dtype == np.float32
    assert rows.nnz == 6
    assert SHIFT.apply(rows, "de", strength=0).toarray().tolist() == rows.toarray().tolist()
    # 1.5 in two parts, and the columns in no order
    parts = sparse.csr_array(
        (np.array([0.5, 1.0, 0.5], dtype=np.float32), np.array([2, 0, 0]), np.array([0, 3])), shape=(1, 3)
    )
    assert SHIFT.apply(parts, "de").toarray().tolist() == [[0.5, 0.0, 0.0]]
    assert parts.nnz == 3


def test_names_of_languages():
    shift = LanguageShift({"de": np.ones(2), "zh-TW": np.ones(2)}, reference="en")
    german = dict.fromkeys(("de", "DE", "de-AT", "de_DE", " de "), "de")
    others = {"zh_tw": "zh-TW", "en_XX": "en", "EN": "en", "zh": None, "": None}
    for language, name in (german | others).items():
        assert shift.name(language) == name


def test_a_shift_brings_translations_together():
    """Dense: the mean of the shifted rows is the translations' own, exactly."""
    np.testing.assert_allclose(SHIFT.apply(GERMAN, "de").mean(0), ENGLISH.mean(0))


def test_saved_and_loaded(tmp_path, shift):
    again = LanguageShift.load(shift.save(tmp_path / "shift"))
    assert again.vectors.keys() == shift.vectors.keys()
    np.testing.assert_array_equal(again.vectors["de"], shift.vectors["de"])
    assert (again.reference, again.pairs, again.model) == ("en", {"de": 8}, shift.model)
    assert again.fingerprint == shift.fingerprint is not None
    about = json.loads((tmp_path / "shift/language_shift.json").read_text())
    with pytest.raises(FileNotFoundError, match="holds no language_shift.json"):
        LanguageShift.load(tmp_path)
    for change in ({"format": "other"}, {"version": 99}):
        (tmp_path / "shift/language_shift.json").write_text(json.dumps({**about, **change}))
        with pytest.raises(ValueError, match="reads 'milco-language-shift' up to 1"):
            LanguageShift.load(tmp_path / "shift")


def test_vectors_that_are_parts_of_others_are_saved_whole(tmp_path):
    """A column is a view, beside whose numbers lie others' in memory."""
    matrix = np.arange(6, dtype=np.float32).reshape(3, 2)
    shift = LanguageShift({"de": matrix[:, 1]})
    assert LanguageShift.load(shift.save(tmp_path)).vectors["de"].tolist() == [1.0, 3.0, 5.0]
    matrix[:] = 9
    assert shift.vectors["de"].tolist() == [1.0, 3.0, 5.0]


def test_a_shift_that_cannot_be_written_leaves_the_one_before(tmp_path):
    SHIFT.save(tmp_path)
    with pytest.raises(TypeError, match="not JSON serializable"):
        LanguageShift({"de": np.ones(3)}, pairs={"de": object()}).save(tmp_path)
    assert LanguageShift.load(tmp_path).vectors["de"].tolist() == [1.0, -2.0, 0.5]


def test_bad_input_is_refused(model):
    rows = GERMAN.copy()
    with pytest.raises(ValueError, match=r"no vector for fr.*unknown=\"keep\""):
        SHIFT.apply(rows, ["de", "fr"])
    assert SHIFT.apply(rows, ["fr", "fr"], unknown="keep").tolist() == rows.tolist()
    with pytest.raises(ValueError, match="unknown has to be"):
        SHIFT.apply(rows, "de", unknown="drop")
    with pytest.raises(ValueError, match="1 languages for 2 vectors"):
        SHIFT.apply(rows, ["de"])
    with pytest.raises(ValueError, match=r"\[documents, 3\].*\(2, 2\)"):
        SHIFT.apply(rows[:, :2], "de")
    with pytest.raises(ValueError, match="normalize is for dense"):
        SHIFT.apply(sparse.csr_array(rows), "de", normalize=True)
    for whole in (rows.astype(int), torch.from_numpy(rows).int(), sparse.csr_array(rows.astype(int))):
        with pytest.raises(ValueError, match="floating-point numbers, got .*int"):
            SHIFT.apply(whole, "de")
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"strength has to be a finite number, got {bad}"):
            SHIFT.apply(rows, "de", strength=bad)
    with pytest.raises(ValueError, match=r"has shape \(\), or numbers"):
        LanguageShift({"de": 3.0})
    with pytest.raises(ValueError, match="CSR"):
        SHIFT.apply(torch.from_numpy(rows).to_sparse(), "de")
    with pytest.raises(ValueError, match="at least one language"):
        LanguageShift({})
    with pytest.raises(ValueError, match="not finite"):
        LanguageShift({"de": np.array([1.0, np.nan])})
    with pytest.raises(ValueError, match="is the reference"):
        LanguageShift({"en": np.ones(2)})
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(1, 3\)"):
        LanguageShift.from_vectors({"de": (GERMAN, ENGLISH[:1])})
    with pytest.raises(ValueError, match="no pairs of 'de'"):
        LanguageShift.estimate(model, {"de": []})
    pairs = {"de": [("a", "b")]}
    with pytest.raises(ValueError, match="'en' is the reference"):
        LanguageShift.estimate(model, {"en": [("a", "b")]})
    with pytest.raises(ValueError, match="kind, language cannot be chosen"):
        LanguageShift.estimate(model, pairs, language="de", kind="query")
    with pytest.raises(ValueError, match="prune: options of encode_corpus"):
        LanguageShift.estimate(lambda texts: GERMAN[: len(texts)], pairs, prune="top_k:3")
    for other in (3, torch.nn.Linear(3, 3)):  # that is callable too
        with pytest.raises(TypeError, match=f"got {type(other).__name__}"):
            LanguageShift.estimate(other, pairs)


def test_encode_corpus_shifts(model, shift, tmp_path, caplog):
    plain = encode_corpus(model, TEXTS, progress=False)
    found = encode_corpus(
        model, TEXTS, language=iter(LANGUAGES), language_shift=shift, shard_size=3, batch_tokens=40, progress=False
    )
    expected = shift.apply(plain, LANGUAGES, unknown="keep").toarray()
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-5, atol=1e-5)
    assert not np.allclose(found.toarray(), plain.toarray(), atol=1e-3)
    assert "3 texts were not shifted" in caplog.text
    assert "xx 1" in caplog.text
    # one language for all, from a folder; and a detector, asked only where nothing is given
    same = encode_corpus(model, TEXTS, language="de", language_shift=shift.save(tmp_path / "shift"), progress=False)
    np.testing.assert_allclose(same.toarray(), shift.apply(plain, "de").toarray(), rtol=1e-5, atol=1e-5)
    asked: list[str] = []

    def detect(text):
        asked.append(text)
        return "de"

    both = encode_corpus(model, TEXTS, language=LANGUAGES, language_shift=shift, detect=detect, progress=False)
    languages = ["de" if language is None else language for language in LANGUAGES]
    expected = shift.apply(plain, languages, unknown="keep").toarray()
    np.testing.assert_allclose(both.toarray(), expected, rtol=1e-5, atol=1e-5)
    assert asked == [TEXTS[2], TEXTS[7]]


def test_a_shifted_folder_is_continued_with_the_same_shift_alone(model, shift, tmp_path):
    options = {"language": "de", "output": tmp_path / "v", "shard_size": 3, "progress": False}
    folder = encode_corpus(model, TEXTS, language_shift=shift, **options)
    before = folder.load()[0].toarray()
    (tmp_path / "v/shard-00001.safetensors").unlink()
    again = encode_corpus(model, TEXTS, language_shift=shift, **options)
    np.testing.assert_array_equal(again.load()[0].toarray(), before)
    with pytest.raises(ValueError, match="made of other texts, ids or languages"):
        encode_corpus(model, TEXTS, language_shift=shift, **{**options, "language": "en"})
    other = LanguageShift({"de": shift.vectors["de"] * 2})
    with pytest.raises(ValueError, match="begun with other settings: language_shift"):
        encode_corpus(model, TEXTS, language_shift=other, **options)


def test_language_adapters_read_each_side_in_its_own_language():
    """X-MOD: documents will be read so, and a difference between other vectors would say nothing of them."""
    model = h.xmod()
    pairs = [("Alte Stadt", "old city"), ("Buch", "the book")]
    shift = LanguageShift.estimate(model, {"de": pairs})
    german, english = ([pair[side] for pair in pairs] for side in (0, 1))
    own = h.by_hand(model, german, ["de_DE"] * 2).mean(0)
    reference = h.by_hand(model, english, ["en_XX"] * 2).mean(0)
    np.testing.assert_allclose(shift.vectors["de"], own - reference, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="'fr' is not among the encoder's adapters"):
        LanguageShift.estimate(model, {"fr": pairs})
    with pytest.raises(ValueError, match="each text through its language's adapter: give language"):
        encode_corpus(model, german, language_shift=shift, detect=lambda text: "de", progress=False)
    found = encode_corpus(model, german, language="de", language_shift=shift, progress=False)
    expected = shift.apply(sparse.csr_array(h.by_hand(model, german, ["de_DE"] * 2).numpy()), "de")
    np.testing.assert_allclose(found.toarray(), expected.toarray(), rtol=1e-4, atol=1e-5)


def test_what_encode_corpus_refuses(model, shift):
    with pytest.raises(ValueError, match="no vector for 'fr', the language of all texts"):
        encode_corpus(model, TEXTS, language="fr", language_shift=shift, progress=False)
    with pytest.raises(ValueError, match="give language .* or detect"):
        encode_corpus(model, TEXTS, language_shift=shift, progress=False)
    with pytest.raises(ValueError, match="give that too"):
        encode_corpus(model, TEXTS, detect=str, progress=False)
    with pytest.raises(ValueError, match="queries stay as they are"):
        encode_corpus(model, TEXTS, kind="query", language="de", language_shift=shift, progress=False)
    with pytest.raises(ValueError, match="for vectors of 3 dimensions"):
        encode_corpus(model, TEXTS, language="de", language_shift=SHIFT, progress=False)
    with pytest.raises(ValueError, match=r"languages, but more texts"):
        encode_corpus(model, TEXTS, language=["de"], language_shift=shift, progress=False)


def test_an_index_keeps_its_shift_for_what_is_added(shift, tmp_path):
    checkpoint = tiny.checkpoint(tmp_path / "model")
    whole = [{**document, "language": "de" if number % 2 else "en"} for number, document in enumerate(DOCUMENTS)]
    index = Index.build(str(checkpoint), whole[:10], tmp_path / "index", language_shift=shift, progress=False)
    assert index.info["language_shift"]
    assert index.add(whole[10:], progress=False) == len(whole) - 10
    plain = encode_corpus(str(checkpoint), [document["text"] for document in whole], progress=False)
    expected = shift.apply(plain, [document["language"] for document in whole])
    rows = index._now.rows
    np.testing.assert_allclose(rows.slice(0, len(rows)).toarray(), expected.toarray(), rtol=1e-5, atol=1e-5)
    queries = encode_corpus(index.model, ["old city music"], kind="query", progress=False)
    scores = (expected @ queries.T).toarray().ravel()
    hits = index.search("old city music", k=3)
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1][:3], rtol=1e-5)

    unknown = [{"text": document["text"]} for document in DOCUMENTS[:3]]
    found = Index.build(
        index.model, unknown, tmp_path / "detected", language_shift=shift, detect=lambda text: "de", progress=False
    )
    np.testing.assert_allclose(
        found._now.rows.slice(0, 3).toarray(), shift.apply(plain[:3], "de").toarray(), rtol=1e-5, atol=1e-5
    )
    with pytest.raises(ValueError, match="give that too"):
        Index.build(index.model, unknown, tmp_path / "bad", detect=str, progress=False)
    without = Index.build(index.model, unknown, tmp_path / "without", progress=False)
    assert without.info["language_shift"] is None
    with pytest.raises(ValueError, match="without a language shift"):
        without.add([{"text": "music"}], detect=str, progress=False)


def test_milco_index_takes_a_shift(shift, tmp_path, capsys):
    checkpoint = tiny.checkpoint(tmp_path / "model")
    shift.save(tmp_path / "shift")
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    places = (tmp_path / "texts.jsonl", "--output", tmp_path / "index", "--model", checkpoint)
    command("index", *places, "--language", "de", "--language-shift", tmp_path / "shift")
    rows = Index.load(tmp_path / "index")._now.rows
    expected = shift.apply(encode_corpus(str(checkpoint), TEXTS, progress=False), "de").toarray()
    np.testing.assert_allclose(rows.slice(0, len(rows)).toarray(), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="--language-shift does not go with --add"):
        command("index", *places[:3], "--add", "--language-shift", tmp_path / "shift")
