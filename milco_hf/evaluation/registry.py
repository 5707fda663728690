"""Collections of the Hub by name, through mteb's tasks: their datasets, revisions, configurations and splits."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from milco_hf.evaluation.collections import Collection, Document, checked

logger = logging.getLogger(__name__)

# mteb writes languages of single-language tasks as "eng-Latn"; collections here as most of their configurations do.
_TWO_LETTERS = {"eng": "en", "deu": "de", "fra": "fr", "spa": "es", "ita": "it", "nld": "nl", "pol": "pl", "jpn": "ja"}
_MKQA_QUERIES = ("Shitao/bge-m3-data", "MKQA_test-data.zip")
_MKQA_CORPUS = "NQ"
_MKQA_LANGUAGES = (
    "en ar fi ja ko ru es sv he th da de fr it nl pl pt hu vi ms km no tr zh_cn zh_hk zh_tw".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Known:
    """A name and what it stands for.

    Attributes:
        about: One line for people.
        task: The mteb task, where it is one.
        benchmark: The mteb benchmark, where it is many.
        split: Which of the task's splits; its only or first one by default.
        passage_length: Long documents are split into passages of so many words.
    """

    about: str
    task: str | None = None
    benchmark: str | None = None
    split: str | None = None
    passage_length: int | None = None


NAMES: dict[str, Known] = {
    "miracl": Known("MIRACL, 18 languages, dev", task="MIRACLRetrieval"),
    "miracl-hard-negatives": Known("MIRACL with pooled hard negatives", task="MIRACLRetrievalHardNegatives"),
    "mldr": Known("MLDR, long documents, test", task="MultiLongDocRetrieval", split="test", passage_length=300),
    "mkqa": Known("MKQA questions in 26 languages to English passages (NQ), judged by answers"),
    "mmarco": Known("mMARCO v2 dev, 100,000 passages, 13 languages", task="MMarcoRetrievalMultilingual"),
    "beir": Known("all of BEIR", benchmark="BEIR"),
    "nanobeir": Known("all of NanoBEIR", benchmark="NanoBEIR"),
    "nanobeir-multilingual": Known("NanoBEIR translated", benchmark="NanoBEIR-multilingual"),
}


def names() -> str:
    """The names and what they stand for, for messages and help."""
    return "; ".join(f"{name}: {known.about}" for name, known in NAMES.items())


def load_name(
    name: str, languages: Iterable[str] | None = None, split: str | None = None, lenient: bool = False
) -> Iterator[list[Collection]]:
    """Collections by name, a parallel (or single) one after the other, so that only one is open.

    Args:
        name: One of `NAMES`, or any retrieval task of mteb, such as SciFact or NanoNQRetrieval.
        languages: Only these; all by default. Where a name stands for many tasks, those without any of the languages
            are skipped with a warning.
        split: In place of the usual one.
        lenient: See `collections.checked`.

    Raises:
        ValueError: No such name, or the task has no such language or split; the message lists what there is.
        ImportError: mteb is not installed.
    """
    try:
        import mteb
    except ImportError as error:
        raise ImportError(
            f'Collections by name ({name!r}) need mteb: pip install "milco-hf[evaluate]". A path needs nothing.'
        ) from error
    chosen = list(languages) if languages else None
    known = NAMES.get(name.lower(), Known("a task of mteb", task=name))
    if name.lower() == "mkqa":
        yield _mkqa(chosen)
        return
    if known.benchmark:
        tasks = [each for task in mteb.get_benchmark(known.benchmark).tasks for each in getattr(task, "tasks", [task])]
        found = False
        for task in tasks:
            some = [code for code in chosen if code in _subsets(task)] if chosen else None
            if chosen and not some:
                logger.warning("%s is not in %s; skipped.", task.metadata.name, ", ".join(chosen))
                continue
            found = True
            yield _task(task, some, split, known, lenient)
        if not found:
            there = sorted({code for task in tasks for code in _subsets(task)})
            raise ValueError(f"{name} has no language {', '.join(chosen or [])}; it has {', '.join(there)}.")
        return
    try:
        task = mteb.get_task(known.task)  # type: ignore[arg-type]
    except KeyError as error:
        raise ValueError(
            f"There is no collection {name!r}: it is no path and no name. Names: {names()}; and every retrieval "
            "task of mteb."
        ) from error
    yield _task(task, chosen, split, known, lenient)


def _task(task: Any, languages: list[str] | None, split: str | None, known: Known, lenient: bool) -> list[Collection]:
    """A task's languages, each opened for itself."""
    name, splits = task.metadata.name, task.metadata.eval_splits
    if not hasattr(task, "convert_v1_dataset_format_to_v2"):
        raise ValueError(f"mteb's {name} is a {task.metadata.type} task; only retrieval tasks are collections.")
    chosen_split = split or known.split or splits[0]
    if chosen_split not in splits:
        raise ValueError(f"{name} has no split {chosen_split!r}; it has {', '.join(splits)}.")
    subsets = _subsets(task)
    unknown = [code for code in languages or [] if code not in subsets]
    if unknown:
        raise ValueError(f"{name} has no language {', '.join(unknown)}; it has {', '.join(subsets)}.")
    return [
        _subset(name, subsets[code], code, chosen_split, known.passage_length, lenient) for code in languages or subsets
    ]


def _subsets(task: Any) -> dict[str, str]:
    """The task's configurations by language."""
    if task.metadata.is_multilingual:
        return {code: code for code in task.metadata.eval_langs}
    code = task.metadata.eval_langs[0].split("-")[0]
    return {_TWO_LETTERS.get(code, code): "default"}


def _subset(name: str, subset: str, language: str, split: str, passage_length: int | None, lenient: bool) -> Collection:
    """One language of a task; mteb downloads and opens it, documents stay on disk (Arrow)."""
    import mteb

    task = mteb.get_task(name, eval_splits=[split], hf_subsets=None if subset == "default" else [subset])
    task.load_data()
    data = task.dataset[subset][split]
    source = task.metadata.dataset
    corpus = data["corpus"]
    key = f"{source['path']}@{source['revision']}/{subset}/{split}"
    return checked(
        Collection(
            name=name,
            language=language,
            queries={str(row["id"]): row["text"] for row in data["queries"]},
            qrels={str(query): dict(row) for query, row in data["relevant_docs"].items()},
            read=lambda: _rows(corpus),
            corpus_key=_key(key),
            passage_length=passage_length,
            ignore_same_id=bool(task.ignore_identical_ids),
        ),
        lenient=lenient,
        other_splits=True,
    )


def _rows(corpus: Iterable[dict[str, Any]]) -> Iterator[Document]:
    for row in corpus:
        yield Document(str(row["id"]), row["text"], row.get("title") or "")


def _mkqa(languages: list[str] | None) -> list[Collection]:
    """MKQA as BGE-M3's paper puts it: questions in each language to the passages of BEIR's Natural Questions."""
    import mteb
    from huggingface_hub import hf_hub_download

    unknown = [code for code in languages or [] if code not in _MKQA_LANGUAGES]
    if unknown:
        raise ValueError(f"mkqa has no language {', '.join(unknown)}; it has {', '.join(_MKQA_LANGUAGES)}.")
    task = mteb.get_task(_MKQA_CORPUS)
    task.load_data()
    corpus = task.dataset["default"][task.metadata.eval_splits[0]]["corpus"]
    source = task.metadata.dataset
    archive = hf_hub_download(*_MKQA_QUERIES, repo_type="dataset")
    collections = []
    with zipfile.ZipFile(archive) as files:
        for code in languages or _MKQA_LANGUAGES:
            member = next((name for name in files.namelist() if name.split("/")[-1] == f"{code}.jsonl"), None)
            if member is None:
                raise ValueError(f"{_MKQA_QUERIES[1]} of {_MKQA_QUERIES[0]} holds no {code}.jsonl.")
            rows = [json.loads(line) for line in files.read(member).decode("utf-8").splitlines() if line.strip()]
            collections.append(
                Collection(
                    name="mkqa",
                    language=code,
                    document_language="en",
                    queries={str(row["id"]): row["question"] for row in rows},
                    qrels={},
                    answers={str(row["id"]): tuple(row["answers"]) for row in rows},
                    read=lambda: _rows(corpus),
                    corpus_key=_key(f"{source['path']}@{source['revision']}/corpus"),
                )
            )
    return collections


def _key(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


__all__ = ["NAMES", "Known", "load_name", "names"]
