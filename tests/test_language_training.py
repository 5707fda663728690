"""Language adapters (X-MOD) in training: which learn, which read what, and languages that training never saw."""

from __future__ import annotations

import json

import pytest
import torch

import helpers_language as h
import helpers_training as t
import tiny
from milco_hf import MilcoForSparseEncoding
from milco_hf.training.collator import PairCollator, check_languages, language_ids
from milco_hf.training.data.pairs import PairDataset
from milco_hf.training.evaluation import encode_texts
from milco_hf.training.stage_trainer import choose_trained

PAIRS = [
    {"english": "old city", "other": "Alte Stadt", "language": "de", "with_english": True},
    {"english": "a book", "other": "Buch", "language": "de_DE", "with_english": False},
    {"english": "music", "other": "music", "language": "en", "with_english": True},
]


def parts(model: MilcoForSparseEncoding, train: list[str]) -> dict[str, bool]:
    """Whether parts of a model learn: of each kind, all parameters or none do."""
    choose_trained(model, train)
    kinds = {
        "embeddings": "encoder.embeddings.",
        "English": ".adapter_modules.en_XX.",
        "German": ".adapter_modules.de_DE.",
        "connector": "connector.",
        "head": "head.",
    }
    found: dict[str, set[bool]] = {}
    for name, parameter in model.named_parameters():
        kind = next((kind for kind, sign in kinds.items() if sign in name), "shared")
        found.setdefault(kind, set()).add(parameter.requires_grad)
    assert all(len(learns) == 1 for learns in found.values()), found
    return {kind: learns.pop() for kind, learns in found.items()}


@pytest.mark.parametrize(
    ("train", "learning"),
    [
        (["encoder", "connector", "head"], "embeddings shared English German connector head"),
        (["shared", "connector", "head"], "shared connector head"),
        (["shared", "adapters:en", "head"], "shared English head"),
        (["adapters:de_DE"], "German"),
        (["adapters", "embeddings"], "embeddings English German"),
    ],
)
def test_parts_of_the_encoder_learn_by_themselves(train, learning):
    found = parts(tiny.model("xmod"), train)
    assert {kind for kind, learns in found.items() if learns} == set(learning.split())


@pytest.mark.parametrize("kind", sorted(set(tiny.ENCODERS) - {"xmod"}))
def test_encoders_without_adapters_have_the_other_parts(kind):
    model = tiny.model(kind)
    choose_trained(model, ["shared"])
    embeddings = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    learning = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert learning
    assert not learning & embeddings
    assert all(name.startswith("encoder.") for name, p in model.named_parameters() if p.requires_grad)
    with pytest.raises(ValueError, match=r"train names adapters, which this model with its .* encoder does not have"):
        choose_trained(model, ["adapters", "head"])
    with pytest.raises(ValueError, match="has no language adapters"):
        choose_trained(model, ["adapters:de"])


def test_unknown_parts_and_languages_are_refused():
    for train, message in (
        (["shared", "heads"], r"train must name parts out of encoder, connector, head, got \['shared', 'heads'\]; of"),
        ([], "train must name parts"),
        (["adapters:fr"], "'fr' is not among the encoder's adapters"),
        (["shared:de"], "which this model with its xmod encoder does not have"),
    ):
        with pytest.raises(ValueError, match=message):
            choose_trained(tiny.model("xmod"), train)


def test_pairs_bring_their_languages():
    config = tiny.config("xmod")
    batch = PairCollator(tiny.tokenizer(), 30, adapters=config.adapter_ids)(PAIRS)
    assert batch["lang_ids"].tolist() == [1, 1, 0, 0, 0]
    assert batch["is_english"].tolist() == [False, False, False, True, True]
    assert "lang_ids" not in PairCollator(tiny.tokenizer(), 30, adapters=tiny.config().adapter_ids)(PAIRS)
    assert "lang_ids" not in PairCollator(tiny.tokenizer(), 30)(PAIRS)
    with pytest.raises(ValueError, match="'sw' is not among the encoder's adapters"):
        PairCollator(tiny.tokenizer(), 30, adapters=config.adapter_ids)([{**PAIRS[0], "language": "sw"}])
    with pytest.raises(ValueError, match="Some texts' language is not known"):  # in a stream, where it shows late
        PairCollator(tiny.tokenizer(), 30, adapters=config.adapter_ids)([{**PAIRS[0], "language": "und"}])
    assert "lang_ids" not in PairCollator(tiny.tokenizer(), 30, adapters=tiny.config().adapter_ids)(
        [{**PAIRS[0], "language": "und"}]
    )
    assert language_ids(config.adapter_ids, ["de", None], "query_lang_ids")["query_lang_ids"].tolist() == [1, 0]


def test_languages_that_cannot_be_read_are_refused_before_training():
    check_languages(tiny.config(), ["sw", "und"])
    check_languages(tiny.config("xmod"), ["de", "en"])
    with pytest.raises(ValueError, match="Some texts' language is not known"):
        check_languages(tiny.config("xmod"), ["de", "und"])
    with pytest.raises(ValueError, match="'sw' is not among"):
        check_languages(tiny.config("xmod"), ["de", "sw"])


@torch.no_grad()
def test_evaluation_reads_texts_in_their_languages():
    model = h.xmod()
    pivot, source = encode_texts(
        model, tiny.tokenizer(), model.config, h.TEXTS, 2, 62, torch.device("cpu"), languages=h.LANGUAGES
    )
    found = torch.from_numpy(source.toarray())
    found[:, : len(tiny.TERMS)] += torch.from_numpy(pivot.toarray())
    torch.testing.assert_close(found, h.by_hand(model), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_trained_on_english_alone_other_languages_are_read_through_their_own_adapters(tmp_path):
    """Zero-shot as in ColBERT-XM: no German text, no German gradient, and German vectors that training changed."""
    start = h.checkpoint(tmp_path / "start")
    before = MilcoForSparseEncoding.from_pretrained(start)
    english = {"path": str(t.PARALLEL / "train" / "en-de.tsv"), "language": "en", "columns": {"english": 0, "other": 0}}
    trainer = t.train(
        *(start, t.static_folder(tmp_path / "teacher"), tmp_path / "out"),
        *("--train_data", json.dumps(english), "--english_share", "0", "--weight_decay", "0.5"),
        *("--dev_data", str(t.PARALLEL / "dev"), "--languages", "en", "de"),
        *("--train", "shared", "adapters:en", "connector", "head"),
        *("--bf16", "true", "--gradient_checkpointing", "true"),  # as the recipe has it
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch["lang_ids"].tolist()) == {0}, "another language than English was trained on"
    after = trainer.model.eval().cpu()
    moved = {
        name
        for (name, old), (_, new) in zip(before.named_parameters(), after.named_parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert not {name for name in moved if ".adapter_modules.de_DE." in name or "embeddings" in name}
    assert {name for name in moved if ".adapter_modules.en_XX." in name}
    after.zero_grad()
    trainer.compute_loss(after, batch).backward()
    gradients = {name for name, parameter in after.named_parameters() if parameter.grad is not None}
    adapters = {name.split(".adapter_modules.")[1].split(".")[0] for name in gradients if ".adapter_modules." in name}
    assert adapters == {"en_XX"}
    saved = MilcoForSparseEncoding.from_pretrained(tmp_path / "out")
    found = saved.encode_text(h.TEXTS, language=h.LANGUAGES).to_dense()
    torch.testing.assert_close(found, h.by_hand(saved), rtol=1e-4, atol=1e-5)
    german = [place for place, adapter in enumerate(h.ADAPTERS) if adapter == "de_DE"]
    assert not torch.allclose(found[german], h.by_hand(before)[german], atol=1e-3), "what is shared did not change"
    # German scores of the dev pairs, through the adapter that training never touched
    results, _ = trainer.measure(after, PairDataset.from_pairs(_dev_pairs()))
    assert [result.language for result in results] == ["de"]


def _dev_pairs():
    from milco_hf.training.data.files import Pair

    return [Pair("old city", "Alte Stadt", "de"), Pair("great book", "groß Buch", "de")]


def test_weight_decay_would_shrink_the_adapters_of_absent_languages(caplog):
    """Why `train` can leave them out: their gradient is zero, not missing."""
    model = h.xmod()
    choose_trained(model, ["encoder", "connector", "head"])
    assert "names the adapters of all 2 languages" in caplog.text
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    before = {name: p.detach().norm() for name, p in model.named_parameters() if "de_DE.dense1.weight" in name}
    model(**tiny.batch(), language="en").embeddings.sum().backward()
    optimizer.step()
    after = dict(model.named_parameters())
    assert all(after[name].norm() < 0.99 * norm for name, norm in before.items())
    assert all(after[name].grad.abs().sum() == 0 for name in before)
