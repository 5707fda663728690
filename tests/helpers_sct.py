"""A tiny SCT run: questions and passages of a few words in two languages, made-up teacher scores, and its settings."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np

import tiny
from milco_hf.training.config_file import parse_recipe
from milco_hf.training.retrieval.arguments import SctArguments, SctDataArguments, SctModelArguments
from milco_hf.training.retrieval.run import run_sct

CLASSES = (SctModelArguments, SctDataArguments, SctArguments)
ENGLISH = ["old", "quiet", "great", "city", "book", "music"]
GERMAN = ["alte", "ruhige", "große", "Stadt", "Buch", "Musik"]


def passages() -> list[tuple[str, str]]:
    """(text, language) of thirty passages of unequal length."""
    found = []
    for language, words in (("en", ENGLISH), ("de", GERMAN)):
        for number, (one, two) in enumerate(itertools.combinations(words, 2)):
            found.append((" ".join([one, two] * (1 + number % 3)) + f" {words[number % 6]}", language))
    return found


def rows(negatives: int = 4) -> list[dict]:
    """One question for each passage, with negatives of its language and scores of all."""
    texts = passages()
    rng = np.random.default_rng(0)
    found = []
    for number, (text, language) in enumerate(texts):
        others = [other for other, (_, spoken) in enumerate(texts) if spoken == language and other != number]
        chosen = rng.choice(others, negatives, replace=False)
        found.append(
            {
                "query": " ".join(text.split()[:2]) + (" wo" if language == "de" else " where"),
                "pos": [text],
                "neg": [texts[other][0] for other in chosen],
                "pos_scores": [float(2 + rng.random())],
                "neg_scores": [round(float(score), 3) for score in rng.random(negatives) * 2],
                "language": language,
                "source": f"made-up {number % 3}",
            }
        )
    return found


def bridged(number: int = 12) -> list[dict]:
    """German questions with English passages, which translate the English rows' and share their parallel_id."""
    translated = dict(zip(ENGLISH, GERMAN, strict=True))
    found = []
    for place, record in enumerate(rows()[:number]):
        question = " ".join(translated[word] for word in record["query"].split()[:2])
        found.append({**record, "query": f"{question} wo", "language": "de-en", "parallel_id": f"made-up {place}"})
    return found


def write(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return path


def student(folder: Path, dropout: float | None = 0.0, **kwargs) -> Path:
    """A tiny aligned checkpoint, without dropout unless it is left as it is (None)."""
    built = tiny.model(training_stages=["sap"], **kwargs)
    if dropout is not None:
        built.config.encoder_config.hidden_dropout_prob = dropout
        built.config.encoder_config.attention_probs_dropout_prob = dropout
    built.save_pretrained(folder)
    built.tokenizer.save_pretrained(folder)
    return folder


def arguments(model: Path, data: Path, output: Path, *flags: str) -> tuple:
    """Arguments of a tiny run on the CPU; flags come last and so win."""
    defaults = {
        "model": model,
        "output_dir": output,
        "train_data": data,
        "query_length": 16,
        "document_length": 32,
        "negatives": 3,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 8,
        "max_steps": 5,
        "learning_rate": 0.01,
        "warmup_steps": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": "true",
        "disable_tqdm": "true",
        "max_threads": 1,
    }
    line = [part for name, value in defaults.items() for part in (f"--{name}", str(value))]
    return parse_recipe(CLASSES, [*line, *flags])


def train(model: Path, data: Path, output: Path, *flags: str):
    """Run SCT; returns the trainer."""
    return run_sct(*arguments(model, data, output, *flags))


def logged(trainer, name: str = "loss") -> list[float]:
    """A logged number, step by step."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]
