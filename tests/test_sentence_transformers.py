"""A checkpoint as a stock `SparseEncoder`: everything its users call, and training with its own trainer."""

import copy

import pytest
import torch
from datasets import Dataset
from sentence_transformers import SparseEncoder, SparseEncoderTrainer, SparseEncoderTrainingArguments
from sentence_transformers.sparse_encoder.losses import (
    SparseDistillKLDivLoss,
    SparseMultipleNegativesRankingLoss,
    SpladeLoss,
)

import tiny
from milco_hf import MilcoForSparseEncoding

TERMS = len(tiny.TERMS)


@pytest.fixture(scope="module")
def encoder(checkpoint):
    return SparseEncoder(str(checkpoint))


@pytest.fixture(scope="module")
def vectors(encoder):
    return encoder.encode(tiny.TEXTS)


def test_encode_equals_the_model(checkpoint, encoder, vectors):
    model = MilcoForSparseEncoding.from_pretrained(checkpoint)
    with torch.no_grad():
        expected = model(**tiny.batch(tiny.TEXTS)).embeddings
    assert vectors.is_sparse
    assert encoder.get_embedding_dimension() == expected.shape[1] == model.config.projection_dim
    torch.testing.assert_close(vectors.to_dense(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder.encode(tiny.TEXTS[0]).to_dense(), expected[0], rtol=1e-4, atol=1e-5)
    assert encoder.max_seq_length == 62


def test_queries_and_documents_have_their_own_lengths(tmp_path):
    encoder = SparseEncoder(str(tiny.checkpoint(tmp_path / "a", query_length=6, document_length=9)))
    model = MilcoForSparseEncoding.from_pretrained(tmp_path / "a")
    text = "the music of the old city and the great book shop"
    for name, length in (("encode_query", 6), ("encode_document", 9)):
        expected = model.encode_text(text, max_length=length).to_dense()
        torch.testing.assert_close(getattr(encoder, name)(text).to_dense(), expected)
    encoder.save_pretrained(str(tmp_path / "b"))
    again = SparseEncoder(str(tmp_path / "b"))
    assert (again[0].query_length, again[0].document_length) == (6, 9)


def test_similarity_is_the_score_of_both_views(encoder, vectors):
    dense = vectors.to_dense()
    pivot, source = dense[:, :TERMS], dense[:, TERMS:]
    assert encoder.similarity_fn_name == "dot"
    torch.testing.assert_close(
        encoder.similarity(vectors, vectors), pivot @ pivot.T + source @ source.T, rtol=1e-4, atol=1e-5
    )


def test_decode_names_dimensions_of_both_views(encoder, vectors):
    decoded = encoder.decode(vectors[0])
    assert any(token.startswith("en: ") for token, _ in decoded)
    assert any(not token.startswith("en: ") for token, _ in decoded)
    expected = vectors[0].to_dense()
    for token, weight in decoded:
        assert expected[tiny.tokenizer().convert_tokens_to_ids(token)].item() == pytest.approx(weight)


def test_intersection_sparsity_and_max_active_dims(encoder, vectors):
    both = encoder.intersection(vectors[0], vectors[1]).to_dense()
    dense = vectors.to_dense()
    torch.testing.assert_close(both, dense[0] * dense[1])
    sparsity = SparseEncoder.sparsity(vectors)
    assert sparsity["active_dims"] == pytest.approx((dense > 0).sum(1).float().mean().item())
    pruned = encoder.encode(tiny.TEXTS, max_active_dims=3).to_dense()
    assert ((pruned > 0).sum(1) <= 3).all()
    torch.testing.assert_close(pruned.amax(1), dense.amax(1))


def test_prompts_are_prepended(checkpoint):
    prompted = SparseEncoder(str(checkpoint), prompts={"query": "music: ", "document": ""})
    plain = SparseEncoder(str(checkpoint))
    torch.testing.assert_close(
        prompted.encode_query("old city").to_dense(), plain.encode("music: old city").to_dense(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_several_processes_give_the_same_vectors(encoder, vectors):
    spread = encoder.encode(tiny.TEXTS, device=["cpu", "cpu"], chunk_size=5)
    torch.testing.assert_close(spread.to_dense(), vectors.to_dense(), rtol=1e-4, atol=1e-5)


def test_save_pretrained_gives_a_complete_checkpoint(encoder, vectors, checkpoint, tmp_path):
    encoder.save_pretrained(str(tmp_path))
    names = {path.name for path in checkpoint.iterdir()}
    assert names <= {path.name for path in tmp_path.iterdir()}
    torch.testing.assert_close(SparseEncoder(str(tmp_path)).encode(tiny.TEXTS).to_dense(), vectors.to_dense())
    for name in ("modules.json", "sentence_bert_config.json"):
        assert (tmp_path / name).read_text().split() == (checkpoint / name).read_text().split(), name


def test_bf16(checkpoint, vectors):
    encoder = SparseEncoder(str(checkpoint), model_kwargs={"dtype": "bfloat16"})
    assert encoder.transformers_model.dtype == torch.bfloat16
    torch.testing.assert_close(encoder.encode(tiny.TEXTS).to_dense(), vectors.to_dense(), rtol=0.1, atol=0.1)


KL = {
    "query": ["music shop", "old city", "who wrote", "great book"] * 2,
    "positive": ["ดนตรีในเมืองเก่าไพเราะ", "老城的音乐很美", "Кто написал эту книгу и когда?", "这本书"] * 2,
    "negative": ["谁写了这本书？", "the", "music", "city"] * 2,
    "label": [[3.0, -1.0]] * 8,
}
TRIPLETS = {name: KL[name] for name in ("query", "positive", "negative")}


@pytest.mark.parametrize(
    ("loss", "data"), [(SparseDistillKLDivLoss, KL), (SparseMultipleNegativesRankingLoss, TRIPLETS)]
)
def test_sparse_encoder_trainer_lowers_the_loss(checkpoint, tmp_path, loss, data):
    encoder = SparseEncoder(str(checkpoint))
    before = copy.deepcopy(encoder.transformers_model.state_dict())
    splade = SpladeLoss(encoder, loss(encoder), document_regularizer_weight=1e-4, query_regularizer_weight=1e-4)
    arguments = SparseEncoderTrainingArguments(
        output_dir=str(tmp_path),
        max_steps=12,
        per_device_train_batch_size=8,
        learning_rate=5e-3,
        warmup_steps=0,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_steps=12,
        report_to=[],
        seed=1,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = SparseEncoderTrainer(model=encoder, args=arguments, train_dataset=Dataset.from_dict(data), loss=splade)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3]), losses
    after = encoder.transformers_model.state_dict()
    assert [name for name in before if name.startswith("head.") and torch.equal(before[name], after[name])] == []
    reopened = SparseEncoder(str(tmp_path / "checkpoint-12"))
    torch.testing.assert_close(
        reopened.encode(tiny.TEXTS[:3]).to_dense(), encoder.encode(tiny.TEXTS[:3]).to_dense(), rtol=1e-4, atol=1e-5
    )


def test_lora_through_sparse_encoder(checkpoint, tmp_path):
    peft = pytest.importorskip("peft")
    encoder = SparseEncoder(str(checkpoint))
    encoder.add_adapter(peft.LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False))
    expected = encoder.encode(tiny.TEXTS[:3]).to_dense()
    assert not torch.allclose(expected, SparseEncoder(str(checkpoint)).encode(tiny.TEXTS[:3]).to_dense())
    encoder.save_pretrained(str(tmp_path))
    assert (tmp_path / "adapter_model.safetensors").exists()
    torch.testing.assert_close(
        SparseEncoder(str(tmp_path)).encode(tiny.TEXTS[:3]).to_dense(), expected, rtol=1e-4, atol=1e-5
    )
