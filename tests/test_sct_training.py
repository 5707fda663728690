import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModel

import helpers_sct as s
import tiny
from milco_hf.loading import checkpoint_place
from milco_hf.training.retrieval import run
from milco_hf.training.retrieval.echo import EchoRate
from milco_hf.training.retrieval.gradcache import RandomState
from milco_hf.training.retrieval.ranking_losses import infonce, kl_divergence, margin_mse, not_negatives

MANY = ("--kl_weight", "0.5", "--margin_mse_weight", "0.1", "--infonce_weight", "0.3", "--infonce_temperature", "0.7")
MANY += ("--tau_teacher", "0.5", "--tau_student", "2", "--query_sparsity_weight", "0.02")
MANY += ("--document_sparsity_weight", "0.01", "--pivot_infonce_weight", "0.2")
MANY += ("--short_infonce_weight", "0.15", "--short_dimensions", "4")
EXACT = (*MANY, "--optim", "sgd", "--learning_rate", "0.05")
# losses that are each question's own
OWN = (*EXACT, "--infonce_weight", "0", "--pivot_infonce_weight", "0", "--short_infonce_weight", "0")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A tiny aligned student without dropout, and training rows."""
    root = tmp_path_factory.mktemp("sct")
    return s.student(root / "student"), s.write(root / "rows.jsonl", s.rows())


@pytest.fixture(scope="module")
def with_dropout(tmp_path_factory):
    return s.student(tmp_path_factory.mktemp("sct") / "student", dropout=None)


def weights(trainer):
    return {name: tensor.detach().clone() for name, tensor in trainer.model.state_dict().items()}


def assert_same_run(one, other, rtol=1e-4):
    assert s.logged(one) == pytest.approx(s.logged(other), rel=rtol)
    for (name, left), right in zip(weights(one).items(), weights(other).values(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def first_batch(trainer):
    trainer.sampler.set_epoch(0)
    return next(iter(trainer.get_train_dataloader()))


def dense(trainer, batch):
    """(embeddings of the questions, of the passages), by the model's own output."""
    model = trainer.model.eval()
    return [
        model(input_ids=batch[f"{side}_ids"], attention_mask=batch[f"{side}_mask"]).embeddings
        for side in ("query", "document")
    ]


def test_the_loss_is_what_the_embeddings_give(places, tmp_path):
    trainer = s.train(*places, tmp_path, *MANY, "--max_steps", "1", "--learning_rate", "0")
    batch = first_batch(trainer)
    with torch.no_grad():
        queries, documents = dense(trainer, batch)
    every = queries @ documents.T
    english = queries[:, : len(tiny.TERMS)] @ documents[:, : len(tiny.TERMS)].T
    lowest = documents.topk(4, dim=1).values[:, -1:]
    short = queries @ torch.where(documents >= lowest, documents, 0.0).T
    student, teacher = every.gather(1, batch["candidates"]), batch["teacher_scores"]
    excluded = not_negatives(batch["document_numbers"], batch["answers"])
    expected = {
        "kl": kl_divergence(teacher, student, 0.5, 2.0).mean().item(),
        "margin_mse": margin_mse(teacher, student).mean().item(),
        "infonce": infonce(every, batch["candidates"][:, 0], excluded, 0.7).mean().item(),
        "pivot_infonce": infonce(english, batch["candidates"][:, 0], excluded, 0.7).mean().item(),
        "short_infonce": infonce(short, batch["candidates"][:, 0], excluded, 0.7).mean().item(),
        "l1_query": queries.sum(dim=1).mean().item(),
        "l1_document": documents[batch["candidates"].flatten()].sum(dim=1).mean().item(),
    }
    entry = trainer.state.log_history[0]
    for name, value in expected.items():
        assert entry[name] == pytest.approx(value, rel=1e-4), name
    total = 0.5 * expected["kl"] + 0.1 * expected["margin_mse"] + 0.3 * expected["infonce"]
    total += 0.2 * expected["pivot_infonce"] + 0.15 * expected["short_infonce"]
    for name in ("pivot_infonce", "short_infonce"):
        assert expected[name] != pytest.approx(expected["infonce"], rel=1e-3), name
    assert entry["loss"] == pytest.approx(
        total + 0.02 * expected["l1_query"] + 0.01 * expected["l1_document"], rel=1e-4
    )
    terms = len(tiny.TERMS)
    assert entry["active_dims_query"] == pytest.approx((queries[:, :terms] > 0).sum(dim=1).double().mean().item())
    assert entry["active_source_query"] == pytest.approx((queries[:, terms:] > 0).sum(dim=1).double().mean().item())
    assert entry["candidates"] == 4
    assert entry["teacher_variance"] == pytest.approx(teacher.var(dim=1, correction=0).mean().item(), rel=1e-4)
    assert {"teacher_mean", "teacher_entropy", "top_term_overlap", "texts_per_second"} <= set(entry)


@pytest.mark.parametrize("views", ["pivot", "source"])
def test_views_are_chosen_for_scores_and_sparsity(places, tmp_path, views):
    flags = ("--score_views", views, "--sparsity_views", views, "--document_sparsity_weight", "0.5")
    trainer = s.train(*places, tmp_path, *flags, "--max_steps", "1", "--learning_rate", "0")
    batch = first_batch(trainer)
    terms = len(tiny.TERMS)
    part = slice(0, terms) if views == "pivot" else slice(terms, None)
    with torch.no_grad():
        queries, documents = (vectors[:, part] for vectors in dense(trainer, batch))
    kl = kl_divergence(batch["teacher_scores"], (queries @ documents.T).gather(1, batch["candidates"])).mean().item()
    mass = documents[batch["candidates"].flatten()].sum(dim=1).mean().item()
    entry = trainer.state.log_history[0]
    assert (entry["kl"], entry["l1_document"]) == pytest.approx((kl, mass), rel=1e-4)
    assert entry["loss"] == pytest.approx(kl + 0.5 * mass, rel=1e-4)


def test_flops_and_warm_up(places, tmp_path):
    flags = ("--sparsity", "flops", "--query_sparsity_weight", "0.1", "--document_sparsity_weight", "0.2")
    flags += ("--query_sparsity_warmup_steps", "4", "--document_sparsity_warmup_steps", "0.5", "--max_steps", "4")
    trainer = s.train(*places, tmp_path, *flags, "--learning_rate", "0")
    batch = first_batch(trainer)
    with torch.no_grad():
        queries, documents = dense(trainer, batch)
    entry = trainer.state.log_history[0]
    assert entry["flops_query"] == pytest.approx(queries.mean(dim=0).square().sum().item(), rel=1e-4)
    repeated = documents[batch["candidates"].flatten()]
    assert entry["flops_document"] == pytest.approx(repeated.mean(dim=0).square().sum().item(), rel=1e-4)
    # logged after the step: λ of the next one
    assert s.logged(trainer, "sparsity_weight_query") == pytest.approx([0.1 / 16, 0.1 / 4, 0.1 * 9 / 16, 0.1])
    assert s.logged(trainer, "sparsity_weight_document") == pytest.approx([0.05, 0.2, 0.2, 0.2])
    for step, entry in enumerate(trainer.state.log_history[:4]):
        query, document = 0.1 * (step / 4) ** 2, 0.2 * min(1, step / 2) ** 2
        expected = entry["kl"] + query * entry["flops_query"] + document * entry["flops_document"]
        assert entry["loss"] == pytest.approx(expected, rel=1e-4)


def test_padding_changes_nothing(places, tmp_path):
    plain = s.train(*places, tmp_path / "a", *EXACT)

    class Padded(run.CandidateCollator):
        def __init__(self, tokenizer, query_length, document_length, multiple, adapters):
            super().__init__(tokenizer, query_length, document_length, 32, adapters)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run, "CandidateCollator", Padded)
        assert_same_run(plain, s.train(*places, tmp_path / "b", *EXACT))


@pytest.mark.parametrize(("batch", "accumulation"), [(1, 8), (4, 2)])
def test_accumulation_changes_nothing(places, tmp_path, batch, accumulation):
    whole = s.train(*places, tmp_path / "a", *OWN, "--per_device_train_batch_size", "8")
    flags = ("--per_device_train_batch_size", str(batch), "--gradient_accumulation_steps", str(accumulation))
    assert_same_run(whole, s.train(*places, tmp_path / "b", *OWN, *flags))


def test_gradient_checkpointing_changes_nothing(places, tmp_path):
    plain = s.train(*places, tmp_path / "a", *EXACT)
    assert_same_run(plain, s.train(*places, tmp_path / "b", *EXACT, "--gradient_checkpointing", "true"))


# ---- GradCache ----


@pytest.mark.parametrize("size", [1, 3, 100])
def test_gradcache_changes_nothing(places, tmp_path, size):
    flags = (*EXACT, "--sparsity", "flops", "--gradient_accumulation_steps", "2")
    plain = s.train(*places, tmp_path / "a", *flags)
    assert_same_run(plain, s.train(*places, tmp_path / "b", *flags, "--gradcache_minibatch", str(size)))


def test_gradcache_in_one_chunk_draws_the_same_dropout(with_dropout, places, tmp_path):
    plain = s.train(with_dropout, places[1], tmp_path / "a", *EXACT)
    cached = s.train(with_dropout, places[1], tmp_path / "b", *EXACT, "--gradcache_minibatch", "100")
    assert_same_run(plain, cached)


def test_gradcache_s_gradient_is_that_of_its_own_chunks(with_dropout, places, tmp_path):
    """With dropout on: chunks kept with their graphs, and one backward through the whole loss, give the same."""
    flags = (*EXACT, "--gradcache_minibatch", "3", "--max_steps", "1", "--learning_rate", "0")
    trainer = s.train(with_dropout, places[1], tmp_path, *flags)
    trainer.state.global_step = 0
    batch, model = first_batch(trainer), trainer.model.train()
    model.zero_grad()
    before = RandomState(torch.device("cpu"))
    cached_loss = trainer.training_step(model, dict(batch))
    cached = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    model.zero_grad()
    before.restore()
    views = []
    for side in ("query", "document"):
        ids, mask = batch[f"{side}_ids"], batch[f"{side}_mask"]
        parts = [trainer.encode(model, ids[at : at + 3], mask[at : at + 3]) for at in range(0, len(ids), 3)]
        whole = parts[0]
        whole.pivot, whole.input_ids = torch.cat([part.pivot for part in parts]), ids
        whole.weights = torch.cat([part.weights for part in parts])
        views.append(whole)
    loss = trainer.batch_loss(*views, batch, None)
    loss.backward()
    assert cached_loss.item() == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(cached[name], parameter.grad, rtol=1e-4, atol=1e-6)
    # and dropout was on: without it, the gradient is another
    model.zero_grad()
    trainer.model.eval()
    with torch.no_grad():
        without = trainer.compute_loss(model, batch)
    assert without.item() != pytest.approx(loss.item(), rel=1e-4)


# ---- resuming ----


def test_resuming_follows_the_same_trajectory(with_dropout, places, tmp_path):
    flags = (*MANY, "--save_strategy", "steps", "--save_steps", "3", "--gradient_accumulation_steps", "2")
    flags += ("--bf16", "true", "--max_steps", "7", "--document_sparsity_warmup_steps", "0.5")
    flags += ("--negatives", "2", "--negative_sampling", "random")
    straight = s.train(with_dropout, places[1], tmp_path / "a", *flags)
    checkpoint = str(tmp_path / "a" / "checkpoint-3")
    resumed = s.train(with_dropout, places[1], tmp_path / "b", *flags, "--resume_from_checkpoint", checkpoint)
    assert s.logged(resumed) == s.logged(straight)
    assert len(s.logged(resumed)) == 7
    for left, right in zip(weights(straight).values(), weights(resumed).values(), strict=True):
        assert torch.equal(left, right)


# ---- parts ----


def test_the_echo_row_learns_with_the_head(places, tmp_path):
    before = AutoModel.from_pretrained(places[0]).state_dict()
    after = weights(s.train(*places, tmp_path, "--train", "head", "--max_steps", "2"))
    changed = {name.split(".")[0] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {"head"}
    assert not torch.equal(after["head.decoder.weight"][-1], before["head.decoder.weight"][-1])


def test_the_release_s_echo_layer_learns_with_the_head(places, tmp_path):
    student = s.student(tmp_path / "student", echo_source="encoder", echo_activation="relu")
    before = AutoModel.from_pretrained(student).state_dict()
    rates = ("--head_learning_rate", "0.02", "--encoder_learning_rate", "0", "--connector_learning_rate", "0")
    after = weights(s.train(student, places[1], tmp_path / "out", *rates, "--max_steps", "2"))
    changed = {name.split(".")[0] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {"head", "echo"}


@pytest.mark.parametrize("decay", ["0", "0.1"])
def test_a_learning_rate_of_its_own_for_the_echo_row(places, tmp_path, decay):
    """The row moves as under the one rate, everything else as under the other, as long as gradients agree: a step."""
    flags = ("--train", "head", "--max_steps", "1", "--weight_decay", decay, "--head_learning_rate")
    slow = weights(s.train(*places, tmp_path / "a", *flags, "0.001"))
    fast = weights(s.train(*places, tmp_path / "b", *flags, "0.004"))
    both = weights(s.train(*places, tmp_path / "c", *flags, "0.001", "--echo_learning_rate", "0.004"))
    for name in ("head.decoder.weight", "head.decoder.bias"):
        torch.testing.assert_close(both[name][-1], fast[name][-1])
        assert torch.equal(both[name][:-1], slow[name][:-1])
        assert not torch.allclose(slow[name][-1], fast[name][-1], atol=1e-4)


def test_a_learning_rate_of_its_own_for_the_release_s_echo_layer(places, tmp_path):
    student = s.student(tmp_path / "student", echo_source="encoder", echo_activation="relu")
    before = AutoModel.from_pretrained(student).state_dict()
    rates = ("--head_learning_rate", "0", "--encoder_learning_rate", "0", "--connector_learning_rate", "0")
    trainer = s.train(student, places[1], tmp_path / "out", *rates, "--echo_learning_rate", "0.02", "--max_steps", "2")
    changed = {name.split(".")[0] for name, tensor in weights(trainer).items() if not torch.equal(tensor, before[name])}
    assert changed == {"echo"}


def test_a_learning_rate_of_the_release_s_echo_layer_needs_the_head(places, tmp_path):
    """The layer learns with the head only, and a rate of something that does not learn would do nothing."""
    student = s.student(tmp_path / "student", echo_source="encoder", echo_activation="relu")
    flags = ("--echo_learning_rate", "0.02", "--train", "encoder", "connector")
    with pytest.raises(ValueError, match="echo_learning_rate is 0.02, but .ECHO. learns with the head, which train"):
        s.train(student, places[1], tmp_path / "out", *flags)


def test_the_echo_row_s_learning_rate_stays_when_parameters_are_replaced():
    """FSDP2 shards the model after the optimizer was made, and gives both new parameters."""
    model = tiny.model()
    decoder = model.head.decoder
    optimizer = torch.optim.SGD([decoder.weight, decoder.bias], lr=0.1)
    EchoRate(model, rate=0.4, head_rate=0.1).attach(optimizer)
    for name in ("weight", "bias"):
        setattr(decoder, name, torch.nn.Parameter(getattr(decoder, name).detach().clone()))
    optimizer.param_groups[0]["params"] = [decoder.weight, decoder.bias]
    for parameter in (decoder.weight, decoder.bias):
        before = parameter.detach().clone()
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        moved = before - parameter.detach()
        torch.testing.assert_close(moved[:-1], torch.full_like(moved[:-1], 0.1))
        torch.testing.assert_close(moved[-1], torch.full_like(moved[-1], 0.4))
        parameter.grad = None


def test_an_echo_learning_rate_that_cannot_work(places, tmp_path):
    for flags, message in (
        (("--echo_learning_rate", "-1"), "echo_learning_rate must not be negative"),
        (("--echo_learning_rate", "1", "--head_learning_rate", "0"), "head_learning_rate is 0.0: set it above 0"),
        (("--echo_learning_rate", "1", "--source_view", "false"), "the decoder has no .ECHO. row; leave it out"),
        (("--echo_learning_rate", "1", "--train", "encoder"), "part of the head, which train leaves out"),
    ):
        with pytest.raises(ValueError, match=message):
            s.train(*places, tmp_path, *flags)
    assert not (tmp_path / "cache").exists()  # before data is read, which can take minutes


def test_rows_without_scores_learn_from_infonce_alone(places, tmp_path):
    """The KL of a batch counts its unscored questions as zero; InfoNCE counts them all."""
    records = s.rows()
    records[0] |= {"pos_scores": None, "neg_scores": None, "neg": []}
    mixed = s.write(tmp_path / "mixed.jsonl", records)
    flags = (
        "--infonce_weight",
        "0.5",
        "--per_device_train_batch_size",
        "30",
        "--max_steps",
        "1",
        "--learning_rate",
        "0",
    )
    found = [s.train(places[0], data, tmp_path / "out", *flags) for data in (places[1], mixed)]
    full, part = (s.logged(trainer, "kl")[0] for trainer in found)
    one = s.train(
        places[0],
        s.write(tmp_path / "one.jsonl", s.rows()[:1]),
        tmp_path / "out",
        *flags,
        "--per_device_train_batch_size",
        "1",
    )
    # negatives are drawn by row number, so that row 0 has the same ones alone
    assert part == pytest.approx(full - s.logged(one, "kl")[0] / 30, rel=1e-4)
    with pytest.raises(ValueError, match="kl_weight needs a teacher's scores, but mixed.jsonl:1"):
        s.train(places[0], mixed, tmp_path / "out")
    s.train(places[0], mixed, tmp_path / "out", *flags, "--negative_sampling", "stratified")  # row 0 has no negatives


def test_without_the_source_view(places, tmp_path):
    from sentence_transformers import SparseEncoder

    with_echo = AutoModel.from_pretrained(places[0])
    trainer = s.train(*places, tmp_path, "--source_view", "false", "--max_steps", "1", "--learning_rate", "0")
    assert trainer.state.log_history[0]["active_source_query"] == 0
    encoder = SparseEncoder(str(tmp_path), device="cpu")
    config = encoder[0].model.config
    assert (config.echo, config.training_stages) == (False, ["sap", "sct"])
    text = "the old book"
    with torch.no_grad():
        expected = with_echo(**tiny.batch([text])).pivot_view[0]
    found = encoder.encode(text).to_dense()
    torch.testing.assert_close(found[: len(tiny.TERMS)], expected)
    assert not found[len(tiny.TERMS) :].any()
    for flags, message in (
        (("--score_views", "source"), "score_views: source needs a source view"),
        (("--pivot_infonce_weight", "1"), r"pivot_infonce_weight is 1.0, but this model has no other view"),
    ):
        with pytest.raises(ValueError, match=message):
            s.train(*places, tmp_path, "--source_view", "false", *flags)


# ---- LoRA ----

LORA = ("--lora", "true", "--lora_r", "2", "--lora_alpha", "4", "--max_steps", "4")


def test_lora_saves_merged_weights_and_an_adapter(places, tmp_path):
    from peft import PeftModel
    from sentence_transformers import SparseEncoder

    before = AutoModel.from_pretrained(places[0])
    trainer = s.train(*places, tmp_path, *LORA, "--lora_dropout", "0")
    texts = ["the old book", "alte Stadt Musik"]
    with torch.no_grad():
        expected = trainer.model.eval()(**tiny.batch(texts)).embeddings
    found = SparseEncoder(str(tmp_path), device="cpu").encode(texts).to_dense()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    merged = AutoModel.from_pretrained(tmp_path)
    assert set(merged.state_dict()) == set(before.state_dict())
    name = "encoder.encoder.layer.0.attention.self.query.weight"
    assert torch.linalg.matrix_rank(merged.state_dict()[name] - before.state_dict()[name], tol=1e-5) == 2
    embeddings = "encoder.embeddings.word_embeddings.weight"
    assert torch.equal(merged.state_dict()[embeddings], before.state_dict()[embeddings])
    # the adapter over the first encoder, and the trained connector and head, are the same model
    merged.encoder = PeftModel.from_pretrained(before.encoder, str(tmp_path / "adapter"))
    with torch.no_grad():
        torch.testing.assert_close(merged.eval()(**tiny.batch(texts)).embeddings, expected, rtol=1e-4, atol=1e-5)


def test_lora_resumes(with_dropout, places, tmp_path):
    flags = (*LORA, "--save_strategy", "steps", "--save_steps", "2", "--gradcache_minibatch", "5")
    straight = s.train(with_dropout, places[1], tmp_path / "a", *flags)
    checkpoint = str(tmp_path / "a" / "checkpoint-2")
    resumed = s.train(with_dropout, places[1], tmp_path / "b", *flags, "--resume_from_checkpoint", checkpoint)
    assert s.logged(resumed) == s.logged(straight)
    for left, right in zip(weights(straight).values(), weights(resumed).values(), strict=True):
        assert torch.equal(left, right)


def test_lora_is_checked(places, tmp_path):
    with pytest.raises(ValueError, match=r"lora updates the encoder, but train names \['head'\]"):
        s.arguments(*places, tmp_path, "--lora", "true", "--train", "head")
    with pytest.raises(ValueError, match=r"lora_targets \['Wqkv'\] fits no linear layer .* end in \['dense', 'key'"):
        s.train(*places, tmp_path, *LORA, "--lora_targets", "Wqkv")


# ---- starting, evaluating, collapsing ----


def test_an_unaligned_checkpoint_is_refused(places, tmp_path):
    unaligned = tiny.checkpoint(tmp_path / "student")
    with pytest.raises(
        ValueError, match=r"was never aligned \(training_stages: \[\]\). Run training/sap.py on it first"
    ):
        s.train(unaligned, places[1], tmp_path / "out")
    trainer = s.train(unaligned, places[1], tmp_path / "out", "--allow-unaligned", "--max_steps", "1")
    assert trainer.model.config.training_stages == ["sct"]


def test_missing_settings_are_named(places, tmp_path):
    with pytest.raises(ValueError, match="dev_data names no dev rows"):
        s.train(*places, tmp_path, "--eval_strategy", "steps", "--eval_steps", "1")
    records = [{**record, "pos_scores": None} for record in s.rows()]
    unscored = s.write(tmp_path / "unscored.jsonl", records)
    with pytest.raises(ValueError, match=r"kl_weight needs a teacher's scores, but unscored.jsonl:1"):
        s.train(places[0], unscored, tmp_path / "out")
    trainer = s.train(places[0], unscored, tmp_path / "out", "--kl_weight", "0", "--infonce_weight", "1")
    assert s.logged(trainer, "infonce")[0] > 0
    assert not s.logged(trainer, "teacher_mean")
    with pytest.raises(ValueError, match="kl_weight compares a question's passages, but negatives is 0"):
        s.train(*places, tmp_path / "out", "--negatives", "0")
    alone = s.write(tmp_path / "alone.jsonl", [{**record, "neg": [], "neg_scores": []} for record in s.rows()])
    with pytest.raises(ValueError, match="but the training data has no negatives: nothing is learned"):
        s.train(places[0], alone, tmp_path / "out")
    for flags, message in (
        (
            ("--kl_weight", "0"),
            "One of kl_weight, margin_mse_weight, infonce_weight, pivot_infonce_weight, short_infonce_weight, "
            "clear_weight, alignment_weight, alignment_infonce_weight must be above 0",
        ),
        (
            ("--pivot_infonce_weight", "0.5", "--score_views", "pivot"),
            "pivot_infonce_weight is 0.5, but score_views: pivot leaves no other view; use infonce_weight",
        ),
        (("--pivot_infonce_weight", "-1"), "pivot_infonce_weight must not be negative"),
        (("--clear_reverse", "0.7", "--clear_kl", "0.4"), r"shares of one loss, but 0.7 \+ 0.4 > 1"),
        (("--short_dimensions", "0"), "short_dimensions must be a positive integer, got 0"),
        (("--alignment_temperature", "0"), "alignment_temperature must be positive, got 0"),
        (("--parallel_batch_size", "0"), "parallel_batch_size must be a positive integer, got 0"),
        (("--tau_student", "0"), "tau_student must be positive, got 0"),
        (("--gradcache_minibatch", "0"), "gradcache_minibatch must be a positive integer, got 0"),
        (("--query_sparsity_weight", "-1"), "query_sparsity_weight must not be negative"),
        (("--negatives", "-1"), "negatives must not be negative"),
        (("--query_length", "0"), "query_length must be a positive integer"),
    ):
        with pytest.raises(ValueError, match=message):
            s.arguments(*places, tmp_path, *flags)


def test_false_negatives_leave_the_training_data(places, tmp_path):
    flags = ("--false_negative_threshold", "0.4", "--false_negatives", "promote", "--max_steps", "1")
    trainer = s.train(*places, tmp_path, *flags, "--negatives", "10")
    data = trainer.train_dataset.data
    assert all((data.negative_scores[row] <= 0.4 * data.positive_scores[row][0]).all() for row in range(len(data)))
    assert len(data.positives.values) + len(data.negatives.values) == 30 * 5
    assert len(data.positives.values) > 30


def test_a_trained_student_retrieves_and_its_best_checkpoint_is_kept(tmp_path):
    from sentence_transformers import SparseEncoder

    student = s.student(tmp_path / "student", dropout=None)
    data = s.write(tmp_path / "rows.jsonl", s.rows())
    flags = ["--dev_data", str(data), "--eval_strategy", "steps", "--eval_steps", "30", "--max_steps", "60"]
    flags += ["--save_strategy", "steps", "--save_steps", "30", "--save_total_limit", "1", "--eval_on_start", "true"]
    flags += ["--load_best_model_at_end", "true", "--metric_for_best_model", "mrr_mean", "--kl_weight", "0"]
    flags += ["--infonce_weight", "1", "--per_device_train_batch_size", "15", "--batch_language", "same"]
    trainer = s.train(student, data, tmp_path / "out", *flags)
    evaluations = [entry for entry in trainer.state.log_history if "eval_runtime" in entry]
    means = [entry["eval_mrr_mean"] for entry in evaluations]
    assert means[0] < 0.6 < 0.8 < means[-1]
    assert trainer.state.best_metric == max(means[1:])
    entry = evaluations[-1]
    assert entry["eval_mrr_mean"] == pytest.approx((entry["eval_de_mrr"] + entry["eval_en_mrr"]) / 2)
    assert entry["eval_mrr_min"] == min(entry["eval_de_mrr"], entry["eval_en_mrr"])
    for folder in (trainer.state.best_model_checkpoint, tmp_path / "out"):
        encoder = SparseEncoder(str(folder), device="cpu")
        assert encoder.encode(["ruhig"]).shape == (1, len(tiny.tokenizer()))
        assert encoder[0].model.config.training_stages == ["sap", "sct"]
    assert trainer.evaluate()["eval_mrr_mean"] == pytest.approx(max(means[1:]))


def test_collapse_is_warned_of(places, tmp_path, caplog):
    with caplog.at_level("WARNING"):
        s.train(*places, tmp_path, "--max_steps", "2", "--learning_rate", "0")
    messages = [record.message for record in caplog.records if "step " in record.message]
    assert any("English terms of the passages are active in the mean, over 20%" in message for message in messages)
    assert all(message.startswith("step 1:") for message in messages)  # once in 200 steps


def test_limited_time(places, tmp_path, monkeypatch):
    now = [0.0]

    def monotonic():
        now[0] += 10.0
        return now[0]

    monkeypatch.setattr("milco_hf.training.time_limit.time", SimpleNamespace(monotonic=monotonic))
    trainer = s.train(*places, tmp_path, "--max_minutes", "1", "--lr_scheduler_type", "linear", "--max_steps", "100")
    assert trainer.state.global_step == 6
    assert s.logged(trainer, "minutes_left")[-1] == 0


def test_sources_are_mixed_by_weight(places, tmp_path):
    records = s.rows()
    entries = []
    for name, part, weight in (("a", records[:15], 1.0), ("b", records[15:], 3.0)):
        entries.append(json.dumps({"path": str(s.write(tmp_path / f"{name}.jsonl", part)), "weight": weight}))
    trainer = s.train(places[0], entries[0], tmp_path / "out", "--train_data", *entries, "--epoch_rows", "28")
    rows = [row for batch in trainer.sampler for row, _ in batch]
    assert sum(trainer.train_dataset.data.origins[rows] == 1) == 21


def test_training_starts_from_a_bundled_name_and_says_what_a_missing_folder_is(places, tmp_path):
    assert Path(checkpoint_place("milco-mini"), "config.json").is_file()
    with pytest.raises(FileNotFoundError, match="runs/mini/nowhere"):
        s.train("runs/mini/nowhere", places[1], tmp_path)
