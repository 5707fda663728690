"""Parallel text beside questions: SMSE and InfoNCE on translations, alignment and uniformity, and how it is batched."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

import helpers_sct as s
import tiny
from milco_hf.modeling.alignment_loss import smse
from milco_hf.modeling.lexecho_head import log_sat
from milco_hf.training.data.steps import StepSampler
from milco_hf.training.retrieval import run
from milco_hf.training.retrieval.batches import RowSampler
from milco_hf.training.retrieval.parallel import PairNumber, ParallelSampler
from milco_hf.training.retrieval.translations import alignment, closenesses, translation_parts

EXACT = ("--optim", "sgd", "--learning_rate", "0.05")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A tiny student without dropout, training rows, and twenty pairs, two of them of the same English text."""
    root = tmp_path_factory.mktemp("parallel")
    pairs = [(f"{a} {b}", f"{x} {y}") for (a, x), (b, y) in itertools.permutations(zip(s.ENGLISH, s.GERMAN), 2)]
    lines = [f"{english}\t{other}\tmade-up\n" for english, other in [*pairs[:19], (pairs[0][0], "alte Stadt alte")]]
    (root / "en-de.tsv").write_text("".join(lines))
    return s.student(root / "student"), s.write(root / "rows.jsonl", s.rows()), root / "en-de.tsv"


def train(places, output, *flags):
    model, data, pairs = places
    return s.train(model, data, output, "--parallel_data", str(pairs), *flags)


# ---- formulas ----


def test_alignment_and_uniformity_by_hand():
    """Wang & Isola (ICML 2020), with α = 2 and t = 2."""
    left, right = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[0.0, 1.0], [0.6, 0.8]])
    assert alignment(left, right).tolist() == pytest.approx([2.0, 0.0])
    found = closenesses(left)
    assert found.diagonal().tolist() == pytest.approx([1.0, 1.0])
    assert found[0, 1].item() == found[1, 0].item() == pytest.approx(math.exp(-2 * (0.4**2 + 0.8**2)))


def test_translation_parts_by_hand():
    """Two pairs; vectors (1, 0) and (0, 1) for the English, (1, 0) and (1, 1)/√2 for the others after LogSat."""
    e = math.e - 1  # whose LogSat is 1
    logits = torch.tensor([[e, -1.0], [e, e], [e, -2.0], [-3.0, e]], requires_grad=True)
    parts = translation_parts(logits, torch.tensor([5, 6]), temperature=0.5)
    # over the union of positives: equal, then 2 terms of which one differs by e + 3
    assert parts.smse.tolist() == pytest.approx([0.0, (e + 3) ** 2 / 2])
    half = 1 / math.sqrt(2)
    cosines = {(0, 1): half, (0, 2): 1.0, (0, 3): 0.0, (1, 2): half, (1, 3): half, (2, 3): 0.0}
    expected = []
    for text, own in ((0, 2), (1, 3), (2, 0), (3, 1)):
        scores = {other: cosines[min(text, other), max(text, other)] / 0.5 for other in range(4) if other != text}
        expected.append(-scores[own] + math.log(sum(math.exp(score) for score in scores.values())))
    assert parts.infonce.tolist() == pytest.approx(expected, rel=1e-5)
    assert parts.distances.tolist() == pytest.approx([0.0, 2 - 2 * half], abs=1e-6)
    unrelated = [cosines[pair] for pair in ((0, 1), (0, 3), (1, 2), (2, 3))]
    total, compared = parts.closeness
    assert compared.item() == 8
    assert total.item() == pytest.approx(2 * sum(math.exp(-2 * (2 - 2 * cosine)) for cosine in unrelated), rel=1e-5)
    parts.smse.sum().backward()
    assert not logits.grad[2:].any()  # the English side is the anchor
    # d/dx of the mean over 2 terms of squares: only the term that the English side has at -3 differs
    assert logits.grad[1].tolist() == pytest.approx([e + 3, 0.0])


def test_a_lighter_weight_for_terms_that_english_does_not_have():
    logits = torch.tensor([[2.0, 1.0], [1.0, -1.0]])
    assert translation_parts(logits, torch.tensor([1])).smse.item() == pytest.approx((1 + 4) / 2)
    assert translation_parts(logits, torch.tensor([1]), extra_weight=0.25).smse.item() == pytest.approx((1 + 1) / 2)


def test_translations_of_the_same_text_are_no_negatives():
    logits = torch.rand(6, 5) + 0.1
    apart, shared = (
        translation_parts(logits, torch.tensor(numbers), temperature=0.1) for numbers in ([1, 2, 3], [1, 2, 1])
    )
    view = torch.nn.functional.normalize(log_sat(logits), dim=1)
    kept = [1, 3, 4]  # text 0's translation and the second pair
    scores = view[0] @ view[kept].T / 0.1
    assert shared.infonce[0].item() == pytest.approx((scores.logsumexp(0) - scores[1]).item(), rel=1e-5)
    assert apart.infonce[0] > shared.infonce[0]
    assert (apart.closeness[1].item(), shared.closeness[1].item()) == (24, 16)


# ---- batches ----


def sampler(world=1, rank=0, batch=4, accumulation=1):
    def draw(size, seed):
        return lambda epoch: np.random.default_rng([seed, epoch]).permutation(size)

    options = {"accumulation": accumulation, "world_size": world, "rank": rank, "seed": 1}
    return ParallelSampler(
        RowSampler(draw(24, 0), None, batch_size=batch, **options), StepSampler(draw(20, 1), None, batch, **options)
    )


def batches(found, epoch):
    found.set_epoch(epoch)
    return list(found)


def test_pairs_have_epochs_of_their_own():
    """Six batches of rows in an epoch, five of pairs: every pair comes once before any comes again."""
    whole = [batch for epoch in range(5) for batch in batches(sampler(), epoch)]
    assert all(len(batch) == 8 for batch in whole)
    pairs = [index.number for batch in whole for index in batch if isinstance(index, PairNumber)]
    for start in range(0, len(pairs), 20):
        assert Counter(pairs[start : start + 20]) == Counter(range(20))
    rows = [index for batch in whole[:6] for index in batch if not isinstance(index, PairNumber)]
    assert Counter(rows) == Counter((row, 0) for row in range(24))


@pytest.mark.parametrize("epoch", [0, 3])
def test_processes_and_accumulation_divide_the_same_steps(epoch):
    whole = [sorted(map(tuple, batch)) for batch in batches(sampler(), epoch)]
    halves = zip(*(batches(sampler(2, rank, batch=2), epoch) for rank in (0, 1)), strict=True)
    assert [sorted(map(tuple, [*one, *two])) for one, two in halves] == whole
    parts = batches(sampler(batch=2, accumulation=2), epoch)
    assert [sorted(map(tuple, [*a, *b])) for a, b in zip(parts[::2], parts[1::2], strict=True)] == whole


# ---- training ----

BOTH = ("--alignment_weight", "0.3", "--alignment_infonce_weight", "0.2", "--alignment_temperature", "0.1")


def test_the_loss_is_what_the_logits_give(places, tmp_path):
    flags = (*BOTH, "--alignment_extra_weight", "0.5", "--max_steps", "1", "--learning_rate", "0")
    trainer = train(places, tmp_path, *flags, "--parallel_batch_size", "6")
    trainer.sampler.set_epoch(0)
    batch = next(iter(trainer.get_train_dataloader()))
    assert len(batch["parallel_ids"]) == 12
    assert len(batch["query_ids"]) == 4
    with torch.no_grad():
        logits = trainer.model.eval()(
            input_ids=batch["parallel_ids"], attention_mask=batch["parallel_mask"]
        ).pivot_logits
    others, english = logits[:6], logits[6:]
    entry = trainer.state.log_history[0]
    aligned = smse(others, english, extra_weight=0.5).mean().item()
    contrast = translation_parts(logits, batch["parallel_numbers"], temperature=0.1).infonce.mean().item()
    assert entry["alignment_smse"] == pytest.approx(aligned, rel=1e-4)
    assert entry["alignment_infonce"] == pytest.approx(contrast, rel=1e-4)
    assert entry["loss"] == pytest.approx(entry["kl"] + 0.3 * aligned + 0.2 * contrast, rel=1e-4)
    views = torch.nn.functional.normalize(log_sat(logits), dim=1)
    assert entry["alignment"] == pytest.approx((2 - 2 * (views[:6] * views[6:]).sum(dim=1)).mean().item(), rel=1e-3)
    numbers = [*batch["parallel_numbers"].tolist()] * 2
    close = [
        math.exp(-2 * (views[a] - views[b]).square().sum().item())
        for a, b in itertools.permutations(range(12), 2)
        if numbers[a] != numbers[b]
    ]
    assert entry["uniformity"] == pytest.approx(math.log(np.mean(close)), rel=1e-3)


def assert_same_run(one, other):
    for name in ("loss", "alignment_smse", "alignment"):
        assert s.logged(one, name) == pytest.approx(s.logged(other, name), rel=1e-4), name
    for left, right in zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5)


def test_padding_changes_nothing(places, tmp_path):
    plain = train(places, tmp_path / "a", *BOTH, *EXACT)

    class Padded(run.ParallelCollator):
        def __init__(self, candidates, tokenizer, max_length, multiple):
            super().__init__(candidates, tokenizer, max_length, 32)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run, "ParallelCollator", Padded)
        assert_same_run(plain, train(places, tmp_path / "b", *BOTH, *EXACT))


def test_accumulation_and_gradcache_change_nothing(places, tmp_path):
    own = ("--alignment_weight", "0.3", *EXACT)
    whole = train(places, tmp_path / "a", *own)
    parts = ("--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2")
    assert_same_run(whole, train(places, tmp_path / "b", *own, *parts, "--gradcache_minibatch", "3"))


def test_gradcache_keeps_the_whole_batch_s_contrast(places, tmp_path):
    plain = train(places, tmp_path / "a", *BOTH, *EXACT)
    assert_same_run(plain, train(places, tmp_path / "b", *BOTH, *EXACT, "--gradcache_minibatch", "3"))


def test_resuming_sees_the_same_pairs(places, tmp_path):
    flags = (*BOTH, "--save_strategy", "steps", "--save_steps", "9", "--max_steps", "11")  # 7 steps an epoch
    straight = train(places, tmp_path / "a", *flags)
    checkpoint = str(tmp_path / "a" / "checkpoint-9")
    resumed = train(places, tmp_path / "b", *flags, "--resume_from_checkpoint", checkpoint)
    assert s.logged(resumed) == s.logged(straight)
    assert s.logged(resumed, "alignment_smse") == s.logged(straight, "alignment_smse")


def test_translations_come_together(places, tmp_path):
    flags = ("--kl_weight", "0", "--alignment_infonce_weight", "1", "--max_steps", "40", "--parallel_batch_size", "20")
    trainer = train(places, tmp_path, *flags)
    found, spread = s.logged(trainer, "alignment"), s.logged(trainer, "uniformity")
    assert found[-1] < 0.8 * found[0]
    assert spread[-1] < spread[0]


def test_without_parallel_text_batches_are_as_they_were(places, tmp_path):
    trainer = s.train(*places[:2], tmp_path, "--max_steps", "1")
    assert isinstance(trainer.sampler, RowSampler)
    entry = trainer.state.log_history[0]
    assert not [name for name in entry if name.startswith(("alignment", "uniformity", "clear", "bridged"))]
    trainer.sampler.set_epoch(0)
    assert not [name for name in next(iter(trainer.get_train_dataloader())) if name.startswith("parallel")]


def test_what_cannot_work(places, tmp_path):
    model, data, pairs = places
    with pytest.raises(ValueError, match="parallel_data names no parallel text, but alignment_weight is 1.0"):
        s.train(model, data, tmp_path, "--alignment_weight", "1")
    with pytest.raises(ValueError, match="parallel_data is given, but alignment_weight is 0.0 and alignment_infonce"):
        train(places, tmp_path)
    with pytest.raises(ValueError, match="parallel_data has 20 pairs, fewer than the 21 of one step"):
        train(places, tmp_path, *BOTH, "--parallel_batch_size", "21")
    with pytest.raises(FileNotFoundError, match="No data files"):
        s.train(model, data, tmp_path, *BOTH, "--parallel_data", str(pairs.parent / "nowhere.tsv"))


def test_sources_that_are_left_out_are_left_out_of_parallel_text_too(places, tmp_path):
    with pytest.raises(ValueError, match="No pairs are left of .*excluded sources"):
        train(places, tmp_path, *BOTH, "--exclude_sources", "made-up")


def test_lengths_of_parallel_texts_are_cut(places, tmp_path):
    trainer = train(places, tmp_path, *BOTH, "--parallel_length", "3", "--max_steps", "1")
    trainer.sampler.set_epoch(0)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["parallel_ids"].shape == (8, 3)
    assert batch["parallel_ids"][0, 0] == tiny.tokenizer().cls_token_id
    assert trainer.data_collator.max_length == 3
    longest = train(places, tmp_path, *BOTH, "--parallel_length", "5000", "--max_steps", "1")
    assert longest.data_collator.max_length == longest.model.config.max_position_embeddings
