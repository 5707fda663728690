"""Texts a second of `encode_corpus`, of an encode loop as the research release has it, and of `SparseEncoder.encode`.

    python benchmarks/encoding.py --quick
    python benchmarks/encoding.py --texts 2000 --rounds 5 --output encoding.json

All three make the same vectors, whole ones since the release has no pruning, which is checked first; they take turns in
one process.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
from pathlib import Path

import numpy as np
import torch
from measuring import environment, interleaved, print_table, write_json
from scipy import sparse
from sentence_transformers import SparseEncoder

import milco_hf

BUNDLED = Path(milco_hf.__file__).parent / "bundled" / "demo_texts.jsonl"
UNSPACED = {"zh", "ja", "th", "km", "lo", "my"}
SHORTEST, LONGEST = 8, 400


def mixed_texts(count: int, lengths: str, seed: int = 0) -> list[str]:
    """Texts of 8 to 400 words, each in one language, from the texts that come with the package.

    Args:
        count: How many.
        lengths: "uniform", or "log" for many short texts and few long ones.
        seed: Of the lengths and of where a text begins.
    """
    by_language: dict[str, list[str]] = {}
    for line in BUNDLED.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["language"] not in UNSPACED:
            by_language.setdefault(row["language"], []).extend(row["text"].split())
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        words = by_language[rng.choice(sorted(by_language))]
        if lengths == "uniform":
            length = rng.randint(SHORTEST, LONGEST)
        else:
            length = round(np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST))))
        start = rng.randrange(len(words))
        repeated = words * (1 + (start + length) // len(words))
        found.append(" ".join(repeated[start : start + length]))
    return found


@torch.no_grad()
def release_like(model: SparseEncoder, texts: list[str], batch_size: int = 32) -> sparse.csr_array:
    """Batches in the order given, padded to a multiple of 32, all logits [batch, tokens, V_e] and dense vectors."""
    milco, tokenizer = model.transformers_model, model.tokenizer
    config, head = milco.config, milco.head
    rows = []
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(
            texts[start : start + batch_size], padding=True, pad_to_multiple_of=32, truncation=True, return_tensors="pt"
        ).to(milco.device)
        ids, mask = batch["input_ids"], batch["attention_mask"]
        hidden = milco.encoder(input_ids=ids - config.pivot_vocab_size, attention_mask=mask).last_hidden_state
        logits = head.decoder(head.norm(head.activation(head.dense(milco.connector(hidden)))))  # [b, n, V_e + 1]
        weights = torch.log1p(torch.relu(logits)) * mask.unsqueeze(-1)
        echoing = mask.bool() & ~torch.isin(ids, torch.tensor(config.special_token_ids, device=ids.device))
        vectors = ids.new_zeros((len(ids), config.projection_dim), dtype=weights.dtype)
        pooling = "amax" if config.echo_pooling == "max" else "sum"
        vectors.scatter_reduce_(1, ids, weights[..., -1] * echoing, pooling)
        vectors[:, : config.pivot_vocab_size] = weights[..., :-1].amax(dim=1)
        rows += [sparse.csr_array(vector[None].cpu().numpy()) for vector in vectors]
    return sparse.vstack(rows, format="csr")


def sparse_encoder(model: SparseEncoder, texts: list[str]) -> sparse.csr_array:
    """`SparseEncoder.encode_document` as it is set up, and its result as CSR."""
    tensor = model.encode_document(texts, show_progress_bar=False, save_to_cpu=True).coalesce()
    rows, columns = tensor.indices().numpy()
    return sparse.csr_array((tensor.values().numpy(), (rows, columns)), shape=tuple(tensor.shape))


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="milco-mini", help="(default: milco-mini)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--texts", type=int, help="how many (default: 2000; 96 with --quick)")
    parser.add_argument("--lengths", choices=("uniform", "log"), default="log", help="of 8 to 400 words (default: log)")
    parser.add_argument("--rounds", type=int, help="(default: 5; 1 with --quick)")
    parser.add_argument("--batch-tokens", type=int, help="of encode_corpus (default: its own)")
    parser.add_argument("--dtype", help="of encode_corpus, such as auto (default: the weights')")
    parser.add_argument("--threads", type=int, help="CPU threads; by default PyTorch's own number")
    parser.add_argument("--quick", action="store_true", help="few texts, one round")
    parser.add_argument("--output", default="outputs/benchmarks/encoding.json", metavar="FILE")
    options = parser.parse_args()
    count = options.texts or (96 if options.quick else 2000)
    rounds = options.rounds or (1 if options.quick else 5)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    before = environment(device)

    model = milco_hf.load(options.model, device=options.device)
    model.transformers_model.config.document_pruning = None
    texts = mixed_texts(count, options.lengths)
    ways = {
        "release-like loop": lambda: release_like(model, texts),
        "SparseEncoder.encode": lambda: sparse_encoder(model, texts),
        "encode_corpus": lambda: milco_hf.encode_corpus(
            model, texts, batch_tokens=options.batch_tokens, dtype=options.dtype, progress=False
        ),
    }
    if options.dtype is None:
        ways["encode_corpus, dtype=auto"] = lambda: milco_hf.encode_corpus(
            model, texts, batch_tokens=options.batch_tokens, dtype="auto", progress=False
        )
    logging.getLogger("milco_hf").setLevel(logging.ERROR)  # how much is cut off, again in every round
    few = texts[:32]
    expected = sparse_encoder(model, few)
    differences = {
        "release-like loop": float(abs(release_like(model, few) - expected).max()),
        "encode_corpus": float(abs(milco_hf.encode_corpus(model, few, progress=False) - expected).max()),
    }
    if max(differences.values()) > 1e-4 and device.type == "cpu":
        raise SystemExit(f"The ways do not make the same vectors: {differences}")

    found = interleaved(ways, rounds, device)
    ours = found["encode_corpus"].median
    turns = {  # how often as fast encode_corpus was in each round, which other work on the machine disturbs least
        name: [other / own for other, own in zip(measurement.seconds, found["encode_corpus"].seconds, strict=True)]
        for name, measurement in found.items()
    }
    rows = []
    for name, measurement in found.items():
        spread = f"{count / max(measurement.seconds):.1f} to {count / min(measurement.seconds):.1f}"
        speed = f"{count / measurement.median:.1f}"
        ratio = f"{statistics.median(turns[name]):.2f} ({min(turns[name]):.2f} to {max(turns[name]):.2f})"
        rows.append([name, speed, spread, ratio, f"{measurement.peak / 2**20:.0f}"])
    print_table(
        f"{count} texts of {SHORTEST} to {LONGEST} words ({options.lengths}), {options.model}, {before['device']}, "
        f"{before['threads']} threads, {rounds} rounds, load {before['load_before']}",
        ["way", "texts/s", "spread", "time ÷ encode_corpus's", "peak extra MiB"],
        rows,
    )
    content = {
        "what": "encoding",
        "settings": {**vars(options), "texts": count, "rounds": rounds},
        "environment": before,
        "largest_difference": differences,
        "texts_per_second": {name: count / measurement.median for name, measurement in found.items()},
        "times_faster": {name: measurement.median / ours for name, measurement in found.items()},
        "times_faster_by_round": turns,
        "measurements": {name: measurement.summary() for name, measurement in found.items()},
    }
    write_json(options.output, content)
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
