"""Language adapters (X-MOD) in SCT: questions, passages and parallel text each go through their own language's."""

from __future__ import annotations

import pytest
import torch

import helpers_language as h
import helpers_sct as s
import tiny
from milco_hf.training.retrieval import run
from milco_hf.training.retrieval.candidates import CandidateDataset
from milco_hf.training.retrieval.collator import CandidateCollator
from milco_hf.training.retrieval.loading import load_rows
from milco_hf.training.retrieval.sources import RetrievalSource
from milco_hf.training.retrieval.views import Views


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """English rows, German ones, and German questions with English passages."""
    return s.write(tmp_path_factory.mktemp("rows") / "rows.jsonl", [*s.rows(), *s.bridged(6)])


def test_a_batch_says_which_adapters_read_it(data):
    rows = load_rows([RetrievalSource.parse(str(data))], progress=False)
    items = CandidateDataset(rows, 2).__getitems__([0, 20, 31])  # en, de, de-en
    batch = CandidateCollator(tiny.tokenizer(), 16, 32, adapters=tiny.config("xmod").adapter_ids)(items)
    assert batch["query_lang_ids"].tolist() == [0, 1, 1]
    languages = dict(s.passages())
    wanted = [0 if languages[text] == "en" else 1 for text in rows.texts(batch["document_numbers"].numpy())]
    assert batch["document_lang_ids"].tolist() == wanted
    assert set(wanted) == {0, 1}
    plain = CandidateCollator(tiny.tokenizer(), 16, 32, adapters=tiny.config().adapter_ids)(items)
    assert not [name for name in plain if "lang_ids" in name]


def checkpoint(folder):
    model = h.xmod(training_stages=["sap"])
    model.config.encoder_config.hidden_dropout_prob = model.config.encoder_config.attention_probs_dropout_prob = 0.0
    model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def test_languages_that_cannot_be_read_are_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(
        run, "SctTrainer", lambda **_: pytest.fail("training begins, and would end at the first such row")
    )
    start = checkpoint(tmp_path / "start")
    rows = s.rows()
    for place, language in (("language", "sw"), ("query_language", "sw"), ("language", "und")):
        data = s.write(tmp_path / "rows.jsonl", [*rows, {**rows[0], place: language}])
        message = "language is not known" if language == "und" else "'sw' is not among the encoder's adapters"
        with pytest.raises(ValueError, match=message):
            s.train(start, data, tmp_path / "out", "--data_cache", str(tmp_path / f"cache {place} {language}"))
    pairs = tmp_path / "en-sw.tsv"
    pairs.write_text("old city\tmji wa kale\n" * 4)
    data = s.write(tmp_path / "rows.jsonl", rows)
    parallel = ("--parallel_data", str(pairs), "--alignment_weight", "1")
    with pytest.raises(ValueError, match="'sw' is not among the encoder's adapters"):
        s.train(start, data, tmp_path / "out", *parallel, "--data_cache", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--gradcache_minibatch", "3")], ids=["whole", "gradcache"])
def test_the_loss_is_that_of_texts_in_their_languages(data, tmp_path, flags):
    start = checkpoint(tmp_path / "start")
    common = ("--max_steps", "1", "--learning_rate", "0", "--kl_weight", "0", "--infonce_weight", "1")
    trainer = s.train(start, data, tmp_path / "a", *common, *flags)
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch["query_lang_ids"].tolist()) | set(batch["document_lang_ids"].tolist()) == {0, 1}
    model, inputs = trainer.model.eval(), trainer._prepare_inputs(batch)

    @torch.no_grad()
    def loss(**adapters):
        """The objective on vectors that the model gives for each side's texts by itself."""
        views = []
        for side in ("query", "document"):
            output = model(
                input_ids=inputs[f"{side}_ids"], attention_mask=inputs[f"{side}_mask"], lang_ids=adapters[side]
            )
            views.append(Views(output.pivot_view, inputs[f"{side}_ids"], output.source_weights))
        return trainer.batch_loss(*views, inputs, None).item()

    own = {side: inputs[f"{side}_lang_ids"] for side in ("query", "document")}
    english = {side: torch.zeros_like(numbers) for side, numbers in own.items()}
    (logged,) = s.logged(trainer)
    assert logged == pytest.approx(loss(**own), rel=1e-4)
    assert logged != pytest.approx(loss(**english), rel=1e-2)
