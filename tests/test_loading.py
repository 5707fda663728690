"""The three ways of loading, each in a fresh process, offline, with the same numbers; and `milco_hf.load`'s advice."""

import pytest
import torch
from sentence_transformers import SparseEncoder

import fresh
import milco_hf
import tiny
from milco_hf import MilcoForSparseEncoding

AUTO_MODEL = """
    import sys, torch
    from transformers import AutoModel, AutoTokenizer
    folder = sys.argv[1]
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules"), type(model)
    assert "milco_hf" not in sys.modules
    with torch.no_grad():
        vectors = model(**tokenizer(sys.argv[2:], padding=True, return_tensors="pt")).embeddings
    model.save_pretrained(folder + "-saved-again")
    result = [vectors.tolist(), model.encode_text(sys.argv[2:]).to_dense().tolist()]
"""
REGISTERED = """
    import sys, torch, milco_hf
    from transformers import AutoModel, AutoTokenizer
    tokenizer, model = AutoTokenizer.from_pretrained(sys.argv[1]), AutoModel.from_pretrained(sys.argv[1])
    assert type(model) is milco_hf.MilcoForSparseEncoding
    with torch.no_grad():
        result = [model(**tokenizer(sys.argv[2:], padding=True, return_tensors="pt")).embeddings.tolist()]
"""
SPARSE_ENCODER = """
    import sys
    {first}
    from sentence_transformers import SparseEncoder
    result = [SparseEncoder("tiny-milco", {argument}).encode(sys.argv[1:]).to_dense().tolist()]
"""


@pytest.fixture(scope="module", params=["xlm-roberta", pytest.param("roformer", marks=pytest.mark.slow)])
def folder(request, tmp_path_factory):
    return tiny.checkpoint(tmp_path_factory.mktemp(request.param) / "tiny-milco", request.param)


@pytest.fixture(scope="module")
def expected(folder):
    with torch.no_grad():
        return MilcoForSparseEncoding.from_pretrained(folder)(**tiny.batch(tiny.TEXTS[:4])).embeddings


def agree(results, expected):
    assert (expected > 0).any()
    for vectors in results:
        torch.testing.assert_close(torch.tensor(vectors), expected, rtol=1e-4, atol=1e-5)


def test_auto_model_with_remote_code_and_no_milco_hf(folder, expected, tmp_path):
    agree(fresh.run(AUTO_MODEL, folder, *tiny.TEXTS[:4], cwd=tmp_path, milco_hf=False), expected)
    again = folder.with_name(folder.name + "-saved-again")
    assert {path.name for path in folder.glob("*.py")} == {path.name for path in again.glob("*.py")}
    assert (again / "modules.json").exists()


def test_auto_model_after_importing_milco_hf(folder, expected, tmp_path):
    agree(fresh.run(REGISTERED, folder, *tiny.TEXTS[:4], cwd=tmp_path, milco_hf=True), expected)


@pytest.mark.parametrize("milco_hf", [True, False])
def test_the_users_own_line(folder, expected, tmp_path, milco_hf):
    """`SparseEncoder("tiny-milco").encode(…)`, from the folder above the checkpoint."""
    code = SPARSE_ENCODER.format(
        first="import milco_hf" if milco_hf else "", argument="" if milco_hf else "trust_remote_code=True"
    )
    modules = {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    agree(fresh.run(code, *tiny.TEXTS[:4], cwd=folder.parent, milco_hf=milco_hf, environment=modules), expected)


def test_load_takes_a_folder(folder, expected):
    for name in (folder, str(folder)):
        model = milco_hf.load(name)
        assert type(model) is SparseEncoder
        agree([model.encode(tiny.TEXTS[:4]).to_dense().tolist()], expected)


def test_load_says_what_to_do_when_nothing_fits(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no MILCO checkpoint 'milco-maxi': .*bundled checkpoint \(.*Hub id"):
        milco_hf.load("milco-maxi")
    with pytest.raises(FileNotFoundError, match="'nobody/nothing': it was not downloaded .*HF_HUB_OFFLINE"):
        milco_hf.load("nobody/nothing")
    with pytest.raises(FileNotFoundError, match="holds no config.json"):
        milco_hf.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "milco"}')
    with pytest.raises(ValueError, match="milco convert"):
        milco_hf.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="type 'bert', not a MILCO checkpoint.*milco build"):
        milco_hf.load(tmp_path)
