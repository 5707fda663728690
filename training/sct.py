"""Sparse contrastive training (SCT): from an aligned MILCO checkpoint to one that retrieves passages.

    accelerate launch training/sct.py --config training/recipes/milco-560m-sct.yaml
    accelerate launch --config_file training/accelerate/ddp.yaml training/sct.py --config …
    python training/sct.py --config training/recipes/milco-mini-sct.yaml --learning_rate 1e-4 --max_steps 500

Every setting is a key of the recipe and a flag; flags override the recipe. `--help` lists them all.
"""

import sys

from torch.distributed.elastic.multiprocessing.errors import record

from milco_hf.training.config_file import parse_recipe
from milco_hf.training.retrieval.arguments import SctArguments, SctDataArguments, SctModelArguments
from milco_hf.training.retrieval.run import run_sct
from milco_hf.training.stage_setup import end


@record  # a process that fails tells torchrun its error
def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    classes = (SctModelArguments, SctDataArguments, SctArguments)
    arguments = sys.argv[1:] if arguments is None else arguments
    end(run_sct(*parse_recipe(classes, arguments, description=__doc__.splitlines()[0])))


if __name__ == "__main__":
    main()
