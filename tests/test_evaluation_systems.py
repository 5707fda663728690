"""Systems: exact search against plain products, ties, fingerprints, the cache, BM25 against bm25s itself."""

import copy

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, SparseEncoder

import tiny
from helpers_evaluation import Written, dense_model, parallel, sparse_model, token_model
from milco_hf.evaluation import Collection, evaluate, open_system
from milco_hf.evaluation.cache import VectorCache
from milco_hf.evaluation.systems import base, opening
from milco_hf.evaluation.systems.dense import DenseSystemEncoder, MultiVectorSystemEncoder
from milco_hf.evaluation.systems.opening import open_systems
from milco_hf.evaluation.systems.sparse import SparseSystemEncoder
from milco_hf.evaluation.topk import Best
from milco_hf.scripts import words

QUERIES = tiny.TEXTS[::3]
MODELS = {"sparse": sparse_model, "dense": dense_model, "multi-vector": token_model}
SAVED = {"sparse": "", "dense": "dense", "multi-vector": "tokens"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.manual_seed(0)
    found = {}
    for kind, make in MODELS.items():
        folder = tmp_path_factory.mktemp(kind)
        found[kind] = (make(folder), folder / SAVED[kind])
    return found


def pool(texts=tiny.TEXTS, name: str = "texts", **changes) -> Collection:
    """Texts as documents t00, t01, …"""
    collection = Collection.from_texts(
        name, "und", {f"t{i:02d}": text for i, text in enumerate(texts)}, {"q": "?"}, {"q": {"t00": 1}}
    )
    for key, value in changes.items():
        setattr(collection, key, value)
    return collection


def expected_ranking(scores: np.ndarray, ids: list[str], k: int, matched_only: bool) -> list[list[str]]:
    """Best first, of equal scores the later id first; a plain sort."""
    rows = []
    for row in scores:
        order = sorted(range(len(ids)), key=lambda place: ids[place], reverse=True)
        order = sorted(order, key=lambda place: -row[place])  # stable
        rows.append([ids[place] for place in order if row[place] > 0 or not matched_only][:k])
    return rows


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("rows_per_shard", [5, 1000])
def test_search_equals_the_models_own_similarity(models, kind, rows_per_shard, monkeypatch, tmp_path):
    model, _ = models[kind]
    system = open_system(model, batch_size=4)
    assert system.kind == kind
    monkeypatch.setattr(type(system.encoder), "rows_per_shard", rows_per_shard)
    monkeypatch.setattr(base, "_QUERIES", 4)
    collection = pool()
    index = system.index([("", collection)], VectorCache(tmp_path))
    found = index.search(QUERIES, 7)
    scores = model.similarity(model.encode_query(QUERIES), model.encode_document(tiny.TEXTS)).numpy()
    expected = expected_ranking(np.round(scores, 4), index.ids, 7, matched_only=kind == "sparse")
    for row, wanted, values in zip(found, expected, scores):
        assert len(row) == len(wanted)
        by_id = dict(zip(index.ids, values))
        # the order may differ where scores differ by rounding alone, so compare the scores that were reached
        np.testing.assert_allclose([score for _, score in row], [by_id[name] for name, _ in row], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            [by_id[name] for name, _ in row], sorted(values, reverse=True)[: len(row)], rtol=1e-4, atol=1e-4
        )
    assert len(list(tmp_path.rglob("shard-*.npz"))) == -(-len(tiny.TEXTS) // rows_per_shard)


def test_sparse_scores_are_the_dense_product(models, tmp_path):
    model, _ = models["sparse"]
    encoder = SparseSystemEncoder(model, "m", batch_size=3)
    documents, queries = encoder.encode_documents(tiny.TEXTS), encoder.encode_queries(QUERIES)
    dense = model.encode_document(tiny.TEXTS, batch_size=1).to_dense().numpy()
    np.testing.assert_allclose(documents.matrix.toarray(), dense, rtol=1e-4, atol=1e-5)
    scores = encoder.scores(queries, encoder.prepare_documents(documents))
    np.testing.assert_allclose(scores, queries.matrix.toarray() @ documents.matrix.toarray().T, rtol=1e-5)
    boundary = model.transformers_model.config.pivot_vocab_size
    english, source = (
        SparseSystemEncoder(model, "m", view=view).prepare_documents(documents).content.T.toarray()
        for view in ("english", "source")
    )
    np.testing.assert_array_equal(np.hstack([english, source]), documents.matrix.toarray())
    assert english.shape[1] == boundary


def test_maxsim_is_the_sum_of_each_query_tokens_best(models):
    model, _ = models["multi-vector"]
    encoder = MultiVectorSystemEncoder(model, "m", batch_size=5)
    documents, queries = encoder.encode_documents(tiny.TEXTS), encoder.encode_queries(QUERIES)
    found = encoder.scores(queries, encoder.prepare_documents(documents))
    plain = [[(q @ d.T).max(axis=1).sum() for d in documents.lists()] for q in queries.lists()]
    np.testing.assert_allclose(found, plain, rtol=1e-4)


def test_dense_queries_have_their_prompt(models):
    model, _ = models["dense"]
    encoder = DenseSystemEncoder(model, "m")
    np.testing.assert_allclose(
        encoder.encode_queries(["city"]).matrix, encoder.encode_documents(["music city"]).matrix, rtol=1e-4, atol=1e-5
    )


def test_cosine_of_sparse_vectors(models, tmp_path):
    model = copy.deepcopy(models["sparse"][0])
    model.similarity_fn_name = "cosine"
    index = open_system(model).index([("", pool())], VectorCache(tmp_path))
    scores = model.similarity(model.encode_query(QUERIES), model.encode_document(tiny.TEXTS)).numpy()
    found = [[score for _, score in row] for row in index.search(QUERIES, 3)]
    # lengths of the query are no matter to its ranking: its product with unit documents is divided by its own length
    norms = np.linalg.norm(model.encode_query(QUERIES).to_dense().numpy(), axis=1)
    assert norms.min() > 0
    np.testing.assert_allclose(found, -np.sort(-scores, axis=1)[:, :3], rtol=1e-4)
    model.similarity_fn_name = "euclidean"
    with pytest.raises(ValueError, match="dot or cosine"):
        open_system(model)


@pytest.mark.parametrize("kind", MODELS)
def test_passages_a_document_is_as_good_as_its_best(models, kind, tmp_path):
    model, _ = models[kind]
    long = [f"{tiny.TEXTS[i]} {tiny.TEXTS[i + 2]} {tiny.TEXTS[i + 4]}" for i in range(12)]
    collection = pool(long, passage_length=6)
    index = open_system(model).index([("", collection)], VectorCache(tmp_path))
    from milco_hf.scripts import split_passages

    found = dict(index.search(QUERIES[:1], 12)[0])
    query = model.encode_query(QUERIES[:1])
    for number, text in enumerate(long):
        parts = split_passages(text, 6)
        assert len(parts) > 1
        best = model.similarity(query, model.encode_document(parts)).max().item()
        assert found.get(f"t{number:02d}", 0) == pytest.approx(best, rel=1e-3, abs=1e-4)


def test_ties_go_to_the_later_id_wherever_shards_end(monkeypatch):
    ids = [f"d{number:02d}" for number in range(23)]
    backwards = sorted(ids, reverse=True)
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 3, (9, 23)).astype(np.float32)
    for matched_only in (False, True):
        expected = expected_ranking(scores, ids, 6, matched_only)
        for size in (1, 4, 23):
            best = Best(9, 6, matched_only)
            for start in range(0, 23, size):
                block = slice(start, start + size)
                places = np.asarray([backwards.index(name) for name in ids[block]])
                best.merge([best.add(0, scores[:4, block], places), best.add(4, scores[4:, block], places)])
            assert [[name for name, _ in row] for row in best.ranking(backwards)] == expected
    with pytest.raises(ValueError, match="Query number 5 has a score that is no number"):
        Best(9, 6, False).add(4, np.asarray([[1.0], [np.nan]]), np.asarray([0]))


def test_bm25_equals_bm25s():
    bm25s = pytest.importorskip("bm25s")
    collection = pool()
    index = open_system("bm25").index([("", collection)], None)
    scorer = bm25s.BM25(method="lucene")
    scorer.index([words(text) for text in tiny.TEXTS], show_progress=False)
    queries = [*QUERIES, "music music city", "nothing that is known", ""]
    for query, found in zip(queries, index.search(queries, 18)):
        terms = [term for term in words(query) if term in scorer.vocab_dict]
        scores = scorer.get_scores(terms) if terms else np.zeros(18)
        assert {name for name, _ in found} == {f"t{place:02d}" for place in np.flatnonzero(scores)}
        for name, score in found:
            assert score == pytest.approx(scores[int(name[1:])], rel=1e-5)
    with pytest.raises(ValueError, match="no document has a word"):
        open_system("bm25").index([("", pool(["…", "?"]))], None)
    with pytest.raises(ValueError, match="'t00' is there twice"):
        open_system("bm25").index([("", collection), ("", collection)], None)


# The cache


class Counting:
    """Counts the texts that an encoder is given."""

    def __init__(self, system, monkeypatch):
        self.texts = 0
        for side in ("encode_documents", "encode_queries"):
            original = getattr(system.encoder, side)
            monkeypatch.setattr(system.encoder, side, self.wrap(original))

    def wrap(self, original):
        def encode(texts):
            self.texts += len(texts)
            return original(texts)

        return encode


@pytest.mark.parametrize("kind", MODELS)
def test_cached_equals_fresh_and_encodes_nothing(models, kind, monkeypatch, tmp_path):
    model, _ = models[kind]
    collection = pool()
    results = []
    for expected in (len(tiny.TEXTS) + len(QUERIES), 0):
        system = open_system(model)
        counting = Counting(system, monkeypatch)
        results.append(system.index([("", collection)], VectorCache(tmp_path)).search(QUERIES, 5))
        assert counting.texts == expected
    assert results[0] == results[1]
    assert open_system(model).index([("", collection)], VectorCache(None)).search(QUERIES, 5) == results[0]


def test_pools_share_what_is_encoded(models, monkeypatch, tmp_path):
    system = open_system(models["sparse"][0])
    counting = Counting(system, monkeypatch)
    cache = VectorCache(tmp_path)
    group = parallel()
    for collection in group:
        system.index([("", collection)], cache)
    assert counting.texts == 18
    mixed = system.index([(f"{c.language}:", c) for c in group], cache)
    assert counting.texts == 18
    assert len(mixed.ids) == 18
    assert mixed.ids[0] == "en:d0"
    with pytest.raises(ValueError, match="give each part a prefix"):
        system.index([("", c) for c in group], cache)


def test_an_interrupted_run_goes_on_after_its_last_shard(models, monkeypatch, tmp_path):
    system = open_system(models["dense"][0])
    monkeypatch.setattr(type(system.encoder), "rows_per_shard", 5)
    whole = system.index([("", pool())], VectorCache(None)).search(QUERIES, 5)
    original, calls = system.encoder.encode_documents, []

    def fail(texts):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(texts)
        return original(texts)

    monkeypatch.setattr(system.encoder, "encode_documents", fail)
    with pytest.raises(KeyboardInterrupt):
        system.index([("", pool())], VectorCache(tmp_path))
    assert not list(tmp_path.rglob("documents.json"))
    monkeypatch.setattr(system.encoder, "encode_documents", original)
    counting = Counting(system, monkeypatch)
    assert system.index([("", pool())], VectorCache(tmp_path)).search(QUERIES, 5) == whole
    assert counting.texts == len(tiny.TEXTS) - 10 + len(QUERIES)


@pytest.mark.parametrize("kind", MODELS)
def test_fingerprints_follow_what_vectors_depend_on(models, kind):
    model, folder = models[kind]
    opened = open_system(str(folder), device="cpu")
    assert opened.kind == kind
    assert opened.fingerprint == open_system(str(folder), device="cpu", batch_size=2).fingerprint
    seen = {opened.fingerprint}

    def differs(system) -> bool:
        new = system.fingerprint not in seen
        seen.add(system.fingerprint)
        return new

    assert differs(open_system(str(folder), max_length=20))
    assert differs(open_system(str(folder), query_length=20))
    assert differs(open_system(str(folder), dtype="bfloat16"))
    changed = copy.deepcopy(model)
    with torch.no_grad():
        next(p for p in changed.parameters() if p.ndim == 2)[5, 5] += 1e-3
    assert differs(open_system(changed))
    prompted = copy.deepcopy(model)
    prompted.prompts = {"query": "ask: ", "document": ""}
    assert differs(open_system(prompted))


def test_a_changed_model_misses_the_cache(models, monkeypatch, tmp_path):
    model, _ = models["sparse"]
    open_system(model).index([("", pool())], VectorCache(tmp_path))
    changed = copy.deepcopy(model)
    with torch.no_grad():
        next(p for p in changed.parameters() if p.ndim == 2)[5, 5] += 1e-3
    system = open_system(changed)
    counting = Counting(system, monkeypatch)
    system.index([("", pool())], VectorCache(tmp_path))
    assert counting.texts == len(tiny.TEXTS)
    system.index([("", pool(passage_length=3))], VectorCache(tmp_path))
    assert counting.texts > 2 * len(tiny.TEXTS)


# Opening


def test_lengths_cut_queries_and_documents(models):
    _, folder = models["sparse"]
    text = "the music of the old city and the great book shop"
    plain = open_system(str(folder)).encoder
    short = open_system(str(folder), max_length=5, query_length=4).encoder
    assert short.settings["document_length"] == 5
    cut = plain.model.encode(text, processing_kwargs={"text": {"max_length": 5}}).to_dense().numpy()
    np.testing.assert_allclose(short.encode_documents([text]).matrix.toarray()[0], cut, rtol=1e-4, atol=1e-5)
    assert short.encode_queries([text]).matrix.nnz != plain.encode_queries([text]).matrix.nnz
    with pytest.raises(ValueError, match="max_length has to be between 1 and 62, .* got 63"):
        open_system(str(folder), max_length=63)


def test_names_tell_systems_apart(models, tmp_path):
    _, folder = models["sparse"]
    one, two, bm25 = open_systems([f"a={folder}", f"b={folder}", "bm25"])
    assert (one.name, two.name, bm25.name) == ("a", "b", "bm25")
    with pytest.raises(ValueError, match="write NAME=MODEL"):
        open_systems([str(folder), str(folder)])
    own = Written("own", {})
    assert open_system(own) is own
    checkpoint = tiny.checkpoint(tmp_path / "run7" / "checkpoint-100")
    assert open_system(str(checkpoint)).name == "run7-checkpoint-100"


def test_classes_come_from_the_models_own_configuration(models):
    classes = {"sparse": SparseEncoder, "dense": SentenceTransformer, "multi-vector": MultiVectorEncoder}
    for kind, (_, folder) in models.items():
        model = open_system(str(folder)).encoder.model
        assert type(model) is classes[kind]
    assert open_system("milco-mini").name == "milco-mini"


def test_the_one_model_of_the_hub_has_a_revision(models, monkeypatch):
    model, folder = models["dense"]
    asked = []

    def noted(name, *_, revision=None, **options):
        asked.append((name, revision))

    monkeypatch.setattr(opening, "on_hub", lambda *names, **options: noted(*names, **options) is None)
    monkeypatch.setattr(opening, "load_file_path", noted)  # no such file: a SentenceTransformer
    monkeypatch.setitem(opening._CLASSES, "SentenceTransformer", lambda *a, **options: noted(*a, **options) or model)
    systems = open_systems(["hub=someone/model", str(folder), "bm25", Written("own", {})], revision="v2")
    assert [system.name for system in systems] == ["hub", "dense", "bm25", "own"]
    assert asked == [("someone/model", "v2")] * 3 + [(str(folder), None)] * 2
    for specs, reason in (
        ([str(folder), "milco-mini", "bm25", model], "none is: leave it away"),
        (["a/b", "bm25", "two=c/d"], "here are several: a/b, two=c/d"),
    ):
        with pytest.raises(ValueError, match=f"revision='v2' goes with one model .*{reason}"):
            open_systems(specs, revision="v2")


def test_what_cannot_be_opened(models, tmp_path):
    with pytest.raises(FileNotFoundError, match="no model './no/such/folder'"):
        open_system("./no/such/folder")
    with pytest.raises(FileNotFoundError, match="bundled checkpoint .milco-mini. and not bm25"):
        open_system("no-such-model")
    with pytest.raises(ValueError, match="got int"):
        open_system(3)
    with pytest.raises(ValueError, match="Name at least one model, or bm25"):
        open_systems([])
    with pytest.raises(ValueError, match="view has to be one of both, english, source, got 'left'"):
        open_system(models["sparse"][0], view="left")
    with pytest.raises(ValueError, match="no option speed"):
        open_system("bm25", speed=3)
    with pytest.raises(ValueError, match="for sparse models alone"):
        open_systems(["bm25", models["dense"][0]], view="english")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config_sentence_transformers.json").write_text('{"model_type": "CrossEncoder"}')
    with pytest.raises(ValueError, match="is a CrossEncoder; a system is one of"):
        open_system(str(tmp_path / "x"))


def test_pruning_is_left_to_the_sparse_systems_among_others(models, tmp_path):
    from milco_hf.pruning import Pruning

    pruned = Pruning("top_k", 2)
    report = evaluate([models["sparse"][0], models["dense"][0], "bm25"], parallel(), prune=pruned, cache=tmp_path)
    assert [system["settings"].get("prune") for system in report.systems] == ["top_k:2", None, None]
    statistics = report.select(report.systems[0]["name"])[0].statistics
    assert statistics["document_dimensions"] <= 2 < statistics["query_dimensions"]
