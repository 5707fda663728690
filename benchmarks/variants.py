"""A training recipe in several variants: same start, data and steps, several seeds, the same evaluation of each.

    python benchmarks/variants.py training/recipes/milco-mini-sct.yaml benchmarks/variants/cross_lingual.yaml \
        --data XQUAD-R --languages en de el ar zh --output runs/variants -- --model runs/mini/echo-start

A file of variants has `stage` (sap or sct), `shared` settings that all have over the recipe, and `variants`, each with
settings of its own; what comes after `--` is handed to the stage's script, paths for example. The first variant is the
one that others are compared with. SCT is evaluated as `milco evaluate` does, matrix and mixed pool; SAP by translation
retrieval. Every run is kept in --output, and what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import torch
import yaml
from measuring import environment, print_table, write_json
from variant_numbers import matrix_numbers, mixed_numbers, training_numbers, translation_numbers

ROOT = Path(__file__).parent.parent
DONE = "measured.json"
STAGES = ("sap", "sct")


@dataclass
class Variants:
    """What a file of variants says.

    Raises:
        SystemExit: It says something else.
    """

    stage: str
    variants: dict[str, dict]
    shared: dict = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, only: Sequence[str] | None) -> Variants:
        """All variants of a file, or only some."""
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if (
            not isinstance(content, dict)
            or set(content) - {"stage", "shared", "variants"}
            or not content.get("variants")
        ):
            raise SystemExit(f"{path} should hold `stage`, `variants` and, where there are any, `shared` settings.")
        if content.get("stage") not in STAGES:
            raise SystemExit(f"{path}: stage has to be one of {', '.join(STAGES)}, got {content.get('stage')!r}.")
        variants = {str(name): own or {} for name, own in content["variants"].items()}
        if unknown := sorted(set(only or []) - set(variants)):
            raise SystemExit(f"{path} has no variant {', '.join(unknown)}; it has {', '.join(variants)}.")
        chosen = {name: own for name, own in variants.items() if not only or name in only}
        return cls(content["stage"], chosen, content.get("shared") or {})


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """What the command line says; `rest` is the script's."""
    ours, rest = list(given), []
    if "--" in ours:
        at = ours.index("--")
        ours, rest = ours[:at], ours[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="of the stage's script")
    parser.add_argument("variants", type=Path, help="see above")
    parser.add_argument("--data", required=True, metavar="PATH", help="a parallel collection, or for SAP parallel text")
    parser.add_argument("--languages", nargs="+", metavar="XX", help="of --data (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these variants (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, which share the cores (default: 1)")
    parser.add_argument("--dtype", default="bfloat16", help="of the evaluation (default: bfloat16)")
    parser.add_argument("--keep", action="store_true", help="keep each run's weights")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="for runs, logs and results.json")
    options = parser.parse_args(ours)
    options.rest = rest
    return options


def main() -> None:
    """Runs what is missing, reports on all that is there."""
    options = arguments(sys.argv[1:])
    chosen = Variants.read(options.variants, options.only)
    recipe = yaml.safe_load(options.recipe.read_text(encoding="utf-8"))
    before = environment(torch.device("cpu"))

    # all variants with one seed before the next seed, so that what is there is comparable at any time
    work = [
        (name, seed, settings_of(recipe, chosen.shared, own, seed))
        for seed in options.seeds
        for name, own in chosen.variants.items()
    ]
    failed = Event()

    def run(item: tuple[str, int, dict]) -> dict:
        if failed.is_set():  # else the next run, of many minutes, would begin before the error is shown
            raise SystemExit(f"{item[0]}, seed {item[1]}, was not run, since another failed")
        try:
            return measured(*item, chosen.stage, options)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(options.jobs) as pool:
        found = list(pool.map(run, work))
    by_variant: dict[str, list[dict]] = {}
    for (name, _, _), numbers in zip(work, found, strict=True):
        by_variant.setdefault(name, []).append(numbers)
    report(by_variant, f"{options.variants.stem}, seeds {' '.join(map(str, options.seeds))}")
    settings = {key: str(value) for key, value in vars(options).items()}
    content = {"what": "variants", "settings": settings, "environment": before, "runs": by_variant}
    write_json(options.output / f"{options.variants.stem}.json", content)


def settings_of(recipe: dict, shared: dict, own: dict, seed: int) -> dict:
    """What the stage's script is given; where steps are counted, no clock lowers the rates or ends the run."""
    settings = {**recipe, **shared, **own, "seed": seed}
    if "max_steps" in shared or "max_steps" in own:
        settings.pop("max_minutes", None)
    return settings


def measured(name: str, seed: int, settings: dict, stage: str, options: argparse.Namespace) -> dict:
    """One run's numbers: trained and evaluated now, or read from where an earlier call left them."""
    folder = (options.output / f"{name}-{seed}").resolve()
    config, model = folder / "recipe.yaml", folder / "model"
    if (folder / DONE).is_file():
        if yaml.safe_load(config.read_text(encoding="utf-8")) != settings:
            raise SystemExit(
                f"{folder} was run with other settings (recipe.yaml); remove it, or give another --output."
            )
        return json.loads((folder / DONE).read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(yaml.safe_dump(settings, allow_unicode=True, sort_keys=False), encoding="utf-8")
    threads = str(max(1, (os.cpu_count() or 1) // options.jobs))
    variables = {**os.environ, "OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false"}

    def call(log: str, *command: str) -> None:
        with open(folder / log, "w", encoding="utf-8") as file:
            done = subprocess.run([sys.executable, *command], stdout=file, stderr=file, env=variables, check=False)
        if done.returncode:
            raise SystemExit(f"{name}, seed {seed}, failed ({done.returncode}): see {folder / log}")

    script = str(ROOT / "training" / f"{stage}.py")
    call("training.log", script, "--config", str(config), *options.rest, "--output_dir", str(model))
    numbers = training_numbers(json.loads((model / "trainer_state.json").read_text(encoding="utf-8")))
    languages = ["--languages", *options.languages] if options.languages else []
    where = ["--data", options.data, *languages]
    if stage == "sap":
        scores = folder / "translation.json"
        script = str(ROOT / "training" / "evaluate_translation.py")
        call("translation.log", script, str(model), *where, "--dtype", options.dtype, "--json", str(scores))
        numbers |= translation_numbers(json.loads(scores.read_text(encoding="utf-8")))
    else:
        for setting, numbers_of in (("matrix", matrix_numbers), ("mixed", mixed_numbers)):
            how = ["--setting", setting, "--dtype", options.dtype, "--cache", str(folder / "cache")]
            output = ["--output", str(folder / setting)]
            call(f"{setting}.log", "-m", "milco_hf.cli", "evaluate", f"model={model}", *where, *how, *output)
            results = json.loads((folder / setting / "results.json").read_text(encoding="utf-8"))
            numbers |= numbers_of(results["results"])
        shutil.rmtree(folder / "cache")
    if not options.keep:
        shutil.rmtree(model)
    (folder / DONE).write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    return numbers


def report(by_variant: dict[str, list[dict]], title: str) -> None:
    """Means over seeds, ± their standard deviation; and differences to the first variant, seed by seed."""
    first, *others = by_variant
    names = [name for name in by_variant[first][0] if not name.startswith("log ")]
    columns = ["", first]
    for other in others:
        columns += [other, f"− {first}"]
    rows = []
    for name in names:
        base = [run[name] for run in by_variant[first]]
        row = [name, _spread(base)]
        for other in others:
            values = [run[name] for run in by_variant[other]]
            row += [_spread(values), _spread([value - was for value, was in zip(values, base, strict=True)], sign="+")]
        rows.append(row)
    print_table(title, columns, rows)


def _spread(values: Sequence[float], sign: str = "") -> str:
    digits = ".1f" if max(map(abs, values)) >= 10 else ".4f"
    deviation = f" ± {statistics.stdev(values):{digits}}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}{digits}}{deviation}"


if __name__ == "__main__":
    main()
