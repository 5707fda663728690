"""Text files: what their names say of compression, and tables as encoding and as an index read them."""

from __future__ import annotations

import csv

import pytest

from milco_hf.text_files import naming, open_text, read_jsonl, read_table


@pytest.mark.parametrize("ending", ["", ".gz", ".xz", ".bz2"])
def test_names_say_how_a_file_is_compressed(tmp_path, ending):
    path = tmp_path / f"a.txt{ending}"
    with open_text(path, "w") as file:
        file.write("où\r\nb\rc\n")
    with open_text(path) as file:
        assert list(file) == ["où\r\n", "b\rc\n"]
    with open_text(path.rename(tmp_path / "named.otherwise"), ending=ending, newline="") as file:
        assert list(file) == ["où\r\n", "b\r", "c\n"]


def test_empty_lines_are_passed_over(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('\n{"a": 1}\n\n{"a": 2}\n')
    assert list(read_jsonl(path)) == [(2, {"a": 1}), (4, {"a": 2})]
    path = tmp_path / "x.tsv"
    path.write_text("\na\ttext\n\n1\tb\n")
    assert list(read_table(path, ".tsv")) == [(4, {"a": "1", "text": "b"})]


@pytest.mark.parametrize(
    ("content", "usual", "any_names"),
    [
        ("\ufeffid,text,lang\n1,a,de\n", {"id": "1", "text": "a", "lang": "de"}, "the same"),
        ("text\na\n", {"text": "a"}, "the same"),
        ("a\n", {"text": "a"}, "the same"),
        ("1,a\n", {"id": "1", "text": "a"}, "the same"),
        ("id,body,year\n1,a,2001\n", "line 1: 3 columns without names", {"id": "1", "body": "a", "year": "2001"}),
        (",text,id\n0,a,1\n", {"": "0", "text": "a", "id": "1"}, "line 1: the first row has to name each column, once"),
        ("text,x,x\na,1,2\n", {"text": "a", "x": "2"}, "line 1: the first row .* reads 'text', 'x', 'x'"),
        ('text,id\n"a\nb",1,2\n', "line 3: has 3 columns, not 2", "the same"),
    ],
)
def test_first_rows_of_tables(tmp_path, content, usual, any_names):
    path = tmp_path / "table.csv"
    path.write_text(content, encoding="utf-8")
    for expected, flag in ((usual, False), (usual if any_names == "the same" else any_names, True)):
        if isinstance(expected, str):
            with pytest.raises(ValueError, match=expected):
                list(read_table(path, ".csv", flag))
        else:
            assert [row for _, row in read_table(path, ".csv", flag)] == [expected]


def test_a_tables_quotes_and_long_cells(tmp_path):
    limit = csv.field_size_limit(1000)
    try:
        long = "a" * 2000
        (tmp_path / "t.tsv").write_text(f'1\tsaid "{long}\n')
        (tmp_path / "t.csv").write_text(f'1,"said ""{long}"\n')
        for kind in (".tsv", ".csv"):
            assert list(read_table(tmp_path / f"t{kind}", kind)) == [(1, {"id": "1", "text": f'said "{long}'})]
    finally:
        csv.field_size_limit(limit)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), ValueError, "x is not UTF-8 .*start byte"),
        (EOFError("early"), ValueError, r"x ends too early, .*\(early\)"),
        (KeyError("another"), KeyError, "another"),
    ],
)
def test_errors_that_name_no_file_get_its_name(tmp_path, error, kind, message):
    with pytest.raises(kind, match=message), naming(tmp_path / "x"):
        raise error
