import json

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import helpers_sct as s
import tiny
from milco_hf.training import start_echo as script
from milco_hf.training.retrieval.echo_start import EchoStartSettings, start_echo

TEXTS = {
    "en": [text for text, language in s.passages() if language == "en"],
    "de": ["alte Stadt", "alte Musik", "alte"],
}
EXACT = EchoStartSettings(scale=0.5, ridge=1e-9)


def fitted(settings=EXACT, texts=TEXTS, **config):
    model = tiny.model(**config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return model, before, start_echo(model, model.tokenizer, texts, settings)


def echo_logits(model, text):
    """[ECHO]'s logits before the activation, of the text's tokens without the special ones."""
    states = []
    handle = model.head.norm.register_forward_hook(lambda _, __, output: states.append(output))
    model(**tiny.batch([text]), return_embeddings=False)
    handle.remove()
    return (states[0][0] @ model.head.decoder.weight[-1] + model.head.decoder.bias[-1])[1:-1]


def idf(count, texts):
    return np.log1p((texts - count + 0.5) / (count + 0.5))


@pytest.mark.parametrize(("activation", "logit"), [("log_sat", np.expm1), ("relu", np.asarray)])
def test_the_row_is_the_least_squares_fit_to_the_weights_that_counting_gives(activation, logit):
    """Against numpy's own least squares over all tokens of all texts; `logit` undoes what makes a weight of a logit."""
    model, _, explained = fitted(echo_activation=activation)
    rows, wanted = [], []
    for texts in TEXTS.values():
        ids = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        counts = {token: sum(token in text for text in ids) for text in ids for token in text}
        for text, tokens in zip(texts, ids, strict=True):
            seen = []
            handle = model.head.norm.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output))
            with torch.no_grad():
                model(**tiny.batch([text]), return_embeddings=False)
            handle.remove()
            rows.append(np.pad(seen[0][0, 1:-1].double().numpy(), ((0, 0), (0, 1)), constant_values=1.0))
            wanted += [logit(0.5 * idf(counts[token], len(texts)) ** 0.5) for token in tokens]
    rows, wanted = np.concatenate(rows), np.array(wanted)
    decoder = model.head.decoder
    found = torch.cat([decoder.weight[-1], decoder.bias[-1:]]).detach().numpy()
    best = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    left, least = (((rows @ solution - wanted) ** 2).sum() for solution in (found, best))
    assert left == pytest.approx(least, rel=1e-2)
    assert explained == pytest.approx(1 - left / ((wanted - wanted.mean()) ** 2).sum(), abs=1e-3)
    assert explained > 0.3


def test_nothing_else_changes():
    model, before, _ = fitted()
    for name, tensor in model.state_dict().items():
        same = tensor[:-1] if name.startswith("head.decoder") else tensor
        assert torch.equal(same, before[name][: len(same)] if name.startswith("head.decoder") else before[name])
    assert not torch.equal(model.head.decoder.weight[-1], before["head.decoder.weight"][-1])


def test_rare_tokens_echo_more_than_common_ones():
    model, _, _ = fitted(EchoStartSettings(scale=0.5))
    logits = echo_logits(model, "alte Stadt")
    assert logits[0] < logits[-1]  # alte is in all German texts, Stadt in one


def test_what_cannot_work():
    with pytest.raises(ValueError, match="has no .ECHO. row"):
        fitted(echo_source="encoder")
    with pytest.raises(ValueError, match="No texts to count tokens in"):
        fitted(texts={"en": []})
    with pytest.raises(ValueError, match="The texts have no tokens to fit"):
        fitted(texts={"en": ["", ""]})
    for values, message in (
        ({"scale": 0}, "scale must be positive, got 0"),
        ({"ridge": -1}, "ridge must not be negative"),
    ):
        with pytest.raises(ValueError, match=message):
            EchoStartSettings(**values)


def test_the_command_writes_a_checkpoint(tmp_path):
    student, rows = s.student(tmp_path / "student"), s.write(tmp_path / "rows.jsonl", s.rows())
    arguments = [str(student), "--train-data", str(rows), "--output", str(tmp_path / "out"), "--scale", "0.5"]
    script.main([*arguments, "--echo-pooling", "max"])
    model, tokenizer = AutoModel.from_pretrained(tmp_path / "out"), AutoTokenizer.from_pretrained(tmp_path / "out")
    expected = AutoModel.from_pretrained(student)
    texts = {"en": [], "de": []}
    for record in s.rows():  # passages in the order in which rows name them
        for text in record["pos"] + record["neg"]:
            texts[record["language"]] += [text] * (text not in texts[record["language"]])
    start_echo(expected, tokenizer, texts, EchoStartSettings(scale=0.5))
    torch.testing.assert_close(model.head.decoder.weight, expected.head.decoder.weight)
    assert (model.config.echo_pooling, expected.config.echo_pooling) == ("max", "sum")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["training_stages"] == ["sap"]
    assert json.loads((tmp_path / "out" / "tokenizer.json").read_text())["truncation"] is None
