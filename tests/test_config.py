"""MilcoConfig: what it derives, what it refuses, what survives a round trip."""

import pytest
from transformers import AutoConfig, T5Config

import tiny
from milco_hf import MilcoConfig


def test_sizes_are_derived():
    config = tiny.config()
    assert config.source_vocab_size == config.encoder_config.vocab_size
    assert config.vocab_size == config.projection_dim == len(tiny.tokenizer())
    assert config.hidden_size == 32
    assert config.max_position_embeddings == 64, "XLM-R's 66 position rows less the two below pad_token_id + 1"
    assert config.pad_token_id == tiny.tokenizer().pad_token_id
    assert config.decoder_rows == len(tiny.TERMS) + 1


@pytest.mark.parametrize("echo", [{"echo": False}, {"echo_source": "encoder"}])
def test_the_decoder_has_an_echo_row_only_where_it_reads_there(echo):
    assert tiny.config(**echo).decoder_rows == len(tiny.TERMS)


@pytest.mark.parametrize("kind", tiny.ENCODERS)
def test_round_trip(tmp_path, kind):
    config = tiny.config(kind, query_length=12, training_stages=["sap"])
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is MilcoConfig
    assert type(loaded.encoder_config) is type(config.encoder_config)
    assert loaded.to_dict() == config.to_dict() | {"_name_or_path": loaded._name_or_path}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pivot_vocab_size": 0}, "pivot_vocab_size must be a positive integer, got 0"),
        ({"pivot_hidden_act": "gelou"}, "pivot_hidden_act must be one of .* got 'gelou'"),
        ({"connector_act": "none"}, "connector_act must be one of .* got 'none'"),
        ({"pivot_norm_eps": 0.0}, "pivot_norm_eps must be positive, got 0.0"),
        ({"echo_source": "head"}, r"echo_source must be one of \['pivot', 'encoder'\], got 'head'"),
        ({"echo_activation": "gelu"}, "echo_activation must be one of"),
        ({"echo_pooling": "mean"}, "echo_pooling must be one of"),
        ({"echo_bias_init": 0.0}, "echo_bias_init must be above zero, got 0.0"),
        ({"special_token_ids": [0]}, r"special_token_ids \[0\] lie outside the source tokens 14"),
        ({"query_length": 65}, "query_length=65 is longer than the 64 tokens"),
        ({"document_length": 0}, "document_length must be a positive integer or None, got 0"),
        ({"projection_dim": 5}, "projection_dim=5 does not match"),
        ({"default_language": "de_DE"}, "the xlm-roberta encoder has no language adapters"),
    ],
)
def test_values_that_cannot_work_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        tiny.config(**values)


def test_an_unknown_language_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'fr_FR' is not among the encoder's adapters: \['en_XX', 'de_DE'\]"):
        tiny.config("xmod", default_language="fr_FR")


def test_unknown_encoder_types_are_refused():
    with pytest.raises(ValueError, match="no-such-encoder"):
        MilcoConfig(encoder_config={"model_type": "no-such-encoder"})


def test_an_encoder_without_a_length_limit_has_none():
    assert MilcoConfig(encoder_config=T5Config(vocab_size=50, d_model=16)).max_position_embeddings is None
