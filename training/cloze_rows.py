"""Make cross-lingual retrieval rows of parallel text: a sentence in one language, a passage with it in another.

    python training/cloze_rows.py --data DATA/train DATA/more --output runs/mini/cloze.jsonl.gz

Passages are sentences of one source strung together in random order: shuffled parallel text has no better ones.
`training/sct.py` reads the result as it reads any rows.
"""

import argparse
import json
import logging

from milco_hf.training.retrieval.cloze import ClozeSettings, read_sentences, write_rows

# Without any stated licence or with NC or ND terms (see milco-mini.yaml); then interface strings: no passages.
LEFT_OUT = [
    "bsd-ami-ja", "django-docs", "globalvoices-sw", "id-panl-ted", "id-smeru-ausaid-bbc", "iwslt15-vi", "lafand-mt",
    "multi30k", "phpmyadmin-docs", "python-docs:ja", "python-docs:ko", "stellarium", "tanaka-enja", "wmt-news",
    "android-ui", "gnome-ui", "jellyfin-ui", "kolibri-ui", "mediawiki-ui", "mozilla-www", "osm-website",
    "pixel-dungeon", "pkp-lib",
]  # fmt: skip

# News and encyclopedias are what is searched, but are a few thousand sentences; manuals are many, and lists of words
# and names (cldr-names, osm-tagging, joshua-dict) make passages of nothing else.
TAG_WEIGHTS = {
    "mt-geneval": 2.0, "joshua-indian": 2.0, "ko-park-news": 2.0, "ntrex": 1.5, "ud-pud": 1.5, "tico19": 1.5,
    "tatoeba-manythings": 0.7, "tatoeba-challenge": 0.7, "python-docs": 0.7, "gnome-docs": 0.4, "tldr": 0.4,
    "cldr-names": 0.5, "joshua-dict": 0.5, "osm-tagging": 0.3,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help="files, folders or globs of parallel text")
    parser.add_argument("--output", required=True, help="file of rows to write: .jsonl, also .gz, .xz, .bz2")
    parser.add_argument("--rows", type=int, default=320_000, help="rows to write (default: %(default)s)")
    parser.add_argument(
        "--exclude-sources", nargs="*", default=LEFT_OUT, help="source tags to leave out (default: %(default)s)"
    )
    parser.add_argument(
        "--tag-weights",
        type=json.loads,
        default=TAG_WEIGHTS,
        help="how often source tags are drawn, a JSON mapping; 1 where not named (default: %(default)s)",
    )
    parser.add_argument(
        "--passage-length",
        nargs=2,
        type=int,
        default=(40, 400),
        metavar=("SHORTEST", "LONGEST"),
        help="a passage ends once its English has so many characters, drawn between the two (default: 40 400)",
    )
    parser.add_argument(
        "--shortest-sentence",
        type=int,
        default=8,
        help="leave out sentences of fewer English characters (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seeds every draw (default: %(default)s)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    sentences = read_sentences(options.data, options.exclude_sources)
    shortest, longest = options.passage_length
    settings = ClozeSettings(
        rows=options.rows,
        shortest=shortest,
        longest=longest,
        shortest_sentence=options.shortest_sentence,
        tag_weights=options.tag_weights,
        seed=options.seed,
    )
    write_rows(options.output, sentences, settings)


if __name__ == "__main__":
    main()
