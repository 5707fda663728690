"""The research release's convenience calls on the model itself."""

import logging

import pytest
import torch

import tiny
from milco_hf import MilcoForSparseEncoding


@pytest.fixture(scope="module")
def model(checkpoint):
    return MilcoForSparseEncoding.from_pretrained(checkpoint)


def test_batches_orders_and_single_texts_give_the_same_vectors(model):
    expected = model.encode_text(tiny.TEXTS, batch_size=len(tiny.TEXTS)).to_dense()
    assert expected.shape == (len(tiny.TEXTS), model.config.projection_dim)
    with torch.no_grad():
        torch.testing.assert_close(expected, model(**tiny.batch(tiny.TEXTS)).embeddings, rtol=1e-4, atol=1e-5)
    for batch_size in (1, 4):
        small = model.encode_text(tiny.TEXTS, batch_size=batch_size)
        assert small.is_coalesced()
        torch.testing.assert_close(small.to_dense(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.encode_text(tiny.TEXTS[3]).to_dense(), expected[3], rtol=1e-4, atol=1e-5)


def test_dictionaries_name_both_views(model):
    text = "the music of the old city"
    weights, vector = model.encode_text(text, return_dict=True), model.encode_text(text).to_dense()
    assert list(weights.values()) == sorted(weights.values(), reverse=True)
    assert {name[:2] for name in weights} == {"e_", "m_"}
    names = tiny.tokenizer().convert_ids_to_tokens(range(model.config.vocab_size))
    for name, weight in weights.items():
        dim = names.index("en: " + name[2:] if name.startswith("e_") else name[2:])
        assert vector[dim].item() == pytest.approx(weight)
    assert len(weights) == int((vector > 0).sum())


def test_source_view_can_be_left_out(model):
    vectors = model.encode_document(tiny.TEXTS[:3], source_view=False).to_dense()
    assert (vectors[:, len(tiny.TERMS) :] == 0).all()


def test_no_text_and_empty_texts(model):
    assert model.encode_text([]).shape == (0, model.config.projection_dim)
    assert model.encode_text([], return_dict=True) == []
    vectors = model.encode_text(["", "   ", "🎵"]).to_dense()
    assert torch.isfinite(vectors).all()
    torch.testing.assert_close(vectors[0], vectors[1])


def test_truncation_is_said_once_with_numbers(model, caplog):
    texts = ["music " * 20, "city", "book " * 30]
    lengths = [len(ids) for ids in tiny.tokenizer()(texts)["input_ids"]]
    with caplog.at_level(logging.WARNING, "milco_hf.modeling.text_encoding"):
        vectors = model.encode_text(texts, batch_size=1, max_length=12)
    cut = sum(length - 12 for length in lengths if length > 12)
    (record,) = [record for record in caplog.records if record.name.startswith("milco_hf")]
    assert record.getMessage().startswith(f"2 of 3 texts are longer than max_length=12: {cut} of {sum(lengths)} tokens")
    with torch.no_grad():
        tokens = tiny.tokenizer()(texts, truncation=True, max_length=12, padding=True, return_tensors="pt")
        torch.testing.assert_close(vectors.to_dense(), model(**tokens).embeddings, rtol=1e-4, atol=1e-5)


def test_queries_and_documents_have_their_own_lengths(checkpoint):
    model = MilcoForSparseEncoding.from_pretrained(checkpoint, query_length=6, document_length=9)
    text = "the music of the old city and the great book shop"
    torch.testing.assert_close(model.encode_query(text).to_dense(), model.encode_text(text, max_length=6).to_dense())
    torch.testing.assert_close(model.encode_document(text).to_dense(), model.encode_text(text, max_length=9).to_dense())


def test_the_mode_and_the_device_stay_as_they_were(model):
    model.train()
    first, second = model.encode_text(tiny.TEXTS[0]), model.encode_text(tiny.TEXTS[0])
    assert model.training, "encode_text must give training mode back"
    assert torch.equal(first.to_dense(), second.to_dense()), "dropout was active"
    model.eval()
    assert next(model.parameters()).device.type == first.device.type == "cpu"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"texts": ["a", None]}, TypeError, "texts must be strings, got None of type NoneType"),
        ({"texts": ["a"], "task": "queries"}, ValueError, 'task must be "query", "document" or None, got .queries.'),
        ({"texts": ["a"], "batch_size": 0}, ValueError, "batch_size must be a positive integer, got 0"),
        ({"texts": ["a"], "max_length": 2}, ValueError, "max_length must be at least 3 .* got 2"),
        ({"texts": ["a"], "max_length": 99}, ValueError, "max_length=99 is more than the 62 tokens"),
        ({"texts": ["a"], "language": "de_DE"}, ValueError, "has no language adapters"),
        ({"texts": ["a"], "language": ["x", "y"]}, ValueError, "names 2 languages for 1 texts"),
    ],
)
def test_wrong_calls_are_refused(model, call, error, message):
    with pytest.raises(error, match=message):
        model.encode_text(**call)


def test_a_model_without_tokenizer_says_so(tmp_path):
    built = MilcoForSparseEncoding(tiny.config())
    with pytest.raises(ValueError, match="not loaded from a checkpoint.*Set model.tokenizer"):
        built.encode_text("a")
    built.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds no tokenizer that loads"):
        MilcoForSparseEncoding.from_pretrained(tmp_path).encode_text("a")
