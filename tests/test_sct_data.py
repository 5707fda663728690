import gzip
import json
import lzma
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

import helpers_sct as s
import tiny
from milco_hf.training.data.mixing import PairMixture
from milco_hf.training.retrieval.batches import RowSampler, row_lengths
from milco_hf.training.retrieval.candidates import CandidateDataset
from milco_hf.training.retrieval.collator import CandidateCollator
from milco_hf.training.retrieval.dataset import Ragged
from milco_hf.training.retrieval.false_negatives import treat_false_negatives
from milco_hf.training.retrieval.loading import describe, load_rows
from milco_hf.training.retrieval.ranking_losses import not_negatives, score_statistics
from milco_hf.training.retrieval.reading import languages_of
from milco_hf.training.retrieval.sampling import sample_negatives
from milco_hf.training.retrieval.sources import RetrievalSource, language_of_file


def load(path, *, titles=False, whole=False, cache=None, exclude=(), languages=(), **settings):
    source = RetrievalSource.parse({"path": str(path), **settings})
    return load_rows([source], exclude, languages, cache, titles, whole, progress=False)


def contents(data):
    """Each row as texts and scores, whatever numbers its passages have."""
    return [
        (
            data.queries([row])[0],
            data.texts(data.positives[row]),
            data.texts(data.negatives[row]),
            [round(float(score), 3) for score in data.positive_scores[row]],
            [round(float(score), 3) for score in data.negative_scores[row]],
        )
        for row in range(len(data))
    ]


def expected(records):
    scores = [
        [[round(value, 3) for value in record[side]] for side in ("pos_scores", "neg_scores")] for record in records
    ]
    return [
        (record["query"], record["pos"], record["neg"], *both) for record, both in zip(records, scores, strict=True)
    ]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.xz", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    records = s.rows()
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(records), path)
    else:
        text = "".join(json.dumps(record) + "\n" for record in records).encode()
        path.write_bytes({".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)(text))
    data = load(path)
    assert contents(data) == expected(records)
    assert len(data.passages) == len(s.passages())  # each text once
    assert Counter(data.codes("language")[1]) == Counter(["en", "de"])
    assert "30 rows, 30 passages, 4.0 negatives a row, 100% with a teacher's scores" in describe(data)


def test_ids_with_a_corpus_give_the_same_rows(tmp_path):
    records, numbers = s.rows(), {text: f"p{number}" for number, (text, _) in enumerate(s.passages())}
    for key, language in (("id", "en"), ("_id", "de")):
        passages = [{key: numbers[text], "text": text, "title": None} for text, of in s.passages() if of == language]
        s.write(tmp_path / f"{language}.jsonl", passages)
    by_id = [
        {
            **{key: value for key, value in record.items() if key not in ("pos", "neg")},
            **{f"{side}_pid": [numbers[text] for text in record[side]] for side in ("pos", "neg")},
        }
        for record in records
    ]
    (tmp_path / "train").mkdir()
    path = s.write(tmp_path / "train" / "rows.jsonl", by_id)
    data = load(path, corpus=str(tmp_path / "*.jsonl"))
    assert contents(data) == expected(records)
    with pytest.raises(ValueError, match=r"names passages by id \(pos_pid\); say where they are: corpus"):
        load(path)
    with pytest.raises(FileNotFoundError, match="No data files at 'nowhere'"):
        load(path, corpus="nowhere", cache=tmp_path / "cache")
    with_texts = s.write(tmp_path / "train" / "texts.jsonl", records)
    assert contents(load(with_texts, corpus="nowhere", cache=tmp_path / "cache")) == expected(records)
    with pytest.raises(ValueError, match=r"rows.jsonl:1: passage 'p\d+' is not in the corpus"):
        load(path, corpus=str(tmp_path / "de.jsonl"))
    with pytest.raises(ValueError, match="Passages that rows name by id belong in corpus"):
        load(tmp_path / "de.jsonl")


def test_the_layout_of_question_files_by_language(tmp_path):
    """XX.jsonl.xz of query, pos_pid, source, with passages/XX.jsonl.xz, and no negatives."""
    (tmp_path / "passages").mkdir()
    for language in ("en", "sw"):
        texts = [{"pid": f"{language}{n}", "text": f"{language} text {n}", "title": "A title"} for n in range(6)]
        rows = [
            {"query": f"question {n}", "pos_pid": [f"{language}{n}"], "source": "good" if n else "bad", "title": None}
            for n in range(5)
        ]
        for folder, records in ((tmp_path / "passages", texts), (tmp_path, rows)):
            text = "".join(json.dumps(record) + "\n" for record in records)
            (folder / f"{language}.jsonl.xz").write_bytes(lzma.compress(text.encode()))
    settings = {"corpus": [str(tmp_path / "passages")], "exclude": ["bad"]}
    data = load(tmp_path / "*.jsonl.xz", **settings)
    assert {name: len(rows) for name, rows in data.by_language().items()} == {"en": 4, "sw": 4}
    assert len(data.passages) == 8
    assert set(data.codes("source")[1]) == {"good"}
    assert len(load(tmp_path / "*.jsonl.xz", whole=True, **settings).passages) == 12
    assert load(tmp_path / "*.jsonl.xz", titles=True, **settings).texts([0]) == ["A title en text 1"]
    assert set(load(tmp_path / "*.jsonl.xz", languages=["sw"], **settings).by_language()) == {"sw"}
    assert len(load(tmp_path / "*.jsonl.xz", max_rows=2, **settings)) == 4


def test_triples_as_texts_and_as_ids(tmp_path):
    (tmp_path / "triples.tsv").write_text('who wrote it\tan "old" book\ta shop\nwhere\ta city\tmusic\n')
    texts = contents(load(tmp_path / "triples.tsv"))
    assert [row[:3] for row in texts] == [
        ("who wrote it", ['an "old" book'], ["a shop"]),
        ("where", ["a city"], ["music"]),
    ]
    assert np.isnan(texts[0][3]).all()
    s.write(tmp_path / "triples.jsonl", [{"anchor": "where", "positive": "a city", "negative": "music"}])
    assert contents(load(tmp_path / "triples.jsonl"))[0][:3] == texts[1][:3]
    (tmp_path / "ids.tsv").write_text("11\t0\t1\n12\t2\t3\n")
    (tmp_path / "queries.tsv").write_text("11\twho wrote it\n12\twhere\n")
    (tmp_path / "collection.tsv").write_text('0\tan "old" book\n1\ta shop\n2\ta city\n3\tmusic\n4\tunused\n')
    found = load(tmp_path / "ids.tsv", queries=str(tmp_path / "queries.tsv"), corpus=str(tmp_path / "collection.tsv"))
    assert [row[:3] for row in contents(found)] == [row[:3] for row in texts]
    assert len(found.passages) == 4
    (tmp_path / "ids.tsv").write_text("13\t0\t1\n")
    with pytest.raises(ValueError, match="question '13' is not in"):
        load(tmp_path / "ids.tsv", queries=str(tmp_path / "queries.tsv"), corpus=str(tmp_path / "collection.tsv"))


def test_hub_datasets_give_the_same_rows(monkeypatch):
    records = s.rows()
    by_language = {
        config: [
            {k: v for k, v in record.items() if k != "language"} for record in records if record["language"] == config
        ]
        for config in ("en", "de")
    }
    monkeypatch.setattr("datasets.get_dataset_config_names", lambda path: list(by_language))
    monkeypatch.setattr("datasets.load_dataset", lambda path, config, split: by_language[config])
    data = load("somebody/distillation")
    assert contents(data) == expected(records)
    assert {name: len(rows) for name, rows in data.by_language().items()} == {"de": 15, "en": 15}
    assert len(load("somebody/distillation", configs=["de"])) == 15


def test_columns_are_named_or_numbered(tmp_path):
    (tmp_path / "rows.csv").write_text('Id,Frage,Antwort\n1,"where, old",a city\n')
    found = load(tmp_path / "rows.csv", columns={"query": 1, "pos": 2})
    assert contents(found)[1][:2] == ("where, old", ["a city"])  # positions: the first line is a row too
    found = load(tmp_path / "rows.csv", columns={"query": "Frage", "pos": "Antwort"})
    assert [row[:2] for row in contents(found)] == [("where, old", ["a city"])]
    s.write(tmp_path / "rows.jsonl", [{"frage": "where", "antwort": "a city", "sprache": "de"}])
    found = load(tmp_path / "rows.jsonl", columns={"query": "frage", "pos": "antwort", "language": "sprache"})
    assert (contents(found)[0][:2], set(found.by_language())) == (("where", ["a city"]), {"de"})
    with pytest.raises(ValueError, match=r"rows.jsonl has no column 'text'; it has \['frage', 'antwort', 'sprache'\]"):
        load(tmp_path / "rows.jsonl", columns={"query": "frage", "pos": "text"})
    with pytest.raises(ValueError, match=r"Unknown column roles \['passage'\]; the roles are query"):
        load(tmp_path / "rows.jsonl", columns={"passage": "frage"})


def test_passages_are_once_and_never_on_both_sides(tmp_path):
    record = {"query": "q", "pos": ["a", "a"], "neg": ["b", "a", "b"], "pos_scores": [2, 1], "neg_scores": [0, 1, 0.5]}
    assert contents(load(s.write(tmp_path / "rows.jsonl", [record])))[0] == ("q", ["a"], ["b"], [2.0], [0.0])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"query": "q", "pos": ["a"], "pos_scores": [1, 2]}, r"rows.jsonl:1: 2 pos_scores for 1 passages"),
        ({"query": "q", "pos": ["a"], "pos_scores": ["x"]}, r"rows.jsonl:1: pos_scores must be numbers, got \['x'\]"),
        ({"query": "q", "pos": [["a"]]}, r"a passage must be a text or an id, got \['a'\]"),
        ({"query": "q", "pos": ["a"], "neg": [" "]}, "a passage is empty"),
        ({"title": "q", "pos": ["a"]}, r"no column for the question. Its columns are \['title', 'pos'\]"),
        ({"query": "q", "answers": ["a"]}, "no column for the passages that answer it"),
        ({"query": "", "pos": ["a"]}, "No rows are left"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path, record, message):
    with pytest.raises(ValueError, match=message):
        load(s.write(tmp_path / "rows.jsonl", [record]))


def test_sources_are_checked():
    with pytest.raises(ValueError, match=r"Unknown keys \['colums'\] in a data source; valid ones are path"):
        RetrievalSource.parse({"path": "x", "colums": {}})
    with pytest.raises(ValueError, match="needs a path"):
        RetrievalSource.parse('{"weight": 2}')
    with pytest.raises(ValueError, match="must be positive, got 0"):
        RetrievalSource.parse({"path": "x", "weight": 0})
    assert RetrievalSource.parse("x", corpus=("c",)).corpus == ("c",)
    names = ("sw.jsonl.xz", "a/zh-TW.tsv", "dev.jsonl", "triples.tsv")
    assert [language_of_file(name) for name in names] == ["sw", "zh-tw", None, None]


def test_what_was_read_is_kept(tmp_path):
    path = s.write(tmp_path / "rows.jsonl", s.rows())
    first = load(path, cache=tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    stamp = (folder / "rows.arrow").stat().st_mtime_ns
    again = load(path, cache=tmp_path / "cache")
    assert contents(again) == contents(first) == expected(s.rows())
    assert (folder / "rows.arrow").stat().st_mtime_ns == stamp
    s.write(path, s.rows()[:10])
    assert len(load(path, cache=tmp_path / "cache")) == 10


def test_missing_scores_are_named(tmp_path):
    records = s.rows()
    del records[4]["neg_scores"]
    data = load(s.write(tmp_path / "rows.jsonl", records))
    data_scores = data.has_scores
    assert (~data_scores).nonzero()[0].tolist() == [4]
    with pytest.raises(
        ValueError, match=r"kl_weight needs a teacher's scores, but rows.jsonl:5 \('.*'\) has none, and 1 of 30"
    ):
        data.check_scores("kl_weight")
    with pytest.raises(ValueError, match="negative_sampling: top needs a teacher's scores"):
        CandidateDataset(data, method="top")
    assert len(CandidateDataset(data, method="random")[4]["passages"]) == 5


@pytest.mark.parametrize(
    ("rule", "threshold", "false"), [("ratio", 0.75, ["b"]), ("margin", 0.5, ["b"]), ("margin", 1.5, ["b", "c"])]
)
@pytest.mark.parametrize("action", ["drop", "promote"])
def test_false_negatives(tmp_path, rule, threshold, false, action):
    record = {"query": "q", "pos": ["a", "z"], "neg": list("bcd")}
    scored = {**record, "pos_scores": [2.0, 0.1], "neg_scores": [1.6, 1.0, 0.2]}
    data = load(s.write(tmp_path / "rows.jsonl", [record, scored]))
    assert treat_false_negatives(data, threshold, rule, action) == len(false)
    unscored, treated = contents(data)
    assert unscored[1:3] == (["a", "z"], ["b", "c", "d"])
    assert treated[1] == ["a", "z", *(false if action == "promote" else [])]
    assert treated[2] == [name for name in "bcd" if name not in false]
    assert data.texts(data.answers[1]) == ["a", "z", *false]
    assert CandidateDataset(data)[1]["answers"] == data.answers[1].tolist()
    assert len(treated[3]) == len(treated[1])
    assert len(treated[4]) == len(treated[2])


def test_translations_of_a_question_share_their_answers(tmp_path):
    """Each one's positive answers the others, so it is no negative of theirs; other rows' answers stay as they are."""
    records = [
        {"query": "q", "pos": ["a"], "parallel_id": 7},
        {"query": "f", "pos": ["x", "y"], "parallel_id": "8"},
        {"query": "Q", "pos": ["A", "B"], "parallel_id": "7"},
        {"query": "other", "pos": ["c"]},
        {"query": "alone", "pos": ["d"], "parallel_id": "9"},
    ]
    data = load(s.write(tmp_path / "rows.jsonl", records), cache=tmp_path / "cache")
    assert [sorted(data.texts(data.answers[row])) for row in range(5)] == [
        ["A", "B", "a"],
        ["x", "y"],
        ["A", "B", "a"],
        ["c"],
        ["d"],
    ]
    assert data.texts(data.positives[2]) == ["A", "B"]
    batch = CandidateCollator(tiny.tokenizer(), 8, 8)(CandidateDataset(data, 0).__getitems__(range(4)))
    excluded = not_negatives(batch["document_numbers"], batch["answers"])
    found = [set(data.texts(batch["document_numbers"][~row].numpy())) for row in excluded]
    drawn = {text for text in ("A", "B") if text in data.texts(batch["document_numbers"].numpy())}
    asked = {text for text in ("x", "y") if text in data.texts(batch["document_numbers"].numpy())}
    assert found == [{*asked, "c"}, {"a", "c", *drawn}, {*asked, "c"}, {"a", *drawn, *asked}]


@pytest.mark.parametrize("action", ["drop", "promote"])
def test_false_negatives_of_a_translation_are_no_negatives_either(tmp_path, action):
    scored = {"pos_scores": [2.0], "neg_scores": [1.9, 0.1]}
    records = [
        {"query": "q", "pos": ["a"], "neg": ["b", "c"], "parallel_id": "1", **scored},
        {"query": "Q", "pos": ["A"], "neg": ["B", "b"], "parallel_id": "1", "pos_scores": [2.0], "neg_scores": [0, 0]},
    ]
    data = load(s.write(tmp_path / "rows.jsonl", records))
    assert treat_false_negatives(data, 0.9, "ratio", action) == 1
    assert sorted(data.texts(data.answers[1])) == ["A", "a", "b"]
    assert data.texts(data.positives[0]) == (["a", "b"] if action == "promote" else ["a"])
    assert data.texts(data.positives[1]) == ["A"]


def test_languages_of_questions_and_passages(tmp_path):
    assert languages_of("sw") == ("sw", "sw")
    assert languages_of("sw-en") == ("sw", "en")
    assert languages_of("en", "sw") == ("sw", "en")
    assert languages_of("zh-tw") == ("zh-tw", "zh-tw")
    keys = [{"language": "en"}, {"language": "en", "query_language": "sw"}, {"language": "sw-en"}]
    keys += [{"language": "sw", "query_language": "en"}, {"language": "sw"}]
    records = [{"query": f"q{number}", "pos": [f"p{number}"], **key} for number, key in enumerate(keys)]
    assert load(s.write(tmp_path / "rows.jsonl", records)).bridged.tolist() == [False, True, True, False, False]
    assert not load(s.write(tmp_path / "plain.jsonl", [{"query": "q", "pos": ["a"]}])).bridged.any()


def test_a_ratio_needs_positive_scores(tmp_path):
    record = {"query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": [-1.0], "neg_scores": [-2.0]}
    data = load(s.write(tmp_path / "rows.jsonl", [record]))
    with pytest.raises(
        ValueError, match=r"ratio needs positive scores, but the positive of rows.jsonl:1 \('q'\) scores -1"
    ):
        treat_false_negatives(data, 0.95, "ratio", "drop")


def test_ragged_lists():
    left, right = Ragged(np.array([0, 2, 2, 3]), np.array([1, 2, 3])), Ragged(np.array([0, 1, 2, 2]), np.array([8, 9]))
    joined = left.joined(right)
    assert [joined[row].tolist() for row in range(3)] == [[1, 2, 8], [9], [3]]
    kept = joined.select(joined.values > 2)
    assert [kept[row].tolist() for row in range(3)] == [[8], [9], [3]]


# ---- sampling ----

SCORES = np.array([0.0, 9.0, 10.0, 5.1, 9.9, 0.1, 9.8, 4.0])


def test_stratified_sampling_covers_the_range():
    chosen = sample_negatives(SCORES, 3, "stratified")
    assert SCORES[chosen].tolist() == [10.0, 5.1, 0.0]  # aims at 10, 5, 0
    chosen = sample_negatives(SCORES, 5, "stratified")
    assert SCORES[chosen].tolist() == [10.0, 9.0, 5.1, 4.0, 0.0]  # aims at 10, 7.5, 5, 2.5, 0
    assert SCORES[sample_negatives(SCORES, 1, "stratified")].tolist() == [10.0]
    assert not len(sample_negatives(SCORES, 0, "stratified"))
    crowded = np.array([1.0, 1.0, 1.0, 0.0])
    assert crowded[sample_negatives(crowded, 3, "stratified")].tolist() == [1.0, 1.0, 0.0]


def test_stratified_sampling_keeps_the_variance_and_entropy_that_the_log_shows():
    """Of three: 10, 5.1 and 0 have mean 15.1 / 3; the hardest, 10, 9.9 and 9.8, have variance 0.02 / 3."""
    chosen = [SCORES[sample_negatives(SCORES, 3, method)] for method in ("stratified", "top")]
    mean, variance, entropy = score_statistics(torch.from_numpy(np.stack(chosen)), temperature=10.0)
    assert mean.tolist() == pytest.approx([15.1 / 3, 9.9])
    assert variance.tolist() == pytest.approx([(10**2 + 5.1**2) / 3 - (15.1 / 3) ** 2, 0.02 / 3])
    parts = np.exp([1.0, 0.51, 0.0]) / np.exp([1.0, 0.51, 0.0]).sum()
    assert entropy[0].item() == pytest.approx(-(parts * np.log(parts)).sum())
    assert variance[0] > 1000 * variance[1]


def test_top_sampling_takes_the_hardest():
    assert SCORES[sample_negatives(SCORES, 3, "top")].tolist() == [10.0, 9.9, 9.8]


def test_random_sampling_is_fair_and_seeded():
    rng = np.random.default_rng(0)
    counts = Counter(int(place) for _ in range(2000) for place in sample_negatives(SCORES, 2, "random", rng))
    assert set(counts) == set(range(8))
    assert max(counts.values()) < 1.25 * min(counts.values())
    one, same = (sample_negatives(SCORES, 4, "random", np.random.default_rng(5)).tolist() for _ in range(2))
    assert one == same
    assert len(set(one)) == 4
    assert len(sample_negatives(SCORES, 20, "random")) == 8


def test_ties_are_chosen_among_at_random():
    equal = np.ones(6)
    firsts = {int(sample_negatives(equal, 1, "top", np.random.default_rng(seed))[0]) for seed in range(40)}
    assert firsts == set(range(6))


def test_sampling_is_checked():
    with pytest.raises(ValueError, match="negative_sampling must be one of random, top, stratified, got 'hard'"):
        sample_negatives(SCORES, 3, "hard")
    with pytest.raises(ValueError, match="negative_sampling: stratified needs a teacher's scores"):
        sample_negatives(np.array([1.0, np.nan]), 1, "stratified")


@pytest.fixture
def data(tmp_path):
    return load(s.write(tmp_path / "rows.jsonl", s.rows()))


def test_candidates_depend_on_seed_epoch_and_row_alone(data):
    one, same = (CandidateDataset(data, 2, seed=3) for _ in range(2))
    indices = [(row, epoch) for epoch in range(3) for row in range(len(data))]
    drawn = one.__getitems__(indices)
    assert drawn == same.__getitems__(indices[::-1])[::-1]
    assert drawn[0]["passages"][0] == drawn[30]["passages"][0] == s.rows()[0]["pos"][0]
    assert any(drawn[row]["passages"] != drawn[30 + row]["passages"] for row in range(30))
    other = CandidateDataset(data, 2, seed=4)
    assert drawn != other.__getitems__(indices)
    for item, (row, _) in zip(drawn, indices, strict=True):
        record = s.rows()[row]
        scores = dict(zip(record["neg"], record["neg_scores"], strict=True))
        assert len(item["passages"]) == 3
        assert item["scores"][1:] == pytest.approx([scores[text] for text in item["passages"][1:]])


def test_corpus_negatives_are_of_the_language_and_never_positives(tmp_path):
    data = load(s.write(tmp_path / "rows.jsonl", s.rows()), whole=True)
    languages = dict(s.passages())
    candidates = CandidateDataset(data, negatives=1, corpus_negatives=5)
    for row, record in enumerate(s.rows()):
        item = candidates[row]
        assert len(item["passages"]) == len(set(item["passages"])) == 7
        assert {languages[text] for text in item["passages"]} == {record["language"]}
        assert np.isnan(item["scores"][2:]).all()
    # questions in another language take passages of their own passages' language
    crossed = load(s.write(tmp_path / "crossed.jsonl", [*s.rows(), *s.bridged()]), whole=True)
    candidates = CandidateDataset(crossed, negatives=1, corpus_negatives=5)
    for row in range(len(s.rows()), len(crossed)):
        assert candidates.bridged[row]
        assert {languages[text] for text in candidates[row]["passages"]} == {"en"}
    with pytest.raises(ValueError, match="corpus_negatives: 15, but the corpus has 15 passages in '(en|de)'"):
        CandidateDataset(data, corpus_negatives=15)


# ---- batches ----


def sampler(data, world=1, rank=0, batch=4, accumulation=1, languages=True, lengths=None):
    mixture = PairMixture(data, [RetrievalSource("x")], seed=1)
    codes = data.codes("language")[0] if languages else None
    found = RowSampler(
        mixture.draw, lengths, codes, batch_size=batch, accumulation=accumulation, world_size=world, rank=rank, seed=1
    )
    found.set_epoch(2)
    return found


def test_batches_of_one_language(data):
    codes = data.codes("language")[0]
    whole = list(sampler(data, batch=4))
    assert all(len({codes[row] for row, _ in batch}) == 1 for batch in whole)
    assert {epoch for batch in whole for _, epoch in batch} == {2}
    assert len({row for batch in whole for row, _ in batch}) == len(whole) * 4 == 24  # 3 batches a language
    mixed = list(sampler(data, batch=4, languages=False))
    assert any(len({codes[row] for row, _ in batch}) == 2 for batch in mixed)


@pytest.mark.parametrize("languages", [True, False])
def test_processes_and_accumulation_divide_the_same_steps(data, languages):
    lengths = row_lengths(data, tiny.tokenizer(), 32)
    whole = [sorted(batch) for batch in sampler(data, batch=4, languages=languages, lengths=lengths)]
    halves = zip(
        *(sampler(data, 2, rank, batch=2, languages=languages, lengths=lengths) for rank in (0, 1)), strict=True
    )
    assert [sorted([*one, *two]) for one, two in halves] == whole
    if not languages:
        parts = list(sampler(data, batch=2, accumulation=2, languages=False, lengths=lengths))
        assert [sorted([*one, *two]) for one, two in zip(parts[::2], parts[1::2], strict=True)] == whole


def test_lengths_are_tokens_of_the_passages(data, tmp_path):
    lengths = row_lengths(data, tiny.tokenizer(), 9)
    record = s.rows()[2]
    tokens = [min(9, len(tiny.tokenizer()(text)["input_ids"])) for text in (*record["pos"], *record["neg"])]
    assert lengths[2] == pytest.approx(np.mean(tokens))
    kept = row_lengths(data, tiny.tokenizer(), 9, cache_dir=tmp_path / "cache")
    (place,) = (tmp_path / "cache").iterdir()
    np.save(place, np.load(place) * 0 + 5)
    again = row_lengths(data, tiny.tokenizer(), 9, cache_dir=tmp_path / "cache")
    assert (kept.tolist(), set(again.tolist())) == (lengths.tolist(), {5.0})
    estimated = row_lengths(data, tiny.tokenizer(), 100, exact_up_to=0)
    assert np.corrcoef(estimated, row_lengths(data, tiny.tokenizer(), 100))[0, 1] > 0.8


def test_collation(data):
    items = CandidateDataset(data, 2)[0], CandidateDataset(data, 1)[0], CandidateDataset(data, 2)[17]
    batch = CandidateCollator(tiny.tokenizer(), 15, 30, pad_to_multiple_of=8)(list(items))
    assert batch["query_ids"].shape[0] == 3
    assert batch["query_ids"].shape[1] % 8 == batch["document_ids"].shape[1] % 8 == 0
    numbers = batch["document_numbers"].tolist()
    assert len(numbers) == len(set(numbers)) == len(batch["document_ids"])
    for row, item in enumerate(items):
        found = [numbers[place] for place in batch["candidates"][row].tolist() if place >= 0]
        assert found == item["passage_numbers"]
        place = batch["candidates"][row, 0]
        ids = batch["document_ids"][place][batch["document_mask"][place].bool()]
        assert ids.tolist() == tiny.tokenizer()(item["passages"][0], truncation=True, max_length=30)["input_ids"]
    assert batch["candidates"][1, 2] == -1
    assert np.isnan(batch["teacher_scores"][1, 2].item())
    assert batch["answers"].tolist() == [[item["passage_numbers"][0]] for item in items]
