"""The one vocabulary: the encoder's pieces, exactly, at ids V_e higher, and a name for every dimension."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.tokenization_python import PreTrainedTokenizer

from helpers_tokenizers import PIVOT_TERMS, SENTENCES, TOKENIZERS, unigram_tokenizer, wordpiece_tokenizer
from milco_hf.vocabulary import one_vocabulary, pivot_names
from milco_hf.vocabulary_check import check_vocabulary, probe_texts

OFFSET = len(PIVOT_TERMS)
ODD_TEXTS = {
    "empty": "",
    "blank": " \t\n\u00a0\u3000 ",
    "emoji": "🎵👩‍👩‍👧‍👦 music 🇧🇩",
    "name": "en: music",
    "name without space": "en:music",
    "name with metaspace": "en:\u2581music \u2581en:\u2581music",
    "name with blanks": "en:\tmusic en:\u00a0music en:\u3000music en:_music   en:  music",
    "fillers": "<unused 1> en: <unused 13> <unused 450>",
    "special": "<s> [CLS] <mask> [MASK] <extra>    music",
}
TEXTS = {**{script: pair[0] for script, pair in SENTENCES.items()}, **ODD_TEXTS}


@pytest.fixture(scope="module", params=TOKENIZERS)
def pair(request):
    source = TOKENIZERS[request.param]()
    return source, one_vocabulary(source, PIVOT_TERMS)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_same_pieces_as_the_encoders_tokenizer(pair, text):
    source, tokenizer = pair
    theirs, ours = source(text)["input_ids"], tokenizer(text)["input_ids"]
    assert ours == [i + OFFSET for i in theirs]
    assert tokenizer.convert_ids_to_tokens(ours) == source.convert_ids_to_tokens(theirs)
    assert tokenizer.tokenize(text) == source.tokenize(text)


def test_training_sentences_are_not_all_unknown(pair):
    """The golden test above would mean little on texts of unknown tokens alone."""
    source, _ = pair
    for script, sentences in SENTENCES.items():
        ids = source(sentences[0], add_special_tokens=False)["input_ids"]
        known = sum(i != source.unk_token_id for i in ids)
        assert known > len(ids) / 2, script


def test_truncation_and_padding_are_the_encoders(pair):
    source, tokenizer = pair
    long = " ".join(sentence for sentences in SENTENCES.values() for sentence in sentences)
    for settings in ({"truncation": True}, {"truncation": True, "max_length": 7, "padding": "max_length"}):
        theirs = source([long, "music"], **{"padding": True, **settings})
        ours = tokenizer([long, "music"], **{"padding": True, **settings})
        assert ours["input_ids"] == [[i + OFFSET for i in ids] for ids in theirs["input_ids"]]
        assert ours["attention_mask"] == theirs["attention_mask"]
        assert ours.keys() == theirs.keys()
    assert len(ours["input_ids"][0]) == 7
    assert len(tokenizer(long, truncation=True)["input_ids"]) == source.model_max_length


def test_every_dimension_has_its_name(pair):
    source, tokenizer = pair
    assert tokenizer.convert_ids_to_tokens(range(OFFSET)) == [f"en: {term}" for term in PIVOT_TERMS]
    size = len(source)
    assert tokenizer.convert_ids_to_tokens(range(OFFSET, OFFSET + size)) == source.convert_ids_to_tokens(range(size))
    assert len(tokenizer) == OFFSET + size
    for name in ("pad", "unk", "cls", "sep", "mask"):
        assert getattr(tokenizer, f"{name}_token_id") == getattr(source, f"{name}_token_id") + OFFSET
    assert tokenizer.special_tokens_map == source.special_tokens_map


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_rows_without_tokens_are_named_and_unreachable(kind):
    source = TOKENIZERS[kind]()
    rows = len(source) + 9
    tokenizer = one_vocabulary(source, PIVOT_TERMS, source_vocab_size=rows, pivot_vocab_size=OFFSET + 3)
    assert tokenizer.convert_ids_to_tokens([OFFSET, OFFSET + 2]) == ["en: <unused 13>", "en: <unused 15>"]
    names = tokenizer.convert_ids_to_tokens(range(OFFSET + 3 + rows))
    assert None not in names
    assert len(set(names)) == len(names) == len(tokenizer)
    assert names[-1].startswith(f"<unused {rows - 1}>")
    text = f"<unused {rows - 1}> music <unused {rows - 1}>"
    assert tokenizer.tokenize(text) == source.tokenize(text)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_saved_and_loaded_in_a_fresh_process_without_remote_code(kind, tmp_path):
    source = TOKENIZERS[kind](padding_side="left", truncation_side="left", extra_special_tokens=["<mask>"])
    tokenizer = one_vocabulary(source, PIVOT_TERMS, source_vocab_size=len(source) + 4)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "milco-hf"}')
    texts = list(TEXTS.values())
    code = (
        "import json, sys; from transformers import AutoTokenizer\n"
        "t = AutoTokenizer.from_pretrained(sys.argv[1]); texts = json.load(sys.stdin)\n"
        "state = [t.model_max_length, t.padding_side, t.truncation_side, t.special_tokens_map, t.model_input_names]\n"
        "state += [t.extra_special_tokens, t.get_vocab(), t(texts, truncation=True, padding=True).data]\n"
        "state += [t.all_special_ids, type(t).__name__, len(t)]\n"
        "print('STATE' + json.dumps(state))\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], input=json.dumps(texts), capture_output=True, text=True, check=True
    )
    state = json.loads(child.stdout.partition("STATE")[2])
    expected = [tokenizer.model_max_length, "left", "left", tokenizer.special_tokens_map, tokenizer.model_input_names]
    expected += [["<mask>"], tokenizer.get_vocab(), tokenizer(texts, truncation=True, padding=True).data]
    expected += [tokenizer.all_special_ids, type(tokenizer).__name__, len(tokenizer)]
    assert state == expected


def test_saving_twice_changes_nothing(tmp_path):
    tokenizer = one_vocabulary(unigram_tokenizer(), PIVOT_TERMS)
    tokenizer.save_pretrained(tmp_path / "one")
    AutoTokenizer.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    assert (tmp_path / "one/tokenizer.json").read_text() == (tmp_path / "two/tokenizer.json").read_text()


def test_new_unigram_entries_keep_the_unknown_penalty():
    """Unigram derives what an unknown character costs from the lowest score, so that must stay."""
    source = unigram_tokenizer()
    before = json.loads(source.backend_tokenizer.to_str())["model"]
    after = json.loads(one_vocabulary(source, PIVOT_TERMS).backend_tokenizer.to_str())["model"]
    assert min(score for _, score in after["vocab"]) == min(score for _, score in before["vocab"])
    assert after["unk_id"] == before["unk_id"] + OFFSET
    assert after["vocab"][OFFSET:] == before["vocab"]


def test_word_level_model_that_sees_whole_texts_is_refused():
    """A WordLevel model that sees whole texts would look `en: music` up."""
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "music": 1}, unk_token="<unk>"))
    source = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    with pytest.raises(ValueError, match="en: music"):
        one_vocabulary(source, PIVOT_TERMS)


def test_bpe_that_ignores_merges():
    vocab = {"<unk>": 0, "Ġmusic": 1, "en": 2, "Ġ": 3, **{c: 4 + i for i, c in enumerate("musicn:e")}}
    vocab = {piece: i for i, piece in enumerate(vocab)}
    backend = Tokenizer(models.BPE(vocab, [("e", "n")], unk_token="<unk>", ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    source = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    tokenizer = one_vocabulary(source, PIVOT_TERMS)
    assert tokenizer.tokenize("en: music") == ["en", ":", "Ġmusic"]
    backend.pre_tokenizer = None  # now whole texts are looked up, spaces and all
    with pytest.raises(ValueError, match="keeps spaces"):
        one_vocabulary(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"), PIVOT_TERMS)


@pytest.mark.parametrize(
    "processor",
    [
        processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]),
        processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2)),
        processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)),
        processors.Sequence(
            [processors.ByteLevel(), processors.Sequence([processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))])]
        ),
    ],
    ids=["template", "roberta", "bert", "nested"],
)
def test_post_processors_move(processor):
    source = wordpiece_tokenizer()
    source.backend_tokenizer.post_processor = processor
    ids = one_vocabulary(source, PIVOT_TERMS)("music")["input_ids"]
    assert (ids[0], ids[-1]) == (2 + OFFSET, 3 + OFFSET)


def test_padding_of_the_file_moves():
    source = wordpiece_tokenizer()
    source.backend_tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    source.backend_tokenizer.enable_truncation(9)
    tokenizer = one_vocabulary(source, PIVOT_TERMS)
    assert tokenizer.backend_tokenizer.padding["pad_id"] == OFFSET
    assert tokenizer.backend_tokenizer.truncation == source.backend_tokenizer.truncation
    assert tokenizer.backend_tokenizer.truncation["max_length"] == 9


def test_input_names_follow_the_encoder():
    tokenizer = one_vocabulary(wordpiece_tokenizer(), PIVOT_TERMS, model_input_names=["input_ids", "attention_mask"])
    assert set(tokenizer("music")) == {"input_ids", "attention_mask"}


def test_pivot_names_from_a_tokenizer_and_with_copies():
    pivot = wordpiece_tokenizer()
    assert pivot_names(pivot)[:5] == ["en: [PAD]", "en: [UNK]", "en: [CLS]", "en: [SEP]", "en: [MASK]"]
    assert pivot_names(["a", "b", "a", "a"], 5) == ["en: a", "en: b", "en: a (2)", "en: a (3)", "en: <unused 4>"]


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="13 terms, but its decoder has 12 rows"):
        one_vocabulary(unigram_tokenizer(), PIVOT_TERMS, pivot_vocab_size=12)
    with pytest.raises(ValueError, match="embedding has 10 rows"):
        one_vocabulary(unigram_tokenizer(), PIVOT_TERMS, source_vocab_size=10)
    with pytest.raises(ValueError, match="empty"):
        one_vocabulary(unigram_tokenizer(), [])
    with pytest.raises(ValueError, match="already has a token 'en: "):
        one_vocabulary(one_vocabulary(unigram_tokenizer(), PIVOT_TERMS), PIVOT_TERMS)


def test_slow_tokenizers_are_refused():
    class Slow(PreTrainedTokenizer):
        vocab_size = 0

        def get_vocab(self):
            return {}

    with pytest.raises(TypeError, match="Slow is not a fast tokenizer"):
        one_vocabulary(Slow(), PIVOT_TERMS)


def test_check_refuses_other_pieces_and_missing_names():
    source = unigram_tokenizer()
    tokenizer = one_vocabulary(source, PIVOT_TERMS)
    names = pivot_names(PIVOT_TERMS)
    check_vocabulary(source, tokenizer, names, len(source))
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ValueError, match="cuts 'Who wrote"):
        check_vocabulary(source, tokenizer, names, len(source))
    with pytest.raises(ValueError, match="1 have no name"):
        check_vocabulary(source, tokenizer, names, len(source) + 1)
    with pytest.raises(ValueError, match="belongs at"):
        check_vocabulary(source, tokenizer, names[::-1], len(source))


def test_probes_spell_names_out():
    texts = probe_texts(pivot_names(PIVOT_TERMS))
    assert {"en: music", "en:music", "en:_music", "en:\u2581music", "en:\u3000city", ""} <= set(texts)


def test_source_tokenizer_is_left_as_it_is():
    source = unigram_tokenizer()
    before = source.backend_tokenizer.to_str()
    one_vocabulary(source, PIVOT_TERMS, source_vocab_size=len(source) + 3)
    assert source.backend_tokenizer.to_str() == before
