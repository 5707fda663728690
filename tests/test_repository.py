"""What the repository promises: packaging, commands in the README, licences of what is bundled."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import milco_hf
from milco_hf.demo import load_texts

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGES = {"milco_hf": "milco_hf", "modeling": "milco_hf.modeling", "training": "milco_hf.training"}


def tracked() -> list[Path]:
    """Files that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def pyproject_list(name: str) -> list[str]:
    """A list of strings in pyproject.toml (tomllib is not in Python 3.10)."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return ast.literal_eval(re.search(rf"^{name} = (\[.*?\])$", text, re.MULTILINE | re.DOTALL).group(1))


def test_every_package_folder_is_installed():
    found = set()
    for folder, package in PACKAGES.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([package, *init.parent.relative_to(ROOT / folder).parts]))
    assert found == set(pyproject_list("packages"))


def test_constraints_pin_what_pyproject_asks_for():
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pins[name.lower().replace("_", "-")] = version
    assert pins["torch"] == "2.13.0"
    needed = [Requirement(text) for text in pyproject_list("dependencies") + pyproject_list("train")]
    needed += [Requirement(text) for text in pyproject_list("dev")]
    for requirement in needed:
        name = requirement.name.lower()
        if name != "milco-hf":
            assert requirement.specifier.contains(pins[name], prereleases=True), requirement


def test_installed_metadata():
    (script,) = [e for e in importlib.metadata.entry_points(group="console_scripts") if e.name == "milco"]
    assert script.value == "milco_hf.cli:main"
    assert importlib.metadata.version("milco-hf") == milco_hf.__version__


def test_readme_commands_and_links_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    commands = set(re.findall(r"^make ([a-z-]+)", README + "\n" + contributing, re.MULTILINE))
    assert {"demo", "test"} <= commands <= targets
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for text in (README, contributing):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (ROOT / target).exists(), target
        for path in re.findall(r"(?:training|examples|milco_hf|docs|modeling)/[\w./-]*[\w/]", text):
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_readme_snippets_run(block, checkpoint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # one of them writes an index
    code = block.replace('"milco-560m"', repr(str(checkpoint))).replace('"milco-mini"', repr(str(checkpoint)))
    assert code != block
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_bundled_texts_are_attributed():
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    readme = (ROOT / "milco_hf" / "bundled" / "README.md").read_text(encoding="utf-8")
    texts = load_texts()
    for source in {text.source for text in texts}:
        count = sum(text.source == source for text in texts)
        assert re.search(rf"\| `{source}` \| {count} \|", readme), source
        assert re.search(rf"^  {source} ", notice, re.MULTILINE), source


def test_licence_files():
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert (ROOT / "model_card.md").read_text(encoding="utf-8") == (ROOT / "milco_hf" / "model_card.md").read_text(
        encoding="utf-8"
    )


def test_no_path_of_a_machine():
    pattern = re.compile(r"(?<![\w.:/])/(?:root|home/[a-z]+|work)/")
    for path in tracked():
        if path.suffix in (".py", ".md", ".yaml", ".toml", ".sbatch", ".txt", ".sh", ".json") and path != Path(
            __file__
        ):
            assert not pattern.search(path.read_text(encoding="utf-8")), path


def test_modeling_imports_only_its_siblings():
    for path in (ROOT / "modeling").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, path
                assert node.level or (node.module or "").split(".")[0] not in ("milco_hf", "training"), path
                # `from . import name` is not followed when the Hub copies the files
                assert node.level == 0 or node.module, path
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith("milco_hf") for alias in node.names), path


def test_bundled_checkpoints_carry_the_code_as_it_is():
    """Copy modeling/*.py into the bundled folder after changing them: that is what trust_remote_code runs."""
    for config in (ROOT / "milco_hf" / "bundled").glob("*/config.json"):
        carried = {path.name: path.read_text(encoding="utf-8") for path in config.parent.glob("*.py")}
        assert "modeling_milco.py" in carried
        for name, text in carried.items():
            assert text == (ROOT / "modeling" / name).read_text(encoding="utf-8"), name


def test_scripts_and_library_resolve_from_anywhere(tmp_path):
    code = "import milco_hf.modeling.modeling_milco, milco_hf.training.losses"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, timeout=120)


@pytest.mark.slow
def test_the_wheel_holds_everything(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    copy = tmp_path / "source"
    for path in tracked():
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    subprocess.run([*command, str(copy)], check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        texts = archive.read("milco_hf/bundled/demo_texts.jsonl").decode().splitlines()
    assert len([json.loads(line) for line in texts]) == len(load_texts())
    for path in tracked():
        folder, *rest = path.relative_to(ROOT).parts
        if folder in PACKAGES and rest:
            assert "/".join([PACKAGES[folder].replace(".", "/"), *rest]) in names
