"""Take language bias out of documents without training (SHIFT), and measure a mixed pool before and after.

    python examples/language_shift.py milco-mini --pairs DATA/parallel/dev --data xquad-r/ --output shift

--pairs are files (or folders of them) of translation pairs, such as en-de.tsv.xz: English, a tab, the translation.
--data is a folder of BEIR folders by language, as `milco evaluate` takes it. The vectors are saved in --output/shift,
for `encode_corpus(…, language_shift=…)`, `Index.build(…, language_shift=…)` and `milco index --language-shift`.
"""

from __future__ import annotations

import argparse
import logging
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from milco_hf.debias import LanguageShift
from milco_hf.debias.system import ShiftedSystem
from milco_hf.evaluation import evaluate, open_system
from milco_hf.evaluation.runner import load_groups
from milco_hf.training.data.files import find_files, read_pairs

COLUMNS = (
    "| system | nDCG@10 mixed | own language in top 10 | excess | outranked | outranked by English | nDCG@10 own |"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Estimate, save, and evaluate at each strength."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="bundled name, folder or Hub id of a sparse or dense model")
    parser.add_argument("--pairs", nargs="+", required=True, metavar="PATH", help="translation pairs, see above")
    parser.add_argument("--data", required=True, metavar="PATH|NAME", help="a parallel collection, see above")
    parser.add_argument("--languages", nargs="+", metavar="XX", help="of the collection, only these (default: all)")
    parser.add_argument("--count", type=int, default=1000, help="pairs of a language, at random (default: 1000)")
    parser.add_argument("--strength", nargs="+", type=float, default=[0.5, 1.0], help="to try (default: 0.5 1.0)")
    parser.add_argument("--seed", type=int, default=0, help="for the choice of pairs (default: 0)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="for the vectors, results and run files")
    parser.add_argument("--cache", metavar="DIR", help="of document vectors (default: ~/.cache/milco-hf/evaluation)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    groups = list(load_groups(options.data, options.languages))
    wanted = {collection.document_language for group in groups for collection in group} - {"en"}
    system = open_system(options.model)
    if system.kind not in ("sparse", "dense"):
        parser.error(f"{options.model} is {system.kind}; a language shift is for sparse and dense models")
    shift = LanguageShift.estimate(system.encoder.model, pairs_of(options.pairs, wanted, options.count, options.seed))
    if without := sorted(wanted - set(shift.languages)):
        logging.warning("There are no pairs of %s: their documents stay as they are.", ", ".join(without))
    if options.output:
        shift.save(options.output / "shift")
    systems = [system] + [
        ShiftedSystem(system, shift, strength, f"{system.name} − {strength:g} · v") for strength in options.strength
    ]
    reports = {}
    for setting in ("mixed", "monolingual"):
        output = options.output / setting if options.output else None
        collections = [collection for group in groups for collection in group]
        cache = options.cache or True
        reports[setting] = evaluate(
            systems, collections, setting=setting, measures=["nDCG@10", "R@100"], output=output, cache=cache
        )
    print(COLUMNS)
    print("| --- " * COLUMNS.count(" | ") + "| --- |")
    for each in systems:
        mixed, own = (reports[setting].select(each.name) for setting in ("mixed", "monolingual"))
        bias = {name: [result.bias[name] for result in mixed if name in result.bias] for name in ("same", "english")}
        cells = [
            fmean(result.scores["nDCG@10"] for result in mixed),
            *(fmean(row[name] for row in bias["same"]) for name in ("share_in_top", "excess", "outranked")),
            fmean(row["outranked"] for row in bias["english"]) if bias["english"] else float("nan"),
            fmean(result.scores["nDCG@10"] for result in own),
        ]
        print(f"| {each.name} | " + " | ".join(f"{cell:.4f}" for cell in cells) + " |")


def pairs_of(paths: Sequence[str], languages: set[str], count: int, seed: int) -> dict[str, list[tuple[str, str]]]:
    """By language, (text in it, its translation into English), at most `count` of each.

    They are chosen while the files go by, all alike, so no more than these are ever held.

    Raises:
        ValueError: There are none, or `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"--count has to be at least 1, got {count}.")
    found: dict[str, list[tuple[str, str]]] = {}
    seen: Counter[str] = Counter()
    chooser = random.Random(seed)
    for path in paths:
        for file in find_files(path):
            for pair in read_pairs(file):
                if pair.language not in languages:
                    continue
                seen[pair.language] += 1
                kept = found.setdefault(pair.language, [])
                if len(kept) < count:
                    kept.append((pair.other, pair.english))
                elif (place := chooser.randrange(seen[pair.language])) < count:
                    kept[place] = (pair.other, pair.english)
    if not found:
        raise ValueError(f"{', '.join(paths)} hold no pairs of {', '.join(sorted(languages))}.")
    return dict(sorted(found.items()))


if __name__ == "__main__":
    main()
