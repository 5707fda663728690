"""Teacher scores for training rows: one teacher or several, in parts that a run cut short can go on from."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from milco_hf.mining.carry import CarryCount, Job, Parallel, carried_jobs, own_job
from milco_hf.mining.encoders import place
from milco_hf.mining.files import file_digest, to_line, write_lines
from milco_hf.mining.hard_negatives import short
from milco_hf.mining.rows import SCORES, RowSet
from milco_hf.mining.teachers import Teacher
from milco_hf.text_files import open_text

logger = logging.getLogger(__name__)

SCALES = ("none", "minmax", "zscore")


@dataclass(frozen=True)
class ScoringOptions:
    """How scores are made.

    Args:
        weights: of the teachers; equal ones where empty. The score is the weighted mean.
        scale: what is done to each teacher's scores first, among the candidates of one query, so that the result
            depends on no other row: "minmax" to 0 … 1, "zscore" to mean 0 and deviation 1, "none" leaves them as they
            are. By default "none" for one teacher and "minmax" for several.
        carry: the key that translations share; None scores every row by its own texts.
        from_language: with `carry`, the language that the teachers read.
        without_twin: with `carry`, what becomes of rows that are no translation.
        cross: with `carry`, also write rows with a translated question and the original passages.
        part: rows in a part, which is what a run that is cut short loses at most.
    """

    weights: tuple[float, ...] = ()
    scale: Literal["none", "minmax", "zscore"] | None = None
    carry: str | None = None
    from_language: str = "en"
    without_twin: Literal["keep", "drop", "score"] = "keep"
    cross: bool = False
    part: int = 1000

    def __post_init__(self) -> None:
        if self.scale not in (None, *SCALES):
            raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {self.scale!r}.")
        if any(weight <= 0 for weight in self.weights):
            raise ValueError(f"Weights of teachers must be positive, got {list(self.weights)}.")
        if self.part < 1:
            raise ValueError(f"A part needs at least 1 row, got {self.part}.")


def score(
    row_set: RowSet,
    teachers: Sequence[Callable[[], Teacher]],
    parts_folder: Path,
    options: ScoringOptions | None = None,
    identity: dict[str, Any] | None = None,
    restart: bool = False,
) -> dict[str, int]:
    """Score all rows, and write them with `pos_scores` and `neg_scores`.

    Parts, and the vectors of bi-encoders, gather in `parts_folder`, each whole or absent. The folder goes when all is
    written. A later call with the same inputs and settings finds them there, and ends with the same bytes.

    Args:
        row_set: rows and passages.
        teachers: functions that load them; not called where nothing is left to score.
        parts_folder: where parts gather.
        options: how scores are made.
        identity: what else decides the scores (names of models, lengths, …).
        restart: throw away what another run left in `parts_folder`.

    Returns:
        Counts: rows, scored, pairs, and those of `CarryCount` where scores are carried.

    Raises:
        ValueError: as many weights as teachers are needed; or the parts are of another run.
    """
    options = options or ScoringOptions()
    weights = np.array(options.weights or [1.0] * len(teachers))
    if len(weights) != len(teachers):
        raise ValueError(f"{len(weights)} weights for {len(teachers)} teachers: give one for each, or none.")
    scale = options.scale or ("none" if len(teachers) == 1 else "minmax")
    jobs, carried = _jobs(row_set, options)
    _claim(parts_folder, {**_identity(row_set), "options": repr(options), **(identity or {})}, restart)

    texts = _Texts(row_set, [job for some in jobs for job in some])
    parts = [
        (parts_folder / f"{number:04d}-{start:010d}.jsonl", some[start : start + options.part])
        for number, some in enumerate(jobs)
        for start in range(0, len(some), options.part)
    ]
    todo = [(path, part) for path, part in parts if not path.is_file()]
    if len(todo) < len(parts):
        logger.info("%d of %d parts are there already", len(parts) - len(todo), len(parts))
    loaded: list[Teacher] = []
    try:
        with tqdm(total=sum(map(len, jobs)), desc="scoring", unit="row") as bar:
            bar.update(sum(map(len, jobs)) - sum(len(part) for _, part in todo))
            for path, part in todo:
                if not loaded:
                    for number, open_it in enumerate(teachers):
                        loaded.append(open_it())
                        loaded[-1].prepare(texts.queries, texts.passages, parts_folder / f"vectors-{number}")
                write_lines(path, _scored(part, texts, loaded, weights, scale))
                bar.update(len(part))
    finally:
        for teacher in loaded:
            teacher.close()
    for number, file in enumerate(row_set.files):
        write_lines(file.target, _lines(path for path, _ in parts if path.name.startswith(f"{number:04d}-")))
    shutil.rmtree(parts_folder)
    everything = [job for some in jobs for job in some]
    return {
        "rows": len(everything),
        "scored": sum(job.query is not None for job in everything),
        "pairs": sum(len(job.positives) + len(job.negatives) for job in everything),
        **(carried.as_dict() if carried is not None else {}),
    }


def scaled(scores: np.ndarray, scale: str) -> np.ndarray:
    """Scores of one query's candidates, float64 [candidates], brought to a common scale; equal scores become 0.

    Raises:
        ValueError: an unknown scale.
    """
    scores = np.asarray(scores, np.float64)
    if scale == "none" or not len(scores):
        return scores
    if scale == "minmax":
        low, width = scores.min(), scores.max() - scores.min()
    elif scale == "zscore":
        low, width = scores.mean(), scores.std()
    else:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}.")
    return (scores - low) / width if width > 0 else np.zeros_like(scores)


class _Texts:
    """The queries and passages of all jobs, each once."""

    def __init__(self, row_set: RowSet, jobs: list[Job]) -> None:
        self.queries = list(dict.fromkeys(job.query for job in jobs if job.query is not None))
        numbers = dict.fromkeys(number for job in jobs for number in [*job.positives, *job.negatives])
        self.passages = [row_set.passages.texts[number] for number in numbers]
        self._query = {query: place for place, query in enumerate(self.queries)}
        self._passage = {number: place for place, number in enumerate(numbers)}

    def pairs(self, jobs: Sequence[Job]) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of queries and passages, int64 [pairs], job by job, positives first."""
        queries, passages = [], []
        for job in jobs:
            if job.query is not None:
                numbers = [*job.positives, *job.negatives]
                queries += [self._query[job.query]] * len(numbers)
                passages += [self._passage[number] for number in numbers]
        return np.array(queries, np.int64), np.array(passages, np.int64)


def _jobs(row_set: RowSet, options: ScoringOptions) -> tuple[list[list[Job]], CarryCount | None]:
    if options.carry is None:
        return [[own_job(row) for row in file.rows] for file in row_set.files], None
    parallel = Parallel(row_set, options.carry, options.from_language)
    count = CarryCount()
    jobs = [
        carried_jobs(row_set, file.rows, parallel, options.without_twin, options.cross, count) for file in row_set.files
    ]
    return jobs, count


def _scored(
    jobs: Sequence[Job], texts: _Texts, teachers: Sequence[Teacher], weights: np.ndarray, scale: str
) -> Iterator[str]:
    """The lines of one part."""
    queries, passages = texts.pairs(jobs)
    found = np.stack([teacher.scores(queries, passages) for teacher in teachers])  # [teachers, pairs]
    start = 0
    for job in jobs:
        record = {key: value for key, value in job.record.items() if key not in SCORES}
        if job.query is not None:
            end = start + len(job.positives) + len(job.negatives)
            each = [scaled(scores, scale) for scores in found[:, start:end]]
            mean = np.average(np.stack(each), axis=0, weights=weights)
            numbers = [short(value) for value in mean]
            record["pos_scores"] = numbers[: len(job.positives)]
            record["neg_scores"] = numbers[len(job.positives) :]
            start = end
        yield to_line(record)


def _identity(row_set: RowSet) -> dict[str, Any]:
    files = [*(file.source for file in row_set.files), *row_set.corpus]
    return {"files": [[path.name, file_digest(path)] for path in files]}


def model_identity(name: str) -> list[Any]:
    """What tells a teacher from another one of the same name: the files of a folder, their sizes and times."""
    folder = Path(place(name))
    if not folder.is_dir():
        return [name]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [name, *([str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns] for path in files)]


def _claim(folder: Path, identity: dict[str, Any], restart: bool) -> None:
    """Make the folder this run's, or see that it is."""
    note = folder / "run.json"
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
    if restart and folder.is_dir():
        shutil.rmtree(folder)
    if note.is_file() and note.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{folder} holds parts of a run with other inputs, models or settings. Finish that run with its own "
            "command, or give --restart to throw its parts away."
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not note.is_file():
        passing = note.with_suffix(".partial")
        passing.write_text(text, encoding="utf-8")
        passing.rename(note)


def _lines(paths: Iterator[Path]) -> Iterator[str]:
    for path in paths:
        with open_text(path) as lines:
            yield from (line.rstrip("\n") for line in lines)
