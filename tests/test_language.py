"""Language adapters (X-MOD): one name for all texts or one for each, whichever way texts are encoded."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch

import helpers_language as h
import milco_hf
import tiny
from milco_hf import MilcoForSparseEncoding, encode_corpus
from milco_hf.cli.main import main
from milco_hf.encoding.files import Text, read_texts
from milco_hf.evaluation.systems.sparse import to_csr
from milco_hf.index import Index
from milco_hf.modeling.language_adapters import find_adapter

# The adapters of facebook/xmod-base, in their order, as its model card lists them.
_ADAPTERS = """
en_XX id_ID vi_VN ru_RU fa_IR sv_SE ja_XX fr_XX de_DE ro_RO ko_KR hu_HU es_XX fi_FI uk_UA da_DK pt_XX no_XX
th_TH pl_PL bg_BG nl_XX zh_CN he_IL el_GR it_IT sk_SK hr_HR tr_TR ar_AR cs_CZ lt_LT hi_IN zh_TW ca_ES ms_MY
sl_SI lv_LV ta_IN bn_IN et_EE az_AZ sq_AL sr_RS kk_KZ ka_GE tl_XX ur_PK is_IS hy_AM ml_IN mk_MK be_BY la_VA
te_IN eu_ES gl_ES mn_MN kn_IN ne_NP sw_KE si_LK mr_IN af_ZA gu_IN cy_GB eo_EO km_KH ky_KG uz_UZ ps_AF pa_IN
ga_IE ha_NG am_ET lo_LA ku_TR so_SO my_MM or_IN sa_IN
"""
XMOD = _ADAPTERS.split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return h.checkpoint(tmp_path_factory.mktemp("xmod") / "tiny")


@pytest.fixture(scope="module")
def model(folder):
    return milco_hf.load(folder, device="cpu")


@pytest.fixture(scope="module")
def wanted(folder):
    """Texts in their own languages, through the adapters by hand."""
    bare = MilcoForSparseEncoding.from_pretrained(folder)
    rows = h.by_hand(bare)
    assert not np.allclose(rows, h.by_hand(bare, adapters=["en_XX"] * 5), atol=1e-2), "adapters that are alike"
    return rows.numpy()


def assert_close(found, wanted):
    np.testing.assert_allclose(found.toarray(), wanted, rtol=1e-4, atol=1e-5)


def test_every_adapter_is_found_by_its_language_alone():
    for adapter in XMOD:
        assert find_adapter(adapter, XMOD) == adapter
        assert find_adapter(adapter.lower().replace("_", "-"), XMOD) == adapter
        assert find_adapter(adapter[:2], XMOD) == ("zh_CN" if adapter == "zh_TW" else adapter)


@pytest.mark.parametrize(
    ("language", "adapter"),
    [
        ("pt-br", "pt_XX"),
        ("fr-CA", "fr_XX"),
        ("DE", "de_DE"),
        (" de ", "de_DE"),
        ("zh-tw", "zh_TW"),
        ("zh-Hant", "zh_TW"),
        ("zh_Hant_HK", "zh_TW"),
        ("zh-HK", "zh_TW"),
        ("zh-Hans-SG", "zh_CN"),
        ("nb", "no_XX"),
        ("nn-NO", "no_XX"),
        ("fil-PH", "tl_XX"),
        ("iw", "he_IL"),
        ("yo", None),
        ("d", None),
        ("XX", None),
        ("und", None),
        ("", None),
    ],
)
def test_names_of_other_forms(language, adapter):
    assert find_adapter(language, XMOD) == adapter


def test_numbers_of_adapters():
    config = tiny.config("xmod")
    assert config.adapter_ids(["de", None, "en", "und", ""]) == [1, 0, 0, 0, 0]
    assert tiny.config().adapter_ids(["de", "xx"]) is None
    assert tiny.config("xmod", default_language="de").encoder_config.default_language == "de_DE"
    with pytest.raises(TypeError, match='A language is a name such as "de" or "de_DE", got 1'):
        config.adapter_ids(["de", 1])
    config.default_language = "de"
    assert config.adapter_ids([None, "en"]) == [1, 0]
    config.default_language = config.encoder_config.default_language = None
    assert config.adapter_ids(["de"]) == [1]
    with pytest.raises(ValueError, match=r"A text names no language, .* Name one of \['en_XX', 'de_DE'\]"):
        config.adapter_ids(["de", None])


def test_encode_text_takes_one_language_or_one_each(folder, wanted):
    bare = MilcoForSparseEncoding.from_pretrained(folder)
    found = bare.encode_text(h.TEXTS, language=h.LANGUAGES, batch_size=2)
    assert_close(to_csr(found), wanted)
    assert_close(to_csr(bare.encode_document(h.TEXTS, language="de")), h.by_hand(bare, adapters=["de_DE"] * 5))
    assert_close(to_csr(bare.encode_query(h.TEXTS)), h.by_hand(bare, adapters=["en_XX"] * 5))
    with pytest.raises(ValueError, match=r"'fr' is not among the encoder's adapters: \['en_XX', 'de_DE'\]"):
        bare.encode_text(["a", "b"], language=["de", "fr"])


def test_encoders_without_adapters_refuse_one_name_and_pass_over_data(checkpoint):
    plain = MilcoForSparseEncoding.from_pretrained(checkpoint)
    each = plain.encode_text(h.TEXTS, language=["xx", *h.LANGUAGES[1:]])
    assert torch.equal(each.to_dense(), plain.encode_text(h.TEXTS).to_dense())
    corpus = encode_corpus(plain, h.TEXTS, language=iter(h.LANGUAGES), progress=False)
    assert_close(corpus, each.to_dense().numpy())
    for call in (plain.encode_text, lambda texts, language: encode_corpus(plain, texts, language=language)):
        with pytest.raises(ValueError, match="'de': the xlm-roberta encoder has no language adapters; leave"):
            call(["a"], language="de")


def test_sparse_encoder_takes_one_language(folder, model, checkpoint, wanted):
    bare = MilcoForSparseEncoding.from_pretrained(folder)
    german = h.by_hand(bare, adapters=["de_DE"] * 5)
    for encode in (model.encode, model.encode_query, model.encode_document):
        assert_close(to_csr(encode(h.TEXTS, language="de", batch_size=2)), german)
    with pytest.raises(ValueError, match="one name for all texts here, got .*milco_hf.encode_corpus"):
        model.encode(h.TEXTS, language=h.LANGUAGES)
    kwargs = [json.loads((place / "modules.json").read_text())[0]["kwargs"] for place in (folder, checkpoint)]
    assert kwargs == [["task", "max_active_dims", "language"], ["task", "max_active_dims"]]


@pytest.mark.parametrize("batch_tokens", [1, 30, 10_000])
def test_encode_corpus_takes_one_each(model, wanted, batch_tokens):
    options = {"batch_tokens": batch_tokens, "shard_size": 2, "progress": False}
    assert_close(encode_corpus(model, iter(h.TEXTS), language=iter(h.LANGUAGES), **options), wanted)


def test_a_folder_says_which_languages_and_goes_on_only_with_the_same(model, wanted, tmp_path):
    options = {"output": tmp_path / "v", "shard_size": 2, "progress": False}
    made = encode_corpus(model, h.TEXTS, language=h.LANGUAGES, **options)
    assert made.manifest["settings"]["language"] == "each"
    assert_close(made.load()[0], wanted)
    # other names of the same adapters are the same run
    assert encode_corpus(model, h.TEXTS, language=h.ADAPTERS, **options).manifest == made.manifest
    with pytest.raises(ValueError, match="other texts, ids or languages"):
        encode_corpus(model, h.TEXTS, language=["de"] * 5, **options)
    with pytest.raises(ValueError, match="language 'each' there and 'de_DE' now"):
        encode_corpus(model, h.TEXTS, language="de", **options)
    with pytest.raises(ValueError, match="language 'each' there and None now"):
        encode_corpus(model, h.TEXTS, **options)


@pytest.mark.parametrize(
    ("language", "message"),
    [
        (["en", "de", "fr", "en", "en"], r"Text number 2: language='fr' is not among .*\['en_XX', 'de_DE'\]"),
        (["en", "de"], "There are 2 languages, but more texts"),
        (["en"] * 6, "There are 5 texts, but more languages"),
        ("fr", "language='fr' is not among"),
    ],
)
def test_languages_that_do_not_fit(model, language, message):
    with pytest.raises(ValueError, match=message):
        encode_corpus(model, h.TEXTS, language=language, shard_size=2, progress=False)


def test_adapters_run_under_autocast(folder, wanted):
    """As training does with bf16: what adapters give goes into states of another dtype."""
    bare = MilcoForSparseEncoding.from_pretrained(folder)
    encoded = tiny.tokenizer()(h.TEXTS, padding=True, return_tensors="pt")
    lang_ids = torch.tensor(bare.config.adapter_ids(h.LANGUAGES))
    for model in (bare, copy.deepcopy(bare), pickle.loads(pickle.dumps(bare))):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model.train()(**encoded, lang_ids=lang_ids).embeddings
        found.sum().backward()
        assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
        adapters = [p.grad for name, p in model.named_parameters() if ".de_DE.dense1.weight" in name]
        assert all(grad.abs().sum() > 0 for grad in adapters)
    options = {"language": h.LANGUAGES, "dtype": "bfloat16", "progress": False}
    halves = encode_corpus(bare.eval(), h.TEXTS, **options).toarray()
    np.testing.assert_allclose(halves, wanted, rtol=0.1, atol=0.1)


@pytest.mark.slow
def test_two_processes_route_alike(model, wanted):
    options = {"batch_tokens": 20, "shard_size": 3, "devices": ["cpu", "cpu"], "progress": False}
    assert_close(encode_corpus(model, h.TEXTS, language=h.LANGUAGES, **options), wanted)


def corpus_file(path):
    rows = [{"id": i, "text": text, "language": name} for i, (text, name) in enumerate(zip(h.TEXTS, h.LANGUAGES))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_files_say_languages(tmp_path):
    path = corpus_file(tmp_path / "corpus.jsonl")
    assert [text.language for text in read_texts(path)] == h.LANGUAGES
    (tmp_path / "t.tsv").write_text("id\ttext\tlang\n1\tBuch\tde\n2\tbook\t\n", encoding="utf-8")
    assert list(read_texts(tmp_path / "t.tsv")) == [Text("Buch", "1", "de"), Text("book", "2", None)]
    (tmp_path / "bad.jsonl").write_text('{"text": "a", "language": ["de"]}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 1: `language` has to be a string, got \['de'\]"):
        list(read_texts(tmp_path / "bad.jsonl"))


def test_the_command_routes_by_the_file_or_as_told(folder, wanted, checkpoint, tmp_path, capsys):
    command = ["encode", "--model", str(folder), "--device", "cpu", "--file", str(corpus_file(tmp_path / "c.jsonl"))]
    assert main([*command, "--output", str(tmp_path / "v")]) == 0
    assert_close(milco_hf.load_vectors(tmp_path / "v")[0], wanted)
    assert main([*command, "--ids"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for row, vector in zip(rows, wanted, strict=True):
        np.testing.assert_allclose(row["values"], vector[row["indices"]], rtol=1e-3, atol=1e-5)
        assert len(row["indices"]) == (vector > 0).sum()
    assert main([*command, "--language", "de", "--output", str(tmp_path / "w")]) == 0
    assert milco_hf.load_vectors(tmp_path / "w")[2]["settings"]["language"] == "de_DE"
    command[2] = str(checkpoint)
    for output in ([], ["--output", str(tmp_path / "x")]):
        assert main([*command, *output, "--language", "de"]) == 2
        assert "has no language adapters" in capsys.readouterr().err


def test_an_index_reads_documents_in_their_languages(model, wanted, tmp_path):
    documents = [{"text": text, "language": name} for text, name in zip(h.TEXTS, h.LANGUAGES)]
    index = Index.build(model, documents, tmp_path / "i", progress=False)
    query = encode_corpus(model, ["Buch"], kind="query", language="de", progress=False)
    (hits,) = index.search_vectors(query, 5)
    scores = wanted @ query.toarray()[0]
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores[scores > 0])[::-1], rtol=1e-4)
