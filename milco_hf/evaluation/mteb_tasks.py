"""mteb's own tasks, run by mteb, with the prompts and lengths that a model itself states."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from milco_hf.evaluation.systems.encoding import set_lengths
from milco_hf.evaluation.systems.fingerprint import model_fingerprint
from milco_hf.evaluation.systems.opening import named, open_model, revisions
from milco_hf.evaluation.systems.sparse import adapter_config
from milco_hf.evaluation.tables import number, table

logger = logging.getLogger(__name__)


def evaluate_mteb(
    models: Iterable[str | Path],
    tasks: Iterable[Any],
    *,
    languages: Iterable[str] | None = None,
    output: str | Path | None = None,
    batch_size: int = 32,
    max_length: int | None = None,
    query_length: int | None = None,
    dtype: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> list[dict[str, Any]]:
    """Runs tasks of mteb through mteb's own wrappers.

    Prompts and lengths are those in the model's folder (`prompts` in `config_sentence_transformers.json`,
    `query_length` and `document_length`), which mteb's wrappers of `SparseEncoder`, `SentenceTransformer` and
    `MultiVectorEncoder` keep to. Results are computed anew in every call: mteb's result cache goes by a model's name,
    which folders of different checkpoints share. mteb passes no languages on, so models with language adapters (X-MOD)
    read everything in their default language, and a warning says so; `evaluate` with a task's name as its data routes.

    Args:
        models: Bundled names, folders or Hub ids, or NAME=MODEL.
        tasks: Names of tasks, or tasks of mteb.
        languages: Subsets of the tasks, as mteb names them; all by default.
        output: Folder for `mteb.json`, `mteb.md` and mteb's predictions.
        batch_size: Texts in a batch.
        max_length: In place of the model's own length of documents.
        query_length: In place of its length of queries.
        dtype: Of the weights.
        device: Such as "cuda".
        trust_remote_code: Run code that comes with a model.
        revision: Branch, tag or commit of the one model that is given by its Hub id.

    Returns:
        One row for each model, task, split and subset: `model`, `fingerprint`, `task`, `revision`, `split`, `subset`,
        `main_score` and `scores`.

    Raises:
        ValueError: mteb has no such task, or a revision finds no Hub id, or several.
        ImportError: mteb is not installed.
    """
    try:
        import mteb
    except ImportError as error:
        raise ImportError('mteb is not installed: pip install "milco-hf[evaluate]"') from error
    subsets = list(languages) if languages else None
    opened = []
    for task in tasks:
        try:
            opened.append(mteb.get_task(task, hf_subsets=subsets) if isinstance(task, str) else task)
        except KeyError as error:
            raise ValueError(f"mteb has no task {task!r}: {error.args[0] if error.args else ''}") from error
    if not opened:
        raise ValueError("Name at least one task of mteb, such as SciFact.")
    folder = Path(output).expanduser() if output is not None else None
    rows: list[dict[str, Any]] = []
    specs = list(models)
    for spec, each in zip(specs, revisions(specs, revision)):
        name, place = named(str(spec))
        model = open_model(place, dtype=dtype, device=device, trust_remote_code=trust_remote_code, revision=each)
        if config := adapter_config(model):
            logger.warning(
                "mteb passes no languages on, so %s reads everything in its default language, %s; evaluate(…, TASK) "
                "(milco evaluate --data TASK) reads each collection in its own.",
                *(name, config.default_language or config.encoder_config.default_language),
            )
        set_lengths(model, max_length, query_length)
        fingerprint = model_fingerprint(model)
        for task in opened:
            found = mteb.evaluate(
                model,
                task,
                cache=None,
                encode_kwargs={"batch_size": batch_size},
                prediction_folder=folder / "predictions" / re.sub(r"[^\w.-]", "-", name) if folder else None,
            )
            for result in found.task_results:
                rows += [
                    {
                        "model": name,
                        "fingerprint": fingerprint,
                        "task": result.task_name,
                        "revision": result.dataset_revision,
                        "split": split,
                        "subset": scores["hf_subset"],
                        "main_score": scores["main_score"],
                        "scores": _finite(scores),
                    }
                    for split, by_subset in result.scores.items()
                    for scores in by_subset
                ]
    if not rows:
        raise ValueError("mteb gave no results; check models, tasks and languages.")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mteb.json").write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        (folder / "mteb.md").write_text(f"{mteb_table(rows)}\n", encoding="utf-8")
    return rows


def _finite(scores: dict[str, Any]) -> dict[str, float]:
    """The numbers; mteb gives nan where a measure means nothing, which JSON does not have."""
    return {key: value for key, value in scores.items() if isinstance(value, int | float) and math.isfinite(value)}


def mteb_table(rows: Iterable[dict[str, Any]]) -> str:
    """Main scores: a row for each task, split and subset, a column for each model."""
    rows = list(rows)
    models = list(dict.fromkeys(row["model"] for row in rows))
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows:
        found.setdefault((row["task"], row["split"], row["subset"]), {})[row["model"]] = row["main_score"]
    lines = [[" ".join(key), *(number(scores.get(model)) for model in models)] for key, scores in found.items()]
    return table(["task", *models], lines)


__all__ = ["evaluate_mteb", "mteb_table"]
