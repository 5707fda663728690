"""The numbers of a training run that `variants.py` compares."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence


def training_numbers(state: dict) -> dict[str, float]:
    """Of a trainer_state.json: seconds a step, and what the last three lines of the log say, in their mean."""
    *lines, end = state["log_history"]
    last = [line for line in lines if "loss" in line][-3:]
    means = {
        f"log {key}": statistics.fmean(line[key] for line in last)
        for key in (last[-1] if last else {})  # a run of one step may have no line
        if key not in {"step", "epoch"} and all(isinstance(line.get(key), (int, float)) for line in last)
    }
    return {"seconds a step": end["train_runtime"] / end["step"], **means}


def matrix_numbers(results: Sequence[dict]) -> dict[str, float]:
    """nDCG@10 within a language, to English, from English and between languages, and a document's dimensions."""
    settings: dict[str, Callable[[str, str], bool]] = {
        "within": lambda queries, documents: queries == documents,
        "within English": lambda queries, documents: queries == documents == "en",
        "to English": lambda queries, documents: documents == "en" != queries,
        "from English": lambda queries, documents: queries == "en" != documents,
        "between": lambda queries, documents: queries != documents,
    }
    numbers = {}
    for name, belongs in settings.items():
        scores = [row["scores"]["nDCG@10"] for row in results if belongs(row["queries"], row["documents"])]
        if scores:
            numbers[name] = statistics.fmean(scores)
    numbers["dimensions"] = statistics.fmean(row["statistics"]["document_dimensions"] for row in results)
    return numbers


def mixed_numbers(results: Sequence[dict]) -> dict[str, float]:
    """nDCG@10 in one pool of all languages, and its language bias."""
    numbers = {"mixed": statistics.fmean(row["scores"]["nDCG@10"] for row in results)}
    for kind, name in (("same", "own"), ("english", "English")):
        rows = [row["bias"][kind] for row in results if kind in row["bias"]]
        if rows:
            numbers[f"{name} in top 10"] = statistics.fmean(row["share_in_top"] for row in rows)
            numbers[f"{name} outranks"] = statistics.fmean(row["outranked"] for row in rows)
    return numbers


def translation_numbers(scores: dict) -> dict[str, float]:
    """Translation retrieval with English terms, mean and worst language, and active terms of a text."""
    by_language = [row["accuracy_other_to_english"] for row in scores["languages"].values()]
    return {
        "→ English": scores["mean"]["accuracy_other_to_english"],
        "worst": min(by_language),
        "English →": scores["mean"]["accuracy_english_to_other"],
        "active terms": scores["mean"]["active_dims"],
    }
