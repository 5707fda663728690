"""A shifted system in the evaluation: the same rankings as from shifted vectors, and bias that a shift takes away."""

from __future__ import annotations

import importlib.util
import json
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import tiny
from helpers_evaluation import dense_model
from milco_hf import encode_corpus
from milco_hf.debias import LanguageShift
from milco_hf.debias.system import ShiftedSystem, shifted_systems
from milco_hf.evaluation import Collection, evaluate, open_system
from milco_hf.evaluation.cache import VectorCache
from milco_hf.loading import load
from milco_hf.training.data.files import Pair

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    return open_system(load(tiny.checkpoint(tmp_path_factory.mktemp("model"))))


def test_documents_are_shifted_by_their_collection(system, tmp_path):
    texts = {"de": tiny.TEXTS[:3], "en": tiny.TEXTS[3:6]}
    collections = [
        Collection.from_texts(
            "made-up",
            language,
            {str(number): text for number, text in enumerate(texts[language])},
            {"q": tiny.TEXTS[7]},
            {"q": {"0": 1}},
        )
        for language in texts
    ]
    plain = {language: system.encoder.encode_documents(texts[language]).matrix for language in texts}
    shift = LanguageShift.from_vectors({"de": (plain["de"], plain["en"])})
    shifted = ShiftedSystem(system, shift, strength=0.5)
    assert shifted.fingerprint != system.fingerprint
    assert shifted.settings["shift_strength"] == 0.5
    pool = [(f"{collection.language}:", collection) for collection in collections]
    query = system.encoder.encode_queries([tiny.TEXTS[7]]).matrix
    wanted = {
        "de": query @ shift.apply(plain["de"], "de", strength=0.5).T,
        "en": query @ plain["en"].T,
    }
    scores = {f"{code}:{number}": s for code, row in wanted.items() for number, s in enumerate(row.toarray()[0])}
    (ranking,) = shifted.index(pool, VectorCache(None)).search([tiny.TEXTS[7]], 6)
    for name, score in ranking:
        assert score == pytest.approx(scores[name], rel=1e-5)
    assert {name for name, _ in ranking} == {name for name, score in scores.items() if score > 0}
    report = evaluate([system, shifted], collections, setting="mixed", measures=["nDCG@10"], cache=None)
    assert {result.system for result in report.results} == {system.name, f"{system.name}+shift"}
    assert np.isfinite(report.means(shifted.name, "made-up")["mean"])
    shift.save(tmp_path / "shift")
    whole = ShiftedSystem(system, shift)
    options = {"setting": "mixed", "measures": ["nDCG@10"], "cache": None}
    direct = evaluate([system, whole], collections, **options)
    asked = evaluate([system], collections, language_shift=tmp_path / "shift", **options)
    assert [result.scores for result in asked.results] == [result.scores for result in direct.results]
    with pytest.raises(ValueError, match="there is none among bm25"):
        evaluate("bm25", collections, language_shift=shift, cache=None)


@pytest.mark.parametrize("view", ["both", "english", "source"])
@pytest.mark.parametrize("prune", ["top_k:3", "mass:0.5", {"english": "top_k:2"}])
def test_documents_are_pruned_before_they_are_shifted(system, view, prune):
    """As an index does it: what is measured is what will be searched."""
    if isinstance(prune, dict) and view != "both":
        prune = {view: "top_k:2"}
    texts = tiny.TEXTS[:4]
    documents = {str(number): text for number, text in enumerate(texts)}
    collection = Collection.from_texts("made-up", "de", documents, {"q": texts[0]}, {"q": {"0": 1}})
    model = system.encoder.model
    shift = LanguageShift.estimate(model, {"de": list(zip(tiny.TEXTS[4:8], tiny.TEXTS[8:12]))})
    made = encode_corpus(model, texts, views=view, prune=prune, language="de", language_shift=shift, progress=False)
    pruned = open_system(model, view=view, prune=prune)
    index = ShiftedSystem(pruned, shift).index([("", collection)], VectorCache(None))
    (ranking,) = index.search([texts[0]], 4)
    scores = (made @ pruned.encoder.encode_queries([texts[0]]).matrix.T).toarray().ravel()
    assert dict(ranking) == pytest.approx({str(n): s for n, s in enumerate(scores) if s > 0}, rel=1e-4)
    assert index.statistics()["document_dimensions"] == pytest.approx(made.nnz / 4)
    assert pruned.encoder.prune  # the system itself still prunes


def test_what_a_shift_does_not_fit_is_said(system, tmp_path, caplog):
    width = system.encoder.model.get_embedding_dimension()
    other = LanguageShift({"de": np.ones(width)}, model="another", fingerprint="0" * 64)
    dense = open_system(dense_model(tmp_path))
    (found,) = shifted_systems([system, dense], other)
    assert found.system is system
    assert f"{dense.name} is not shifted: its vectors have 32 dimensions" in caplog.text
    assert "estimated with another of fingerprint 0000" in caplog.text
    pairs = {"de": [("Alte Stadt", "old city"), ("Buch", "book")]}
    fitting = LanguageShift.estimate(dense.encoder.model, pairs)
    german, english = (dense.encoder.encode_documents([pair[side] for pair in pairs["de"]]).matrix for side in (0, 1))
    np.testing.assert_allclose(fitting.vectors["de"], (german - english).mean(0), rtol=1e-4, atol=1e-6)
    (found,) = shifted_systems([system, dense], fitting)
    assert found.system is dense
    with pytest.raises(ValueError, match="for vectors of 5 dimensions, and the model's have"):
        ShiftedSystem(system, LanguageShift({"de": np.ones(5)}))
    with pytest.raises(ValueError, match="there is none among"):
        shifted_systems([system], LanguageShift({"de": np.ones(5)}))
    collection = Collection.from_texts("made-up", "sw", {"0": "city"}, {"q": "city"}, {"q": {"0": 1}})
    ShiftedSystem(system, other).index([("", collection)], VectorCache(None))
    assert "documents in sw are not shifted" in caplog.text
    caplog.clear()
    mine = LanguageShift.estimate(system.encoder.model, {"de": [("Stadt", "city")]})
    shifted_systems([system], mine)
    assert "language shift" not in caplog.text


def test_other_vectors_are_refused(system):
    class Many:
        kind = "multi-vector"
        name = "colbert"

    with pytest.raises(ValueError, match="colbert is multi-vector"):
        ShiftedSystem(Many(), LanguageShift({"de": np.ones(2)}))


def load_example():
    spec = importlib.util.spec_from_file_location("example", ROOT / "examples" / "language_shift.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example


def test_the_example(tmp_path, capsys):
    """From pairs in a file and a collection in folders to a table, and a shift that can be used."""
    checkpoint = tiny.checkpoint(tmp_path / "milco")
    for language, texts in {"de": tiny.TEXTS[:3], "en": tiny.TEXTS[3:6]}.items():
        folder = tmp_path / "data" / language
        folder.mkdir(parents=True)
        documents = [{"_id": str(number), "text": text} for number, text in enumerate(texts)]
        for name, rows in (("corpus", documents), ("queries", [{"_id": "q", "text": tiny.TEXTS[7]}])):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\t0\t1\n")
    lines = [f"{english}\t{other}\n" for english, other in zip(tiny.TEXTS[2:8], tiny.TEXTS[8:14])]
    (tmp_path / "en-de.tsv").write_text("".join(lines), encoding="utf-8")
    example = load_example()
    places = ["--pairs", str(tmp_path / "en-de.tsv"), "--data", str(tmp_path / "data")]
    output = ["--output", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    example.main([str(checkpoint), *places, *output, "--count", "4", "--strength", "0.5"])
    table = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1].strip() for row in table[2:]] == ["milco", "milco − 0.5 · v"]
    assert all(row.count("|") == table[0].count("|") for row in table)
    shift = LanguageShift.load(tmp_path / "out/shift")
    assert shift.pairs == {"de": 4}
    assert (tmp_path / "out/mixed/results.json").is_file()
    with pytest.raises(ValueError, match="hold no pairs of"):
        example.pairs_of([str(tmp_path / "en-de.tsv")], {"fr"}, 1, 0)
    with pytest.raises(ValueError, match="--count has to be at least 1, got 0"):
        example.pairs_of([str(tmp_path / "en-de.tsv")], {"de"}, 0, 0)
    with pytest.raises(SystemExit):
        example.main(["bm25", *places])
    assert "bm25 is bm25; a language shift is for sparse and dense models" in capsys.readouterr().err


def test_the_example_s_pairs_are_drawn_alike_and_not_held(monkeypatch):
    example = load_example()
    alive = []

    class Text(str):  # which, unlike a str, can be watched
        pass

    def pairs(path):
        for number in range(500):
            text = Text(number)
            alive.append(weakref.ref(text))
            assert number % 100 or sum(ref() is not None for ref in alive) < 20
            yield Pair(text, "-", "de")

    monkeypatch.setattr(example, "find_files", lambda path: [path])
    monkeypatch.setattr(example, "read_pairs", pairs)
    counts = Counter()
    for seed in range(60):
        alive.clear()
        drawn = [int(english) for _, english in example.pairs_of(["x"], {"de"}, 10, seed)["de"]]
        assert len(set(drawn)) == 10
        counts.update(number // 100 for number in drawn)  # 120 of each fifth
    assert all(80 < count < 160 for count in counts.values())
    assert len(counts) == 5
