import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import helpers_sct as s
from milco_hf.training.config_file import parse_recipe
from milco_hf.training.data.sources import SourceSpec, is_local
from milco_hf.training.retrieval.sources import RetrievalSource

TRAINING = Path(__file__).parent.parent / "training"
RECIPES = sorted((TRAINING / "recipes").glob("*-sct.yaml"))


def parse(*arguments):
    return parse_recipe(s.CLASSES, [*arguments, "--use_cpu", "true", "--bf16", "false"])


def test_the_recipes_are_there():
    assert {path.stem for path in RECIPES} == {"milco-560m-sct", "milco-mini-sct", "small-alignment-sct"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_parse(path, tmp_path):
    model, data, args = parse("--config", str(path), "--output_dir", str(tmp_path))
    recipe = yaml.safe_load(path.read_text())
    assert model.model
    sources = [RetrievalSource.parse(entry, corpus=tuple(data.corpus)) for entry in [*data.train_data, *data.dev_data]]
    assert len(sources) == len(recipe["train_data"]) + len(recipe.get("dev_data", []))
    pairs = [SourceSpec.parse(entry) for entry in data.parallel_data]
    assert bool(pairs) == args.aligns == ("parallel_data" in recipe)
    assert args.learning_rate == float(recipe["learning_rate"])
    assert data.exclude_sources == recipe.get("exclude_sources", [])
    if args.load_best_model_at_end:
        assert args.greater_is_better


def test_the_paper_s_recipe_distils_with_l1():
    model, data, args = parse("--config", str(TRAINING / "recipes" / "milco-560m-sct.yaml"))
    assert (args.kl_weight, args.margin_mse_weight, args.infonce_weight, args.sparsity) == (1.0, 0.0, 0.0, "l1")
    assert args.query_sparsity_weight > 0
    assert args.document_sparsity_weight > 0
    assert model.document_length == 512
    assert not model.allow_unaligned
    assert data.negatives > 0


def test_milco_mini_leaves_out_what_is_not_free():
    """Sources whose licence has NC or ND, or is not stated, by the table that comes with the data."""
    _, data, _ = parse("--config", str(TRAINING / "recipes" / "milco-mini-sct.yaml"))
    text = (TRAINING / "recipes" / "milco-mini-sct.yaml").read_text()
    reasons = re.findall(r"^  - (.*\S)  # (.+)$", text[text.index("exclude_sources:") :], re.MULTILINE)
    assert [name for name, _ in reasons] == data.exclude_sources
    assert all(re.search("NC|ND|not stated", reason) for _, reason in reasons)
    assert all(is_local(RetrievalSource.parse(entry).path) for entry in data.train_data)


def test_the_small_sample_alignment_takes_few_texts_that_are_free():
    """A few thousand in all, English beside other languages, and no pairs that milco-mini leaves out."""
    _, data, args = parse("--config", str(TRAINING / "recipes" / "small-alignment-sct.yaml"))
    (pairs,) = (SourceSpec.parse(entry) for entry in data.parallel_data)
    rows = [RetrievalSource.parse(entry) for entry in data.train_data]
    assert 2700 < 26 * pairs.max_pairs < 2900
    assert all(source.max_rows <= 600 for source in rows)
    free = yaml.safe_load((TRAINING / "recipes" / "milco-mini.yaml").read_text())
    assert set(free["exclude_sources"]) <= set(pairs.exclude_sources)
    assert data.batch_language == "mixed"
    assert args.in_batch
    assert args.clear_weight > 0


def test_flags_override_the_recipe():
    path = str(TRAINING / "recipes" / "milco-mini-sct.yaml")
    model, data, args = parse("--config", path, "--kl_weight", "2", "--source_view", "false", "--negatives", "3")
    assert (model.source_view, data.negatives, args.kl_weight) == (False, 3, 2.0)
    assert parse("--config", path, "--allow-unaligned")[0].allow_unaligned


@pytest.mark.slow
def test_the_script_runs_from_the_root():
    done = subprocess.run(
        [sys.executable, "training/sct.py", "--help"], cwd=TRAINING.parent, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "--gradcache_minibatch" in done.stdout
    assert "--allow-unaligned" in done.stdout


@pytest.mark.slow
def test_milco_mini_s_second_stage_asks_for_its_data():
    script = TRAINING / "recipes" / "milco-mini-sct.sh"
    done = subprocess.run(["bash", str(script), "checkpoint"], capture_output=True, text=True)
    assert done.returncode != 0
    assert "bash training/recipes/milco-mini-sct.sh CHECKPOINT PARALLEL RETRIEVAL" in done.stderr
