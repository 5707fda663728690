"""Other alphabets in Latin letters: the compiled normalizer against its rules applied one by one, and its tokenizer."""

import re
import unicodedata

import pytest
from transformers import PreTrainedTokenizerFast

import fresh
from milco_hf.training.lexicon import romanization
from milco_hf.training.lexicon.romanization import letter_map, romanizer
from milco_hf.training.lexicon.tokenizers import train_romanized_tokenizer
from milco_hf.vocabulary import one_vocabulary

TEXTS = [
    "How many points did the Panthers defense surrender?",
    "Πόσους πόντους παρέδωσε η άμυνα των Πάνθερς;",
    "Сколько очков пропустила защита «Пантерс»?",
    "पैंथर्स डिफेंस ने कितने पॉइंट दिए?",
    "প্যান্থার্স প্রতিরক্ষা কত পয়েন্ট ছেড়ে দিয়েছে?",
    "టెస్లా ఎప్పుడు జన్మించాడు?",
    "パンサーズは何点取られましたか？",
    "팬서스 수비진은 몇 점을 내줬나요?",
    "Où naquit Françoise Łukasiewicz, près de Plzeň?",
    "كم عدد النقاط التي تنازل عنها دفاع بانثرز؟",
    "وَالكِتابُ للمدرسةِ كالأمس على الطاولة",
    "اني کتاب‌های فارسی را می‌خوانم",
    "אני יודע שהיית מודאג, והבית של הילדים בַּיִת",
    "ทีมแพนเทอร์เสียกี่แต้ม",
    "黑豹队的防守丢了多少分?",
    "Hàng phòng ngự của đội Panthers để thua bao nhiêu điểm?",
]


@pytest.fixture(scope="module")
def normalizer():
    return romanizer()


@pytest.fixture(scope="module")
def tokenizer():
    return train_romanized_tokenizer(TEXTS * 5, 300)


def by_hand(text: str) -> str:
    """The rules in their order, letter by letter and pair by pair."""
    letters = letter_map()
    text = re.sub("(?<=[\u0600-\u06ff])\u200c", " ", unicodedata.normalize("NFKC", text).lower())
    text = "".join(letters.get(letter, letter) for letter in text if letter not in "\u200b\u200c\u200d")
    for pair, instead in [("sch", "s"), ("ph", "f"), ("th", "t"), ("kh", "h"), ("ck", "k"), ("sh", "s"), ("ch", "k")]:
        text = text.replace(pair, instead)
    for letter, instead in zip("cqwyzxj", ["k", "k", "v", "i", "s", "ks", "i"], strict=True):
        text = text.replace(letter, instead)
    text = re.sub(r"([a-z])\1+", r"\1", text)
    text = re.sub(r"(?<![\u0600-\u06ff])[وف]?[بك]?(?:ال|لل)(?=[\u0600-\u06ff]{2})", "", text)
    text = re.sub(r"(?<![\u0590-\u05ff])ו?[משלבכ]?ה?(?=[\u0590-\u05ff]{3})", "", text)
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("text", TEXTS)
def test_the_compiled_form_is_the_rules_one_by_one(normalizer, text):
    assert normalizer.normalize_str(text) == by_hand(text)


@pytest.mark.parametrize(
    ("texts", "written"),
    [
        (["Panthers", "Πάνθερς", "ПАНТЕРС"], "panters"),
        (["Tesla", "Τέσλα", "Тесла", "टेसला", "ტესლა"], "tesla"),
        (["Philosophie", "filozofie", "φιλοσοφιε"], "filosofie"),
        (["Warschau", "варсау"], "varsau"),
        (["İstanbul", "istanbul", "ISTANBUL"], "istanbul"),
        (["Bratislava \t\n Žižka", "bratislava  sisca"], "bratislava siska"),
    ],
)
def test_a_name_is_spelt_alike(normalizer, texts, written):
    for text in texts:
        assert normalizer.normalize_str(text) == written


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("والكتاب للمدرسة، بالعلم كالأمس فالبيت", "كتاب مدرسه، علم امس بيت"),
        ("الى والد الف", "الي والد الف"),  # too short behind it, or no article
        ("كِتابٌ كـــتاب", "كتاب كتاب"),
        ("והבית שהיית מהעיר בית של", "בית יית עיר בית של"),
    ],
)
def test_arabic_and_hebrew_lose_what_is_written_together_with_a_word(normalizer, text, left):
    assert normalizer.normalize_str(text) == left


@pytest.mark.parametrize("text", ["دفاع بانثرز", "ทีมแพนเทอร์", "黑豹队的防守", "パンサーズは", "팬서스", "đội để ưu"])
def test_what_latin_letters_would_run_together_stays(normalizer, text):
    assert normalizer.normalize_str(text) == text


def test_no_piece_has_more_than_five_letters_and_words_are_cut_from_their_beginning(tokenizer):
    for piece in tokenizer.get_vocab():
        if piece not in tokenizer.all_special_tokens:
            assert not re.search(r"[a-z0-9]{6}", piece), piece
    pieces = [tokenizer.tokenize(word) for word in ("Panthers", "Πάνθερς", "ПАНТЕРС")]
    assert pieces[0] == pieces[1] == pieces[2]
    assert "".join(pieces[0]).replace("▁", "") == "panters"
    cut = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("surrenders 1998 مدرستنا ממשלה 사람들은 多少分")
    assert [word for word, _ in cut] == [
        "▁surre", "nders", "▁1998", "▁مدرس", "تنا", "▁ממשל", "ה", "▁사람", "들은", "▁多少分",
    ]  # fmt: skip


def test_fewer_letters_make_shorter_pieces():
    tokenizer = train_romanized_tokenizer(TEXTS * 5, 250, letters=3)
    assert max(len(re.sub(r"[^a-z]", "", piece)) for piece in set(tokenizer.get_vocab()) - {"<pad>", "<unk>"}) == 3


def test_pieces_point_to_the_letters_that_stand_in_the_text(tokenizer):
    text = "Сколько очков: Πάνθερς"
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    name = [offsets for offsets in encoded["offset_mapping"] if offsets[0] >= text.index("Π") - 1]
    assert text[name[0][0] : name[-1][1]].strip() == "Πάνθερς"


def test_a_rare_character_is_unknown_and_a_frequent_one_is_not():
    tokenizer = train_romanized_tokenizer([*TEXTS * 5, "罕罕"], 300)
    assert tokenizer.tokenize("黑") == ["▁", "黑"] or tokenizer.tokenize("黑") == ["▁黑"]
    assert tokenizer.unk_token in tokenizer.tokenize("罕")


def test_one_vocabulary_cuts_as_it_does(tokenizer):
    both = one_vocabulary(tokenizer, ["music", "book"])
    for text in TEXTS:
        assert [i - 2 for i in both(text)["input_ids"]] == tokenizer(text)["input_ids"]


def test_it_needs_nothing_once_made(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    ids, loaded = fresh.run(
        """
        import sys
        from transformers import AutoTokenizer
        tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
        result = [tokenizer(sys.argv[2:])["input_ids"], "anyascii" in sys.modules]
        """,
        tmp_path / "tokenizer",
        *TEXTS,
        cwd=tmp_path,
        milco_hf=False,
    )
    assert ids == tokenizer(TEXTS)["input_ids"]
    assert not loaded
    assert isinstance(tokenizer, PreTrainedTokenizerFast)


def test_sizes_that_cannot_be_say_so():
    with pytest.raises(ValueError, match="letters must be at least 1, got 0"):
        train_romanized_tokenizer(TEXTS * 5, 300, letters=0)
    with pytest.raises(ValueError, match="more than 50 pieces: raise the size or min_count"):
        train_romanized_tokenizer(TEXTS * 5, 50)
    with pytest.raises(ValueError, match="lower the source vocabulary's size"):
        train_romanized_tokenizer(TEXTS * 5, 5000)


@pytest.mark.parametrize("package", ["anyascii", "sentencepiece"])
def test_a_missing_package_says_what_to_install(package, monkeypatch):
    def without(name):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return original(name)

    original = romanization.import_module
    monkeypatch.setattr(romanization, "import_module", without)
    with pytest.raises(ImportError, match=rf"needs {package}: pip install 'milco-hf\[romanize\]'"):
        romanizer()
