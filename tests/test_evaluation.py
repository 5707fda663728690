"""Settings, metrics, run files, language bias, failures, tables, plots, and the verb."""

import json
import os
import re
import subprocess
import sys

import ir_measures
import numpy as np
import pytest

import tiny
from helpers_evaluation import QRELS, WORDS, Written, command, dense_model, parallel, sparse_model, texts, write_beir
from hub_stand_in import HubStandIn, Repository
from milco_hf.evaluation import Collection, EvaluationError, evaluate, evaluate_mteb
from milco_hf.evaluation.bias import language_bias
from milco_hf.evaluation.metrics import MEASURES, score, write_run
from milco_hf.evaluation.plots import matrix_figure
from milco_hf.evaluation.settings import plan


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return sparse_model(tmp_path_factory.mktemp("milco") / "m")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("vectors")


def test_the_diagonal_of_the_matrix_is_the_monolingual_setting(model, cache):
    alone = evaluate([model, "bm25"], parallel(), cache=cache)
    matrix = evaluate([model, "bm25"], parallel(), setting="matrix", cache=cache)
    assert len(matrix.results) == 2 * 9
    for system in (entry["name"] for entry in alone.systems):
        for code in WORDS:
            for measure in MEASURES:
                assert matrix.value(system, code, code, measure) == alone.value(system, code, code, measure)
        means = matrix.means(system, "tiny")
        assert means["within"] == pytest.approx(alone.means(system, "tiny")["mean"])
        others = [r.scores["nDCG@10"] for r in matrix.select(system) if r.queries != r.documents]
        assert len(others) == 6
        assert means["between"] == pytest.approx(np.mean(others))
        to_english = [matrix.value(system, code, "en") for code in ("ru", "zh")]
        assert means["to English"] == pytest.approx(np.mean(to_english))
        assert means["from English"] == pytest.approx(np.mean([matrix.value(system, "en", c) for c in ("ru", "zh")]))
    assert matrix.value("bm25", "en", "en") == 1
    assert matrix.value("bm25", "ru", "en") == 0, "nothing in common, nothing found, and still counted"


@pytest.mark.parametrize("setting", ["monolingual", "matrix", "mixed"])
def test_run_files_score_as_reported(model, cache, setting, tmp_path):
    measures = ["nDCG@10", "R@100", "RR@10", "Success@1", "AP@5"]
    report = evaluate(
        [model, "bm25"], parallel(), setting=setting, output=tmp_path, measures=measures, depth=7, cache=cache
    )
    parsed = {name: ir_measures.parse_measure(name) for name in measures}
    assert len(report.results) == 2 * (9 if setting == "matrix" else 3)
    for result in report.results:
        qrels = list(ir_measures.read_trec_qrels(str(tmp_path / result.qrels)))
        run = list(ir_measures.read_trec_run(str(tmp_path / result.run)))
        assert len(run) <= 7 * 6
        found = ir_measures.calc_aggregate(list(parsed.values()), qrels, run)
        for name, measure in parsed.items():
            assert result.scores[name] == pytest.approx(found[measure], abs=1e-12), (result.run, name)
    files = {str(path.relative_to(tmp_path)) for path in (tmp_path / "runs").rglob("*.trec")}
    assert files == {result.run for result in report.results}


def test_run_files_keep_float32_scores_and_ties(tmp_path):
    values = np.asarray([1 / 3, 1 / 3 + 1e-7, 2e-9, 12345.678], dtype=np.float32)
    run = {"q": {f"d{i}": float(v) for i, v in enumerate(values)}}
    write_run(tmp_path / "r.trec", run, "two words")
    rows = [line.split() for line in (tmp_path / "r.trec").read_text().splitlines()]
    assert [np.float32(row[4]) for row in rows] == list(values)
    assert {row[5] for row in rows} == {"two_words"}


def test_the_mixed_pool_of_one_system_by_hand():
    group = parallel(languages=("en", "ru"))
    scores = {
        # both relevant documents first
        "music": {"en:d0": 3, "ru:d0": 2, "en:d1": 1},
        # an unrelated English document before the Russian relevant one
        "city": {"en:d1": 3, "en:d2": 2, "ru:d1": 1},
        # the Russian relevant one is not found, and no unrelated English one is either
        "book": {"en:d2": 3, "ru:d0": 2},
        # neither relevant one is found
        "shop": {"en:d0": 3, "en:d1": 2, "ru:d0": 1},
        # nothing found at all: old, great
    }
    own = Written("own", scores | {query: {"ru:d0": 1.0, "en:d0": 0.5} for query in WORDS["ru"]})
    report = evaluate(own, group, setting="mixed", cache=None)
    english, russian = report.results
    assert (english.document_count, english.query_count) == (12, 6)
    same = english.bias["same"]
    assert set(english.bias) == {"same"}, "English queries have no other bias to English"
    assert same["share_in_top"] == pytest.approx(np.mean([2 / 3, 2 / 3, 1 / 2, 2 / 3]))
    assert same["share_among_relevant"] == 0.5
    assert same["excess"] == pytest.approx(same["share_in_top"] - 0.5)
    # one relevant document in another language for each of six queries; outranked for city and shop
    assert (same["pairs"], same["outranked"]) == (6, pytest.approx(2 / 6))
    # Russian queries always find ru:d0 and en:d0: relevant for q0, both unrelated for the five others
    assert russian.bias["same"]["share_in_top"] == 0.5
    assert russian.bias["same"]["outranked"] == pytest.approx(5 / 6)
    assert russian.bias["english"]["outranked"] == pytest.approx(5 / 6)
    perfect = 1 / np.log2(2) + 1 / np.log2(3)
    expected = [1, (1 + 1 / np.log2(4)) / perfect, 1 / perfect, 0, 0, 0]
    assert english.scores["nDCG@10"] == pytest.approx(np.mean(expected))
    assert english.scores["R@100"] == pytest.approx(np.mean([1, 1, 0.5, 0, 0, 0]))


def test_language_bias_counts_only_the_first_ten():
    found = {f"en:u{i}": 30.0 - i for i in range(9)} | {"de:r": 5.0} | {f"de:u{i}": 4.0 - i / 10 for i in range(20)}
    bias = language_bias({"q": found}, {"q": {"de:r": 1, "en:r": 1, "de:u1": 0}}, "en")
    assert (bias.share_in_top, bias.share_among_relevant) == (0.9, 0.5)
    assert (bias.outranked, bias.pairs) == (1.0, 1)
    bias = language_bias({"q": found}, {"q": {"de:r": 1, "en:r": 1}}, "de")
    assert bias.outranked == 1.0, "en:r is not in the run, and unrelated German documents are"
    assert bias.share_in_top == 0.1
    nothing = language_bias({}, {"q": {"de:r": 1}}, "en")
    assert (nothing.share_in_top, nothing.outranked) == (0, 0)
    with pytest.raises(ValueError, match="at least one query"):
        language_bias({}, {}, "en")


def test_the_pool_of_all_languages_has_every_parallel_document_as_relevant():
    ((pool, trials),) = plan("mixed", parallel())
    assert [prefix for prefix, _ in pool.parts] == ["en:", "ru:", "zh:"]
    assert [trial.label for trial in trials] == ["en-all", "ru-all", "zh-all"]
    assert trials[1].qrels["q2"] == {"en:d2": 1, "ru:d2": 1, "zh:d2": 1}


def test_a_query_that_finds_nothing_counts_as_zero():
    found = score({"q0": {"d0": 1.0}}, QRELS, ["nDCG@10", "RR@10"])
    assert found.mean == {"nDCG@10": pytest.approx(1 / 6), "RR@10": pytest.approx(1 / 6)}
    assert found.by_query["q3"] == {"nDCG@10": 0, "RR@10": 0}


@pytest.mark.parametrize("setting", ["monolingual", "matrix", "mixed"])
def test_a_language_that_fails_fails_the_run_by_its_name(setting, tmp_path):
    system = Written("own", {}, fails_on=WORDS["ru"][3])
    with pytest.raises(
        EvaluationError, match=r"own failed on tiny, queries ru, documents .*RuntimeError: out of ideas"
    ):
        evaluate(system, parallel(), setting=setting, output=tmp_path, cache=None)
    assert not (tmp_path / "results.json").exists()

    def broken():
        raise OSError("disk gone")
        yield

    group = parallel()
    group[2].read = broken
    where = "all" if setting == "mixed" else "zh"
    with pytest.raises(EvaluationError, match=rf"failed on the documents of tiny \[{where}\]: OSError: disk gone"):
        evaluate("bm25", group, setting=setting, cache=None)


def test_languages_that_are_not_parallel_are_refused():
    group = parallel(languages=("en", "ru"))
    documents, queries = texts("ru")
    group[1] = Collection.from_texts(
        "tiny",
        "ru",
        {f"x{i}": t for i, t in documents.items()},
        queries,
        {"q1": {"xd1": 1}} | {q: {f"x{d}": 1 for d in row} for q, row in QRELS.items()},
    )
    with pytest.raises(EvaluationError, match="queries ru, documents en: tiny .ru.: the judgements name 6 documents"):
        evaluate("bm25", group, setting="matrix", cache=None)
    with pytest.raises(ValueError, match="at least two different languages"):
        evaluate("bm25", parallel(languages=["en"]), setting="mixed", cache=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"setting": "both"}, "setting has to be one of monolingual, matrix, mixed, got 'both'"),
        ({"depth": 0}, "depth has to be at least 1, got 0"),
        ({"measures": ["nDCG@10", "Luck@3"]}, "ir_measures knows no measure 'Luck@3'"),
        ({"languages": ["en", "xx"]}, "tiny has no language xx; it has en, ru, zh"),
        ({"prune": "x", "view": "both"}, "for sparse models alone"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate("bm25", parallel(), cache=None, **options)


def test_languages_are_chosen_and_ordered():
    report = evaluate("bm25", parallel(), languages=["zh", "en", "zh"], cache=None)
    assert [result.queries for result in report.results] == ["zh", "en"]
    with pytest.raises(ValueError, match="collections, got int"):
        evaluate("bm25", [1], cache=None)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate("bm25", [], cache=None)


def test_results_are_written_as_json_and_markdown(model, cache, tmp_path):
    report = evaluate([model, "bm25"], parallel(), setting="mixed", output=tmp_path, cache=cache)
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [system["kind"] for system in content["systems"]] == ["sparse", "bm25"]
    assert content["systems"][0]["fingerprint"] == report.systems[0]["fingerprint"]
    assert [row["scores"] for row in content["results"]] == [result.scores for result in report.results]
    name = report.systems[0]["name"]
    (mean,) = [r for r in content["means"] if (r["system"], r["measure"]) == (name, "nDCG@10")]
    assert mean["mean"] == report.means(name, "tiny")["mean"]
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert text == report.to_markdown()
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} | ") and line.count("|") == 6)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:4] == [f"{report.value(name, code):.3f}" for code in WORDS]
    for row in (line for line in text.splitlines() if line.startswith("|")):
        assert row.count("|") > 2
    assert "own outranks" in text
    assert not (tmp_path / "plots").exists()


def test_two_collections_have_a_mean_over_both(tmp_path):
    group = [*parallel("one", ["en"]), *parallel("two", ["zh", "en"])]
    report = evaluate("bm25", group, cache=None)
    assert report.collections() == ["one", "two"]
    assert "mean over 2 collections" in report.to_markdown()
    with pytest.raises(KeyError, match="2 results of bm25 for en"):
        report.value("bm25", "en")


def test_the_heat_map_shows_the_matrix(model, cache, tmp_path):
    report = evaluate(model, parallel(), setting="matrix", output=tmp_path, cache=cache)
    name = report.systems[0]["name"]
    axes = matrix_figure(report, name, "tiny").axes[0]
    values = axes.images[0].get_array()
    for row, query in enumerate(WORDS):
        for column, document in enumerate(WORDS):
            assert values[row, column] == pytest.approx(report.value(name, query, document))
    assert [label.get_text() for label in axes.get_yticklabels()] == list(WORDS)
    for suffix in ("png", "svg"):
        assert (tmp_path / "plots" / f"tiny.{name}.matrix.{suffix}").stat().st_size > 1000


# The verb


def test_the_verb_evaluates_a_folder(tmp_path, capsys):
    for code in ("en", "zh"):
        write_beir(tmp_path / "par" / code, code, suffix=".xz")
    checkpoint = tiny.checkpoint(tmp_path / "m")
    options = ["--data", tmp_path / "par", "--output", tmp_path / "out", "--cache", tmp_path / "cache"]
    command(
        [f"mine={checkpoint}", "--bm25", *options, "--setting", "matrix", "--prune", "mass:0.5", "--max-length", 20]
    )
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    content = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert [system["name"] for system in content["systems"]] == ["mine", "bm25"]
    assert content["systems"][0]["settings"]["prune"] == "mass:0.5"
    assert content["systems"][0]["settings"]["document_length"] == 20
    assert len(content["results"]) == 8
    assert (tmp_path / "out" / "runs" / "mine" / "par" / "matrix" / "zh-en.trec").is_file()
    command(["--bm25", *options[:2], "--no-cache", "--languages", "zh", "--measures", "RR@10"])
    assert "| bm25 | 1.000 | 1.000 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m"], "either --data"),
        (["m", "--data", "x", "--mteb", "T"], "either --data"),
        (["--data", "x/y"], "Name at least one model, or bm25"),
        (["--mteb", "T"], "at least one model for --mteb"),
        (["m", "--mteb", "T", "--bm25", "--prune", "mass:0.5"], "it has no --bm25, --prune"),
        (["--bm25", "--data", "x/y", "--prune", "mass:2"], "got 'mass:2'"),
        (["--bm25", "--data", "no/such/folder"], "neither a file nor a folder"),
        (["milco-mini", "--mteb", "NoSuchTask"], "mteb has no task 'NoSuchTask'"),
        (["milco-mini", "--data", "x/y", "--revision", "v2"], "'v2' goes with one model .* Hub id, and none is"),
        (["milco-mini", "--mteb", "NanoNQRetrieval", "--revision", "v2"], "'v2' goes with one model .* and none is"),
    ],
)
def test_the_verb_refuses_what_cannot_be(arguments, message):
    with pytest.raises((ValueError, OSError), match=message):
        command(arguments)


@pytest.mark.slow
def test_the_verb_scores_a_revision(tmp_path):
    data = write_beir(tmp_path / "data")
    repository = Repository("someone/model", private=False)
    for seed, branch in enumerate(("main", "v2")):
        folder = tiny.checkpoint(tmp_path / branch, seed=seed)
        repository.branches[branch] = {path.name: path.read_bytes() for path in folder.iterdir()}
        repository.heads[branch] = f"{seed}" * 40
    with HubStandIn() as hub:
        hub.repositories["someone/model"] = repository
        options = ["--data", data, "--no-cache", "--output", tmp_path / "out", "--revision", "v2"]
        command = [sys.executable, "-m", "milco_hf.cli", "evaluate", "model=someone/model", *map(str, options)]
        environment = {**os.environ, **hub.environment(tmp_path / "home")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for branch in ("main", "v2"):
        evaluate(f"model={tmp_path / branch}", data, output=tmp_path / f"out-{branch}", cache=None)
    runs = {}
    for name in ("out", "out-main", "out-v2"):
        (path,) = (tmp_path / name / "runs").rglob("*.trec")
        runs[name] = {(row.query_id, row.doc_id): row.score for row in ir_measures.read_trec_run(str(path))}
    assert runs["out"] == pytest.approx(runs["out-v2"], rel=1e-4)
    assert runs["out"] != pytest.approx(runs["out-main"], rel=1e-2)


# mteb


def test_mteb_runs_with_the_models_own_prompts_and_lengths(tmp_path, monkeypatch, capsys):
    mteb = pytest.importorskip("mteb")
    from test_evaluation_data import hub_dataset, hub_parts

    task = mteb.get_task("NanoSciFactRetrieval")
    folder = hub_dataset(tmp_path / "data", hub_parts("en", "", "default"), "train")
    monkeypatch.setitem(task.metadata.dataset, "path", str(folder))
    dense_model(tmp_path / "d")
    seen = []

    from sentence_transformers import SentenceTransformer, SparseEncoder

    for kind in (SentenceTransformer, SparseEncoder):
        original = kind.encode_query

        def spy(self, inputs, *args, original=original, **kwargs):
            seen.append((type(self).__name__, self.prompts["query"], kwargs.get("prompt"), self[0].query_length))
            return original(self, inputs, *args, **kwargs)

        monkeypatch.setattr(kind, "encode_query", spy)
    checkpoint = tiny.checkpoint(tmp_path / "m", query_length=9)
    own = evaluate([f"s={checkpoint}"], "NanoSciFactRetrieval", cache=None)
    seen.clear()
    rows = evaluate_mteb(
        [f"s={checkpoint}", tmp_path / "d" / "dense"], ["NanoSciFactRetrieval"], output=tmp_path / "out"
    )
    assert seen == [("SparseEncoder", "", "", 9), ("SentenceTransformer", "music ", "music ", None)]
    assert [row["model"] for row in rows] == ["s", "dense"]
    assert rows[0]["scores"]["ndcg_at_10"] == pytest.approx(own.value("s", "en"), abs=1e-4)
    assert rows[0]["scores"]["mrr_at_10"] == pytest.approx(own.value("s", "en", measure="RR@10"), abs=1e-4)
    assert json.loads((tmp_path / "out" / "mteb.json").read_text(encoding="utf-8")) == rows
    assert "| NanoSciFactRetrieval train default |" in (tmp_path / "out" / "mteb.md").read_text(encoding="utf-8")
    command([f"s={checkpoint}", "--mteb", "NanoSciFactRetrieval", "--batch-size", 4])
    assert "| NanoSciFactRetrieval train default |" in capsys.readouterr().out
