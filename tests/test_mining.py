"""`milco mine`: negatives are what brute force finds, whatever the blocks, and never a positive."""

from __future__ import annotations

import numpy as np
import pytest

import helpers_mining as h
from milco_hf.mining import hard_negatives, search
from milco_hf.mining.encoders import model_kind, open_encoder
from milco_hf.mining.hard_negatives import MiningOptions, mine
from milco_hf.mining.rows import read_row_set
from milco_hf.mining.search import top_passages


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return h.dense_folder(tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return h.questions(tmp_path_factory.mktemp("questions"), ("en", "de"))


def brute_force(encoder, row_set, row, options, candidates=None):
    """Negatives of a row, from the matrix of all scores, as the options' words say."""
    passages = row_set.passages
    numbers = passages.candidates if candidates is None else candidates
    documents = encoder.model.encode_document([passages.texts[number] for number in numbers])
    query = encoder.model.encode_query([row.query])
    if encoder.sparse:
        scores = (query.to_dense() @ documents.to_dense().T)[0].numpy()
    else:
        documents = documents / np.linalg.norm(documents, axis=1, keepdims=True)
        scores = (query / np.linalg.norm(query) @ documents.T)[0]
    scored = dict(zip(numbers, scores.tolist()))
    own = row_set.positives_of()[row.query]
    worst = min(scored[number] for number in own)
    ranked = sorted((number for number in numbers if number not in own), key=lambda number: -scored[number])
    limit = worst - (options.absolute_margin or 0) if options.absolute_margin is not None else float("inf")
    if options.relative_margin is not None:
        limit = min(limit, worst - abs(worst) * options.relative_margin)
    left = [number for number in ranked if scored[number] <= limit][options.range_min : options.last]
    return [(number, scored[number]) for number in left[: options.num_negatives]]


CHOICES = [
    MiningOptions(num_negatives=4),
    MiningOptions(num_negatives=3, range_min=2, range_max=9),
    MiningOptions(num_negatives=3, absolute_margin=0.05, range_max=40),
    MiningOptions(num_negatives=3, relative_margin=0.1, range_min=1, range_max=40),
]


@pytest.mark.parametrize("options", CHOICES)
@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_negatives_are_those_of_brute_force(checkpoint, dense, folder, tmp_path, options, kind):
    encoder = open_encoder(str(checkpoint if kind == "sparse" else dense))
    row_set = read_row_set([folder / "en.jsonl"], tmp_path / "out.jsonl")
    counts = mine(row_set, encoder, options, backend="blocks")
    assert counts["rows"] == 9
    found = 0
    for row, record in zip(row_set.rows, h.read(tmp_path / "out.jsonl")):
        expected = brute_force(encoder, row_set, row, options)
        assert record["neg_pid"] == [row_set.passages.pids[number] for number, _ in expected]
        assert record["miner_scores"] == pytest.approx([score for _, score in expected], abs=1e-5)
        found += len(expected)
    assert counts["negatives"] == found > 0


@pytest.mark.parametrize("options", CHOICES)
def test_our_search_finds_what_the_miner_of_sentence_transformers_finds(dense, folder, tmp_path, options):
    encoder = open_encoder(str(dense))
    for backend in ("blocks", "sentence-transformers"):
        row_set = read_row_set([folder / "en.jsonl", folder / "de.jsonl"], tmp_path / backend)
        mine(row_set, encoder, options, per_language=True, backend=backend)
    for name in ("en.jsonl", "de.jsonl"):
        ours, theirs = (h.read(tmp_path / backend / name) for backend in ("blocks", "sentence-transformers"))
        assert [row["neg_pid"] for row in ours] == [row["neg_pid"] for row in theirs]
        for one, other in zip(ours, theirs):
            assert one["miner_scores"] == pytest.approx(other["miner_scores"], abs=1e-5)


def test_blocks_change_nothing(checkpoint, folder, tmp_path, monkeypatch):
    encoder = open_encoder(str(checkpoint))
    mine(read_row_set([folder / "en.jsonl"], tmp_path / "whole.jsonl"), encoder)
    blocks = encoder.blocks
    monkeypatch.setattr(encoder, "blocks", lambda texts, task: blocks(texts, task, size=4))
    monkeypatch.setattr(hard_negatives, "top_passages", lambda *args: top_passages(*args, scores_at_a_time=7))
    mine(read_row_set([folder / "en.jsonl"], tmp_path / "blocks.jsonl"), encoder)
    whole, cut = h.read(tmp_path / "whole.jsonl"), h.read(tmp_path / "blocks.jsonl")
    assert [row["neg_pid"] for row in whole] == [row["neg_pid"] for row in cut]


@pytest.mark.parametrize("sizes", [[40], [7, 9, 24], [1] * 40])
def test_ties_go_by_number(sizes):
    rng = np.random.default_rng(0)
    passages = rng.integers(0, 2, (40, 3)).astype(np.float32)  # many equal scores
    queries = rng.integers(0, 3, (11, 3)).astype(np.float32)
    blocks = np.split(passages, np.cumsum(sizes)[:-1])
    scores, numbers = top_passages([queries[:4], queries[4:]], blocks, 10, scores_at_a_time=16)
    for query, row_scores, row in zip(queries, scores, numbers):
        everything = passages @ query
        expected = sorted(range(40), key=lambda number: (-everything[number], number))[:10]
        assert row.tolist() == expected
        assert row_scores.tolist() == everything[expected].tolist()


def test_fewer_passages_than_asked_for():
    scores, numbers = top_passages([np.eye(2, dtype=np.float32)], [np.eye(2, dtype=np.float32)], 5)
    assert numbers.tolist() == [[0, 1], [1, 0]]
    assert scores.shape == (2, 2)


def test_positives_and_passages_of_their_text_are_no_negatives(checkpoint, tmp_path):
    corpus = h.texts(6, 1)
    records = [{"id": f"{name}{place}", "text": text} for name in ("p", "copy") for place, text in enumerate(corpus)]
    passages = h.write(tmp_path / "corpus.jsonl", records)
    rows = [
        {"query": "old book", "pos_pid": ["p0"]},
        {"query": "old book", "pos_pid": ["copy1"]},  # the same question, with another positive
        {"query": "quiet city", "pos_pid": ["p2", "p3"]},
    ]
    source = h.write(tmp_path / "rows.jsonl", rows)
    row_set = read_row_set([source], tmp_path / "out.jsonl", [passages])
    mine(row_set, open_encoder(str(checkpoint)), MiningOptions(num_negatives=12))
    first, second, third = h.read(tmp_path / "out.jsonl")
    assert sorted(first["neg_pid"]) == sorted(second["neg_pid"]) == ["p2", "p3", "p4", "p5"]
    assert sorted(third["neg_pid"]) == ["p0", "p1", "p4", "p5"]


def test_texts_in_rows_need_no_corpus(checkpoint, tmp_path):
    positives = h.texts(5, 3)
    rows = [{"query": query, "pos": [text]} for query, text in zip(h.texts(5, 4), positives)]
    rows[0].update(neg=["the city"], neg_scores=[1.0], pos_scores=[2.0], parallel_id="x")
    source = h.write(tmp_path / "rows.jsonl.xz", rows)
    mine(read_row_set([source], tmp_path / "out.jsonl.gz"), open_encoder(str(checkpoint)), MiningOptions(3))
    found = h.read(tmp_path / "out.jsonl.gz")
    assert found[0]["parallel_id"] == "x"
    assert not {"pos_scores", "neg_scores"} & set(found[0])  # they were of other negatives
    for row, text in zip(found, positives):
        assert row["pos"] == [text]
        assert len(row["neg"]) == len(row["miner_scores"]) == 3
        assert text not in row["neg"]
        assert set(row["neg"]) <= {*positives, "the city"}


def test_per_language_stays_in_the_rows_own_file(checkpoint, folder, tmp_path):
    encoder = open_encoder(str(checkpoint))
    options = MiningOptions(num_negatives=5)
    mine(read_row_set([folder], tmp_path / "own"), encoder, options, per_language=True)
    mine(read_row_set([folder], tmp_path / "all"), encoder, options)
    for language in ("en", "de"):
        for row in h.read(tmp_path / "own" / f"{language}.jsonl"):
            assert all(pid.startswith(language) for pid in row["neg_pid"])
    everything = [pid for row in h.read(tmp_path / "all" / "en.jsonl") for pid in row["neg_pid"]]
    assert {pid[:2] for pid in everything} == {"en", "de"}
    row_set = read_row_set(
        [folder / "en.jsonl"],
        tmp_path / "x.jsonl",
        [folder / "passages" / "de.jsonl.gz", folder / "passages" / "en.jsonl.gz"],
    )
    row_set.rows[3].language = "fr"
    with pytest.raises(ValueError, match=r"line 4: no corpus file holds passages of 'fr'; there are files for: de, en"):
        mine(row_set, encoder, per_language=True)


def test_only_some_languages(checkpoint, folder, tmp_path):
    encoder = open_encoder(str(checkpoint))
    mine(read_row_set([folder], tmp_path / "out"), encoder, per_language=True, only=["en"])
    assert h.read(tmp_path / "out" / "de.jsonl") == h.read(folder / "de.jsonl")
    assert all("neg_pid" in row for row in h.read(tmp_path / "out" / "en.jsonl"))
    with pytest.raises(ValueError, match="No rows are of fr; there are: de, en"):
        mine(read_row_set([folder], tmp_path / "no"), encoder, only=["fr"])


def test_random_sampling_is_seeded_and_keeps_to_the_range(checkpoint, folder, tmp_path):
    encoder = open_encoder(str(checkpoint))
    source = folder / "en.jsonl"

    def negatives(name, rows=None, **options):
        row_set = read_row_set([source], tmp_path / f"{name}.jsonl")
        mine(row_set, encoder, MiningOptions(num_negatives=3, **options))
        return [row["neg_pid"] for row in h.read(tmp_path / f"{name}.jsonl")]

    first = negatives("a", sampling="random", range_min=2, range_max=12)
    assert first == negatives("b", sampling="random", range_min=2, range_max=12)
    assert first != negatives("c", sampling="random", range_min=2, range_max=12, seed=1)
    row_set = read_row_set([source], tmp_path / "d.jsonl")
    mine(row_set, encoder, MiningOptions(num_negatives=10, range_min=2, range_max=12))
    for drawn, within in zip(first, h.read(tmp_path / "d.jsonl")):
        assert drawn == [pid for pid in within["neg_pid"] if pid in drawn]  # best first
        assert len(set(drawn)) == 3


def test_the_library_miner_samples_by_the_seed_and_leaves_pythons_generator_alone(dense, folder, tmp_path):
    import random

    encoder = open_encoder(str(dense))
    found = []
    for number, seed in enumerate((0, 0, 1)):
        state = random.getstate()
        row_set = read_row_set([folder / "en.jsonl"], tmp_path / f"{number}.jsonl")
        mine(row_set, encoder, MiningOptions(num_negatives=3, sampling="random", seed=seed))
        assert random.getstate() == state
        found.append([row["neg_pid"] for row in h.read(tmp_path / f"{number}.jsonl")])
    assert found[0] == found[1] != found[2]


def test_a_library_miner_for_sparse_encoders_is_refused(checkpoint, folder, tmp_path):
    """Because sentence-transformers' miner refuses them; where that changes, so may `--backend auto`."""
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    pairs = Dataset.from_dict({"query": h.texts(4, 1), "positive": h.texts(4, 2)})
    with pytest.raises(ValueError, match="normalize_embeddings"):
        mine_hard_negatives(pairs, open_encoder(str(checkpoint)).model, num_negatives=1, verbose=False)
    row_set = read_row_set([folder / "en.jsonl"], tmp_path / "out.jsonl")
    with pytest.raises(ValueError, match="use --backend blocks"):
        mine(row_set, open_encoder(str(checkpoint)), backend="sentence-transformers")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_negatives": 0}, "num_negatives must be at least 1, got 0"),
        ({"range_min": -1}, "range_min must not be negative, got -1"),
        ({"range_min": 3, "range_max": 8}, "must be at least 11"),
        ({"sampling": "best"}, "got 'best'"),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(ValueError, match=message):
        MiningOptions(**options)


def test_the_command(checkpoint, folder, tmp_path, capsys):
    h.run("mine", folder, "--model", checkpoint, "--per-language", "--num-negatives", 2, "--output", tmp_path / "out")
    assert "36 negatives for 18 rows" in capsys.readouterr().err
    row = h.read(tmp_path / "out" / "de.jsonl")[0]
    assert list(row) == ["query", "pos_pid", "source", "neg_pid", "miner_scores"]
    with pytest.raises(FileExistsError, match="--overwrite"):
        h.run("mine", folder, "--model", checkpoint, "--output", tmp_path / "out")


def test_max_length_cuts(checkpoint, dense):
    texts = [" ".join(h.WORDS[:6]), " ".join([*h.WORDS[:6], *h.WORDS[2:8]])]  # the second one goes on
    for path in (checkpoint, dense):
        whole, cut = open_encoder(str(path)), open_encoder(str(path), max_length=5)
        for task in ("query", "document"):
            first, second = _array(cut.encode(texts, task))
            np.testing.assert_allclose(first, second, atol=1e-5)
            first, second = _array(whole.encode(texts, task))
            assert abs(first - second).max() > 0.01
        assert open_encoder(str(path), max_length=10**6).model.max_seq_length == whole.model.max_seq_length
    with pytest.raises(ValueError, match="got 0"):
        open_encoder(str(dense), max_length=0)


def _array(vectors):
    return vectors.toarray() if hasattr(vectors, "toarray") else vectors


def test_kinds_by_the_checkpoints_files(checkpoint, dense, tmp_path):
    assert model_kind(str(checkpoint)) == "milco"
    assert model_kind("milco-mini") == "milco"
    assert model_kind(str(dense)) == "SentenceTransformer"
    assert model_kind(str(h.cross_folder(tmp_path / "cross"))) == "CrossEncoder"
    assert model_kind(str(tmp_path)) == ""
    with pytest.raises(ValueError, match="is a CrossEncoder"):
        open_encoder(str(tmp_path / "cross"))


@pytest.mark.slow
def test_two_processes_give_the_same_vectors(checkpoint, dense):
    texts = h.texts(40, 9)
    for path in (checkpoint, dense):
        alone = open_encoder(str(path)).encode(texts, "document")
        with open_encoder(str(path), devices=["cpu", "cpu"]) as encoder:
            np.testing.assert_allclose(_array(encoder.encode(texts, "document")), _array(alone), atol=1e-5)


def test_memory_holds_one_block_of_scores(monkeypatch):
    largest = []
    best = search._best
    monkeypatch.setattr(search, "_best", lambda scores, k: largest.append(scores.size) or best(scores, k))
    top_passages([np.ones((50, 2), np.float32)], [np.ones((30, 2), np.float32)] * 4, 3, scores_at_a_time=100)
    assert max(largest) <= 100
