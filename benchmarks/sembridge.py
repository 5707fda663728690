"""How fast new tokens learn: rows started at the mean, at random, and as combinations that a bridge names.

    python benchmarks/sembridge.py --noise 0.5 --seeds 0 1 2

A tiny model learns the made-up task of toy_retrieval.py. Then its whole vocabulary is replaced by another language's, a
new token for each old one, whose rows start in the three ways, and training goes on with the new tokens. The bridge is
made up too: it gives a token and its translation the same random vector, each with noise of its own, so that with more
noise it names the wrong words more often. Printed: the share of questions that find their passage, by steps.
"""

from __future__ import annotations

import argparse
import copy

import numpy as np
import torch
from toy_retrieval import FIRST, TOPICS, WORDS, fresh, train

from milco_hf.bridging import ALPHA, NEIGHBOURS, Bridge, combine
from milco_hf.new_vocabulary import INITS, started_rows
from milco_hf.token_matching import Matching

AT = (0, 5, 10, 20, 40, 80)


class NoisyBridge:
    """Vectors of made-up words: `old 7` and `new 7` are the same but for noise."""

    def __init__(self, noise: float, width: int = 64) -> None:
        self.noise = noise
        self.width = width

    def encode(self, texts: list[str], **options: object) -> np.ndarray:
        """[texts, width], the same for the same text."""
        rows = []
        for text in texts:
            language, number = text.split()
            meaning = np.random.default_rng(int(number)).normal(size=self.width)
            own = np.random.default_rng([int(number), language == "new"]).normal(size=self.width)
            rows.append(meaning + self.noise * own)
        return np.stack(rows)


def main(arguments: list[str] | None = None) -> None:
    """Train once, replace the vocabulary in each way, and train on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.5, 1.0], help="of the bridge, against meaning's 1")
    parser.add_argument("--steps", type=int, default=150, help="of training with the old vocabulary")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--sparsity", type=float, default=3e-4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    words = range(FIRST, FIRST + TOPICS * WORDS)
    matching = Matching(
        size=words.stop,
        same={number: number for number in range(FIRST)},
        wanted={number: f"new {number}" for number in words},
        known={number: f"old {number}" for number in words},
    )
    print("| seed | rows start | bridge right | " + " | ".join(f"step {step}" for step in AT) + " |")
    print("| --- " * (3 + len(AT)) + "|")
    for seed in options.seeds:
        learned = fresh(seed)
        train(learned, options.steps, options.learning_rate, options.sparsity)
        rows = learned.get_input_embeddings().weight.detach()
        for init in INITS:
            for noise in options.noise if init == "sembridge" else [0.0]:
                bridge = Bridge(NoisyBridge(noise)) if init == "sembridge" else None
                model = copy.deepcopy(learned)
                with torch.no_grad():
                    model.get_input_embeddings().weight.copy_(started_rows(rows, matching, init, bridge, seed))
                right = "" if bridge is None else f"{closest_right(bridge, matching):.2f}"
                found = train(model, AT[-1], options.learning_rate, options.sparsity, AT)
                cells = [f"{each['found']:.2f}" for each in found]
                name = init if bridge is None else f"{init}, noise {noise:g}"
                print(f"| {seed} | {name} | {right} | {' | '.join(cells)} |", flush=True)


def closest_right(bridge: Bridge, matching: Matching) -> float:
    """How often the closest old token is the translation."""
    vectors = bridge.vectors([*matching.known.values(), *matching.wanted.values()])
    known = len(matching.known)
    _, found, _ = combine(vectors[known:], vectors[:known], vectors[:known], NEIGHBOURS, ALPHA)
    return (found[:, 0] == torch.arange(known)).float().mean().item()


if __name__ == "__main__":
    main()
