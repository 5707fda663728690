"""Make what milco-mini's training starts from: tokenizers, English teacher, and a MILCO that holds a counted lexicon.

    python training/prepare_mini.py --data DATA/train DATA/more --output runs/mini --exclude-sources lafand-mt …
    accelerate launch training/sap.py --config training/recipes/milco-mini.yaml

About ten minutes on two cores for 1.5 million pairs. `--romanize` makes a source tokenizer that spells names alike in
most alphabets; it needs `pip install 'milco-hf[romanize]'` here, and nothing where the result is used.
"""

import argparse
import logging
from argparse import BooleanOptionalAction
from dataclasses import fields

from milco_hf.training.lexicon.preparation import PreparationSettings, prepare

NOT_FREE = [
    "bsd-ami-ja", "django-docs", "globalvoices-sw", "id-panl-ted", "id-smeru-ausaid-bbc", "iwslt15-vi", "lafand-mt",
    "multi30k", "phpmyadmin-docs", "python-docs:ja", "python-docs:ko", "stellarium", "tanaka-enja", "wmt-news",
]  # fmt: skip
"""Sources with non-commercial or no-derivatives terms, or without any stated licence."""


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and prepare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="files, folders or globs of parallel text")
    parser.add_argument(
        "--dictionaries",
        nargs="*",
        default=[],
        help="files, folders or globs that dictionary_pairs.py wrote: counted into the lexicon as well",
    )
    parser.add_argument(
        "--output", required=True, help="folder to write source-tokenizer, pivot-tokenizer, teacher, start to"
    )
    parser.add_argument(
        "--exclude-sources",
        nargs="*",
        default=NOT_FREE,
        help="source tags to leave out, tag:language only there (default: %(default)s)",
    )
    for setting in fields(PreparationSettings):
        flag = "--" + setting.name.replace("_", "-")
        known = (
            {"action": BooleanOptionalAction} if isinstance(setting.default, bool) else {"type": type(setting.default)}
        )
        parser.add_argument(flag, **known, default=setting.default, help="default: %(default)s")
    options = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    data, output, excluded = options.pop("data"), options.pop("output"), options.pop("exclude_sources")
    dictionaries = options.pop("dictionaries")
    try:
        settings = PreparationSettings(**options)
    except ValueError as error:
        parser.error(str(error))
    prepare(data, output, excluded, settings, dictionaries)


if __name__ == "__main__":
    main()
