"""Collections: every layout on disk, names on the Hub through stand-ins, what is refused, passages, answers."""

import json
import re
import zipfile

import pytest

from helpers_evaluation import QRELS, texts, write_beir, write_lines
from milco_hf.evaluation import Collection, evaluate, load_name, load_path, read_beir, read_questions
from milco_hf.evaluation.answers import contains, judge, tokens
from milco_hf.evaluation.beir import read_qrels
from milco_hf.evaluation.cache import passages
from milco_hf.evaluation.collections import Document
from milco_hf.evaluation.registry import NAMES
from milco_hf.scripts import split_passages, words


def same(collection: Collection, language: str = "en") -> bool:
    documents, queries = texts(language)
    there = {document.id: document.full_text for document in collection.documents()}
    return (there, collection.queries, collection.qrels) == (documents, queries, QRELS)


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
@pytest.mark.parametrize(("key", "qrels"), [("_id", "qrels/test.tsv"), ("id", "qrels.tsv")])
def test_beir_layout(tmp_path, suffix, key, qrels):
    collection = read_beir(write_beir(tmp_path / "tiny", suffix=suffix, key=key, qrels=qrels))
    assert same(collection)
    assert same(collection), "documents can be read more than once"
    assert str(collection) == "tiny [und]"


@pytest.mark.parametrize(
    "lines",
    [
        ["query-id\tcorpus-id\tscore", "q1\td1\t2", "q1\td2\t0"],
        ["q1\td1\t2", "q1\td2\t0"],
        ["q1 0 d1 2", "q1 0 d2 0", ""],
        ["qid\titer\tdocid\trel", "q1\t0\td1\t2", "q1\t0\td2\t0"],
    ],
)
def test_qrels_with_and_without_header_and_as_trec(tmp_path, lines):
    (tmp_path / "q.tsv").write_text("\n".join(lines), encoding="utf-8")
    assert read_qrels(tmp_path / "q.tsv") == {"q1": {"d1": 2, "d2": 0}}


def test_titles_stand_before_texts(tmp_path):
    folder = write_beir(tmp_path / "tiny")
    write_lines(folder / "corpus.jsonl", [{"id": f"d{i}", "title": "T", "text": "x"} for i in range(6)])
    assert {document.full_text for document in read_beir(folder).documents()} == {"T x"}
    write_lines(folder / "corpus.jsonl", [{"id": f"d{i}", "title": None, "text": "x"} for i in range(6)])
    assert {document.full_text for document in read_beir(folder).documents()} == {"x"}


def test_a_folder_for_each_language(tmp_path):
    for code in ("zh", "en"):
        write_beir(tmp_path / "par" / code, code, suffix=".xz", key="id")
    english, chinese = load_path(tmp_path / "par")
    assert (english.name, english.language, chinese.language) == ("par", "en", "zh")
    assert same(english, "en")
    assert same(chinese, "zh")
    assert english.corpus_key != chinese.corpus_key
    assert [c.language for c in load_path(tmp_path / "par", ["zh"])] == ["zh"]
    with pytest.raises(ValueError, match="no language xx; it has en, zh"):
        load_path(tmp_path / "par", ["en", "xx"])


def test_questions_with_their_passages(tmp_path):
    rows = [
        {"query": "a?", "pos": ["one", "two"], "title": None},
        {"query": "b?", "pos": ["two"]},
        {"query": "a?", "pos": ["three"]},
    ]
    path = write_lines(tmp_path / "dev" / "sw.jsonl.xz", rows)
    collection = read_questions(path)
    assert (collection.name, collection.language) == ("dev", "sw")
    assert {d.id: d.text for d in collection.documents()} == {"p0": "one", "p1": "two", "p2": "three"}
    assert collection.queries == {"q0": "a?", "q1": "b?", "q2": "a?"}
    assert collection.qrels == {"q0": {"p0": 1, "p1": 1}, "q1": {"p1": 1}, "q2": {"p2": 1}}
    write_lines(tmp_path / "dev" / "am.jsonl", rows)
    assert [c.language for c in load_path(tmp_path / "dev")] == ["am", "sw"]
    assert [c.language for c in load_path(path, ["swa"])] == ["swa"]
    for broken in ({"query": "c?"}, {"query": "c?", "pos": []}, {"pos": ["x"]}):
        write_lines(path, [*rows, broken])
        with pytest.raises(ValueError, match="row 4: needs `query`"):
            read_questions(path)


def test_missing_files_are_named(tmp_path):
    folder = write_beir(tmp_path / "tiny", qrels="qrels/test.tsv")
    with pytest.raises(FileNotFoundError, match=r"no dev.tsv; its splits are test"):
        read_beir(folder, split="dev")
    (folder / "qrels" / "test.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither qrels/test.tsv nor qrels.tsv"):
        read_beir(folder)
    (folder / "queries.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"no queries.jsonl"):
        load_path(folder)
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no corpus.jsonl"):
        load_path(folder)
    with pytest.raises(FileNotFoundError, match="neither a file nor a folder"):
        load_path(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        evaluate("bm25", tmp_path / "nowhere", cache=None)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("qrels.tsv", "q9\td1\t1", "judgements name 1 queries that are not among its 6: q9"),
        ("qrels.tsv", "q1\td1\tyes", "relevance has to be a whole number, got 'yes'"),
        ("qrels.tsv", "q1\td1", "got 2 columns"),
        ("queries.jsonl", '{"_id": "q7", "text": "nobody knows"}', "1 of 7 queries have no relevant document: q7"),
        ("queries.jsonl", '{"_id": "q1", "text": "again"}', "query 'q1' is there twice"),
        ("queries.jsonl", '{"_id": "q 7", "text": "x"}', "query id 'q 7' is empty or holds whitespace"),
        ("queries.jsonl", '{"text": "x"}', "neither `_id` nor `id`"),
        ("queries.jsonl", '{"_id": "q7"}', "row 'q7' has no `text`"),
        ("queries.jsonl", "nonsense", "line 7: not JSON"),
        ("queries.jsonl", "[1]", "line 7: has to be a JSON object, got list"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, file, line, message):
    folder = write_beir(tmp_path / "tiny")
    with (folder / file).open("a", encoding="utf-8") as end:
        end.write(line + "\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        read_beir(folder)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("qrels.tsv", "q1\td9\t1", "queries und, documents und: tiny [und]: the judgements name 1 documents"),
        ("corpus.jsonl", '{"_id": "d1", "text": "again"}', "document 'd1' is there twice"),
        ("corpus.jsonl", '{"_id": "d 9", "text": "x"}', "document id 'd 9'"),
    ],
)
def test_what_only_the_documents_show_is_refused(tmp_path, file, line, message):
    folder = write_beir(tmp_path / "tiny")
    with (folder / file).open("a", encoding="utf-8") as end:
        end.write(line + "\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate("bm25", folder, cache=None)


def test_lenient_drops_and_says_so(tmp_path):
    folder = write_beir(tmp_path / "tiny")
    with (folder / "qrels.tsv").open("a", encoding="utf-8") as end:
        end.write("q9\td1\t1\nq1\td9\t1\nq7\td1\t0\n")
    with (folder / "queries.jsonl").open("a", encoding="utf-8") as end:
        end.write('{"_id": "q7", "text": "x"}\n{"_id": "q8", "text": "y"}\n')
    (result,) = evaluate("bm25", folder, lenient=True, cache=None).results
    assert result.query_count == 6
    assert result.dropped == {"queries_without_relevant_documents": 2, "unknown_queries": 1}
    assert result.scores["R@100"] == pytest.approx(5.5 / 6), "d9 counts as never found"


def test_queries_of_other_splits_are_left_out(tmp_path):
    folder = write_beir(tmp_path / "tiny", qrels="qrels/test.tsv")
    with (folder / "queries.jsonl").open("a", encoding="utf-8") as end:
        end.write('{"_id": "train7", "text": "x"}\n')
    assert same(read_beir(folder))
    (folder / "qrels" / "test.tsv").write_text("q1\td1\t0\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no relevant document: q1"):
        read_beir(folder)


def test_the_key_follows_the_documents(tmp_path):
    folder = write_beir(tmp_path / "a")
    assert read_beir(folder).corpus_key == read_beir(write_beir(tmp_path / "b")).corpus_key
    with (folder / "corpus.jsonl").open("a", encoding="utf-8") as end:
        end.write('{"_id": "d9", "text": "new"}\n')
    assert read_beir(folder).corpus_key != read_beir(tmp_path / "b").corpus_key
    one, two = (Collection.from_texts("t", "en", {"d0": text}, {"q": "x"}, {"q": {"d0": 1}}) for text in "ab")
    assert one.corpus_key != two.corpus_key


# Names on the Hub: mteb opens a local folder that is laid out as those datasets are.


def hub_dataset(folder, parts: dict[str, list], split: str):
    for name, rows in parts.items():
        write_lines(folder / f"{name}.jsonl", rows)
    configs = [f"- config_name: {name}\n  data_files:\n  - split: {split}\n    path: {name}.jsonl\n" for name in parts]
    (folder / "README.md").write_text(f"---\nconfigs:\n{''.join(configs)}---\n", encoding="utf-8")
    return folder


def hub_parts(language: str, prefix: str, qrels: str) -> dict[str, list]:
    documents, queries = texts(language)
    return {
        f"{prefix}corpus": [{"_id": i, "title": "", "text": t} for i, t in documents.items()],
        f"{prefix}queries": [{"_id": i, "text": t} for i, t in {**queries, "other": "of another split"}.items()],
        f"{prefix}{qrels}": [
            {"query-id": q, "corpus-id": d, "score": s} for q, row in QRELS.items() for d, s in row.items()
        ],
    }


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Points an mteb task at a folder in its layout."""
    mteb = pytest.importorskip("mteb")

    def point(task: str, languages: dict[str, str], split: str):
        parts: dict[str, list] = {}
        for prefix, code in languages.items():
            parts |= hub_parts(code, f"{prefix}-" if prefix else "", "qrels" if prefix else "default")
        folder = hub_dataset(tmp_path / task, parts, split)
        monkeypatch.setitem(mteb.get_task(task).metadata.dataset, "path", str(folder))

    return point


def test_a_multilingual_name(hub, tmp_path):
    hub("MIRACLRetrievalHardNegatives", {"en": "en", "zh": "zh"}, "dev")
    (group,) = load_name("miracl-hard-negatives", ["zh", "en"])
    assert [c.language for c in group] == ["zh", "en"]
    assert same(group[0], "zh")
    assert same(group[1], "en")
    assert len({c.corpus_key for c in group}) == 2
    report = evaluate("bm25", "miracl-hard-negatives", languages=["zh"], cache=None)
    assert report.value("bm25", "zh") == 1
    with pytest.raises(ValueError, match="no language xx; it has ar, bn"):
        next(load_name("miracl-hard-negatives", ["xx"]))
    with pytest.raises(ValueError, match="no split 'test'; it has dev"):
        next(load_name("miracl", split="test"))


def test_long_documents_come_with_their_passage_length(hub):
    hub("MultiLongDocRetrieval", {"en": "en"}, "test")
    ((collection,),) = load_name("mldr", ["en"])
    assert collection.passage_length == NAMES["mldr"].passage_length == 300
    assert same(collection)


def test_an_english_task_by_its_own_name(hub):
    hub("NanoSciFactRetrieval", {"": "en"}, "train")
    ((collection,),) = load_name("NanoSciFactRetrieval")
    assert (collection.language, same(collection)) == ("en", True)


def test_the_query_itself_does_not_count_where_mteb_says_so(hub):
    hub("MMarcoRetrievalMultilingual", {"zh": "zh"}, "dev")
    ((collection,),) = load_name("mmarco", ["zh"])
    assert collection.ignore_same_id
    same_ids = Collection.from_texts("t", "en", {"x1": "music", "x2": "music shop"}, {"x1": "music"}, {"x1": {"x2": 1}})
    assert evaluate("bm25", same_ids, cache=None).value("bm25", "en", measure="Success@1") == 0
    report = evaluate("bm25", same_ids, ignore_same_id=True, cache=None)
    assert report.value("bm25", "en", measure="Success@1") == 1


def test_every_name_is_a_task_or_benchmark_of_mteb():
    mteb = pytest.importorskip("mteb")
    for name, known in NAMES.items():
        if known.task:
            splits = mteb.get_task(known.task).metadata.eval_splits
            assert known.split is None or known.split in splits
        elif known.benchmark:
            assert len(mteb.get_benchmark(known.benchmark).tasks) >= 13
        else:
            assert name == "mkqa"


def test_unknown_names_list_what_there_is():
    with pytest.raises(ValueError, match="no collection 'sci-facts'.*miracl.*mldr.*mkqa"):
        evaluate("bm25", "sci-facts", cache=None)
    with pytest.raises(ValueError, match="only retrieval tasks are collections"):
        next(load_name("STS12"))


def test_mkqa_is_judged_by_answers(hub, tmp_path, monkeypatch):
    hub("NQ", {"": "en"}, "test")
    archive = tmp_path / "mkqa.zip"
    questions = [
        {"id": 1, "question": "music", "answers": ["Book"]},
        {"id": 2, "question": "city", "answers": ["no such thing"]},
    ]
    with zipfile.ZipFile(archive, "w") as files:
        for code in ("en", "sv"):
            files.writestr(f"test/{code}.jsonl", "\n".join(map(json.dumps, questions)))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args, **kwargs: str(archive))
    ((english, swedish),) = load_name("mkqa", ["en", "sv"])
    assert (swedish.language, swedish.document_language) == ("sv", "en")
    assert english.corpus_key == swedish.corpus_key, "documents are encoded once"
    report = evaluate("bm25", "mkqa", languages=["en", "sv"], cache=None)
    assert report.measures == ["Success@1", "Success@5", "Success@20", "Success@100"]
    # "music" is in d0 (music city music book), which holds the answer and ranks first, d4 and d5
    assert [result.scores["Success@1"] for result in report.results] == [0.5, 0.5]
    with pytest.raises(ValueError, match="no language xx"):
        next(load_name("mkqa", ["xx"]))
    with pytest.raises(ValueError, match="use monolingual"):
        evaluate("bm25", "mkqa", setting="mixed", languages=["en", "sv"], cache=None)


def test_answers_are_found_as_whole_words():
    assert contains(tokens("He was born in Málaga, Spain."), tokens("malaga spain"))
    assert not contains(tokens("He was born in Malagasy"), tokens("Málaga"))
    assert not contains(tokens("anything"), tokens("—"))
    with pytest.raises(ValueError, match="no answers to judge by"):
        judge(Collection.from_texts("t", "en", {"d": "x"}, {"q": "x"}, {"q": {"d": 1}}), {})


def test_words_of_every_script():
    assert words("Die ALTE Straße!") == ["die", "alte", "strasse"]
    assert words("पुराने शहर") == ["पुराने", "शहर"], "vowel signs belong to words"
    assert words("老城的音乐 C3PO") == ["老城", "城的", "的音", "音乐", "c3po"]
    assert words("書") == ["書"]
    assert words("ใครเขียน") == ["ใค", "คร", "รเ", "เขี", "ขีย", "ยน"], "marks stay with their letters"
    assert words("한국어 음악") == ["한국어", "음악"]
    assert words("… ?") == []


def test_passages_hold_every_word_and_no_more():
    text = "one  two three\nfour five, six seven"
    assert split_passages(text, 3) == ["one  two three", "four five, six", "seven"]
    assert split_passages(text, 7) == [text]
    assert split_passages("老城的音乐 很美", 4) == ["老城的音", "乐 很美"]
    assert split_passages("", 3) == [""]
    with pytest.raises(ValueError, match="at least 1 word, got 0"):
        split_passages(text, 0)
    assert passages(Document("d", "a b c", "T"), 2) == ["T a b", "T c"]
    assert passages(Document("d", "a b c", "T"), None) == ["T a b c"]
