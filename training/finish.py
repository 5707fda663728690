"""Make a training run's result a checkpoint to ship: half-precision weights, the tokenizer, a model card, nothing else.

python training/finish.py runs/mini/sap --output milco-mini --card milco_hf/bundled/milco-mini/card.yaml
"""

import argparse
import json
import logging
import sys

from milco_hf.training.finishing import DTYPES, VOCABULARY_DTYPES, finish

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="folder of a run, or of one of its checkpoints")
    parser.add_argument("--output", required=True, help="folder to write; what it holds already stays")
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="of the stored weights (default: float16)")
    parser.add_argument(
        "--vocabulary-dtype",
        choices=VOCABULARY_DTYPES,
        help="of the rows of both vocabularies; float8_e4m3fn takes one byte an entry (default: --dtype)",
    )
    parser.add_argument("--bias-shift", type=float, default=0.0, help="added to every English term's bias (default: 0)")
    for side in ("query", "document"):
        parser.add_argument(
            f"--{side}-pruning",
            nargs="+",
            metavar="HOW",
            help=f"prune every {side} so by default: mass:0.9, top_k:30, …, or by view english=HOW source=HOW",
        )
    parser.add_argument("--card", help="YAML file of what the model card says beyond the configuration")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    report = finish(
        options.checkpoint,
        options.output,
        options.dtype,
        options.vocabulary_dtype,
        options.bias_shift,
        options.card,
        options.query_pruning,
        options.document_pruning,
    )
    logger.info(json.dumps(report))


if __name__ == "__main__":
    sys.exit(main())
