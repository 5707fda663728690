"""Sparse alignment pretraining (SAP): teach a multilingual encoder to speak an English sparse teacher's vocabulary.

    accelerate launch training/sap.py --config training/recipes/milco-560m.yaml
    accelerate launch --config_file training/accelerate/ddp.yaml training/sap.py --config …
    python training/sap.py --config training/recipes/milco-mini.yaml --learning_rate 1e-3 --max_steps 2000

Every setting is a key of the recipe and a flag; flags override the recipe. `--help` lists them all.
"""

import sys

from torch.distributed.elastic.multiprocessing.errors import record

from milco_hf.training.alignment import run_sap
from milco_hf.training.arguments import DataArguments, ModelArguments, SapArguments, TeacherArguments
from milco_hf.training.config_file import parse_recipe
from milco_hf.training.stage_setup import end


@record  # a process that fails tells torchrun its error
def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    classes = (ModelArguments, DataArguments, TeacherArguments, SapArguments)
    arguments = sys.argv[1:] if arguments is None else arguments
    end(run_sap(*parse_recipe(classes, arguments, description=__doc__.splitlines()[0])))


if __name__ == "__main__":
    main()
