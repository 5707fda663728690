"""Train a cross-encoder teacher for `milco score`, with sentence-transformers' own trainer.

    milco mine DATA/train/en.jsonl.xz --corpus DATA/train/passages --per-language --num-negatives 24 --output mined
    python examples/train_cross_encoder_teacher.py mined --corpus DATA/train/passages --model BASE --output runs/teacher
    milco score mined --corpus DATA/train/passages --model runs/teacher --output scored

For when no cross-encoder of your language or field can be had. BASE is any encoder, a dense retriever's too. Each
question is seen with one passage that answers it and a few of its mined negatives.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

from milco_hf.training.retrieval.loading import load_rows
from milco_hf.training.retrieval.sources import RetrievalSource


def labelled_pairs(paths: Sequence[str], corpus: Sequence[str], questions: int, negatives: int, seed: int) -> Dataset:
    """Columns query, passage, label: a positive and up to so many negatives of each of so many questions."""
    rows = load_rows([RetrievalSource.parse(path, corpus=tuple(corpus)) for path in paths])
    generator = np.random.default_rng(seed)
    mined = np.flatnonzero(rows.has_negatives)
    if not len(mined):
        raise SystemExit(f"No row of {', '.join(paths)} has negatives: write them with milco mine … --output mined.")
    pairs = []
    for row in generator.permutation(mined)[:questions]:
        wrong = rows.negatives[row]
        wrong = generator.choice(wrong, min(negatives, len(wrong)), replace=False)
        passages = rows.texts([generator.choice(rows.positives[row]), *wrong])
        query = rows.queries([row])[0]
        pairs += [{"query": query, "passage": text, "label": float(at == 0)} for at, text in enumerate(passages)]
    return Dataset.from_list(pairs).shuffle(seed=seed)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and save a cross-encoder that `milco score --model` takes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="+", help="files or folders that milco mine wrote")
    parser.add_argument("--corpus", nargs="*", default=[], help="passages that rows name by id")
    parser.add_argument("--model", required=True, help="encoder to start from, a folder or Hub id")
    parser.add_argument("--output", required=True, help="folder for the cross-encoder")
    parser.add_argument("--questions", type=int, default=8000, help="at most so many, drawn at random (default: 8000)")
    parser.add_argument("--negatives", type=int, default=3, help="of each question (default: 3)")
    parser.add_argument("--max-length", type=int, default=192, help="tokens of question and passage (default: 192)")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs in a step (default: 32)")
    parser.add_argument("--learning-rate", type=float, default=5e-5, help="(default: 5e-5)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--bf16", action="store_true", help="train under bfloat16 autocast")
    options = parser.parse_args(arguments)

    pairs = labelled_pairs(options.rows, options.corpus, options.questions, options.negatives, options.seed)
    model = CrossEncoder(options.model, num_labels=1, max_length=options.max_length)
    trainer = CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(
            output_dir=options.output,
            num_train_epochs=1,
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            warmup_steps=0.1,
            bf16=options.bf16,
            seed=options.seed,
            logging_steps=25,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=pairs,
        # negatives outnumber positives
        loss=BinaryCrossEntropyLoss(model, pos_weight=torch.tensor(float(options.negatives))),
    )
    trainer.train()
    model.save_pretrained(options.output)
    corpus = f" --corpus {' '.join(options.corpus)}" if options.corpus else ""
    print(
        f"Saved {options.output}; now: milco score {' '.join(options.rows)}{corpus} --model {options.output} --output …"
    )


if __name__ == "__main__":
    main()
