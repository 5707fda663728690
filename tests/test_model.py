"""MilcoForSparseEncoding: the mathematics of DESIGN section 1, on every class of encoder."""

import pytest
import torch

import tiny
from milco_hf import MilcoForSparseEncoding
from milco_hf.modeling.alignment_loss import smse

TERMS = len(tiny.TERMS)


def by_hand(model, input_ids, attention_mask):
    """The two views of one batch, text by text, with nothing shared with the model's own pooling."""
    rows = []
    for ids, mask in zip(input_ids, attention_mask, strict=True):
        ids = ids[mask.bool()]
        hidden = model.encoder(ids[None] - TERMS).last_hidden_state[0]
        z = torch.nn.functional.gelu(model.connector.dense(hidden))
        z = model.head.norm(torch.nn.functional.gelu(model.head.dense(z)))
        logits = z @ model.head.decoder.weight.T + model.head.decoder.bias  # [tokens, V_e + 1]
        row = torch.zeros(model.config.projection_dim)
        row[:TERMS] = torch.log1p(logits[:, :TERMS].amax(0).relu())
        for token, echo in zip(ids.tolist(), logits[:, TERMS].tolist(), strict=True):
            if token not in model.config.special_token_ids:
                weight = torch.log1p(torch.tensor(max(echo, 0.0)))
                if model.config.echo_pooling == "sum":
                    row[token] += weight
                else:
                    row[token] = max(row[token], weight)
        rows.append(row)
    return torch.stack(rows)


@pytest.mark.parametrize("kind", tiny.ENCODERS)
@pytest.mark.parametrize("pooling", ["sum", "max"])
@torch.no_grad()
def test_embeddings_equal_the_formula(kind, pooling):
    model = tiny.model(kind, seed=1, echo_pooling=pooling)
    batch = tiny.batch(["the music of the old city the the", "谁写了这本书？", "Кто написал эту книгу и когда?", ""])
    output = model(**batch)
    expected = by_hand(model, batch["input_ids"], batch["attention_mask"])
    torch.testing.assert_close(output.embeddings, expected, rtol=1e-4, atol=1e-5)
    assert (expected[:, :TERMS] > 0).any(), "a model without active terms would prove nothing"
    assert (expected[:, TERMS:] > 0).any()
    assert torch.equal(output.embeddings[:, :TERMS], output.pivot_view)
    torch.testing.assert_close(output.pivot_view, output.pivot_logits.relu().log1p())


@torch.no_grad()
def test_padding_and_company_change_nothing():
    model = tiny.model()
    together = model(**tiny.batch()).embeddings
    alone = torch.cat([model(**tiny.batch([text])).embeddings for text in tiny.TEXTS[:6]])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_special_tokens_echo_only_if_told_to():
    quiet, loud = tiny.model(), tiny.model(echo_special_tokens=True)
    batch = tiny.batch()
    special = torch.isin(batch["input_ids"], torch.tensor(tiny.tokenizer().all_special_ids))
    assert (quiet(**batch).source_weights[special] == 0).all()
    assert (loud(**batch).source_weights[special & batch["attention_mask"].bool()] > 0).any()
    assert (loud(**batch).source_weights[batch["attention_mask"] == 0] == 0).all()


@torch.no_grad()
def test_the_releases_echo_reads_the_encoder_and_scales():
    model = tiny.model(echo_source="encoder", echo_activation="relu")
    model.echo.scale.fill_(2.5)
    batch = tiny.batch()
    hidden = model.encoder(batch["input_ids"] - TERMS, attention_mask=batch["attention_mask"]).last_hidden_state
    expected = torch.relu(model.echo.dense(hidden).squeeze(-1)) * 2.5
    specials = torch.isin(batch["input_ids"], torch.tensor(model.config.special_token_ids))
    expected[specials | (batch["attention_mask"] == 0)] = 0
    torch.testing.assert_close(model(**batch).source_weights, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_without_echo_and_without_source_view_the_source_dimensions_stay_zero():
    batch = tiny.batch()
    without = tiny.model(echo=False)(**batch)
    assert without.source_weights is None
    assert (without.embeddings[:, TERMS:] == 0).all()
    assert (tiny.model()(**batch, source_view=False).embeddings[:, TERMS:] == 0).all()
    assert tiny.model()(**batch, return_embeddings=False).embeddings is None


def test_echo_starts_with_a_gradient():
    model = tiny.model(initializer_range=1e-4)
    assert model.head.decoder.bias[-1].item() == pytest.approx(0.1)
    model(**tiny.batch()).source_weights.sum().backward()
    assert model.head.decoder.bias.grad[-1] > 0


def test_labels_give_the_mean_of_the_texts_losses():
    model = tiny.model()
    batch, teacher = tiny.batch(), torch.randn(6, TERMS)
    output = model(**batch, labels=teacher)
    torch.testing.assert_close(output.loss, smse(output.pivot_logits, teacher).mean())
    output.loss.backward()
    assert model.encoder.get_input_embeddings().weight.grad.abs().sum() > 0


def test_ids_of_another_tokenizer_are_refused():
    batch = tiny.batch()
    with pytest.raises(ValueError, match=r"input_ids holds 0, but ids below pivot_vocab_size=14 "):
        tiny.model()(**batch | {"input_ids": batch["input_ids"] - TERMS})


@torch.no_grad()
def test_padding_may_hold_any_id():
    """sentence-transformers' losses join columns of unequal width with zeros, which are English terms here."""
    model, batch = tiny.model(), tiny.batch()
    expected = model(**batch).embeddings
    zeros = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 0)
    torch.testing.assert_close(model(zeros, batch["attention_mask"]).embeddings, expected)


@torch.no_grad()
def test_language_chooses_the_adapters():
    model = tiny.model("xmod")
    for layer in model.encoder.encoder.layer:  # adapters start near zero, where all languages are alike
        for adapter in layer.output.adapter_modules.values():
            torch.nn.init.normal_(adapter.dense2.weight)
    batch = tiny.batch(["the music", "the music"])
    english, german = model(**batch).embeddings, model(**batch, language="de_DE").embeddings
    assert not torch.allclose(english, german)
    assert torch.equal(model(**batch, language="de").embeddings, german)
    assert torch.equal(model(**batch, language="en-GB").embeddings, english)
    mixed = model(**batch, lang_ids=torch.tensor([1, 0])).embeddings
    torch.testing.assert_close(mixed, torch.stack([german[0], english[1]]))
    for given, message in (
        ({"language": "fr_FR"}, r"'fr_FR' is not among the encoder's adapters: \['en_XX', 'de_DE'\]"),
        ({"language": ["de_DE", "en_XX"]}, r"one name for all texts here, got \['de_DE', 'en_XX'\].*lang_ids=config"),
        ({"lang_ids": torch.tensor([1])}, r"lang_ids has the shape \[1\], but there are 2 texts"),
        ({"lang_ids": torch.tensor([1, 0]), "language": "de"}, "not both"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**batch, **given)
    with pytest.raises(ValueError, match="this one has none"):
        tiny.model()(**batch, lang_ids=torch.tensor([1, 0]))


@pytest.mark.parametrize("kind", tiny.ENCODERS)
def test_gradient_checkpointing_gives_the_same_gradients(kind):
    gradients = []
    for checkpointing in (False, True):
        model = tiny.model(kind)
        if checkpointing:
            model.gradient_checkpointing_enable()  # the name that Trainer uses
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model(**tiny.batch()).embeddings.sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert model.encoder.is_gradient_checkpointing
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_every_parameter_gets_a_gradient():
    """DDP waits for ever for a parameter that no loss reaches, such as an unused pooler's."""
    for kind in set(tiny.ENCODERS) - {"xmod"}:  # of X-MOD's adapters only the batch's languages are used, by design
        model = tiny.model(kind)
        model(**tiny.batch(tiny.TEXTS)).embeddings.sum().backward()
        assert [(kind, name) for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_near(dtype):
    batch = tiny.batch()
    model = tiny.model()
    expected = model(**batch).embeddings
    halved = model.to(dtype)(**batch).embeddings
    assert halved.dtype == torch.float32
    torch.testing.assert_close(halved, expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("kind", tiny.ENCODERS)
@torch.no_grad()
def test_save_and_load(tmp_path, kind):
    model, batch = tiny.model(kind), tiny.batch()
    model.save_pretrained(tmp_path)
    loaded, report = MilcoForSparseEncoding.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    torch.testing.assert_close(loaded(**batch).embeddings, model(**batch).embeddings, rtol=1e-5, atol=1e-6)
    buffers = dict(model.named_buffers())
    for name, buffer in loaded.named_buffers():
        assert torch.equal(buffer, buffers[name]), f"{name} came back as something else"


@torch.no_grad()
def test_dtype_auto_shards_and_attention(tmp_path):
    tiny.model().to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    loaded = MilcoForSparseEncoding.from_pretrained(tmp_path, dtype="auto")
    assert loaded.dtype == torch.bfloat16
    assert loaded.encoder.config._attn_implementation == "sdpa"
    eager = MilcoForSparseEncoding.from_pretrained(tmp_path, attn_implementation="eager", dtype=torch.float32)
    assert eager.encoder.config._attn_implementation == "eager"
    sdpa = MilcoForSparseEncoding.from_pretrained(tmp_path, attn_implementation="sdpa", dtype=torch.float32)
    torch.testing.assert_close(eager(**tiny.batch()).embeddings, sdpa(**tiny.batch()).embeddings, rtol=1e-4, atol=1e-5)


def test_missing_weights_are_initialised_as_new_ones(tmp_path):
    tiny.model(echo=False).save_pretrained(tmp_path)
    loaded = MilcoForSparseEncoding.from_pretrained(tmp_path, echo=True, echo_source="encoder")
    assert loaded.echo.dense.bias.item() == pytest.approx(0.1)
    assert loaded.echo.scale.item() == 1.0


def test_lora_on_the_encoder_trains_saves_and_comes_back(tmp_path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    adapted = peft.get_peft_model(tiny.model(), peft.LoraConfig(r=2, target_modules=["query", "value"]))
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        adapted(**tiny.batch(), labels=torch.ones(6, TERMS)).loss.backward()
        optimizer.step()
    adapted.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = adapted(**tiny.batch()).embeddings
        assert not torch.allclose(expected, tiny.model()(**tiny.batch()).embeddings)
        back = peft.PeftModel.from_pretrained(tiny.model(), tmp_path)
        torch.testing.assert_close(back(**tiny.batch()).embeddings, expected)
        torch.testing.assert_close(back.merge_and_unload()(**tiny.batch()).embeddings, expected, rtol=1e-4, atol=1e-5)
