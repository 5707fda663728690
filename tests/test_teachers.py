import pytest
import torch

import helpers_training as h
import tiny
from milco_hf.training.teachers.cache import CachedTeacher
from milco_hf.training.teachers.idf import build_idf_teacher, idf_weights
from milco_hf.training.teachers.idf import main as build_idf
from milco_hf.training.teachers.loading import check_vocabulary, load_teacher
from milco_hf.training.teachers.mlm import MlmTeacher
from milco_hf.training.teachers.static import StaticTeacher

TEXTS = ["the old book", "who wrote the music of the quiet city", "shop", ""]


class Counting:
    """Counts what a teacher is asked for."""

    def __init__(self, teacher):
        self.teacher, self.asked = teacher, []
        self.vocabulary_size, self.fingerprint = teacher.vocabulary_size, teacher.fingerprint

    def targets(self, texts):
        self.asked += texts
        return self.teacher.targets(texts)

    def to(self, device):
        return self


def test_static_teacher_gives_sparse_encoder_weights(tmp_path):
    from sentence_transformers import SparseEncoder

    folder = h.static_folder(tmp_path)
    expected = SparseEncoder(str(folder), device="cpu").encode(TEXTS[:3], convert_to_sparse_tensor=False)
    teacher = load_teacher(str(folder))
    assert isinstance(teacher, StaticTeacher)
    torch.testing.assert_close(teacher.targets(TEXTS[:3]).dense(), expected)
    assert len(teacher.targets(TEXTS).rows()[3][0]) == 0


def test_log_sat_takes_inverse_log_sat_back_to_the_weights():
    from milco_hf.modeling.lexecho_head import log_sat

    plain = h.static_teacher(scale=0.5).targets(TEXTS).dense()
    logits = h.static_teacher(transform="inverse_log_sat", scale=0.5).targets(TEXTS).dense()
    torch.testing.assert_close(log_sat(logits), plain)
    with pytest.raises(ValueError, match="teacher_transform must be one of"):
        h.static_teacher(transform="log")
    with pytest.raises(ValueError, match="teacher_scale must be positive, got 0"):
        h.static_teacher(scale=0.0)


def test_mlm_teacher_pools_real_tokens_only(tmp_path):
    teacher = load_teacher(str(h.mlm_folder(tmp_path)), dtype="float32", batch_tokens=16)
    assert isinstance(teacher, MlmTeacher)
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    model, tokenizer = h.mlm_model(), h.english_tokenizer()
    pooled = teacher.logits(TEXTS[:3])
    for row, text in enumerate(TEXTS[:3]):
        with torch.no_grad():
            logits = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0]
        torch.testing.assert_close(pooled[row], logits.amax(dim=0), atol=1e-5, rtol=1e-5)
    assert (pooled < 0).any()
    torch.testing.assert_close(teacher.targets(TEXTS[:3]).dense(), pooled.clamp(min=0))


def test_mlm_teacher_matches_its_sparse_encoder(tmp_path):
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    from milco_hf.modeling.lexecho_head import log_sat

    h.mlm_folder(tmp_path / "mlm")
    transformer = Transformer(str(tmp_path / "mlm"), transformer_task="fill-mask")
    encoder = SparseEncoder(modules=[transformer, SpladePooling("max")], device="cpu")
    encoder.save_pretrained(str(tmp_path / "splade"))
    teacher = load_teacher(str(tmp_path / "splade"), dtype="float32")
    expected = encoder.encode(TEXTS[:3], convert_to_sparse_tensor=False)
    torch.testing.assert_close(log_sat(teacher.logits(TEXTS[:3])), expected, atol=1e-5, rtol=1e-5)


def test_teachers_are_in_bf16_by_default(tmp_path):
    assert load_teacher(str(h.mlm_folder(tmp_path))).model.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="teacher_dtype must be one of bfloat16, float16, float32, got 'int8'"):
        load_teacher(str(tmp_path), dtype="int8")


def test_another_vocabulary_is_refused():
    with pytest.raises(ValueError, match="'splade' has 30522 English terms and the student 16000"):
        check_vocabulary(30522, 16000, "splade")


def test_cached_vectors_need_no_teacher(tmp_path):
    teacher = Counting(h.static_teacher())
    cached = CachedTeacher(teacher, tmp_path)
    expected = teacher.teacher.targets(TEXTS).dense()
    torch.testing.assert_close(cached.targets(TEXTS).dense(), expected, rtol=1e-3, atol=1e-3)
    first = cached.targets(TEXTS).dense()
    assert teacher.asked == TEXTS
    cached.flush()
    assert torch.equal(cached.targets(TEXTS).dense(), first)
    again = CachedTeacher(Counting(h.static_teacher()), tmp_path)
    assert len(again) == len(TEXTS)
    assert torch.equal(again.targets(TEXTS[::-1]).dense(), first.flip(0))
    assert again.teacher.asked == []
    again.targets(["quiet", *TEXTS])
    assert again.teacher.asked == ["quiet"]
    again.flush()
    assert len(CachedTeacher(Counting(h.static_teacher()), tmp_path)) == len(TEXTS) + 1


def test_other_teachers_have_other_caches(tmp_path):
    CachedTeacher(h.static_teacher(), tmp_path).targets(TEXTS)
    cached = CachedTeacher(h.static_teacher(), tmp_path)
    cached.targets(TEXTS)
    cached.flush()
    assert len(CachedTeacher(h.static_teacher(scale=2.0), tmp_path)) == 0
    one, other = (MlmTeacher(h.mlm_model(seed), h.english_tokenizer(), 32) for seed in (0, 1))
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == MlmTeacher(h.mlm_model(0), h.english_tokenizer(), 32).fingerprint


def test_idf_counts_texts(tmp_path):
    weights = idf_weights(["old book", "old city", "old old shop"], h.english_tokenizer())
    named = dict(zip(tiny.TERMS, weights.tolist(), strict=True))
    assert 0 < named["old"] < named["book"] == named["shop"]
    assert named["music"] == named["the"] == 0.0
    assert named["book"] == pytest.approx(torch.log1p(torch.tensor(2.5 / 1.5)).item())
    with pytest.raises(ValueError, match="No texts to count"):
        idf_weights([], h.english_tokenizer())


def test_idf_teacher_is_a_sparse_encoder(tmp_path):
    h.english_tokenizer().save_pretrained(tmp_path / "tokenizer")
    data, output = str(h.PARALLEL / "train"), tmp_path / "idf"
    build_idf(["--data", data, "--tokenizer", str(tmp_path / "tokenizer"), "--output", str(output)])
    teacher = load_teacher(str(output))
    top = teacher.targets(["who wrote the old book"]).rows()[0]
    assert [tiny.TERMS[term] for term in top[0]] == ["book", "who", "wrote", "old"]
    again = build_idf_teacher(["old book"], h.english_tokenizer(), tmp_path / "again")
    assert again.shape == (len(tiny.TERMS),)


def test_static_weights_are_divided_by_their_length(tmp_path):
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

    static = SparseStaticEmbedding(h.english_tokenizer(), h.static_weights(), frozen=True)
    encoder = SparseEncoder(modules=[static, Normalize()], device="cpu")
    encoder.save_pretrained(str(tmp_path))
    expected = encoder.encode(TEXTS[:3], convert_to_sparse_tensor=False)
    torch.testing.assert_close(load_teacher(str(tmp_path)).targets(TEXTS[:3]).dense(), expected)
    raw = h.static_teacher().targets(TEXTS[:3]).dense()
    torch.testing.assert_close(load_teacher(str(tmp_path), norm_power=0.0).targets(TEXTS[:3]).dense(), raw)
    half = h.static_teacher(norm_power=0.5, scale=2.0).targets(TEXTS[:3]).dense()
    torch.testing.assert_close(half, 2 * raw / raw.norm(dim=1, keepdim=True).sqrt())
    assert h.static_teacher(norm_power=0.5).fingerprint != h.static_teacher().fingerprint
