"""Files and streams as records: what is read, and what is said about what cannot be."""

import bz2
import csv
import gzip
import json
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gossamer.rows import form_of, gather, records, records_in

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)  # any Unicode but halves of surrogate pairs
ODD = st.one_of(TEXT, st.text("\"',;\t\n\r\\ a\u2028\x0b\x00", max_size=12))
ROWS = st.lists(st.tuples(ODD, ODD), min_size=1, max_size=8)
FRESH_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


def read(path: Path, text: str = "text") -> list[dict]:
    return [record for _, record in records_in(path, text, "other")]


def complaint(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError) as caught:
        read(path)
    return str(caught.value)


@FRESH_FOLDER
@given(rows=ROWS, separator=st.sampled_from(",;"), end=st.sampled_from(["\n", "\r\n"]))
def test_csv_round_trip(tmp_path, rows, separator, end):
    path = tmp_path / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerows([("text", "other"), *rows])
    assert [(r["text"], r["other"]) for r in read(path)] == rows


@FRESH_FOLDER
@given(rows=ROWS, ascii_only=st.booleans(), mark=st.booleans())
def test_jsonl_round_trip(tmp_path, rows, ascii_only, mark):
    path = tmp_path / "a.jsonl"
    written = [json.dumps({"text": a, "other": b}, ensure_ascii=ascii_only) for a, b in rows]
    path.write_bytes(b"\xef\xbb\xbf" * mark + "\n".join(written).encode())
    assert [(r["text"], r["other"]) for r in read(path)] == rows


@FRESH_FOLDER
@given(rows=ROWS)
def test_parquet_round_trip(tmp_path, rows):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"other": [b for _, b in rows], "text": [a for a, _ in rows], "x": rows}), path)
    assert [(r["text"], r["other"]) for r in read(path)] == rows
    assert "x" not in read(path)[0]  # a column that nobody wants is not read


@FRESH_FOLDER
@given(rows=ROWS)
def test_tsv_round_trip(tmp_path, rows):
    # A text with both a tab and a line break can look like a whole row: the documented exception.
    rows = [tuple(t if "\t" not in t else t.replace("\n", " ").replace("\r", " ") for t in row) for row in rows]
    path = tmp_path / "a.tsv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, "excel-tab", quoting=csv.QUOTE_ALL).writerows([("text", "other"), *rows])
    assert [(r["text"], r["other"]) for r in read(path)] == rows


@FRESH_FOLDER
@given(rows=st.lists(st.tuples(*[st.text("\"' a,é", min_size=1, max_size=8)] * 2), min_size=1, max_size=8))
def test_tsv_without_quoting_keeps_every_line_a_row(tmp_path, rows):
    path = tmp_path / "a.tsv"
    path.write_text("text\tother\n" + "".join(f"{a}\t{b}\n" for a, b in rows), encoding="utf-8")
    found = [(r["text"], r["other"]) for r in read(path)]
    assert len(found) == len(rows)
    assert all(a == b for a, b in zip(found, rows, strict=True) if '"' not in "".join(b))


def test_tsv_quotes_that_open_and_never_close_are_characters(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text(
        'text\tother\n"good\t1\nbad\t0\n"nice" film\t1\n"quoted, ""well"""\t0\n"two\nlines"\t1\nlast\t0\n"stray\t1\n\n'
    )
    assert [r["text"] for r in read(path)] == [
        '"good',
        "bad",
        '"nice" film',
        'quoted, "well"',
        "two\nlines",
        "last",
        '"stray',
    ]
    assert [number for number, _ in records_in(path, "text")] == [2, 3, 4, 5, 6, 8, 9]


def test_tsv_with_the_text_last_goes_on_below(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('label\ttext\n1\t"two\n\nparagraphs"\n0\tplain\n')
    assert read(path) == [{"label": "1", "text": "two\n\nparagraphs"}, {"label": "0", "text": "plain"}]
    path.write_text('text\n"two\nlines"\nplain\n')
    assert read(path) == [{"text": "two\nlines"}, {"text": "plain"}]


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.bz2"])
def test_packed_files(tmp_path, name):
    pack = {"gz": gzip.compress, "bz2": bz2.compress}[name.rsplit(".", 1)[1]]
    packed = pack(("text,other\n" + "né,1\n" * 5000).encode())
    (tmp_path / name).write_bytes(packed)
    assert len(read(tmp_path / name)) == 5000
    assert "not a whole" in complaint(tmp_path / name, packed[: len(packed) // 2])
    assert "not a whole" in complaint(tmp_path / name, b"no archive")


def test_forms_are_told_by_the_name():
    names = {
        "a.CSV": "csv",
        "a.b.tsv.gz": "tsv",
        "x.ndjson": "jsonl",
        "a.parquet": "parquet",
        "a.txt": None,
        "csv": None,
    }
    assert {name: form_of(Path(name)) for name in names} == names
    assert form_of(Path(".gz")) is form_of(Path("a.parquet.gz")) is None


def test_the_separator_is_the_one_that_the_header_shows(tmp_path):
    for name, separator in (("a.csv", ";"), ("b.csv", "\t"), ("c.tsv", ",")):
        (tmp_path / name).write_text(f"label{separator}text\n1{separator}fine\n")
        assert read(tmp_path / name) == [{"label": "1", "text": "fine"}]


def test_blank_lines_are_no_rows_and_empty_texts_are(tmp_path):
    (tmp_path / "a.csv").write_text('\n\ntext\n\none\n""\n\n')
    assert list(records_in(tmp_path / "a.csv", "text")) == [(5, {"text": "one"}), (6, {"text": ""})]
    (tmp_path / "a.jsonl").write_text('\n{"text": "one"}\n\n{"text": ""}\n')
    assert list(records_in(tmp_path / "a.jsonl", "text")) == [(2, {"text": "one"}), (4, {"text": ""})]


def test_a_field_longer_than_the_csv_module_allows(tmp_path):
    limit = csv.field_size_limit()
    (tmp_path / "a.csv").write_text("text,label\n" + "a" * (limit + 5) + ",1\n")
    stream = records_in(tmp_path / "a.csv", "text")
    assert len(next(stream)[1]["text"]) == limit + 5
    assert csv.field_size_limit() == limit  # a setting of the whole process: as it was, even half way


def test_what_is_wrong_is_said_with_the_line(tmp_path):
    table, objects, tabs = tmp_path / "a.csv", tmp_path / "a.jsonl", tmp_path / "a.tsv"
    assert complaint(table, "") == f"{table} is empty; expected a header line and rows below it"
    assert complaint(table, "\n  \n").endswith("is empty; expected a header line and rows below it")
    assert "has a header and no rows" in complaint(table, "text,label\n\n")
    wrong = complaint(table, "Sentence,label\na,1\n")
    assert "no column 'text'; it has: 'Sentence', 'label'; name the right one with --text" in wrong
    assert "line 3: 3 fields, expected 2 as in the header; put a text that contains , into" in complaint(
        table, "text,label\nfine,1\nwell, fine,1\n"
    )
    assert "line 4: 1 fields, expected 2" in complaint(table, 'text,label\n"two\nlines",1\nfine\n')
    assert "line 3: a quote opened here is never closed" in complaint(table, 'text,label\na,1\n"b,0\nc,1\n')
    assert "line 2: ',' expected after '\"'" in complaint(table, 'text,label\n"a" b,1\n')
    assert "line 1: new-line character seen in unquoted field;" in complaint(table, "text,label\ra,1\r")
    assert "two columns are called 'text'" in complaint(table, "text,text\na,b\n")
    assert "line 3: byte 3 of the line (0xe9) is not UTF-8" in complaint(table, b"text,label\nok,1\nab\xe9,1\n")
    assert "is UTF-16, expected UTF-8" in complaint(table, "text,label\na,1\n".encode("utf-16"))
    assert "if its first line is data already, put a header line above it, such as text<TAB>label" in complaint(
        tabs, "a fine film\t1\na bad one\t0\n"
    )
    assert "line 2: 3 fields, expected 2" in complaint(tabs, "text\tlabel\na\tb\t1\n")
    assert "line 2: a quote opened here is never closed" in complaint(tabs, 'text\tlabel\n"a\tb\t1\nc\t0\n')
    assert "is empty; expected one object per line" in complaint(objects, "\n")
    assert "line 2: not JSON (" in complaint(objects, '{"text": "a"}\n{"text": \n')
    assert "line 1: a list ([1, 2]), expected an object per line" in complaint(objects, "[1, 2]")
    assert "line 1: not JSON" in complaint(objects, "[" * 100_000)  # too deep to be parsed
    assert "'" + str(tmp_path / "a.xlsx") + "' ends in '.xlsx', expected .csv, .tsv" in complaint(
        tmp_path / "a.xlsx", ""
    )


def test_parquet_that_is_none(tmp_path, monkeypatch):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    assert "is empty or no parquet file" in complaint(path, "")
    assert "is empty or no parquet file" in complaint(path, "text,label\n")
    parquet.write_table(pyarrow.table({"sentence": ["a"]}), path)
    with pytest.raises(ValueError, match="no column 'text'; it has: 'sentence'"):
        read(path)
    parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), path)
    with pytest.raises(ValueError, match="has columns and no rows"):
        read(path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r'needs pyarrow to be read: pip install "gossamer\[parquet\]"'):
        read(path)


def gathered(*found: dict, **columns: str | None):
    return gather(enumerate(found, 1), "here", **{"text": "text", "pair": "text_pair", "label": "label", **columns})


def test_gather():
    rows = gathered({"text": "a", "text_pair": "b", "label": 1}, {"label": None, "text": "c", "text_pair": ""})
    assert (rows.texts, rows.pairs, rows.labels, rows.places) == (("a", "c"), ("b", ""), (1, None), (1, 2))
    rows = gathered({"text": "a", "x": 1}, {"text": "b", "y": 2}, label=None)
    assert (rows.texts, rows.pairs, rows.labels, rows.columns) == (("a", "b"), None, None, ("text", "x"))


def test_gather_complains():
    for value, shown in (
        (5, "a number (5)"),
        (None, "nothing (null)"),
        (["a"], "a list (['a'])"),
        (True, "a truth value"),
    ):
        with pytest.raises(ValueError, match="here, line 2: 'text' is") as caught:
            gathered({"text": "a"}, {"text": value})
        assert shown in str(caught.value)
        assert "expected a string" in str(caught.value)
    with pytest.raises(ValueError, match="here, line 2 has no column 'text'; it has: 'txt'"):
        gathered({"text": "a"}, {"txt": "a"})
    with pytest.raises(ValueError, match="here: line 1 has 'label', line 2 has not; give each line a label"):
        gathered({"text": "a", "label": 1}, {"text": "a"})
    with pytest.raises(ValueError, match="here: line 2 has 'text_pair', line 1 has not; give each line a pair"):
        gathered({"text": "a"}, {"text": "a", "text_pair": "b"})
    with pytest.raises(ValueError, match=r"line 1: 'text' holds '\\ud800', half of a surrogate pair"):
        gathered(json.loads('{"text": "a\\ud800"}'))


def test_records_read_no_further_than_they_are_asked():
    def endless():
        yield b"text,label\n"
        while True:
            yield b"a,1\n"

    stream = records(endless(), "csv", "endless", "text")
    assert [next(stream)[0] for _ in range(3)] == [2, 3, 4]
