"""Translation retrieval of a checkpoint on dev pairs, as a table by language.

python -m milco_hf.training.evaluate_translation CHECKPOINT --data DIR --markdown table.md --json scores.json
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import AutoTokenizer

from milco_hf.modeling import MilcoForSparseEncoding
from milco_hf.training.data.pairs import load_pairs
from milco_hf.training.data.sources import SourceSpec
from milco_hf.training.evaluation import LanguageScores, evaluate_translation
from milco_hf.training.teachers.loading import check_vocabulary, load_teacher

logger = logging.getLogger(__name__)

COLUMNS = {
    "pairs": "pairs",
    "accuracy_other_to_english": "→ English",
    "accuracy_english_to_other": "English →",
    "full_accuracy_other_to_english": "→ English, both views",
    "full_accuracy_english_to_other": "English →, both views",
    "active_dims": "active terms",
    "active_dims_english": "active terms, English side",
    "teacher_top10": "teacher's top 10 found",
}


def evaluate_checkpoint(
    checkpoint: str,
    data: Sequence[str],
    *,
    languages: Sequence[str] = (),
    pairs_per_language: int | None = None,
    batch_size: int = 64,
    max_length: int = 512,
    device: str | None = None,
    dtype: str = "float32",
    teacher: str | None = None,
    samples: int = 0,
) -> list[LanguageScores]:
    """Score a checkpoint on dev pairs.

    Args:
        checkpoint: folder or Hub id.
        data: files, folders, globs or Hub ids of parallel text.
        languages: only these other languages; all where empty.
        pairs_per_language: only the first so many pairs of each language.
        batch_size: texts in a batch.
        max_length: texts are cut to this many tokens.
        device: where to run; a GPU where there is one by default.
        dtype: the weights' dtype.
        teacher: folder or Hub id of a teacher, for the share of its top 10 terms found.
        samples: texts whose strongest terms are kept.

    Returns:
        Scores of each language.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = MilcoForSparseEncoding.from_pretrained(checkpoint, dtype=getattr(torch, dtype)).to(device).eval()
    opened = None
    if teacher:
        opened = load_teacher(teacher).to(device)
        check_vocabulary(opened.vocabulary_size, model.config.pivot_vocab_size, teacher)
    dataset = load_pairs([SourceSpec.parse(entry) for entry in data], languages=languages, progress=False)
    return evaluate_translation(
        model,
        tokenizer,
        model.config,
        dataset,
        batch_size=batch_size,
        max_length=min(max_length, model.config.max_position_embeddings or max_length),
        device=torch.device(device),
        teacher=opened,
        pairs_per_language=pairs_per_language,
        samples=samples,
    )


def as_json(results: Sequence[LanguageScores]) -> dict[str, Any]:
    """Scores by language, and their means."""
    rows = {result.language: {"pairs": result.pairs, **result.metrics()} for result in results}
    names = [name for name in COLUMNS if all(name in row for row in rows.values())]
    return {
        "mean": {name: fmean(row[name] for row in rows.values()) for name in names if name != "pairs"},
        "languages": rows,
    }


def as_markdown(results: Sequence[LanguageScores]) -> str:
    """A table with a row per language and one for the mean."""
    scores = as_json(results)
    names = ["pairs", *scores["mean"]]
    lines = [
        "| language | " + " | ".join(COLUMNS[name] for name in names) + " |",
        "| --- |" + " ---: |" * len(names),
    ]
    for language, row in scores["languages"].items():
        lines.append(f"| {language} | " + " | ".join(_cell(name, row[name]) for name in names) + " |")
    total = {"pairs": sum(row["pairs"] for row in scores["languages"].values()), **scores["mean"]}
    lines.append("| **mean** | " + " | ".join(f"**{_cell(name, total[name])}**" for name in names) + " |")
    return "\n".join(lines) + "\n"


def _cell(name: str, value: float) -> str:
    if name == "pairs":
        return str(int(value))
    return f"{value:.0f}" if name.startswith("active") else f"{value:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate from the command line."""
    parser = argparse.ArgumentParser(description="Translation retrieval of a MILCO checkpoint on parallel dev pairs.")
    parser.add_argument("checkpoint", help="folder or Hub id of a MILCO checkpoint")
    parser.add_argument("--data", nargs="+", required=True, help="files, folders, globs or Hub ids of parallel text")
    parser.add_argument("--languages", nargs="*", default=[], help="only these other languages")
    parser.add_argument("--pairs", type=int, help="only the first so many pairs of each language")
    parser.add_argument("--batch-size", type=int, default=64, help="texts in a batch")
    parser.add_argument("--max-length", type=int, default=512, help="texts are cut to this many tokens")
    parser.add_argument("--device", help="cpu, cuda, …; a GPU where there is one by default")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="weights' dtype")
    parser.add_argument("--teacher", help="a teacher, for the share of its top 10 terms found")
    parser.add_argument("--samples", type=int, default=0, help="texts whose strongest terms are shown")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--json", type=Path, help="write the scores to this file")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    results = evaluate_checkpoint(
        options.checkpoint,
        options.data,
        languages=options.languages,
        pairs_per_language=options.pairs,
        batch_size=options.batch_size,
        max_length=options.max_length,
        device=options.device,
        dtype=options.dtype,
        teacher=options.teacher,
        samples=options.samples,
    )
    table = as_markdown(results)
    sys.stdout.write(table)
    for result in results:
        for english, other, terms in result.samples:
            sys.stdout.write(f"{result.language}: {other} ({english}) → {terms}\n")
    if options.markdown:
        options.markdown.write_text(table, encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps(as_json(results), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
