"""Dictionaries as parallel text: four formats, each with small files written here."""

import gzip
import json
import lzma
import sys
import types

import pytest

from milco_hf.training.dictionaries.annotations import read_annotations
from milco_hf.training.dictionaries.edict import read_edict
from milco_hf.training.dictionaries.freedict import read_freedict
from milco_hf.training.dictionaries.glosses import MAX_GLOSSES, Dictionary, Gloss, clean, split
from milco_hf.training.dictionaries.wordnets import read_rowordnet
from milco_hf.training.dictionary_pairs import main

DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

GREEK = [
    ("αλήθεια", "αλήθεια /aˈli.θça/ <n>\ntruth, veracity\n"),
    ("αναλύω", "αναλύω /anaˈlio/ <v>\n1. to analyse (chemistry, physics)\n2. parse\n   Synonyms: {λύνω}\n"),
    ("Κόρινθος", "Κόρινθος <pn>\nCorinth\nπόλη της Ελλάδας\n"),
]
TURKISH = [("base", 'base /bˈeɪs/\n1. (bot.) temel, taban. ignored words\n      "She has a base."\n2. üs\n')]


def digits(number):
    found = DIGITS[number % 64]
    while number := number // 64:
        found = DIGITS[number % 64] + found
    return found


def dictd(folder, name, entries):
    """A dictionary as dictfmt writes it."""
    text, lines = b"", ["00databaseinfo\tA\tA"]
    for headword, entry in entries:
        content = entry.encode()
        lines.append(f"{headword}\t{digits(len(text))}\t{digits(len(content))}")
        text += content
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.index").write_text("\n".join(lines) + "\n", "utf-8")
    with gzip.open(folder / f"{name}.dict.dz", "wb") as file:
        file.write(text)
    return folder / f"{name}.index"


def pairs(glosses):
    return [(gloss.word, gloss.english) for gloss in glosses]


@pytest.mark.parametrize("number", [0, 63, 64, 5000, 64**3 + 17])
def test_numbers_of_an_index(number):
    from milco_hf.training.dictionaries.freedict import _number

    assert _number(digits(number)) == number


def test_a_dictionary_into_english(tmp_path):
    found = list(read_freedict(dictd(tmp_path, "freedict-ell-eng", GREEK)))
    assert pairs(found) == [
        ("αλήθεια", "truth"),
        ("αλήθεια", "veracity"),
        ("αναλύω", "analyse"),
        ("αναλύω", "parse"),
        ("Κόρινθος", "Corinth"),
    ]
    assert {(gloss.language, gloss.source) for gloss in found} == {("el", "freedict-ell-eng")}


def test_a_dictionary_from_english(tmp_path):
    found = read_freedict(dictd(tmp_path, "freedict-eng-tur", TURKISH))
    assert pairs(found) == [("temel", "base"), ("taban", "base"), ("üs", "base")]


def test_a_dictionary_without_english_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"freedict-deu-ell.index is no FreeDict dictionary of English"):
        next(read_freedict(dictd(tmp_path, "freedict-deu-ell", GREEK)))


def test_edict_and_cedict(tmp_path):
    file = tmp_path / "cedict.u8"
    file.write_text("# CC-CEDICT\n中國 中国 [Zhong1 guo2] /China/CL:個/to sinicise (old); Chinese/\n", "utf-8")
    assert pairs(read_edict(file, "zh")) == [
        (word, english) for english in ("China", "sinicise", "Chinese") for word in ("中國", "中国")
    ]
    japanese = tmp_path / "edict"
    japanese.write_bytes("鑑定 [かんてい] /(n,vs) judgement/expert opinion/EntL1/\n".encode("euc_jp"))
    assert pairs(read_edict(japanese, "ja")) == [("鑑定", "judgement"), ("鑑定", "expert opinion")]


def test_a_file_in_another_format_is_refused(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("a\tb\n", "utf-8")
    with pytest.raises(ValueError, match=r"words.txt holds no line in EDICT's format"):
        list(read_edict(file, "zh"))


def annotations(folder, language, entries):
    (folder / language).mkdir(parents=True)
    table = {symbol: {"tts": [names[0]], "default": names} for symbol, names in entries.items()}
    (folder / language / "annotations.json").write_text(json.dumps({"annotations": {"annotations": table}}), "utf-8")


def test_names_of_symbols(tmp_path):
    annotations(
        tmp_path, "en", {"🐢": ["turtle", "tortoise"], "🎹": ["musical keyboard", "piano", "keys"], "★": ["star"]}
    )
    annotations(tmp_path, "vi", {"🐢": ["con rùa", "rùa"], "🎹": ["bàn phím", "đàn"], "☆": ["sao"]})
    assert pairs(read_annotations(tmp_path, ["vi", "xx"])) == [
        ("con rùa", "turtle"),
        ("rùa", "tortoise"),
        ("bàn phím", "musical keyboard"),
    ]


def test_romanian_wordnet_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pkg_resources", None)
    with pytest.raises(ImportError, match=r"pip install 'setuptools<81' rowordnet"):
        list(read_rowordnet(tmp_path))


def test_romanian_wordnet(tmp_path, monkeypatch):
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text("  1 the licence\n", "utf-8")
    (tmp_path / "data.noun").write_text("  1 l\n00017222 03 n 02 plant 0 flora(p) 0 001 @ 1 n 0 | living\n", "utf-8")
    words = {"ENG30-00017222-n": ["plantă", "[vegetal]"], "RO-17-n": ["sarma"]}
    wordnet = types.SimpleNamespace(
        synsets=lambda: list(words), synset=lambda number: types.SimpleNamespace(literals=words[number])
    )
    monkeypatch.setitem(sys.modules, "pkg_resources", types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "rowordnet", types.SimpleNamespace(RoWordNet=lambda: wordnet))
    assert pairs(read_rowordnet(tmp_path)) == [("plantă", "plant"), ("plantă", "flora")]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [("to parse", "parse"), ("the (old) moon!", "moon"), ("a [b (c)] d", "d"), ("घेर~लेना", "घेर लेना"), ("(x)", "")],
)
def test_clean(text, cleaned):
    assert clean(text) == cleaned


def test_commas_in_brackets_separate_nothing():
    assert split("cut (of wood, of stone); fell, 12, a phrase of far too many words to count") == ["cut", "fell"]


def test_both_directions_are_gathered_by_word():
    dictionary = Dictionary()
    dictionary.add([Gloss("βάση", "basis", "el", "ell-eng")])
    new = dictionary.add([Gloss("βάση", english, "el", "eng-ell") for english in ("base", "basis", *"abcdefg")])
    assert new == MAX_GLOSSES - 1
    assert list(dictionary.rows("el")) == [("basis, base, a, b, c, d", "βάση", "ell-eng")]


def test_the_command_writes_what_training_reads(tmp_path):
    from milco_hf.training.data.pairs import load_pairs
    from milco_hf.training.data.sources import SourceSpec

    dictd(tmp_path / "dictd", "freedict-ell-eng", GREEK)
    dictd(tmp_path / "dictd", "freedict-eng-tur", TURKISH)
    dictd(tmp_path / "dictd", "freedict-deu-ell", GREEK)  # passed over
    main(["--freedict", str(tmp_path / "dictd"), "--languages", "el", "tr", "--output", str(tmp_path / "pairs")])
    found = load_pairs([SourceSpec.parse(str(tmp_path / "pairs"))], progress=False)
    assert {name: len(rows) for name, rows in found.by_language().items()} == {"el": 3, "tr": 3}
    assert found.texts("english")[0] == "truth, veracity"
    main(["--freedict", str(tmp_path / "dictd"), "--languages", "tr", "--output", str(tmp_path / "turkish")])
    assert [file.name for file in (tmp_path / "turkish").iterdir()] == ["en-tr.tsv.xz"]
    with lzma.open(tmp_path / "pairs" / "en-tr.tsv.xz", "rt", encoding="utf-8") as file:
        assert file.readline() == "base\ttemel\tfreedict-eng-tur\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "no dictionary was read: give --freedict"),
        (("--edict", "cedict.u8"), "--edict takes XX=FILE, got 'cedict.u8'"),
        (("--edict", "yue=words.u8"), "--edict yue=words.u8 is in 'yue', which --languages"),
        (("--edict", "zh=none.u8"), "No such file or directory: 'none.u8'"),
        (("--freedict", "nowhere"), "in 'nowhere': give the folder that Debian's dict-freedict-* packages fill"),
    ],
)
def test_wrong_commands(flags, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([*flags, "--output", str(tmp_path / "none")])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
