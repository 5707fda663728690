"""Publishing: what a complete checkpoint is, the model card, and three ways to push to a stand-in for the Hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import milco_hf
from hub_stand_in import HubStandIn
from milco_hf.model_card import CardDetails, render_card
from milco_hf.publish import checkpoint_problems, push

TEXTS = ["quiet old city", "Кто написал эту книгу?", "本"]
DETAILS = {
    "description": "A model for a test.",
    "license": "cc-by-sa-4.0",
    "languages": ["de", "ja"],
    "encoder": "someone/encoder",
    "pivot": "someone/pivot",
    "training_data": [{"name": "NTREX", "license": "CC BY-SA 4.0", "size": 120, "url": "https://example.org/ntrex"}],
    "results": [{"dataset": "dev pairs", "language": "de", "metric": "Accuracy", "value": 0.87}],
    "limitations": "It is tiny.",
}


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A copy of the tiny checkpoint that a test may change."""
    return Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))


def test_a_saved_checkpoint_is_complete(checkpoint):
    assert checkpoint_problems(checkpoint) == []


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "modules.json", "model.safetensors", "modeling_milco.py", "lexecho_head.py"],
)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert any(problem.startswith(name) for problem in checkpoint_problems(folder))


def test_a_missing_shard_is_named(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (problem,) = checkpoint_problems(folder)
    assert problem.startswith("model-00002-of-00002.safetensors")


def test_pickled_weights_are_refused(folder):
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is a pickle"):
        push(folder, "someone/model")


@pytest.mark.parametrize(
    ("auto_map", "message"),
    [
        (None, "auto_map has no AutoConfig"),
        ({"AutoConfig": "other/repo--configuration_milco.MilcoConfig"}, "from another repository"),
    ],
)
def test_remote_code_has_to_lie_in_the_folder(folder, auto_map, message):
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = auto_map
    (folder / "config.json").write_text(json.dumps(config))
    assert any(message in problem for problem in checkpoint_problems(folder))


def test_card_holds_what_is_known(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    card = render_card("someone/tiny-milco", config, CardDetails(**DETAILS))
    metadata = card.data.to_dict()
    assert metadata["library_name"] == "sentence-transformers"
    assert metadata["pipeline_tag"] == "feature-extraction"
    assert metadata["language"] == ["de", "ja"]
    assert metadata["license"] == "cc-by-sa-4.0"
    assert metadata["base_model"] == ["someone/encoder", "someone/pivot"]
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.87
    text = str(card)
    assert "{{" not in text
    assert "{%" not in text
    for expected in (
        "# tiny-milco",
        'SparseEncoder("someone/tiny-milco", trust',
        "CC BY-SA 4.0",
        "It is tiny.",
        "0.87",
    ):
        assert expected in text
    assert f"{config['pivot_vocab_size']:,} English terms" in text


def test_card_without_details_says_so():
    text = str(render_card("tiny", {"training_stages": []}))
    assert "none recorded" in text
    assert "None was stated for the weights" in text


def test_card_details_come_from_yaml_and_json(tmp_path):
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(DETAILS))
    (tmp_path / "card.json").write_text(json.dumps(DETAILS))
    assert CardDetails.from_file(tmp_path / "card.yaml") == CardDetails.from_file(tmp_path / "card.json")
    (tmp_path / "card.yaml").write_text(yaml.safe_dump({"licence": "mit"}))
    with pytest.raises(ValueError, match=r"unknown keys \['licence'\].*'license'"):
        CardDetails.from_file(tmp_path / "card.yaml")


def test_bundled_card_details_fill_the_template():
    bundled = Path(milco_hf.__file__).parent / "bundled" / "milco-mini"
    details = CardDetails.from_file(bundled / "card.yaml")
    text = str(render_card("someone/milco-mini", {"pivot_vocab_size": 8, "training_stages": ["sap"]}, details))
    assert len(details.languages) == 27
    assert all(f"{source.name}" in text and source.license in text for source in details.training_data)
    notice = (Path(__file__).parents[1] / "NOTICE").read_text(encoding="utf-8")
    for source in details.training_data:  # the tags in brackets are those of NOTICE
        for tag in source.name.rpartition("(")[2].rstrip(")").split(", "):
            assert tag in notice


def test_a_wrong_card_stops_before_anything_is_sent(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("milco_hf.publish.HfApi", lambda **_: pytest.fail("the Hub was asked"))
    (folder / "card.yaml").write_text("licence: mit")
    with pytest.raises(ValueError, match=r"card\.yaml has unknown keys"):
        push(folder, "someone/model")


PUSH = """
import sys
from sentence_transformers import SparseEncoder
from transformers import AutoModel, AutoTokenizer
import milco_hf

folder, card = sys.argv[1:]
print(milco_hf.push(folder, "someone/by-milco-hf", private=True, token="hf_test"))
print(milco_hf.push(folder, "someone/by-milco-hf", card=card, revision="v2", token="hf_test"))
print(milco_hf.push(folder, "someone/by-milco-hf", create_pr=True, token="hf_test"))
model = AutoModel.from_pretrained(folder)
model.push_to_hub("someone/by-transformers", token="hf_test")
AutoTokenizer.from_pretrained(folder).push_to_hub("someone/by-transformers", token="hf_test")
SparseEncoder(folder).push_to_hub("someone/by-sentence-transformers", token="hf_test")
"""
LOAD = """
import json, sys
import torch
from sentence_transformers import SparseEncoder
from transformers import AutoModel, AutoTokenizer

assert "milco_hf" not in sys.modules
output, *texts = sys.argv[1:]
rows = {}
for repo, revision in (
    ("someone/by-milco-hf", None), ("someone/by-milco-hf", "v2"),
    ("someone/by-transformers", None), ("someone/by-sentence-transformers", None),
):
    model = SparseEncoder(repo, revision=revision, trust_remote_code=True, device="cpu")
    rows[f"{repo}@{revision}"] = model.encode(texts, convert_to_sparse_tensor=False)
model = AutoModel.from_pretrained("someone/by-transformers", trust_remote_code=True)
inputs = AutoTokenizer.from_pretrained("someone/by-transformers")(texts, padding=True, return_tensors="pt")
with torch.inference_mode():
    rows["AutoModel"] = model.eval()(**inputs).embeddings
torch.save(rows, output)
assert "milco_hf" not in sys.modules
"""


def run_python(code: str, *arguments: object, environment: dict[str, str]) -> str:
    """Run code in a fresh process and return what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
def test_what_is_pushed_loads_with_the_same_numbers(folder, tmp_path):
    torch.save({}, folder / "optimizer.pt")
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(DETAILS))
    with HubStandIn() as hub:
        printed = run_python(PUSH, folder, tmp_path / "card.yaml", environment=hub.environment(tmp_path / "pusher"))
        repository = hub.repositories["someone/by-milco-hf"]
        assert repository.private
        assert set(repository.branches) == {"main", "v2", "refs/pr/1"}
        assert printed.splitlines()[2].endswith("/someone/by-milco-hf/discussions/1")
        assert hub.tokens == {"hf_test"}

        files = hub.files("someone/by-milco-hf")
        assert "optimizer.pt" not in files
        assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
        assert b"none recorded" in files["README.md"]
        assert b"It is tiny." in hub.files("someone/by-milco-hf", "v2")["README.md"]

        run_python(LOAD, tmp_path / "rows.pt", *TEXTS, environment=hub.environment(tmp_path / "loader"))

    expected = milco_hf.load(folder, device="cpu").encode(TEXTS, convert_to_sparse_tensor=False)
    rows = torch.load(tmp_path / "rows.pt", weights_only=False)
    assert len(rows) == 5
    for name, row in rows.items():
        torch.testing.assert_close(torch.as_tensor(row), torch.as_tensor(expected), msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_milco_push_and_encode_by_hub_id(folder, tmp_path):
    (folder / "README.md").write_text("---\nlicense: mit\n---\nold", encoding="utf-8")
    (folder / "card.yaml").write_text(yaml.safe_dump(DETAILS), encoding="utf-8")

    def milco(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "milco_hf.cli", *map(str, arguments)]
        environment = {**os.environ, **hub.environment(tmp_path / "home"), "HF_TOKEN": "hf_test", **environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    with HubStandIn() as hub:
        result = milco("push", folder, "someone/from-the-shell")
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == f"{hub.endpoint}/someone/from-the-shell"
        files = hub.files("someone/from-the-shell")
        assert {"config.json", "model.safetensors"} <= set(files)
        assert b'SparseEncoder("someone/from-the-shell"' in files["README.md"]
        assert b"It is tiny." in files["README.md"]

        from_hub = milco("encode", "--model", "someone/from-the-shell", TEXTS[0])
        assert from_hub.returncode == 0, from_hub.stderr
    # once fetched, the Hub is not needed: it is gone now
    offline = milco("encode", "--model", "someone/from-the-shell", TEXTS[0], HF_HUB_OFFLINE="1")
    assert offline.stdout == from_hub.stdout
    from_folder = milco("encode", "--model", folder, TEXTS[0], HF_HUB_OFFLINE="1")
    assert json.loads(from_folder.stdout) == json.loads(from_hub.stdout)
