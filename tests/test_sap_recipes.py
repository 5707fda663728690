import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

import helpers_training as h
from milco_hf.training.config_file import parse_recipe
from milco_hf.training.data.sources import SourceSpec

TRAINING = Path(__file__).parent.parent / "training"
RECIPES = sorted(path for path in (TRAINING / "recipes").glob("*.yaml") if not path.stem.endswith("-sct"))
LAUNCHES = sorted((TRAINING / "accelerate").glob("*.yaml"))


def parse(*arguments):
    return parse_recipe(h.CLASSES, [*arguments, "--use_cpu", "true", "--bf16", "false"])


def with_recipe(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    return str(tmp_path / "recipe.yaml")


def test_the_recipes_are_there():
    assert {path.stem for path in RECIPES} >= {"milco-560m", "milco-mini"}
    assert {path.stem for path in LAUNCHES} == {"single_gpu", "ddp", "fsdp2", "multi_node"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_parse(path, tmp_path):
    model, data, teacher, args = parse("--config", str(path), "--output_dir", str(tmp_path))
    recipe = yaml.safe_load(path.read_text())
    assert model.model
    assert teacher.teacher
    specs = [SourceSpec.parse(entry) for entry in [*data.train_data, *data.dev_data]]
    assert len(specs) == len(recipe["train_data"]) + len(recipe["dev_data"])
    assert args.learning_rate == float(recipe["learning_rate"])
    assert data.exclude_sources == recipe.get("exclude_sources", [])
    if args.load_best_model_at_end:
        assert args.greater_is_better


def test_the_paper_s_recipe():
    model, data, teacher, args = parse("--config", str(TRAINING / "recipes" / "milco-560m.yaml"))
    assert (model.max_length, args.learning_rate, teacher.teacher) == (512, 2e-5, "naver/splade-v3")
    specs = [SourceSpec.parse(entry) for entry in data.train_data]
    assert all(
        spec.path.startswith("sentence-transformers/parallel-sentences-") and not spec.is_local for spec in specs
    )


def test_flags_override_the_recipe(tmp_path):
    path = with_recipe(tmp_path, "learning_rate: 2e-5\nl1_weight: 0.5\ntrain: [head]\nlanguage_weights: {te: 2.0}\n")
    model, data, _, args = parse("--config", path, "--l1_weight", "0.1", "--output_dir", "elsewhere")
    assert (args.learning_rate, args.l1_weight, args.output_dir) == (2e-5, 0.1, "elsewhere")
    assert (model.train, data.language_weights) == (["head"], {"te": 2.0})
    model, data, _, _ = parse(f"--config={path}", "--train", "encoder", "head", "--language_weights", '{"sw": 3}')
    assert (model.train, data.language_weights) == (["encoder", "head"], {"sw": 3})


def test_unknown_settings_are_named(tmp_path):
    path = with_recipe(tmp_path, "l1_wieght: 0.5\nmodel: x\n")
    with pytest.raises(
        ValueError, match=r"unknown settings: 'l1_wieght' \(did you mean 'l1_weight'\?\). Valid ones are: .*teacher"
    ):
        parse("--config", path)
    with pytest.raises(ValueError, match="must be a mapping of settings, got list"):
        parse("--config", with_recipe(tmp_path, "- model\n"))
    with pytest.raises(FileNotFoundError, match="No recipe at"):
        parse("--config", "nowhere.yaml")
    with pytest.raises(ValueError, match="not used by the HfArgumentParser"):
        parse("--l1_wieght", "0.5")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--english_share", "1.5"), "english_share must be between 0 and 1, got 1.5"),
        (("--temperature", "0"), "temperature must be positive"),
        (("--language_weights", "te"), "language_weights must be a mapping"),
        (("--l1_weight", "-1"), "l1_weight must not be negative"),
        (("--max_minutes", "0"), "max_minutes must be positive"),
    ],
)
def test_values_that_cannot_work_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        parse(*flags)


@pytest.mark.parametrize("path", LAUNCHES, ids=lambda path: path.stem)
def test_accelerate_reads_its_files(path):
    config = load_config_from_file(str(path))
    assert config.mixed_precision == "bf16"
    options = launch_command_parser().parse_args(["--config_file", str(path), "training/sap.py", "--config", "x"])
    options, _, _ = _validate_launch_command(options)
    assert options.training_script == "training/sap.py"
    assert (path.stem == "fsdp2") == bool(options.use_fsdp)
    assert (path.stem in ("ddp", "multi_node")) == bool(options.multi_gpu)
    if path.stem == "fsdp2":
        assert str(options.fsdp_version) == "2"
        assert options.fsdp_state_dict_type == "FULL_STATE_DICT"


@pytest.mark.slow
def test_the_script_runs_from_the_root():
    done = subprocess.run(
        [sys.executable, "training/sap.py", "--help"], cwd=TRAINING.parent, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "--l1_weight" in done.stdout
    assert "--teacher_cache" in done.stdout
