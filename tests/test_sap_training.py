from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModel

import helpers_training as h
import tiny
from milco_hf.modeling.alignment_loss import smse
from milco_hf.training.losses import alignment_terms
from milco_hf.training.trainer import choose_trained


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A tiny student without dropout, and a static teacher."""
    root = tmp_path_factory.mktemp("sap")
    student = tiny.model()
    student.config.encoder_config.hidden_dropout_prob = 0.0
    student.config.encoder_config.attention_probs_dropout_prob = 0.0
    student.save_pretrained(root / "student")
    student.tokenizer.save_pretrained(root / "student")
    return root / "student", h.static_folder(root / "teacher")


EXACT = ("--optim", "sgd", "--learning_rate", "0.05", "--english_share", "0.5", "--l1_weight", "0.02")


def weights(trainer):
    return {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}


def assert_same_run(one, other, rtol=1e-4):
    assert h.losses(one) == pytest.approx(h.losses(other), rel=rtol)
    for (name, left), right in zip(weights(one).items(), weights(other).values(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_loss_is_the_mean_over_the_texts_of_a_batch(places, tmp_path):
    trainer = h.train(*places, tmp_path, "--max_steps", "1", "--l1_weight", "0.5", "--learning_rate", "0")
    batch = next(iter(trainer.get_train_dataloader()))
    assert len(batch["input_ids"]) == 8
    model = trainer.model.eval()
    with torch.no_grad():
        found = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        targets = h.static_teacher().targets(batch["english_texts"]).dense()[batch["target_rows"]]
        expected = smse(found.pivot_logits, targets).mean() + 0.5 * found.pivot_view.sum(dim=1).mean()
    entry = trainer.state.log_history[0]
    assert entry["loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert entry["smse"] + 0.5 * entry["l1"] == pytest.approx(expected.item(), rel=1e-4)
    assert entry["active_dims"] == pytest.approx((found.pivot_view > 0).sum(dim=1).double().mean().item())


def test_every_part_of_the_loss_counts_with_its_weight(places, tmp_path):
    flags = ("--max_steps", "1", "--learning_rate", "0", "--l1_weight", "0.5", "--norm_weight", "0.25")
    trainer = h.train(*places, tmp_path, *flags, "--contrast_weight", "2", "--contrast_temperature", "0.1")
    entry = trainer.state.log_history[0]
    parts = entry["smse"] + 0.5 * entry["l1"] + 0.25 * entry["norm"] + 2 * entry["contrast"]
    assert entry["loss"] == pytest.approx(parts, rel=1e-4)
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        found = trainer.model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    targets = h.static_teacher().targets(batch["english_texts"])
    terms = alignment_terms(found.pivot_logits, targets, batch["target_rows"], temperature=0.1)
    assert entry["contrast"] == pytest.approx(terms.contrast.mean().item(), rel=1e-4)
    assert entry["contrast"] > 0


def test_padding_changes_nothing(places, tmp_path):
    plain = h.train(*places, tmp_path / "a", *EXACT)
    from milco_hf.training import alignment

    class Padded(alignment.PairCollator):
        def __init__(self, tokenizer, max_length, multiple, adapters):
            super().__init__(tokenizer, max_length, 32, adapters)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(alignment, "PairCollator", Padded)
        assert_same_run(plain, h.train(*places, tmp_path / "b", *EXACT))


@pytest.mark.parametrize(("batch", "accumulation"), [(1, 8), (4, 2)])
def test_accumulation_changes_nothing(places, tmp_path, batch, accumulation):
    whole = h.train(*places, tmp_path / "a", *EXACT, "--per_device_train_batch_size", "8")
    flags = ("--per_device_train_batch_size", str(batch), "--gradient_accumulation_steps", str(accumulation))
    assert_same_run(whole, h.train(*places, tmp_path / "b", *EXACT, *flags))


def test_resuming_follows_the_same_trajectory(tmp_path):
    student, teacher = tiny.checkpoint(tmp_path / "student"), h.static_folder(tmp_path / "teacher")  # with dropout
    flags = ("--save_strategy", "steps", "--save_steps", "3", "--english_share", "0.5", "--l1_weight", "0.01")
    flags += ("--l1_warmup_steps", "0.5", "--gradient_accumulation_steps", "2", "--bf16", "true", "--max_steps", "7")
    straight = h.train(student, teacher, tmp_path / "a", *flags)
    resumed = h.train(
        student, teacher, tmp_path / "b", *flags, "--resume_from_checkpoint", str(tmp_path / "a" / "checkpoint-3")
    )
    assert h.losses(resumed) == h.losses(straight)
    assert len(h.losses(resumed)) == 7
    for left, right in zip(weights(straight).values(), weights(resumed).values(), strict=True):
        assert torch.equal(left, right)


def test_seeds_repeat_a_run(tmp_path):
    student, teacher = tiny.checkpoint(tmp_path / "student"), h.static_folder(tmp_path / "teacher")
    one, same, other = (
        h.losses(h.train(student, teacher, tmp_path / name, "--seed", seed, "--max_steps", "3"))
        for name, seed in (("a", "1"), ("b", "1"), ("c", "2"))
    )
    assert one == same != other


@pytest.mark.parametrize("train", [["head"], ["connector", "head"], ["encoder"]])
def test_only_the_named_parts_learn(places, tmp_path, train):
    before = AutoModel.from_pretrained(places[0]).state_dict()
    trainer = h.train(*places, tmp_path, "--train", *train, "--max_steps", "2", "--warmup_steps", "0")
    changed = {name.split(".")[0] for name, tensor in weights(trainer).items() if not torch.equal(tensor, before[name])}
    assert changed == set(train)


def test_unknown_parts_are_refused(places, tmp_path):
    with pytest.raises(ValueError, match=r"train must name parts out of encoder, connector, head, got \['heads'\]"):
        choose_trained(tiny.model(), ["heads"])


def test_the_release_s_echo_layer_stays_frozen():
    model = tiny.model(echo_source="encoder", echo_activation="relu")
    choose_trained(model, ["encoder", "connector", "head"])
    assert not any(parameter.requires_grad for parameter in model.echo.parameters())
    assert all(parameter.requires_grad for parameter in model.head.parameters())


def test_parts_have_their_own_learning_rates(places, tmp_path):
    rates = ("--encoder_learning_rate", "0", "--embeddings_learning_rate", "0.02", "--weight_decay", "0.1")
    before = AutoModel.from_pretrained(places[0]).state_dict()
    trainer = h.train(*places, tmp_path, *rates, "--max_steps", "2", "--warmup_steps", "0")
    after = weights(trainer)
    embeddings = "encoder.embeddings.word_embeddings.weight"
    layers = [name for name in after if name.startswith("encoder.") and name != embeddings]
    assert not torch.equal(after[embeddings], before[embeddings])
    assert all(torch.equal(after[name], before[name]) for name in layers)
    assert not torch.equal(after["head.dense.weight"], before["head.dense.weight"])
    trained = sum(len(group["params"]) for group in trainer.optimizer.param_groups)
    assert trained == len([p for p in trainer.model.parameters() if p.requires_grad])


def test_a_trained_student_learns_and_its_checkpoints_open_at_once(tmp_path):
    from sentence_transformers import SparseEncoder

    student, teacher = tiny.checkpoint(tmp_path / "student"), h.static_folder(tmp_path / "teacher")
    flags = [
        "--max_steps",
        "80",
        "--dev_data",
        str(h.PARALLEL / "train"),
        "--eval_strategy",
        "steps",
        "--eval_steps",
        "40",
    ]
    flags += [
        "--save_strategy",
        "steps",
        "--save_steps",
        "40",
        "--load_best_model_at_end",
        "true",
        "--save_total_limit",
        "1",
    ]
    flags += ["--metric_for_best_model", "accuracy_other_to_english_mean", "--per_device_train_batch_size", "16"]
    trainer = h.train(student, teacher, tmp_path / "out", *flags)
    logged = trainer.state.log_history
    assert h.losses(trainer)[-1] < 0.3 * h.losses(trainer)[0]
    scores = [entry["eval_accuracy_other_to_english_mean"] for entry in logged if "eval_runtime" in entry]
    assert max(scores) == trainer.state.best_metric > 0
    assert [entry for entry in logged if "eval_runtime" in entry][-1]["eval_teacher_top10_mean"] > 0.8
    assert {"eval_de_accuracy", "eval_ru_accuracy", "eval_active_dims_mean", "eval_teacher_top10_mean"} <= set(
        next(entry for entry in logged if "eval_runtime" in entry)
    )
    for folder in (trainer.state.best_model_checkpoint, tmp_path / "out"):
        encoder = SparseEncoder(str(folder), device="cpu")
        assert encoder.encode(["ruhig"]).shape == (1, len(tiny.tokenizer()))
        assert encoder[0].model.config.training_stages == ["sap"]
        assert sum("teacher" in name for name in encoder.state_dict()) == 0
        assert Tokenizer.from_file(f"{folder}/tokenizer.json").truncation is None  # training cut its texts


def test_early_stopping(places, tmp_path):
    flags = [
        "--max_steps",
        "20",
        "--dev_data",
        str(h.PARALLEL / "dev"),
        "--eval_strategy",
        "steps",
        "--eval_steps",
        "2",
    ]
    flags += ["--save_strategy", "steps", "--save_steps", "2", "--learning_rate", "0"]
    with pytest.raises(ValueError, match="early_stopping_patience needs load_best_model_at_end"):
        h.arguments(*places, tmp_path, *flags, "--early_stopping_patience", "2")
    flags += ["--load_best_model_at_end", "true", "--metric_for_best_model", "accuracy_other_to_english_mean"]
    trainer = h.train(*places, tmp_path, *flags, "--early_stopping_patience", "2")
    assert trainer.state.global_step == 6


def test_neural_teachers_and_their_heads(tmp_path):
    student, teacher = tiny.checkpoint(tmp_path / "student"), h.mlm_folder(tmp_path / "teacher")
    flags = ("--teacher_targets", "dense", "--teacher_dtype", "float32", "--init_head_from_teacher", "true")
    trainer = h.train(student, teacher, tmp_path / "a", *flags, "--train", "encoder", "--max_steps", "2")
    head, mlm = trainer.model.head, h.mlm_model()
    rows = len(tiny.TERMS)
    torch.testing.assert_close(head.decoder.weight[:rows], mlm.get_output_embeddings().weight)
    torch.testing.assert_close(head.dense.weight, mlm.cls.predictions.transform.dense.weight)
    assert not any("teacher" in name for name in trainer.model.state_dict())
    with pytest.raises(ValueError, match="teacher_cache keeps sparse vectors"):
        h.arguments(student, teacher, tmp_path, "--teacher_targets", "dense", "--teacher_cache", "x")


def test_cached_teachers_train_the_same_without_the_teacher(places, tmp_path, monkeypatch):
    student, _ = places
    teacher = h.mlm_folder(tmp_path / "teacher")
    flags = ("--teacher_cache", str(tmp_path / "cache"), "--teacher_dtype", "float32", "--max_steps", "10")
    first = h.train(student, teacher, tmp_path / "a", *flags)
    monkeypatch.setattr("milco_hf.training.teachers.mlm.MlmTeacher.targets", None)
    again = h.train(student, teacher, tmp_path / "b", *flags)
    assert h.losses(first) == h.losses(again)


def test_a_static_teacher_has_no_head_and_no_negative_logits(places, tmp_path):
    with pytest.raises(ValueError, match="dense needs a neural teacher"):
        h.train(*places, tmp_path, "--teacher_targets", "dense")
    with pytest.raises((ValueError, FileNotFoundError)):
        h.train(*places, tmp_path, "--init_head_from_teacher", "true")


def test_gradient_checkpointing_changes_nothing(places, tmp_path):
    plain = h.train(*places, tmp_path / "a", *EXACT)
    assert_same_run(plain, h.train(*places, tmp_path / "b", *EXACT, "--gradient_checkpointing", "true"))


def test_streams_train(places, tmp_path):
    import json

    source = json.dumps({"path": str(h.PARALLEL / "train"), "streaming": True})
    trainer = h.train(*places, tmp_path, "--train_data", source, "--shuffle_buffer", "10", "--max_steps", "12")
    assert trainer.state.global_step == 12
    with pytest.raises(ValueError, match="temperature cannot be used with streamed sources"):
        h.train(*places, tmp_path, "--train_data", source, "--temperature", "2")
    with pytest.raises(ValueError, match="set max_steps"):
        h.train(*places, tmp_path, "--train_data", source, "--max_steps", "-1")


def test_missing_settings_are_named(places, tmp_path):
    student, teacher = places
    with pytest.raises(ValueError, match="dev_data names no dev pairs"):
        h.train(student, teacher, tmp_path, "--eval_strategy", "steps", "--eval_steps", "1")
    with pytest.raises(ValueError, match="teacher is not set"):
        h.train(student, "", tmp_path)


def test_a_teacher_over_other_terms_is_refused(tmp_path):
    student = tiny.checkpoint(tmp_path / "student", pivot_vocab_size=len(tiny.TERMS))
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertForMaskedLM(config).save_pretrained(tmp_path / "teacher")
    h.english_tokenizer().save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match="has 20 English terms and the student 14"):
        h.train(student, tmp_path / "teacher", tmp_path / "out")


def test_tensorboard_is_written_by_default(places, tmp_path):
    pytest.importorskip("tensorboard")
    h.train(*places, tmp_path, "--max_steps", "1", "--report_to", "tensorboard")
    assert list(tmp_path.rglob("events.out.tfevents*"))


def test_limited_time_lets_the_learning_rate_fall_with_the_clock(places, tmp_path, monkeypatch):
    now = [0.0]

    def monotonic():
        now[0] += 10.0
        return now[0]

    monkeypatch.setattr("milco_hf.training.time_limit.time", SimpleNamespace(monotonic=monotonic))
    flags = ("--max_minutes", "1", "--lr_scheduler_type", "linear", "--warmup_steps", "0", "--max_steps", "100")
    trainer = h.train(*places, tmp_path, *flags)
    assert trainer.state.global_step == 6
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert rates == pytest.approx([0.01 * (6 - step) / 6 for step in range(6)])
    with pytest.raises(ValueError, match="lr_scheduler_type must be one of linear, cosine"):
        h.train(*places, tmp_path, *flags, "--lr_scheduler_type", "polynomial")


def test_on_the_cpu_every_step_lets_free_memory_go_back(places, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("milco_hf.training.stage_trainer.GivesBack", lambda every: lambda: calls.append(every))
    h.train(*places, tmp_path, "--max_steps", "3")
    assert calls == [20.0] * 3
