"""Collections on disk: the BEIR layout, one folder or one for each language, and questions with their passages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from milco_hf.evaluation.collections import Collection, Document, Qrels, checked
from milco_hf.text_files import open_text

_SUFFIXES = ("", ".gz", ".xz")
UNKNOWN_LANGUAGE = "und"


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file.

    Raises:
        ValueError: A line is no JSON object; the message names it.
    """
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error}).") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: has to be a JSON object, got {type(row).__name__}.")
            yield row


def read_qrels(path: Path) -> Qrels:
    """Judgements from a file with or without a header: query, document, relevance; or TREC's four columns.

    Raises:
        ValueError: A line has other columns, or a relevance that is no whole number.
    """
    qrels: Qrels = {}
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            columns = line.split("\t") if "\t" in line else line.split()
            columns = [column.strip() for column in columns]
            if not line.strip():
                continue
            if len(columns) not in (3, 4):
                raise ValueError(
                    f"{path}, line {number}: has to hold query, document, relevance (or TREC's query, 0, document, "
                    f"relevance), got {len(columns)} columns."
                )
            try:
                relevance = int(columns[-1])
            except ValueError:
                if number == 1:
                    continue  # the header
                raise ValueError(
                    f"{path}, line {number}: relevance has to be a whole number, got {columns[-1]!r}."
                ) from None
            qrels.setdefault(columns[0], {})[columns[-2]] = relevance
    return qrels


def read_beir(
    folder: str | Path, name: str = "", language: str = UNKNOWN_LANGUAGE, split: str = "test", lenient: bool = False
) -> Collection:
    """A collection in the BEIR layout.

    `corpus.jsonl` (`_id` or `id`, `title`, `text`), `queries.jsonl` (`_id` or `id`, `text`), each also as .gz or .xz,
    and `qrels/SPLIT.tsv` or `qrels.tsv`.

    Args:
        folder: Where it lies.
        name: What it is called; the folder's name by default.
        language: Of its queries and documents.
        split: Which file in `qrels/`; queries of other splits are left out.
        lenient: See `collections.checked`.

    Raises:
        FileNotFoundError: A file is missing; the message says which and where.
        ValueError: The files do not fit each other.
    """
    folder = Path(folder)
    corpus, queries_path = _find(folder, "corpus.jsonl"), _find(folder, "queries.jsonl")
    qrels_path = _find_qrels(folder, split)
    queries: dict[str, str] = {}
    for row in read_jsonl(queries_path):
        identifier = _id(row, queries_path)
        if identifier in queries:
            raise ValueError(f"{queries_path}: query {identifier!r} is there twice.")
        queries[identifier] = _text(row, queries_path)
    return checked(
        Collection(
            name=name or folder.name,
            language=language,
            queries=queries,
            qrels=read_qrels(qrels_path),
            read=lambda: _documents(corpus),
            corpus_key=file_key(corpus),
        ),
        lenient=lenient,
        other_splits=qrels_path.parent.name == "qrels",
    )


def read_questions(path: str | Path, name: str = "", language: str = "", lenient: bool = False) -> Collection:
    """Questions with the texts of their relevant passages: rows of `query` and `pos` (a list of texts).

    The documents are the distinct passages of the file, p0, p1, … in order of appearance; the queries are q0, q1, … by
    row.

    Raises:
        ValueError: A row has no `query` or no `pos`.
    """
    path = Path(path)
    queries: dict[str, str] = {}
    qrels: Qrels = {}
    for query, (text, passages) in enumerate(_questions(path)):
        queries[f"q{query}"] = text
        qrels[f"q{query}"] = {f"p{number}": 1 for number, _, _ in passages}
    return checked(
        Collection(
            name=name or path.parent.name,
            language=language or path.name.split(".")[0],
            queries=queries,
            qrels=qrels,
            read=lambda: (
                Document(f"p{number}", text)
                for _, passages in _questions(path)
                for number, text, new in passages
                if new
            ),
            corpus_key=file_key(path),
        ),
        lenient=lenient,
    )


def load_path(
    path: str | Path, languages: Iterable[str] | None = None, split: str = "test", lenient: bool = False
) -> list[Collection]:
    """Every collection of a path, by language.

    A folder with a corpus is one collection; a folder of such folders is a parallel one with a language each; a file
    `XX.jsonl[.gz|.xz]` with `query` and `pos`, or a folder of them, gives each language's questions.

    Args:
        path: File or folder.
        languages: Only these, in this order; for a single collection, what its language is.
        split: Of the judgements.
        lenient: See `collections.checked`.

    Raises:
        FileNotFoundError: Nothing there that could be read.
        ValueError: A language is not among those there.
    """
    path = Path(path).expanduser()
    languages = list(languages) if languages else None
    if path.is_file():
        return [read_questions(path, language=_only(languages, path), lenient=lenient)]
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is neither a file nor a folder.")
    if _has(path, "corpus.jsonl") or _has(path, "queries.jsonl"):
        return [read_beir(path, language=_only(languages, path) or UNKNOWN_LANGUAGE, split=split, lenient=lenient)]
    folders = {child.name: child for child in sorted(path.iterdir()) if child.is_dir() and _has(child, "corpus.jsonl")}
    if folders:
        chosen = _choose(folders, languages, path)
        return [read_beir(folders[code], path.name, code, split, lenient) for code in chosen]
    files = {
        child.name.split(".")[0]: child
        for child in sorted(path.iterdir())
        if child.is_file() and any(child.name.endswith(f".jsonl{suffix}") for suffix in _SUFFIXES)
    }
    if files:
        return [
            read_questions(files[code], path.name, code, lenient=lenient) for code in _choose(files, languages, path)
        ]
    raise FileNotFoundError(
        f"{path} holds no corpus.jsonl (or .gz, .xz), no folder for each language that holds one, and no XX.jsonl "
        "files of questions with their passages."
    )


def file_key(path: Path) -> str:
    """A digest of a file's bytes."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _documents(path: Path) -> Iterator[Document]:
    for row in read_jsonl(path):
        yield Document(_id(row, path), _text(row, path), str(row.get("title") or ""))


def _questions(path: Path) -> Iterator[tuple[str, list[tuple[int, str, bool]]]]:
    """Each row's question and its passages: (number, text, whether it is new)."""
    numbers: dict[bytes, int] = {}  # digests, so that the texts need not stay in memory
    for count, row in enumerate(read_jsonl(path), 1):
        query, positives = row.get("query"), row.get("pos")
        if not isinstance(query, str) or not isinstance(positives, list) or not positives:
            raise ValueError(
                f"{path}, row {count}: needs `query` (a text) and `pos` (a list of texts, not empty); it has "
                f"{', '.join(sorted(row)) or 'nothing'}."
            )
        passages = []
        for text in positives:
            digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
            new = digest not in numbers
            passages.append((numbers.setdefault(digest, len(numbers)), text, new))
        yield query, passages


def _id(row: dict[str, Any], path: Path) -> str:
    for name in ("_id", "id"):
        if row.get(name) is not None:
            return str(row[name])
    raise ValueError(f"{path}: a row has neither `_id` nor `id`; it has {', '.join(sorted(row))}.")


def _text(row: dict[str, Any], path: Path) -> str:
    if not isinstance(row.get("text"), str):
        raise ValueError(f"{path}: row {_id(row, path)!r} has no `text`; it has {', '.join(sorted(row))}.")
    return row["text"]


def _has(folder: Path, name: str) -> bool:
    return any((folder / f"{name}{suffix}").is_file() for suffix in _SUFFIXES)


def _find(folder: Path, name: str) -> Path:
    for suffix in _SUFFIXES:
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    raise FileNotFoundError(f"{folder} holds no {name} (nor {name}.gz, {name}.xz).")


def _find_qrels(folder: Path, split: str) -> Path:
    for stem in (f"qrels/{split}.tsv", "qrels.tsv"):
        if _has(folder, stem):
            return _find(folder, stem)
    splits = sorted({path.name.split(".")[0] for path in (folder / "qrels").glob("*.tsv*")})
    if splits:
        raise FileNotFoundError(f"{folder}/qrels has no {split}.tsv; its splits are {', '.join(splits)} (--split).")
    raise FileNotFoundError(f"{folder} holds no judgements: neither qrels/{split}.tsv nor qrels.tsv.")


def _only(languages: list[str] | None, path: Path) -> str:
    """The one language that somebody named for a single collection."""
    if languages and len(languages) > 1:
        raise ValueError(
            f"{path} is one collection, but {len(languages)} languages were named: {', '.join(languages)}."
        )
    return languages[0] if languages else ""


def _choose(there: dict[str, Path], languages: list[str] | None, path: Path) -> list[str]:
    unknown = [code for code in languages or [] if code not in there]
    if unknown:
        raise ValueError(f"{path} has no language {', '.join(unknown)}; it has {', '.join(there)}.")
    return languages or list(there)


__all__ = [
    "UNKNOWN_LANGUAGE",
    "file_key",
    "load_path",
    "read_beir",
    "read_jsonl",
    "read_qrels",
    "read_questions",
]
