"""Publish a checkpoint folder on the Hugging Face Hub, after checking that it is complete in itself."""

from __future__ import annotations

import ast
import json
import logging
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi

from milco_hf.model_card import CardDetails, render_card

logger = logging.getLogger(__name__)

REQUIRED_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
# What a Trainer leaves beside the weights: needed to resume a run, of no use to anyone who downloads the model.
TRAINING_STATE = (
    "optimizer*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*",
    "trainer_state.json",
    "training_args.bin",
    "checkpoint-*",
    "runs",
    "events.out.tfevents*",
    ".*",
    "__pycache__",
)
PICKLED_WEIGHTS = ("pytorch_model*.bin", "*.ckpt", "*.pth", "model*.pt", "model*.pkl")


def push(
    checkpoint: str | Path,
    repo_id: str,
    *,
    card: CardDetails | str | Path | None = None,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a checkpoint folder to the Hub, with a model card, in one commit.

    Where `card` is given or the folder has a card.yaml, the package's model card template is filled in with it and
    with the configuration. Else a README.md in the folder is uploaded as it is, and where there is none, the template
    is filled in from the configuration alone. The folder itself is not changed. Trainer states are left out.

    Args:
        checkpoint: The folder, as `save_pretrained`, `milco build`, `milco convert` or a training run writes it.
        repo_id: `name` or `owner/name`; the repository is made where it does not exist.
        card: What the model card says beyond the configuration, or a YAML or JSON file with it; None takes the
            folder's card.yaml, where there is one.
        private: Whether a repository made here is private; None leaves it to the account's default.
        revision: The branch to push to, made where it does not exist; None for the main branch.
        token: An access token; None takes the one that `hf auth login` stored.
        commit_message: The commit's first line.
        create_pr: Open a pull request in place of pushing to the branch.

    Returns:
        The address of the pull request where one was opened, else of the repository.

    Raises:
        ValueError: The folder is not a complete checkpoint; the message lists everything that is missing.
    """
    folder = Path(checkpoint).expanduser()
    problems = checkpoint_problems(folder)
    if problems:
        raise ValueError(
            f"{folder} cannot be published, because it is not a complete MILCO checkpoint:\n"
            + "\n".join(f"  - {problem}" for problem in problems)
        )
    if card is None and (folder / "card.yaml").is_file():
        card = folder / "card.yaml"
    if isinstance(card, (str, Path)):
        card = CardDetails.from_file(card)
    api = HfApi(token=token)
    repository = api.create_repo(repo_id, private=private, exist_ok=True)
    if revision is not None:
        api.create_branch(repository.repo_id, branch=revision, exist_ok=True)
    with tempfile.TemporaryDirectory() as staging:
        readme = folder / "README.md"
        if card is not None or not readme.exists():
            readme = Path(staging, "README.md")
            readme.write_text(str(render_card(repository.repo_id, _config(folder), card)), encoding="utf-8")
        commit = api.create_commit(
            repository.repo_id,
            operations=list(_additions(folder, readme)),
            commit_message=commit_message or "Upload a MILCO checkpoint",
            revision=revision,
            create_pr=create_pr,
        )
    logger.info("Pushed %s to %s (commit %s)", folder, repository, commit.oid)
    return commit.pr_url or str(repository)


def _additions(folder: Path, readme: Path) -> Iterator[CommitOperationAdd]:
    """Every file of the folder but training states, with `readme` as its README.md."""
    yield CommitOperationAdd("README.md", readme)
    left_out = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if any(fnmatch(part, state) or fnmatch(name, state) for part in name.split("/") for state in TRAINING_STATE):
            left_out.append(name)
        elif name != "README.md":
            yield CommitOperationAdd(name, path)
    if left_out:
        logger.info("Left out, as states of a training run: %s", ", ".join(left_out))


def checkpoint_problems(folder: str | Path) -> list[str]:
    """What keeps a folder from being a checkpoint that loads by itself, offline, in transformers and SparseEncoder.

    Args:
        folder: The checkpoint's folder.

    Returns:
        One sentence for each problem; empty where the folder is complete.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return [f"{folder} is not a folder"]
    problems = [f"{name} is missing" for name in REQUIRED_FILES if not (folder / name).is_file()]
    problems += _weight_problems(folder)
    if (folder / "config.json").is_file():
        problems += _code_problems(folder)
    if (folder / "modules.json").is_file():
        for module in json.loads((folder / "modules.json").read_text(encoding="utf-8")):
            if not (folder / module["path"]).is_dir():
                problems.append(f"modules.json names the folder {module['path']}, which is missing")
    return problems


def _weight_problems(folder: Path) -> Iterator[str]:
    """Weights: safetensors only, and every shard that the index names."""
    for pattern in PICKLED_WEIGHTS:
        for path in sorted(folder.glob(pattern)):
            if not any(path.match(state) for state in TRAINING_STATE):
                yield f"{path.name} is a pickle, which can run code when it is opened; save the weights as safetensors"
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        for name in sorted(shards):
            if not (folder / name).is_file():
                yield f"{name}, a shard named in {index.name}, is missing"
    elif not (folder / "model.safetensors").is_file():
        yield "model.safetensors is missing"


def _code_problems(folder: Path) -> Iterator[str]:
    """Remote code: `auto_map` names modules that lie in the folder, with every sibling that they import."""
    config = _config(folder)
    if config.get("model_type") != "milco-hf":
        yield f"config.json has model_type {config.get('model_type')!r}, not 'milco-hf'"
    auto_map: dict[str, Any] = config.get("auto_map") or {}
    for name in ("AutoConfig", "AutoModel"):
        reference = auto_map.get(name)
        if not reference:
            yield f"config.json's auto_map has no {name}: load the model and call save_pretrained again"
        elif "--" in reference:
            yield f"config.json's auto_map takes {name} from another repository ({reference})"
    modules = {reference.split(".")[0] for reference in auto_map.values() if reference and "--" not in reference}
    seen: set[str] = set()
    while modules:
        module = modules.pop()
        seen.add(module)
        path = folder / f"{module}.py"
        if not path.is_file():
            yield f"{path.name}, which the model's code needs, is missing"
            continue
        modules |= set(_sibling_imports(path)) - seen


def _sibling_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            yield node.module.split(".")[0]


def _config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))
