"""Turn bilingual dictionaries into files of parallel text, en-XX.tsv.xz, for prepare_mini.py and sap.py.

    apt-get install dict-freedict-ell-eng dict-freedict-eng-hin …
    python training/dictionary_pairs.py --freedict /usr/share/dictd --edict zh=cedict_ts.u8 --output runs/dictionaries

A row is a word or phrase of the other language beside its English glosses, with the dictionary's name as source tag. No
dictionary comes with this project: their licences, mostly GPL and CC BY-SA, are told by the packages that hold them.
"""

import argparse
import logging
import lzma
from collections.abc import Sequence
from pathlib import Path

from milco_hf.training.dictionaries.annotations import read_annotations
from milco_hf.training.dictionaries.edict import read_edict
from milco_hf.training.dictionaries.freedict import LANGUAGES, languages_of, read_freedict
from milco_hf.training.dictionaries.glosses import Dictionary
from milco_hf.training.dictionaries.wordnets import read_rowordnet

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, read every dictionary that it names and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--freedict", metavar="FOLDER", help="folder of freedict-AAA-BBB.index and .dict.dz files")
    parser.add_argument(
        "--edict", nargs="*", default=[], metavar="XX=FILE", help="files in EDICT's format: ja=edict zh=cedict_ts.u8"
    )
    parser.add_argument(
        "--annotations", nargs="*", default=[], metavar="FOLDER", help="CLDR's folders annotations, annotationsDerived"
    )
    parser.add_argument(
        "--rowordnet", metavar="WORDNET", help="read the package rowordnet, with Princeton WordNet 3.0's folder"
    )
    parser.add_argument(
        "--languages", nargs="+", metavar="XX", default=sorted(LANGUAGES.values()), help="default: %(default)s"
    )
    parser.add_argument("--output", required=True, help="folder to write en-XX.tsv.xz to")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")

    for entry in options.edict:
        language, equals, _ = entry.partition("=")
        if not equals:
            parser.error(f"--edict takes XX=FILE, got {entry!r}: say which language the file's words are in.")
        if language not in options.languages:
            parser.error(
                f"--edict {entry} is in {language!r}, which --languages {' '.join(options.languages)} leaves out."
            )
    try:
        dictionary = read_all(options)
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))
    if not dictionary.languages:
        parser.error(
            "no dictionary was read: give --freedict, --edict, --annotations or --rowordnet, with entries in one of "
            f"{', '.join(options.languages)}"
        )
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    for language in dictionary.languages:
        rows = list(dictionary.rows(language))
        with lzma.open(output / f"en-{language}.tsv.xz", "wt", encoding="utf-8") as file:
            file.writelines(f"{english}\t{word}\t{source}\n" for english, word, source in rows)
        logger.info("en-%s.tsv.xz: %d words", language, len(rows))


def read_all(options: argparse.Namespace) -> Dictionary:
    """Gather what the command line names.

    Raises:
        ImportError: rowordnet is asked for and not installed.
        OSError: a file or folder is not there.
        ValueError: one is in another format.
    """
    dictionary = Dictionary()
    if options.freedict is not None:
        for index in freedict_indexes(options.freedict, options.languages):
            logger.info("%s: %d glosses", index.stem, dictionary.add(read_freedict(index)))
    for entry in options.edict:
        language, _, file = entry.partition("=")
        logger.info("%s: %d glosses", file, dictionary.add(read_edict(file, language)))
    for folder in options.annotations:
        logger.info("%s: %d glosses", folder, dictionary.add(read_annotations(folder, options.languages)))
    if options.rowordnet is not None:
        logger.info("rowordnet: %d glosses", dictionary.add(read_rowordnet(options.rowordnet)))
    return dictionary


def freedict_indexes(folder: str, languages: Sequence[str]) -> list[Path]:
    """The indexes of English and these languages, those into English first: their glosses come in order of senses.

    Raises:
        FileNotFoundError: there is none.
    """
    found = [(languages_of(index), index) for index in sorted(Path(folder).glob("freedict-*.index"))]
    chosen = [(pair[1], index) for pair, index in found if pair is not None and pair[0] in languages]
    if not chosen:
        raise FileNotFoundError(
            f"No freedict-AAA-eng.index or freedict-eng-AAA.index of {', '.join(languages)} in {folder!r}: give the "
            "folder that Debian's dict-freedict-* packages fill, /usr/share/dictd."
        )
    return [index for _, index in sorted(chosen)]


if __name__ == "__main__":
    main()
