"""`build`: every class of MLM head, taken out whole; what it writes loads, and gives the head's own logits."""

from __future__ import annotations

import json
import subprocess
import sys
from textwrap import dedent

import pytest
import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.sparse_encoder.modules import SpladePooling
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForPreTraining,
    BertModel,
    CamembertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    RobertaConfig,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaModel,
    XmodConfig,
)

import milco_hf
from helpers_tokenizers import SENTENCES, bpe_tokenizer, unigram_tokenizer, wordpiece_tokenizer
from milco_hf import MilcoForSparseEncoding
from milco_hf.building import build
from milco_hf.model_card import CardDetails
from milco_hf.vocabulary_check import check_vocabulary

SIZES = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
TEXTS = [pair[0] for pair in SENTENCES.values()]


def pivot_config(kind: str, **settings):
    rows = len(wordpiece_tokenizer()) + 3  # more than the tokenizer has, as ModernBERT's decoder
    common = {"vocab_size": rows, "hidden_size": 24, "pad_token_id": 0, "max_position_embeddings": 40, **SIZES}
    roberta = {**common, "layer_norm_eps": 1e-3, "hidden_act": "relu"}  # the head's activation is GELU all the same
    tokens = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    return {
        "bert": lambda: BertConfig(**common, hidden_act="gelu_new", layer_norm_eps=1e-3, **settings),
        "distilbert": lambda: DistilBertConfig(
            vocab_size=rows, dim=24, n_layers=1, n_heads=2, hidden_dim=20, activation="relu", pad_token_id=0, **settings
        ),
        "roberta": lambda: RobertaConfig(**roberta, **settings),
        "xlm-roberta": lambda: XLMRobertaConfig(**roberta, **settings),
        "camembert": lambda: CamembertConfig(**roberta, **settings),
        "xmod": lambda: XmodConfig(**roberta, languages=["en_XX"], default_language="en_XX", **settings),
        "modernbert": lambda: ModernBertConfig(
            **common, **tokens, norm_eps=1e-3, classifier_activation="silu", **settings
        ),
    }[kind]()


def random_weights(model):
    """Weights none of which is a zero or a one, so that a lost or swapped one shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.eval()


def save_pivot(folder, kind="bert", **settings):
    model = random_weights(AutoModelForMaskedLM.from_config(pivot_config(kind, **settings)))
    model.save_pretrained(folder)
    wordpiece_tokenizer().save_pretrained(folder)
    return model


def save_encoder(folder, kind="xlm-roberta", rows=6):
    tokenizer = {"xlm-roberta": unigram_tokenizer, "bert": wordpiece_tokenizer, "modernbert": bpe_tokenizer}[kind]()
    common = {"vocab_size": len(tokenizer) + rows, "hidden_size": 32, "max_position_embeddings": 30, **SIZES}
    config = {
        "xlm-roberta": lambda: XLMRobertaConfig(**common, type_vocab_size=1, bos_token_id=0, pad_token_id=1),
        "bert": lambda: BertConfig(**common, pad_token_id=0),
        "modernbert": lambda: ModernBertConfig(**common, bos_token_id=0, pad_token_id=1, eos_token_id=2),
    }[kind]()
    model = random_weights(AutoModel.from_config(config))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def mlm_logits(mlm, hidden):
    """The masked language model's own forward, on hidden states that are put in place of its encoder's."""

    def replace(module, args, output):
        output.last_hidden_state = hidden
        return output

    hook = mlm.base_model.register_forward_hook(replace)
    try:
        with torch.no_grad():
            return mlm(input_ids=torch.ones(hidden.shape[:2], dtype=torch.long), return_dict=True).logits
    finally:
        hook.remove()


def assert_same_head(folder, mlm):
    model = MilcoForSparseEncoding.from_pretrained(folder)
    hidden = torch.randn(3, 5, mlm.config.hidden_size)
    with torch.no_grad():
        pooled, echo = model.head(hidden, torch.ones(3, 5))
    torch.testing.assert_close(pooled, mlm_logits(mlm, hidden).amax(dim=1), rtol=1e-5, atol=1e-5)
    return model, echo


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(folder)
    return folder


@pytest.fixture(scope="module")
def pivot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pivot")
    save_pivot(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "tied"),
    [
        ("bert", True),
        ("bert", False),
        ("distilbert", True),
        ("distilbert", False),
        ("roberta", True),
        ("roberta", False),
        ("xlm-roberta", True),
        ("camembert", True),
        ("xmod", True),
        ("modernbert", True),
        ("modernbert", False),
    ],
)
def test_logits_of_the_mlm_head(kind, tied, encoder, tmp_path):
    mlm = save_pivot(tmp_path / "pivot", kind, tie_word_embeddings=tied)
    assert build(encoder, tmp_path / "pivot", tmp_path / "milco") == tmp_path / "milco"
    model, echo = assert_same_head(tmp_path / "milco", mlm)
    assert echo.shape == (3, 5)
    assert model.config.pivot_vocab_size == mlm.config.vocab_size


@pytest.mark.parametrize("biases", [{"classifier_bias": True, "norm_bias": True}, {"decoder_bias": False}])
def test_modernbert_heads_with_other_biases(biases, encoder, tmp_path):
    mlm = save_pivot(tmp_path / "pivot", "modernbert", **biases)
    build(encoder, tmp_path / "pivot", tmp_path / "milco")
    assert_same_head(tmp_path / "milco", mlm)


def test_pickled_sharded_and_old_checkpoints(encoder, tmp_path):
    mlm = save_pivot(tmp_path / "shards")
    (tmp_path / "shards/model.safetensors").unlink()
    mlm.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    save_pivot(tmp_path / "pickle")
    (tmp_path / "pickle/model.safetensors").unlink()
    # names as TensorFlow had them, a next-sentence head, and a buffer of position ids
    old = {k.replace("LayerNorm.weight", "LayerNorm.gamma"): v for k, v in mlm.state_dict().items()}
    old = {k.replace("LayerNorm.bias", "LayerNorm.beta"): v for k, v in old.items()}
    old |= {"cls.seq_relationship.weight": torch.ones(2, 24), "bert.embeddings.position_ids": torch.arange(40)}
    torch.save(old, tmp_path / "pickle/pytorch_model.bin")
    for name in ("shards", "pickle"):
        build(encoder, tmp_path / name, tmp_path / f"milco-{name}")
        assert_same_head(tmp_path / f"milco-{name}", mlm)


def test_bert_for_pre_training_is_a_pivot_too(encoder, tmp_path):
    mlm = random_weights(BertForPreTraining(pivot_config("bert")))
    mlm.save_pretrained(tmp_path / "pivot")
    wordpiece_tokenizer().save_pretrained(tmp_path / "pivot")
    build(encoder, tmp_path / "pivot", tmp_path / "milco")
    model = MilcoForSparseEncoding.from_pretrained(tmp_path / "milco")
    hidden = torch.randn(2, 3, 24)
    with torch.no_grad():
        expected = mlm.cls.predictions(hidden).amax(dim=1)
        torch.testing.assert_close(model.head(hidden, torch.ones(2, 3))[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["root", "subfolder", "router"])
def test_splade_checkpoints_of_sentence_transformers(layout, pivot, encoder, tmp_path):
    mlm = AutoModelForMaskedLM.from_pretrained(pivot)
    transformer = Transformer(str(pivot), transformer_task="fill-mask")
    splade = SparseEncoder(modules=[transformer, SpladePooling()])
    folder = tmp_path / "splade"
    splade.save_pretrained(str(folder))
    if layout != "root":
        inside = folder / "0_MLMTransformer" if layout == "subfolder" else folder / "document_0_MLMTransformer"
        inside.mkdir()
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            (folder / name).rename(inside / name)
        modules = json.loads((folder / "modules.json").read_text())
        kind = "sentence_transformers.sparse_encoder.models.MLMTransformer"
        modules[0].update(path=inside.name, type=kind)
        if layout == "router":
            modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Router"}]
            types = {"query_0_SparseStaticEmbedding": "…SparseStaticEmbedding", inside.name: kind}
            (folder / "router_config.json").write_text(json.dumps({"types": types}))
        (folder / "modules.json").write_text(json.dumps(modules))
    build(encoder, folder, tmp_path / "milco")
    assert_same_head(tmp_path / "milco", mlm)


@pytest.mark.parametrize("kind", ["xlm-roberta", "bert", "modernbert"])
def test_checkpoint_is_the_encoder_in_milcos_vocabulary(kind, pivot, tmp_path):
    """Hidden states are the encoder's own on its own tokenizer's ids; the folder opens with what users call."""
    encoder = save_encoder(tmp_path / "encoder", kind)
    build(tmp_path / "encoder", pivot, tmp_path / "milco", connector_init="orthogonal")
    source, tokenizer = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("encoder", "milco"))
    model = AutoModel.from_pretrained(tmp_path / "milco")
    terms, rows = model.config.pivot_vocab_size, encoder.config.vocab_size
    assert len(tokenizer) == model.config.projection_dim == terms + rows
    assert tokenizer.convert_ids_to_tokens(terms - 1) == f"en: <unused {terms - 1}>"
    check_vocabulary(source, tokenizer, tokenizer.convert_ids_to_tokens(range(terms)), rows)

    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    assert batch["input_ids"].shape[1] <= model.config.max_position_embeddings == tokenizer.model_max_length
    assert ("token_type_ids" in batch) == (kind == "bert")
    with torch.no_grad():
        output = model(**batch, output_hidden_states=True)
        ids, mask = batch["input_ids"] - terms, batch["attention_mask"]
        hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        connected = model.connector(hidden)
        logits, _ = model.head(connected, mask)
    torch.testing.assert_close(output.pivot_logits, logits, rtol=1e-5, atol=1e-5)
    special = torch.isin(batch["input_ids"], torch.tensor(tokenizer.all_special_ids))
    assert (output.source_weights[special | (mask == 0)] == 0).all()
    assert (output.source_weights[~special & (mask == 1)] > 0).any()
    embeddings = SparseEncoder(str(tmp_path / "milco")).encode(TEXTS).to_dense()
    torch.testing.assert_close(embeddings, output.embeddings, rtol=1e-4, atol=1e-5)


def test_same_seed_same_checkpoint(encoder, pivot, tmp_path):
    state = torch.random.get_rng_state()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build(encoder, pivot, tmp_path / name, seed=seed)
    assert torch.equal(torch.random.get_rng_state(), state)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    models = [MilcoForSparseEncoding.from_pretrained(tmp_path / name) for name in "ac"]
    new = {name for name, p in models[0].named_parameters() if not torch.equal(p, models[1].state_dict()[name])}
    assert new == {"connector.dense.weight", "head.decoder.weight"}
    rows = [model.head.decoder.weight for model in models]
    assert torch.equal(rows[0][:-1], rows[1][:-1])


def test_echo_starts_where_it_can_learn(encoder, pivot, tmp_path):
    build(encoder, pivot, tmp_path / "milco", echo_bias_init=0.25)
    decoder = MilcoForSparseEncoding.from_pretrained(tmp_path / "milco").head.decoder
    assert decoder.bias[-1] == 0.25
    assert 0 < decoder.weight[-1].std() < 0.1


def test_settings_reach_the_checkpoint(encoder, pivot, tmp_path):
    settings = {"echo_source": "encoder", "echo_activation": "relu", "echo_pooling": "max", "echo_bias_init": 0.5}
    settings |= {"query_length": 12, "document_length": 20, "connector_act": "linear", "echo_special_tokens": True}
    build(encoder, pivot, tmp_path / "milco", dtype="bfloat16", connector_init="identity", **settings)
    model = MilcoForSparseEncoding.from_pretrained(tmp_path / "milco", dtype="auto")
    assert {name: getattr(model.config, name) for name in settings} == settings
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.config.encoder_config.dtype == torch.bfloat16
    assert torch.equal(model.connector.dense.weight.float(), torch.eye(24, 32))
    assert (model.echo.scale, model.echo.dense.bias) == (1.0, 0.5)
    assert SparseEncoder(str(tmp_path / "milco"))[0].query_length == 12
    without = build(encoder, pivot, tmp_path / "pivot-only", echo=False)
    assert MilcoForSparseEncoding.from_pretrained(without).head.decoder.out_features == model.config.pivot_vocab_size


def test_no_path_of_this_machine_in_the_checkpoint(encoder, pivot, tmp_path):
    folder = build(encoder, pivot, tmp_path / "milco")
    for path in folder.glob("*.json"):
        assert str(encoder) not in path.read_text(), path.name
        assert str(pivot) not in path.read_text(), path.name


def test_masked_language_model_as_encoder(pivot, tmp_path):
    """Only its encoder is taken: the LM head and the pooler stay behind."""
    save_encoder(tmp_path / "encoder")
    config = XLMRobertaConfig.from_pretrained(tmp_path / "encoder")
    mlm = random_weights(XLMRobertaForMaskedLM(config))
    mlm.save_pretrained(tmp_path / "encoder")
    model = MilcoForSparseEncoding.from_pretrained(build(tmp_path / "encoder", pivot, tmp_path / "milco"))
    assert model.encoder.pooler is None
    assert torch.equal(model.get_input_embeddings().weight, mlm.get_input_embeddings().weight)


def test_full_output_folders_are_left_alone(encoder, pivot, tmp_path):
    folder = tmp_path / "milco"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "special_tokens_map.json").write_text('{"pad_token": "old"}')
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"old")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        build(encoder, pivot, folder)
    build(encoder, pivot, folder, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "special_tokens_map.json").exists()
    assert not (folder / "model-00001-of-00002.safetensors").exists()
    with pytest.raises(ValueError, match="which it is made from"):
        build(encoder, pivot, encoder, overwrite=True)
    with pytest.raises(FileExistsError, match="is a file"):
        build(encoder, pivot, folder / "notes.txt", overwrite=True)


def test_bias_saved_under_its_other_name(encoder, tmp_path):
    mlm = save_pivot(tmp_path / "pivot", tie_word_embeddings=False)
    state = dict(mlm.state_dict())
    state["cls.predictions.bias"] = state.pop("cls.predictions.decoder.bias")
    (tmp_path / "pivot/model.safetensors").unlink()
    torch.save(state, tmp_path / "pivot/pytorch_model.bin")
    build(encoder, tmp_path / "pivot", tmp_path / "milco")
    assert_same_head(tmp_path / "milco", mlm)


def test_heads_that_are_not_whole_are_refused(encoder, tmp_path):
    mlm = save_pivot(tmp_path / "pivot", tie_word_embeddings=False)
    weights = dict(mlm.state_dict())
    (tmp_path / "pivot/model.safetensors").unlink()

    def built_with(changes):
        state = {name: value for name, value in {**weights, **changes}.items() if value is not None}
        torch.save(state, tmp_path / "pivot/pytorch_model.bin")
        build(encoder, tmp_path / "pivot", tmp_path / "milco")

    with pytest.raises(ValueError, match=r"missing \['cls.predictions.transform.dense.weight'\]"):
        built_with({"cls.predictions.transform.dense.weight": None})
    with pytest.raises(ValueError, match=r"not accounted for \['cls.predictions.gate.weight'\]"):
        built_with({"cls.predictions.gate.weight": torch.ones(2)})
    with pytest.raises(ValueError, match=r"missing \['cls.predictions.decoder.weight'\]"):
        built_with({"cls.predictions.decoder.weight": None})  # not tied, so the embeddings are not it
    with pytest.raises(ValueError, match=r"missing \['cls.predictions.decoder.bias'\]"):
        built_with({"cls.predictions.decoder.bias": None, "cls.predictions.bias": None})
    with pytest.raises(ValueError, match=r"norm.bias.*7"):
        built_with({"cls.predictions.transform.LayerNorm.bias": torch.ones(7)})
    assert not (tmp_path / "milco").exists()


def test_models_without_an_mlm_head_are_refused(encoder, tmp_path):
    BertModel(pivot_config("bert")).save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match=r"missing \['cls.predictions.transform.dense.weight'.*ForMaskedLM"):
        build(encoder, tmp_path / "bare", tmp_path / "milco")
    AutoModelForMaskedLM.from_config(ElectraConfig(hidden_size=24, **SIZES)).save_pretrained(tmp_path / "electra")
    with pytest.raises(ValueError, match=r"model_type 'electra'.*modernbert"):
        build(encoder, tmp_path / "electra", tmp_path / "milco")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no config.json with a model_type"):
        build(encoder, tmp_path / "empty", tmp_path / "milco")
    with pytest.raises(FileNotFoundError, match="neither a folder here nor a repository"):
        build(encoder, tmp_path / "nowhere", tmp_path / "milco")


def test_encoders_that_are_not_whole_are_refused(encoder, pivot, tmp_path):
    model = save_encoder(tmp_path / "encoder")
    state = {k: v for k, v in model.state_dict().items() if "layer.0.output" not in k}
    model.save_pretrained(tmp_path / "encoder", state_dict=state)
    with pytest.raises(ValueError, match=r"lacks weights of a XLMRobertaModel.*layer.0.output"):
        build(tmp_path / "encoder", pivot, tmp_path / "milco")
    small = XLMRobertaConfig.from_pretrained(encoder)
    small.vocab_size -= 50  # fewer rows than its tokenizer has tokens
    XLMRobertaModel(small).save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="Resize the encoder's embeddings"):
        build(tmp_path / "encoder", pivot, tmp_path / "milco")
    assert not (tmp_path / "milco").exists()


def test_unknown_options_and_values_are_refused(encoder, pivot, tmp_path):
    with pytest.raises(TypeError, match=r"no option echo_poling; its settings are .*echo_pooling"):
        build(encoder, pivot, tmp_path / "milco", echo_poling="max")
    with pytest.raises(ValueError, match=r"connector_init must be one of .*'xavier'"):
        build(encoder, pivot, tmp_path / "milco", connector_init="xavier")
    with pytest.raises(ValueError, match="echo_bias_init must be above zero"):
        build(encoder, pivot, tmp_path / "milco", echo_bias_init=0.0)
    with pytest.raises(ValueError, match="document_length=29 is longer than the 28"):
        build(encoder, pivot, tmp_path / "milco", document_length=29)


def test_pickles_with_code_are_not_run(encoder, tmp_path):
    class Payload:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w').close()",)

    save_pivot(tmp_path / "pivot")
    (tmp_path / "pivot/model.safetensors").unlink()
    torch.save({"cls.predictions.bias": Payload()}, tmp_path / "pivot/pytorch_model.bin")
    with pytest.raises(ValueError, match="loading that could run code"):
        build(encoder, tmp_path / "pivot", tmp_path / "milco")
    assert not (tmp_path / "ran").exists()


def test_name_is_public():
    """Also where the submodule of the same name was imported before the name was first used."""
    assert milco_hf.build is build


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_near_one_copy_of_the_result(tmp_path):
    """The largest amount of memory of its own that the process had, over that before the build."""
    tokenizer = unigram_tokenizer()
    rows = 60_000  # 60,000 × 512 fp32 numbers: 123 MB
    config = XLMRobertaConfig(vocab_size=rows, hidden_size=512, **SIZES, bos_token_id=0, pad_token_id=1)
    XLMRobertaModel(config).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    save_pivot(tmp_path / "pivot")
    code = """
        import re, sys, threading, time
        from pathlib import Path
        from milco_hf.building import build
        own = lambda: int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
        before, most, done = own(), 0, False
        def watch():
            global most
            while not done:
                most = max(most, own())
                time.sleep(0.001)
        watcher = threading.Thread(target=watch)
        watcher.start()
        folder = build(*sys.argv[1:])
        done = True
        watcher.join()
        print((most - before) / (folder / "model.safetensors").stat().st_size)
    """
    arguments = [str(tmp_path / name) for name in ("encoder", "pivot", "milco")]
    command = [sys.executable, "-c", dedent(code), *arguments]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(child.stdout) < 1.4


def test_the_checkpoint_has_a_model_card_which_push_fills_in_again(tmp_path):
    save_encoder(tmp_path / "encoder")
    save_pivot(tmp_path / "pivot")
    folder = build(tmp_path / "encoder", tmp_path / "pivot", tmp_path / "built")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert 'SparseEncoder("built", trust_remote_code=True)' in card
    assert "from encoder |" in card
    assert str(tmp_path) not in card
    details = CardDetails.from_file(folder / "card.yaml")
    assert details == CardDetails(encoder="encoder", pivot="pivot")

    (folder / "README.md").write_text("mine", encoding="utf-8")
    build(tmp_path / "encoder", tmp_path / "pivot", folder, overwrite=True)
    assert (folder / "README.md").read_text(encoding="utf-8") == "mine"
