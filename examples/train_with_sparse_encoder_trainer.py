"""Train a MILCO checkpoint further with sentence-transformers' own trainer.

    python examples/train_with_sparse_encoder_trainer.py --output runs/my-milco
    python examples/train_with_sparse_encoder_trainer.py --pairs my_pairs.tsv --steps 1000 --output runs/my-milco

Pairs are a query and a text that answers it, tab-separated, one pair a line. Without a file the demo's sentences and
their English sides stand in, which shows the mechanics and improves nothing. Contrastive training from scratch
collapses: start from a checkpoint that has been through sparse alignment pretraining (training/sap.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from sentence_transformers import SparseEncoderTrainer, SparseEncoderTrainingArguments
from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss

import milco_hf
from milco_hf.demo import load_texts


def read_pairs(path: Path | None) -> Dataset:
    """Columns query and document, from a TSV file or the demo's texts."""
    if path is None:
        texts = load_texts()
        return Dataset.from_dict({"query": [t.english for t in texts], "document": [t.text for t in texts]})
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t")[:2] for line in lines if "\t" in line]
    if not pairs:
        raise SystemExit(f"{path} has no line with two tab-separated columns.")
    return Dataset.from_dict({"query": [q for q, _ in pairs], "document": [d for _, d in pairs]})


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and save a checkpoint that loads like the one it came from."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="milco-mini", help="bundled name, folder or Hub id (default: milco-mini)")
    parser.add_argument("--pairs", type=Path, help="TSV file: query, document (default: the demo's texts)")
    parser.add_argument("--output", required=True, help="folder for the trained checkpoint")
    parser.add_argument("--steps", type=int, default=20, help="(default: 20)")
    parser.add_argument("--batch-size", type=int, default=16, help="(default: 16)")
    parser.add_argument("--learning-rate", type=float, default=2e-5, help="(default: 2e-5)")
    options = parser.parse_args(arguments)

    model = milco_hf.load(options.model)
    # in-batch negatives, and FLOPS regularisation so that vectors stay sparse
    loss = SpladeLoss(
        model=model,
        loss=SparseMultipleNegativesRankingLoss(model),
        query_regularizer_weight=5e-5,
        document_regularizer_weight=3e-5,
    )
    trainer = SparseEncoderTrainer(
        model=model,
        args=SparseEncoderTrainingArguments(
            output_dir=options.output,
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            warmup_steps=max(1, options.steps // 10),
            logging_steps=max(1, options.steps // 4),
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=read_pairs(options.pairs),
        loss=loss,
    )
    trainer.train()
    model.save_pretrained(options.output)
    print(f"Saved {options.output}; try: milco encode --model {options.output} 'Кто написал эту книгу?'")


if __name__ == "__main__":
    main()
