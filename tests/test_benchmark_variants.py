"""benchmarks/variants.py: what it reads, and the numbers that it makes of a run."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import pytest

from milco_hf.training.arguments import DataArguments, ModelArguments, SapArguments, TeacherArguments
from milco_hf.training.retrieval.arguments import SctArguments, SctDataArguments, SctModelArguments

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CLASSES = {
    "sap": (ModelArguments, DataArguments, TeacherArguments, SapArguments),
    "sct": (SctModelArguments, SctDataArguments, SctArguments),
}


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("variants")


def row(queries, documents, score, bias=None):
    statistics = {"document_dimensions": 100.0}
    return {
        "queries": queries,
        "documents": documents,
        "scores": {"nDCG@10": score},
        "statistics": statistics,
        "bias": bias or {},
    }


def test_matrix_numbers_by_hand(bench):
    scores = {("en", "en"): 0.9, ("de", "de"): 0.7, ("de", "en"): 0.5, ("en", "de"): 0.3}
    found = bench.matrix_numbers([row(*pair, score) for pair, score in scores.items()])
    expected = {"within": 0.8, "within English": 0.9, "to English": 0.5, "from English": 0.3, "between": 0.4}
    assert found == pytest.approx({**expected, "dimensions": 100.0})


def test_mixed_numbers_leave_english_queries_out_of_the_bias_towards_english(bench):
    same, english = {"share_in_top": 0.8, "outranked": 0.9}, {"share_in_top": 0.1, "outranked": 0.3}
    found = bench.mixed_numbers(
        [row("en", "all", 0.4, {"same": same}), row("de", "all", 0.2, {"same": same, "english": english})]
    )
    assert found["mixed"] == pytest.approx(0.3)
    assert found["own in top 10"] == pytest.approx(0.8)
    assert found["English outranks"] == pytest.approx(0.3)


def test_training_numbers_are_the_mean_of_the_last_three_lines(bench):
    lines = [{"loss": loss, "kl": 2 * loss, "step": step} for step, loss in enumerate([9.0, 1.0, 2.0, 3.0])]
    found = bench.training_numbers({"log_history": [*lines, {"train_runtime": 20.0, "step": 10}]})
    assert found == {"seconds a step": 2.0, "log loss": 2.0, "log kl": 4.0}
    assert bench.training_numbers({"log_history": [{"train_runtime": 3.0, "step": 1}]}) == {"seconds a step": 3.0}


def test_translation_numbers_name_the_worst_language(bench):
    languages = {"de": {"accuracy_other_to_english": 0.9}, "el": {"accuracy_other_to_english": 0.4}}
    mean = {"accuracy_other_to_english": 0.65, "accuracy_english_to_other": 0.7, "active_dims": 50.0}
    assert bench.translation_numbers({"mean": mean, "languages": languages})["worst"] == 0.4


def test_unknown_variants_and_stages_are_refused(bench, tmp_path):
    path = tmp_path / "v.yaml"
    path.write_text("stage: sct\nvariants: {plain: {}}")
    assert bench.Variants.read(path, None).variants == {"plain": {}}
    with pytest.raises(SystemExit, match="no variant other; it has plain"):
        bench.Variants.read(path, ["other"])
    path.write_text("stage: both\nvariants: {plain: {}}")
    with pytest.raises(SystemExit, match="stage has to be one of sap, sct, got 'both'"):
        bench.Variants.read(path, None)
    path.write_text("stage: sct")
    with pytest.raises(SystemExit, match="should hold `stage`, `variants`"):
        bench.Variants.read(path, None)


@pytest.mark.parametrize("path", sorted((BENCHMARKS / "variants").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_setting_of_the_variants_that_come_with_it_exists(bench, path):
    read = bench.Variants.read(path, None)
    known = {field.name for group in CLASSES[read.stage] for field in dataclasses.fields(group)}
    for own in read.variants.values():
        assert {**read.shared, **own}.keys() <= known


def test_a_recipe_of_some_minutes_runs_by_steps_where_variants_count_them(bench):
    recipe = {"max_minutes": 20, "learning_rate": 1e-3}
    assert bench.settings_of(recipe, {"max_steps": 5}, {"learning_rate": 1e-4}, 1) == {
        "max_steps": 5,
        "learning_rate": 1e-4,
        "seed": 1,
    }
    assert bench.settings_of(recipe, {}, {"max_steps": 5}, 1)["max_steps"] == 5
    assert bench.settings_of(recipe, {}, {}, 1) == {**recipe, "seed": 1}


def test_a_run_that_is_there_with_other_settings_is_not_taken_for_this_one(bench, tmp_path):
    folder = tmp_path / "plain-0"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("seed: 0\nmax_steps: 5")
    (folder / bench.DONE).write_text('{"within": 0.5}')
    options = bench.arguments(["recipe", "variants", "--data", "x", "--output", str(tmp_path)])
    assert bench.measured("plain", 0, {"max_steps": 5, "seed": 0}, "sct", options) == {"within": 0.5}
    with pytest.raises(SystemExit, match="was run with other settings"):
        bench.measured("plain", 0, {"max_steps": 6, "seed": 0}, "sct", options)


def test_after_a_run_that_failed_none_is_begun(bench, tmp_path, monkeypatch):
    (tmp_path / "recipe.yaml").write_text("seed: 0")
    (tmp_path / "v.yaml").write_text("stage: sct\nvariants: {first: {}, second: {}, third: {}}")
    begun = []

    def measured(name, *rest):
        begun.append(name)
        raise SystemExit(f"{name} failed")

    monkeypatch.setattr(bench, "measured", measured)
    line = [tmp_path / "recipe.yaml", tmp_path / "v.yaml", "--data", "x", "--output", tmp_path / "out", "--seeds", "0"]
    monkeypatch.setattr("sys.argv", ["variants.py", *map(str, line)])
    with pytest.raises(SystemExit, match="first failed"):
        bench.main()
    assert begun == ["first"]
