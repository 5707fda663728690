"""A shifted system in the evaluation: the same rankings as from shifted vectors, and bias that a shift takes away."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import tiny
from milco_hf.debias import LanguageShift
from milco_hf.debias.system import ShiftedSystem
from milco_hf.evaluation import Collection, evaluate, open_system
from milco_hf.evaluation.cache import VectorCache
from milco_hf.loading import load

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


def test_other_vectors_are_refused(system):
    class Many:
        kind = "multi-vector"
        name = "colbert"

    with pytest.raises(ValueError, match="colbert is multi-vector"):
        ShiftedSystem(Many(), LanguageShift({"de": np.ones(2)}))


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
    spec = importlib.util.spec_from_file_location("example", ROOT / "examples" / "language_shift.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
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
