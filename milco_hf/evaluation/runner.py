"""`evaluate`: systems on collections in a setting, with run files, tables and plots."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from milco_hf.evaluation.answers import judge
from milco_hf.evaluation.beir import load_path
from milco_hf.evaluation.bias import ENGLISH, language_bias
from milco_hf.evaluation.cache import VectorCache, default_cache
from milco_hf.evaluation.collections import Collection, check_documents
from milco_hf.evaluation.metrics import ANSWER_MEASURES, MEASURES, as_run, check_measures, score, write_qrels, write_run
from milco_hf.evaluation.registry import load_name
from milco_hf.evaluation.report import Report, Result
from milco_hf.evaluation.settings import SETTINGS, Pool, Trial, plan
from milco_hf.evaluation.systems.base import Index, System, VectorIndex, VectorSystem
from milco_hf.evaluation.systems.opening import open_systems
from milco_hf.evaluation.topk import Ranking

logger = logging.getLogger(__name__)

DEPTH = 100


class EvaluationError(ValueError):
    """One system failed on one language, so the whole evaluation did: no mean leaves a language out."""


def evaluate(
    systems: Any,
    data: str | Path | Collection | Iterable[Collection],
    *,
    setting: str = "monolingual",
    languages: Iterable[str] | None = None,
    output: str | Path | None = None,
    measures: Sequence[str] | None = None,
    depth: int = DEPTH,
    split: str | None = None,
    passage_length: int | None = None,
    lenient: bool = False,
    ignore_same_id: bool | None = None,
    cache: str | Path | bool | None = True,
    pruning_curve: bool | Sequence[int] = False,
    language_shift: Any = None,
    **model_options: Any,
) -> Report:
    """Evaluates systems on collections.

    A MILCO whose encoder has language adapters (X-MOD) reads each collection's queries and documents in their language;
    where that is "und", in the model's default one.

    Args:
        systems: One or several of: "bm25"; a bundled checkpoint, a folder or a Hub id (a `SparseEncoder`,
            `SentenceTransformer` or `MultiVectorEncoder`); NAME=MODEL; such a model itself; a `System`.
        data: A folder or file (see `beir.load_path`), a name (see `registry.NAMES`), or collections.
        setting: "monolingual" (each language to itself), "matrix" (every language's queries to every language's
            documents) or "mixed" (one pool of all languages, with the language bias).
        languages: Only these; all by default.
        output: Folder for `results.json`, `results.md`, run files, judgements and plots; None writes nothing.
        measures: As ir_measures writes them; the first is the main one. By default nDCG@10, R@100, RR@10, Success@1 and
            Success@5 (for collections with answers: Success@k alone).
        depth: Documents of each query that are ranked and written.
        split: Of the judgements; "test" for folders, the usual one for names.
        passage_length: Split documents into passages of so many words, the best of which gives the document's score; 0
            never splits. By default only MLDR's are split. BM25 takes documents whole.
        lenient: Drop queries without relevant documents, and count relevant documents that are not in the collection
            as never found, in place of an error.
        ignore_same_id: Never count the document whose id is the query's own, as BEIR's code does; by default only where
            mteb says so (ArguAna, Quora, …).
        cache: Folder for vectors; True for `~/.cache/milco-hf/evaluation`, None or False for none that outlives the
            call.
        pruning_curve: Also measure quality by the dimensions that documents keep, under mass and top-k pruning: True
            for the usual numbers of dimensions, or the numbers. Sparse models alone.
        language_shift: A `milco_hf.LanguageShift`, or the folder of one: also evaluates each sparse and dense model
            with its documents shifted.
        **model_options: `batch_size`, `max_length`, `query_length`, `dtype`, `device`, `trust_remote_code`, `revision`
            (where one system is given by its Hub id), and of sparse models `view`, `prune` and `prune_queries` (see
            `systems.opening.open_systems`, `systems.sparse`).

    Returns:
        The report; `report.means(system, collection)` and `report.value(system, queries, documents)` give numbers.

    Raises:
        EvaluationError: A system failed on a language, or has no adapter for it; the message names both.
        ValueError: An option or collection that cannot be; the message says what can.
        FileNotFoundError: No such model or collection.
        ImportError: An optional library is missing; the message names the extra that has it.
    """
    if setting not in SETTINGS:
        raise ValueError(f"setting has to be one of {', '.join(SETTINGS)}, got {setting!r}.")
    if depth < 1:
        raise ValueError(f"depth has to be at least 1, got {depth}.")
    languages = list(dict.fromkeys(languages)) if languages else None
    check_measures(measures or MEASURES)
    single = isinstance(systems, str | Path) or not isinstance(systems, Iterable) or hasattr(systems, "encode")
    opened = open_systems([systems] if single else systems, **model_options)
    if language_shift is not None:
        from milco_hf.debias.system import shifted_systems

        opened += shifted_systems(opened, language_shift)
    folder = Path(output).expanduser() if output is not None else None
    vectors = VectorCache(default_cache() if cache is True else cache or None)
    report: Report | None = None
    for group in load_groups(data, languages, split, lenient):
        for collection in group:
            if passage_length is not None:
                collection.passage_length = passage_length or None
            if ignore_same_id is not None:
                collection.ignore_same_id = ignore_same_id
        wanted = list(measures or (ANSWER_MEASURES if group[0].answers is not None else MEASURES))
        if report is None:
            report = Report(setting, wanted, depth, [describe(system) for system in opened])
        elif report.measures != wanted:
            raise ValueError(f"{group[0].name} has other measures than what came before it; evaluate it alone.")
        for system in opened:
            _check_languages(system, group)
        for system in opened:
            report.results += run_group(system, group, report, vectors, folder, lenient)
        if pruning_curve:
            from milco_hf.evaluation.pruning_curve import DIMENSIONS, measure_curve

            points = DIMENSIONS if pruning_curve is True else tuple(pruning_curve)
            report.curve += measure_curve(opened, group, report, vectors, points)
    if report is None:
        raise ValueError("There is nothing to evaluate: no collections.")
    if folder is not None:
        from milco_hf.evaluation.plots import save_plots

        report.save(folder)
        if setting == "matrix" or report.curve:
            save_plots(report, folder / "plots")
    return report


def load_groups(
    data: str | Path | Collection | Iterable[Collection],
    languages: list[str] | None = None,
    split: str | None = None,
    lenient: bool = False,
) -> Iterator[list[Collection]]:
    """Collections, those with the same name together: a parallel collection's languages.

    Raises:
        ValueError: A language is unknown, or the data are neither a path nor a name nor collections.
        FileNotFoundError: There is no such path.
    """
    if isinstance(data, str | Path):
        path = Path(data).expanduser()
        if path.exists() or isinstance(data, Path) or len(path.parts) > 1:
            yield load_path(path, languages, split or "test", lenient)
        else:
            yield from load_name(data, languages, split, lenient)
        return
    groups: dict[str, list[Collection]] = {}
    for collection in [data] if isinstance(data, Collection) else data:
        if not isinstance(collection, Collection):
            raise ValueError(f"data is a path, a name or collections, got {type(collection).__name__}.")
        groups.setdefault(collection.name, []).append(collection)
    for name, group in groups.items():
        there = [collection.language for collection in group]
        unknown = [code for code in languages or [] if code not in there]
        if unknown:
            raise ValueError(f"{name} has no language {', '.join(unknown)}; it has {', '.join(there)}.")
        by_language = dict(zip(there, group))
        yield [by_language[code] for code in languages] if languages else group


def run_group(
    system: System,
    group: Sequence[Collection],
    report: Report,
    cache: VectorCache,
    folder: Path | None = None,
    lenient: bool = False,
) -> list[Result]:
    """One system on one (parallel) collection.

    Raises:
        EvaluationError: It failed on a language, which the message names.
    """
    results = []
    for pool, trials in plan(report.setting, group):
        where = f"{system.name} failed on the documents of {group[0].name} [{pool.name}]"
        index = _attempt(where, lambda pool=pool: system.index(pool.parts, cache))
        known = set(index.ids)
        for trial in trials:
            where = f"{system.name} failed on {group[0].name}, queries {trial.queries.language}, documents {pool.name}"
            results.append(
                _attempt(
                    where,
                    lambda pool=pool, trial=trial, index=index, known=known: _run(
                        system, index, known, pool, trial, report, folder, lenient
                    ),
                )
            )
    return results


def describe(system: System) -> dict[str, Any]:
    """What a report says about a system."""
    return {
        "name": system.name,
        "kind": system.kind,
        "fingerprint": system.fingerprint,
        "settings": dict(system.settings),
    }


def _check_languages(system: System, group: Sequence[Collection]) -> None:
    """Refuses languages that a model has no adapter for, before the others are encoded."""
    if isinstance(system, VectorSystem):
        for collection in group:
            for language in (collection.language, collection.document_language):
                _attempt(f"{system.name} failed on {collection}", lambda code=language: system.encoder.routed(code))


def _attempt(where: str, action: Any) -> Any:
    try:
        return action()
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise EvaluationError(f"{where}: {kind}{error}") from error


def _run(
    system: System,
    index: Index,
    known: set[str],
    pool: Pool,
    trial: Trial,
    report: Report,
    folder: Path | None,
    lenient: bool,
) -> Result:
    """One run, scored and written."""
    collection, qrels = trial.queries, trial.qrels
    check_documents(collection, qrels, known, lenient)
    run = as_run(collection.queries, _search(index, trial, report.depth))
    if collection.answers is not None:
        qrels = judge(collection, run)
    result = Result(
        system=system.name,
        collection=collection.name,
        queries=collection.language,
        documents=pool.name,
        scores=score(run, qrels, report.measures).mean,
        query_count=len(collection.queries),
        document_count=len(index.ids),
        statistics=index.statistics(),
        dropped=dict(collection.dropped),
    )
    if report.setting == "mixed":
        result.bias["same"] = language_bias(run, qrels, collection.language).as_dict()
        languages = {part.language for _, part in pool.parts}
        if ENGLISH in languages and collection.language != ENGLISH:
            result.bias["english"] = language_bias(run, qrels, ENGLISH).as_dict()
    if folder is not None:
        place = Path(_safe(collection.name), report.setting, f"{_safe(trial.label)}.trec")
        result.run, result.qrels = str("runs" / Path(_safe(system.name)) / place), str("qrels" / place)
        if collection.answers is not None:  # what was judged is what this system found
            result.qrels = str("qrels" / Path(_safe(system.name)) / place)
        write_run(folder / result.run, run, system.name)
        write_qrels(folder / result.qrels, qrels)
    logger.info("%s %s → %s: %s", system.name, collection, pool.name, result.scores)
    return result


def _search(index: Index, trial: Trial, depth: int) -> Ranking:
    """The ranking of every query, without the query itself where it is among the documents."""
    collection = trial.queries
    # other systems than models have nothing to choose by language
    language = {"language": collection.language} if isinstance(index, VectorIndex) else {}
    depth_of_all = depth + collection.ignore_same_id * len(trial.pool.parts)
    ranking = index.search(list(collection.queries.values()), depth_of_all, **language)
    if not collection.ignore_same_id:
        return ranking
    prefixes = {prefix for prefix, _ in trial.pool.parts}
    kept = []
    for query, found in zip(collection.queries, ranking, strict=True):
        own = {f"{prefix}{query}" for prefix in prefixes}
        kept.append([pair for pair in found if pair[0] not in own][:depth])
    return kept


def _safe(name: str) -> str:
    return re.sub(r"[^\w.@+-]", "-", name)


__all__ = ["DEPTH", "EvaluationError", "describe", "evaluate", "load_groups", "run_group"]
