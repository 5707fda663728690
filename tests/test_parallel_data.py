import bz2
import csv
import gzip
import io
import json
import lzma
from collections import Counter
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

import helpers_training as h
import tiny
from milco_hf.training.collator import PairCollator
from milco_hf.training.data import sources
from milco_hf.training.data.columns import find_columns, language_of_name
from milco_hf.training.data.files import Pair, ReadCount, find_files, read_pairs
from milco_hf.training.data.lengths import pair_lengths
from milco_hf.training.data.mixing import PairMixture
from milco_hf.training.data.pairs import PairDataset, load_pairs
from milco_hf.training.data.sources import SourceSpec, iterate_source
from milco_hf.training.data.steps import StepSampler
from milco_hf.training.data.streaming import PairStream

ROWS = [("a quiet city", "eine ruhige Stadt", "stories"), ('the "old" book', "das «alte» Buch", "menus")]


def write(folder, name, rows=ROWS):
    """Write rows in the format and compression that the name says."""
    path = folder / name
    parts = name.split(".")
    if "parquet" in parts:
        columns = dict(zip(("english", "non_english", "source"), map(list, zip(*rows, strict=True)), strict=True))
        pyarrow.parquet.write_table(pa.table(columns), path)
        return path
    out = io.StringIO()
    if "jsonl" in parts:
        for english, other, source in rows:
            out.write(json.dumps({"english": english, "non_english": other, "source": source}) + "\n")
    elif "csv" in parts:
        csv.writer(out).writerows([("english", "non_english", "source"), *rows])
    else:
        out.write("".join("\t".join(row) + "\n" for row in rows))
    data = out.getvalue().encode()
    path.write_bytes(
        {"gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress}.get(parts[-1], lambda raw: raw)(data)
    )
    return path


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
@pytest.mark.parametrize("compression", ["", ".gz", ".xz", ".bz2"])
def test_every_format_and_compression_gives_the_same_pairs(tmp_path, kind, compression):
    path = write(tmp_path, f"en-de.{kind}{compression}")
    assert list(read_pairs(path)) == [Pair(english, other, "de", source) for english, other, source in ROWS]


def test_parquet_gives_the_same_pairs(tmp_path):
    path = write(tmp_path, "talks.en-de.parquet")
    assert list(read_pairs(path)) == [Pair(english, other, "de", source) for english, other, source in ROWS]


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("en-de.tsv.xz", "de"),
        ("data/en-fr-ca", "fr-ca"),
        ("talks.en_zh.jsonl", "zh"),
        ("de-en.tsv", "de"),
        ("en-zh_CN.tsv", "zh-cn"),
        ("all", None),
        ("oxen-die.tsv", None),
    ],
)
def test_language_of_name(name, language):
    assert language_of_name(name) == language


def test_columns_are_found_by_name_or_given():
    assert find_columns(["label", "english", "non_english"], "x").other == "non_english"
    assert find_columns(["de", "en", "score"], "x", language="de").other == "de"
    assert find_columns(["left", "right"], "x", given={"english": "right", "other": "left"}).english == "right"
    with pytest.raises(
        ValueError, match=r"set.csv has no usable column for the English text. Its columns are \['a', 'b'\]"
    ):
        find_columns(["a", "b"], "set.csv")
    with pytest.raises(ValueError, match=r"has no column 'c' \(given as other\)"):
        find_columns(["english", "b"], "set.csv", given={"other": "c"})
    with pytest.raises(ValueError, match=r"Unknown column roles \['target'\]"):
        find_columns(["english", "b"], "set.csv", given={"target": "b"})


def test_files_without_usable_columns_say_so(tmp_path):
    single = tmp_path / "words.tsv"
    single.write_text("only one column\n")
    with pytest.raises(ValueError, match=r"words.tsv has no usable column"):
        list(read_pairs(single))
    records = tmp_path / "en-de.jsonl"
    records.write_text('{"text": "a", "label": 1}\n')
    with pytest.raises(ValueError, match=r"en-de.jsonl has no usable column"):
        list(read_pairs(records))


def test_positions_can_be_given_and_languages_be_a_column(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("de\tein Buch\ta book\nfr\tun livre\ta book\n")
    pairs = list(read_pairs(path, columns={"english": 2, "other": 1, "language": 0, "source": None}))
    assert pairs == [Pair("a book", "ein Buch", "de"), Pair("a book", "un livre", "fr")]


def test_machine_translation_records_are_read(tmp_path):
    path = tmp_path / "en-de.jsonl"
    path.write_text('{"translation": {"en": "a book", "de": "ein Buch"}}\n')
    assert list(read_pairs(path)) == [Pair("a book", "ein Buch", "de")]


def test_a_source_may_be_left_out_of_one_language_only(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"english": "a book", "text": f"{lang}", "lang": lang, "source": "docs"} for lang in ("ja", "fr")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"english": "english", "other": "text", "language": "lang", "source": "source"}
    kept = list(read_pairs(path, columns=columns, exclude_sources=frozenset({"docs:ja"})))
    assert [pair.language for pair in kept] == ["fr"]


def test_skipped_lines_are_counted_and_logged(tmp_path, caplog):
    path = tmp_path / "en-de.tsv"
    path.write_text("a\tb\tstories\nno tab\n\tempty\tstories\nc\td\tmenus\n")
    count = ReadCount()
    assert len(list(read_pairs(path, exclude_sources=frozenset({"menus"}), count=count))) == 1
    assert (count.read, count.malformed, count.empty, count.excluded, count.skipped) == (4, 1, 1, 1, 3)
    with caplog.at_level("INFO"):
        load_pairs([SourceSpec(str(path))], progress=False)
    assert "4 lines read, 2 skipped (1 malformed, 1 with an empty side" in caplog.text


def test_tags_are_left_out_everywhere_or_in_one_language(tmp_path, caplog):
    write(tmp_path, "en-de.tsv")
    write(tmp_path, "en-fr.tsv")
    with caplog.at_level("INFO"):
        dataset = load_pairs([SourceSpec(str(tmp_path))], ["menus:de"], progress=False)
    kept = list(zip(dataset.texts("language"), dataset.texts("source"), strict=True))
    assert kept == [("de", "stories"), ("fr", "stories"), ("fr", "menus")]
    assert "left out {'menus': 1}" in caplog.text


def test_files_folders_and_globs(tmp_path):
    write(tmp_path, "en-de.tsv")
    write(tmp_path, "en-fr.tsv.gz")
    (tmp_path / "README.md").write_text("no data")
    assert [file.name for file in find_files(str(tmp_path))] == ["en-de.tsv", "en-fr.tsv.gz"]
    assert [file.name for file in find_files(str(tmp_path / "*.gz"))] == ["en-fr.tsv.gz"]
    with pytest.raises(FileNotFoundError, match="No data files at"):
        find_files(str(tmp_path / "*.jsonl"))
    with pytest.raises(ValueError, match=r"README.md is in no format that can be read"):
        find_files(str(tmp_path / "README.md"))


def test_sources_are_mappings_paths_or_json():
    assert SourceSpec.parse("some/folder").name == "some/folder"
    spec = SourceSpec.parse('{"path": "x", "weight": 2, "languages": "de"}')
    assert (spec.weight, spec.languages) == (2, ("de",))
    with pytest.raises(ValueError, match=r"Unknown keys \['wieght'\]"):
        SourceSpec.parse({"path": "x", "wieght": 2})
    with pytest.raises(ValueError, match="weight of 'x' must be positive, got 0"):
        SourceSpec.parse({"path": "x", "weight": 0})


def test_hub_sets_are_read_as_they_look(monkeypatch):
    import datasets

    sets = {
        "en-de": datasets.Dataset.from_dict(
            {"english": ["a book", ""], "non_english": ["ein Buch", "leer"], "label": [1, 0]}
        ),
        "en-fr": datasets.Dataset.from_dict({"english": ["a city"], "non_english": ["une ville"]}),
    }
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda path: ["all", "en-de", "en-fr"])

    def load_dataset(path, config, split, streaming):
        assert (path, split) == ("sentence-transformers/parallel-sentences-talks", "train")
        return sets[config].to_iterable_dataset() if streaming else sets[config]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for streaming in (False, True):
        spec = SourceSpec("sentence-transformers/parallel-sentences-talks", streaming=streaming)
        count = ReadCount()
        assert not spec.is_local
        assert list(iterate_source(spec, count=count)) == [
            Pair("a book", "ein Buch", "de"),
            Pair("a city", "une ville", "fr"),
        ]
        assert count.empty == 1
    with pytest.raises(ValueError, match=r"has none of the languages \['sw'\]"):
        sources.hub_configs(SourceSpec("sentence-transformers/parallel-sentences-talks", languages=("sw",)))


def test_tables_are_cached_until_a_file_changes(tmp_path, monkeypatch):
    path = write(tmp_path, "en-de.tsv")
    spec, cache = SourceSpec(str(path)), tmp_path / "cache"
    first = load_pairs([spec], cache_dir=cache, progress=False)
    with monkeypatch.context() as patched:
        patched.setattr("milco_hf.training.data.pairs.iterate_source", None)
        again = load_pairs([spec], cache_dir=cache, progress=False)
    assert first.table.equals(again.table)
    assert len(load_pairs([spec], ["menus"], cache_dir=cache, progress=False)) == 1
    write(tmp_path, "en-de.tsv", [*ROWS, ("new", "neu", "stories")])
    assert len(load_pairs([spec], cache_dir=cache, progress=False)) == 3


def test_nothing_left_is_refused(tmp_path):
    path = write(tmp_path, "en-de.tsv")
    with pytest.raises(ValueError, match="No pairs are left of"):
        load_pairs([SourceSpec(str(path))], languages=["fr"], progress=False)


def pairs_of(**sizes):
    return PairDataset.from_pairs(
        Pair(f"{language} {number}", f"x{number}", language, "menus" if number % 2 else "stories")
        for language, size in sizes.items()
        for number in range(size)
    )


def drawn_languages(dataset, mixture, epochs=1):
    languages = dataset.texts("language")
    return Counter(languages[row] for epoch in range(epochs) for row in mixture.draw(epoch))


def test_even_mixture_sees_every_pair_once():
    dataset = pairs_of(de=30, te=10)
    mixture = PairMixture(dataset, [SourceSpec("x")])
    assert sorted(mixture.draw(0)) == list(range(40))
    assert mixture.draw(0).tolist() == mixture.draw(0).tolist() != mixture.draw(1).tolist()


def test_temperature_and_weights_set_the_shares():
    dataset = pairs_of(de=810, te=90)
    flat = PairMixture(dataset, [SourceSpec("x")], temperature=2.0)  # √810 : √90 = 3 : 1
    assert drawn_languages(dataset, flat) == pytest.approx({"de": 675, "te": 225}, abs=1)
    double = PairMixture(dataset, [SourceSpec("x")], language_weights={"te": 3.0}, epoch_pairs=400)
    assert drawn_languages(dataset, double) == pytest.approx({"de": 300, "te": 100}, abs=1)
    tags = PairMixture(dataset, [SourceSpec("x")], tag_weights={"menus": 0.0})
    assert {dataset.texts("source")[row] for row in tags.draw(0)} == {"stories"}
    assert drawn_languages(dataset, tags) == pytest.approx({"de": 810, "te": 90}, abs=1)
    with pytest.raises(ValueError, match=r"language_weights names \['sw'\], which the training data does not have"):
        PairMixture(dataset, [SourceSpec("x")], language_weights={"sw": 2.0})


def test_source_weights(tmp_path):
    one = write(tmp_path, "en-de.tsv", [(f"a{i}", "b", "s") for i in range(100)])
    two = write(tmp_path, "en-fr.tsv", [(f"a{i}", "b", "s") for i in range(100)])
    specs = [SourceSpec(str(one), weight=3.0), SourceSpec(str(two))]
    dataset = load_pairs(specs, progress=False)
    assert drawn_languages(dataset, PairMixture(dataset, specs)) == {"de": 150, "fr": 50}


def test_small_groups_come_round_before_they_repeat():
    dataset = pairs_of(de=100, te=10)
    mixture = PairMixture(dataset, [SourceSpec("x")], temperature=1e9, epoch_pairs=30)  # 15 of each in an epoch
    drawn = Counter(row for epoch in range(4) for row in mixture.draw(epoch) if row >= 100)
    assert set(drawn.values()) == {6}  # 60 draws of 10 rows


@pytest.mark.parametrize(("world", "batch", "accumulation"), [(1, 8, 1), (1, 2, 4), (2, 4, 1), (2, 2, 2)])
def test_steps_hold_the_same_pairs_however_they_are_divided(world, batch, accumulation):
    dataset = pairs_of(de=50, te=23)
    lengths = np.arange(73) % 11

    def steps(world, batch, accumulation, epoch):
        found = []
        for rank in range(world):
            sampler = StepSampler(
                PairMixture(dataset, [SourceSpec("x")]).draw,
                lengths,
                batch,
                accumulation,
                world,
                rank,
                english_share=0.5,
            )
            sampler.set_epoch(epoch)
            batches = list(sampler)
            assert len(batches) == len(sampler) == 9 * accumulation
            found.append([chain(*batches[i : i + accumulation]) for i in range(0, len(batches), accumulation)])
        return [sorted(chain(*parts)) for parts in zip(*found, strict=True)]

    for epoch in (0, 3):
        assert steps(world, batch, accumulation, epoch) == steps(1, 8, 1, epoch)
    assert steps(1, 8, 1, 0) != steps(1, 8, 1, 1)


def test_batches_group_lengths():
    lengths = np.random.default_rng(0).integers(5, 100, 2000)
    grouped = StepSampler(lambda epoch: np.random.default_rng(epoch).permutation(2000), lengths, 20)
    spread = [np.ptp(lengths[[row for row, _ in batch]]) for batch in grouped]
    assert np.mean(spread) < 10


def test_english_share_is_kept_and_repeatable():
    sampler = StepSampler(lambda epoch: np.arange(4000), None, 40, english_share=0.3)
    flags = [flag for batch in sampler for _, flag in batch]
    assert np.mean(flags) == pytest.approx(0.3, abs=0.03)
    assert flags == [flag for batch in sampler for _, flag in batch]
    sampler.set_epoch(1)
    assert flags != [flag for batch in sampler for _, flag in batch]
    for share in (0.0, 1.0):
        assert {
            flag
            for batch in StepSampler(lambda epoch: np.arange(40), None, 4, english_share=share)
            for _, flag in batch
        } == {bool(share)}


def test_token_budget_is_kept_with_the_same_number_of_steps_every_epoch():
    lengths = np.random.default_rng(0).integers(5, 100, 3000)
    sampler = StepSampler(
        lambda epoch: np.random.default_rng(epoch).permutation(3000), lengths, 64, accumulation=2, max_batch_tokens=2000
    )
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        for batch in batches:
            assert len(batch) == 1 or 2 * len(batch) * max(lengths[row] for row, _ in batch) <= 2000


def test_an_epoch_smaller_than_a_step_is_refused():
    with pytest.raises(
        ValueError, match="An epoch has 5 pairs, fewer than one step of 4 pairs × 2 batches × 1 processes"
    ):
        StepSampler(lambda epoch: np.arange(5), None, 4, accumulation=2)


def test_lengths_are_counted_once_and_estimated_for_many(tmp_path, monkeypatch):
    dataset = load_pairs([SourceSpec(str(h.PARALLEL / "train"))], progress=False)
    sides = [tiny.tokenizer()(dataset.texts(side))["input_ids"] for side in ("english", "other")]
    real = np.minimum(np.maximum(*[[len(ids) for ids in side] for side in sides]), 40)
    counted = pair_lengths(dataset, tiny.tokenizer(), 40, cache_dir=tmp_path)
    assert counted.tolist() == real.tolist()
    estimated = pair_lengths(dataset, tiny.tokenizer(), 40, exact_up_to=10)
    assert 0 < np.abs(estimated - real).mean() < 0.2 * real.mean()
    with monkeypatch.context() as patched:
        patched.setattr("milco_hf.training.data.lengths._counted", None)
        assert pair_lengths(dataset, tiny.tokenizer(), 40, cache_dir=tmp_path).tolist() == real.tolist()
    other = PairDataset.from_pairs([Pair("a longer English text", "x", "de")])
    assert len(pair_lengths(other, tiny.tokenizer(), 40, cache_dir=tmp_path)) == 1


def test_collator_puts_both_sides_in_one_batch():
    items = [
        {"english": "the old book", "other": "das alte Buch", "language": "de", "with_english": True},
        {"english": "a city", "other": "eine Stadt", "language": "de", "with_english": False},
        {"english": "music", "other": "музыка", "language": "ru", "with_english": True},
    ]
    batch = PairCollator(tiny.tokenizer(), max_length=20)(items)
    assert batch["target_rows"].tolist() == [0, 1, 2, 0, 2]
    assert batch["is_english"].tolist() == [False, False, False, True, True]
    assert batch["english_texts"] == ["the old book", "a city", "music"]
    texts = ["das alte Buch", "eine Stadt", "музыка", "the old book", "music"]
    assert torch.equal(batch["input_ids"], tiny.batch(texts)["input_ids"])
    # max_length 5 is no multiple of 8: cut to 5 first, padded to 8 then
    wide = PairCollator(tiny.tokenizer(), max_length=5, pad_to_multiple_of=8)(items)
    assert wide["input_ids"].shape == (5, 8)
    assert wide["attention_mask"].sum(dim=1).max() == 5


def test_streams_split_and_mix_sources(tmp_path):
    one = write(tmp_path, "en-de.tsv", [(f"a{i}", f"b{i}", "s") for i in range(40)])
    two = write(tmp_path, "en-fr.tsv", [(f"c{i}", f"d{i}", "s") for i in range(40)])
    specs = [SourceSpec(str(one), weight=3.0), SourceSpec(str(two), weight=1.0)]

    def take(rank, number=20, world=2):
        stream = iter(PairStream(specs, buffer=10, batch_size=5, rank=rank, world_size=world))
        return [next(stream) for _ in range(number)]

    first, second = take(0), take(1)
    assert not {item["english"] for item in first} & {item["english"] for item in second}
    assert take(0) == first
    languages = Counter(item["language"] for item in take(0, 2000, 1))
    assert languages["de"] / languages["fr"] == pytest.approx(3, rel=0.2)


def test_an_empty_stream_is_refused(tmp_path):
    path = write(tmp_path, "en-de.tsv")
    with pytest.raises(ValueError, match="No pairs in"):
        next(iter(PairStream([SourceSpec(str(path))], languages=["fr"], buffer=2)))
