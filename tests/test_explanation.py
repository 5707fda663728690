"""`explain`: contributions add up to the score of the same vectors, and each term has the token that raised it."""

from __future__ import annotations

import json
import logging
import threading

import numpy as np
import pytest
import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sparse_encoder.modules import SpladePooling

import milco_hf
import tiny
from helpers_training import mlm_folder
from milco_hf import encode_corpus
from milco_hf.explanation import explain
from milco_hf.explanation.reading import watched

PAIRS = [
    ("Музыка старого города", "The music of Baltimore is loud and the city is great"),
    ("الموسيقى في المدينة", "الموسيقى في المدينة القديمة جميلة"),
    ("老城的音乐", "Where is the music shop in the old city? Where? The music, the music!"),
    ("ﬁne Ｍｕｓｉｃ", "  fine \t music\n"),
    ("", "who wrote this book"),
]


@pytest.fixture(scope="module")
def model(checkpoint):
    return milco_hf.load(checkpoint, device="cpu")


def similarity(model, query, document) -> float:
    return model.similarity(model.encode_query([query]), model.encode_document([document])).to_dense().item()


def assert_adds_up(why, expected):
    assert why.score == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert sum(part.score for part in why.contributions) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert why.english + why.source == pytest.approx(why.score, abs=1e-9)
    assert sum(part.share for part in why.contributions) == pytest.approx(1 if why.contributions else 0)


@pytest.mark.parametrize(("query", "document"), PAIRS)
def test_contributions_add_up_to_the_similarity(model, query, document):
    assert_adds_up(explain(model, query, document), similarity(model, query, document))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("xlm-roberta", {"echo_pooling": "max"}),
        ("xlm-roberta", {"echo_special_tokens": True, "echo_activation": "relu"}),
        ("xlm-roberta", {"echo_source": "encoder"}),
        ("bert", {"echo": False}),
        ("modernbert", {}),
    ],
)
def test_each_kind_of_model(tmp_path, kind, settings):
    model = milco_hf.load(tiny.checkpoint(tmp_path / "tiny", kind, **settings), device="cpu")
    for query, document in PAIRS[1:3]:
        why = explain(model, query, document)
        assert_adds_up(why, similarity(model, query, document))
        assert_tokens_explain_weights(model, why.query)
        assert_tokens_explain_weights(model, why.document)


def test_each_shared_dimension_has_both_weights(model):
    query, document = PAIRS[2]
    mine = model.encode_query([query], convert_to_sparse_tensor=False)[0]
    theirs = model.encode_document([document], convert_to_sparse_tensor=False)[0]
    why = explain(model, query, document)
    shared = ((mine > 0) & (theirs > 0)).nonzero().flatten().tolist()
    assert sorted(part.dimension for part in why.contributions) == shared
    for part in why.contributions:
        assert part.query.weight == pytest.approx(mine[part.dimension].item(), abs=1e-5)
        assert part.document.weight == pytest.approx(theirs[part.dimension].item(), abs=1e-5)
        assert part.score == part.query.weight * part.document.weight
        assert part.view == ("english" if part.dimension < len(tiny.TERMS) else "source")
    assert {part.term for part in why.contributions if part.view == "english"} <= set(tiny.TERMS)
    scores = [part.score for part in why.contributions]
    assert scores == sorted(scores, reverse=True)
    for only, has, lacks in ((why.query_only, mine, theirs), (why.document_only, theirs, mine)):
        found = {entry.dimension for entry in only}
        assert found == set(((has > 0) & (lacks == 0)).nonzero().flatten().tolist())


def assert_tokens_explain_weights(model, side):
    """Every weight follows from the tokens that are named, by the model's own layers, step by step."""
    milco = model.transformers_model
    encoded = model.tokenizer(side.prompt + side.text, truncation=True, max_length=len(side.tokens))
    ids = torch.tensor([encoded["input_ids"]])
    assert [token.name for token in side.tokens] == encoded.tokens()
    with torch.no_grad():
        hidden = milco.encoder(input_ids=ids - len(tiny.TERMS)).last_hidden_state
        head = milco.head
        logits = head.decoder(head.norm(head.activation(head.dense(milco.connector(hidden)))))[0]  # [tokens, rows]
    for entry in side.entries:
        if entry.view == "english":
            (winner,) = entry.tokens
            assert logits[winner, entry.dimension] >= logits[:, entry.dimension].max() - 1e-5
            expected = torch.log1p(logits[winner, entry.dimension]).item()
        else:
            assert {encoded["input_ids"][token] for token in entry.tokens} == {entry.dimension}
            echoes = [side.tokens[token].echo for token in entry.tokens]
            expected = sum(echoes) if milco.config.echo_pooling == "sum" else max(echoes)
            assert milco.config.echo_pooling == "sum" or len(echoes) == 1
        assert entry.weight == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("query", "document"), PAIRS)
def test_tokens_are_the_winners_and_the_echoes(model, query, document):
    why = explain(model, query, document)
    assert_tokens_explain_weights(model, why.query)
    assert_tokens_explain_weights(model, why.document)


def test_autocast_is_explained_as_it_encodes(model):
    def weights(matrix):
        return dict(zip(matrix.indices.tolist(), matrix.data.tolist()))

    for query, document in PAIRS[:3]:
        why = explain(model, query, document, dtype="bfloat16")
        for kind, side in (("query", why.query), ("document", why.document)):
            options = {"kind": kind, "progress": False}
            found = {entry.dimension: entry.weight for entry in side.entries}
            assert found == weights(encode_corpus(model, [side.text], dtype="bfloat16", **options))
            assert found != weights(encode_corpus(model, [side.text], **options))
    with pytest.raises(ValueError, match="dtype has to be None .*, got 'int8'"):
        explain(model, "a", "b", dtype="int8")


@pytest.mark.parametrize("text", [*tiny.TEXTS, "  fine \t ﬁne\n ", "e\u0301 👩‍👩‍👧 x</s>y"])
def test_places_are_characters_of_the_text(model, text):
    side = explain(model, text, "").query
    covered = np.zeros(len(text), dtype=bool)
    for token in side.tokens:
        if token.part == "text":
            assert token.text == text[token.start : token.end]
            assert token.text.isspace() or token.text == token.text.strip()
            assert token.word[0] <= token.start <= token.end <= token.word[1]
            covered[token.start : token.end] = True
        else:
            assert token.start is token.end is token.word is None
    assert [token.part for token in (side.tokens[0], side.tokens[-1])] == ["special", "special"]
    assert "".join(text[i] for i in np.flatnonzero(~covered)).isspace() or covered.all()
    assert (side.read, side.cut) == ((0, len(text)), 0)


def test_prompts_and_lengths_are_the_checkpoint_s(checkpoint):
    model = milco_hf.load(checkpoint, device="cpu", prompts={"query": "who wrote: ", "document": "music "})
    model[0].query_length, model[0].document_length = 20, 22
    query, document = "Музыка города громкая, а книга тихая", tiny.TEXTS[0]
    why = explain(model, query, document)
    assert_adds_up(why, similarity(model, query, document))
    assert (len(why.query.tokens), len(why.document.tokens)) == (20, 22)
    assert (why.query.prompt, why.document.prompt) == ("who wrote: ", "music ")
    parts = [token.part for token in why.query.tokens]
    assert parts == [*sorted(parts[:-1], key=["special", "prompt", "text"].index), "special"]
    assert parts.count("prompt") > 1
    in_text = [token for token in why.query.tokens if token.part == "text"]
    assert (in_text[0].start, in_text[-1].end) == why.query.read
    assert why.query.cut > 0
    assert all(query[token.start : token.end] == token.text for token in in_text)


def test_what_is_cut_off_is_said(model, caplog):
    text = " ".join([tiny.TEXTS[0]] * 9)
    with caplog.at_level(logging.WARNING, "milco_hf"):
        why = explain(model, "music", text, document_length=20)
    assert "max_length=20" in caplog.text
    whole = len(model.tokenizer(text, truncation=False)["input_ids"])
    assert (len(why.document.tokens), why.document.cut) == (20, whole - 20)
    assert why.document.read[0] == 0
    assert 0 < why.document.read[1] < len(text)


@pytest.mark.parametrize("prune", ["none", "top_k:3", "mass:0.5", "english=top_k:2 source=mass:0.4"])
def test_pruning_is_the_index_s(model, prune):
    query, document = PAIRS[0]
    why = explain(model, query, document, document_prune=prune, query_prune="mass:0.9")
    forms = milco_hf.pruning.parse(prune)
    row = encode_corpus(model, [document], prune=forms, progress=False)
    asked = encode_corpus(model, [query], kind="query", prune="mass:0.9", progress=False)
    assert len(why.document.entries) == row.nnz
    assert_adds_up(why, (asked @ row.T).toarray().item())


def test_one_view_alone(model):
    query, document = PAIRS[1]
    whole = explain(model, query, document)
    for view in ("english", "source"):
        why = explain(model, query, document, views=view)
        assert {part.view for part in why.contributions} == {view}
        assert why.score == pytest.approx(getattr(whole, view), abs=1e-6)


def test_several_documents_and_other_forms_of_the_model(checkpoint, model):
    query, documents = PAIRS[0][0], [document for _, document in PAIRS]
    several = explain(model, query, documents)
    assert several == [explain(model, query, document) for document in documents]
    assert several[0].model == checkpoint.name
    assert explain(checkpoint, query, documents[0]).score == pytest.approx(several[0].score, abs=1e-6)
    bare = milco_hf.MilcoForSparseEncoding.from_pretrained(checkpoint)
    assert explain(bare, query, documents[0]).score == pytest.approx(several[0].score, abs=1e-6)


def test_as_json(model):
    why = explain(model, *PAIRS[2])
    said = json.loads(why.to_json())
    assert said == why.to_dict()
    assert said["score"] == pytest.approx(sum(part["score"] for part in said["contributions"]))
    assert said["score"] == pytest.approx(said["english"] + said["source"])
    for part in said["contributions"] + said["document_only"]:
        for token in part.get("document", part)["tokens"]:
            about = said["document"]["tokens"][token]
            assert about["part"] != "text" or said["document"]["text"][about["start"] : about["end"]] == about["text"]
    short = why.to_dict(top=2)
    assert [len(short[name]) for name in ("contributions", "query_only", "document_only")] == [2, 2, 2]
    assert short["score"] == said["score"]


def test_other_threads_may_use_the_model_meanwhile(model):
    milco = model.transformers_model
    batch = tiny.batch(["old city"])
    with watched(milco) as seen, torch.no_grad():
        other = threading.Thread(target=lambda: milco(**tiny.batch(tiny.TEXTS[:1])))
        milco(**batch)
        other.start()
        other.join()
    assert len(seen.states) == len(seen.echoes) == batch["input_ids"].shape[1]
    assert not milco._forward_hooks
    assert not milco.head.norm._forward_hooks


def test_errors_name_the_way_out(model, tmp_path):
    mlm = Transformer(str(mlm_folder(tmp_path / "mlm")), transformer_task="fill-mask")
    splade = SparseEncoder(modules=[mlm, SpladePooling()], device="cpu")
    with pytest.raises(ValueError, match=r"needs a MILCO checkpoint.*SpladePooling.*model\.intersection"):
        explain(splade, "a", "b")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="not a MILCO checkpoint"):
        explain(tmp_path, "a", "b")
    with pytest.raises(TypeError, match="SparseEncoder or a MilcoForSparseEncoding, got int"):
        explain(3, "a", "b")
    with pytest.raises(TypeError, match="query has to be a string, got 3 of type int"):
        explain(model, 3, "b")
    with pytest.raises(TypeError, match="document has to be a string, got None"):
        explain(model, "a", ["b", None])
    with pytest.raises(ValueError, match="document is no valid Unicode.*character 2"):
        explain(model, "a", "b \ud800")
    with pytest.raises(ValueError, match="mass:0.9; got 'half'"):
        explain(model, "a", "b", query_prune="half")
    with pytest.raises(ValueError, match="views has to be one of"):
        explain(model, "a", "b", views="english-only")
    with pytest.raises(ValueError, match="between 3 .* and 62"):
        explain(model, "a", "b", document_length=63)
    for method in ("to_dict", "to_json", "to_html", "to_text"):
        with pytest.raises(ValueError, match="top has to be at least 1, got 0"):
            getattr(explain(model, "a", "b"), method)(top=0)
    assert not model.transformers_model._forward_hooks
