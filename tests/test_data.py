"""Splits of labelled text, and streams of texts to predict."""

import csv
import io
import json
import logging
import random
import subprocess
import sys
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gossamer.data import Data, Split, lines, read

SHARED = Path(__file__).parents[2] / "shared" / "data"
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.text("\"',;\t\n\r a\u2028", max_size=9)
)
FRESH_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)


def table(path: Path, rows: list[tuple], columns: tuple[str, ...] = ("text", "label")) -> Path:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, "excel-tab" if path.suffix == ".tsv" else "excel").writerows([columns, *rows])
    return path


def reviews(n: int, first: int = 0) -> list[tuple[str, str]]:
    return [(f"review {i}", ("bad", "good", "good")[i % 3]) for i in range(first, first + n)]


def everything(data: Data) -> Counter:
    splits = data.splits.values()
    return Counter((key, label) for split in splits for key, label in zip(split.keys, split.labels or (), strict=True))


# ------------------------------------------------------------------------------------------------ one file


@FRESH_FOLDER
@given(rows=st.lists(st.tuples(TEXT, TEXT, st.sampled_from("ab")), min_size=12, max_size=40), json_=st.booleans())
def test_what_is_written_is_read(tmp_path, rows, json_):
    columns = ("text", "text_pair", "label")
    rows += [(f"{label}{i}", "", label) for i in range(4) for label in "ab"]  # enough of each to be split
    if json_:
        path = tmp_path / "a.jsonl"
        path.write_text("\n".join(json.dumps(dict(zip(columns, row, strict=True))) for row in rows), encoding="utf-8")
    else:
        path = table(tmp_path / "a.csv", rows, columns)
    data = read(path)
    assert data.labels == ("a", "b")
    assert everything(data) == Counter(((a, b), "ab".index(label)) for a, b, label in rows)
    assert [*lines(path)] == [(a, b) for a, b, _ in rows]
    keys = [set(split.keys) for split in data.splits.values()]
    assert all(keys)
    assert not keys[0] & keys[1] | keys[0] & keys[2] | keys[1] & keys[2]  # equal texts stay together


def test_one_file_is_split_80_10_10_each_class_alike(tmp_path, caplog):
    caplog.set_level(logging.INFO, "gossamer")
    data = read(table(tmp_path / "a.csv", reviews(300)))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 240, "dev": 30, "test": 30}
    assert [split.labels.count(0) for split in data.splits.values()] == [80, 10, 10]
    assert data.name == "a.csv (split 80/10/10 by seed 0)"
    assert data.describe() == f"{data.name}: train 240, dev 30, test 30 texts; bad 33%, good 67%"
    assert data.describe() in caplog.text
    order = [int(text.split()[1]) for text in data.train.texts]
    assert order == sorted(order)  # as read


def test_the_split_depends_on_seed_and_text_not_on_order(tmp_path):
    rows = reviews(200)
    data = read(table(tmp_path / "a.csv", rows))
    random.Random(1).shuffle(rows)
    again = read(table(tmp_path / "b.csv", rows))
    assert [set(s.texts) for s in data.splits.values()] == [set(s.texts) for s in again.splits.values()]
    other = read(tmp_path / "b.csv", seed=1)
    assert set(other.test.texts) != set(data.test.texts)
    more = read(table(tmp_path / "c.csv", rows + reviews(20, first=200)))
    assert len(set(more.test.texts) & set(data.train.texts)) <= 4  # a longer file moves few


def test_a_rare_class_stays_in_train(tmp_path):
    data = read(table(tmp_path / "a.csv", [*reviews(60), ("once", "rare"), ("twice", "rare")]))
    assert data.labels == ("bad", "good", "rare")
    assert [split.labels.count(2) for split in data.splits.values()] == [2, 0, 0]
    data = read(table(tmp_path / "b.csv", [*reviews(60), *((f"r{i}", "rare") for i in range(3))]))
    assert [split.labels.count(2) for split in data.splits.values()] == [1, 1, 1]


def test_a_file_called_test_is_measured_whole(tmp_path):
    path = table(tmp_path / "test.csv", reviews(9))
    data = read(path, need=("test",))
    assert (data.train, data.dev, len(data.test), data.name) == (None, None, 9, "test.csv")
    assert {len(split) for split in read(path, need=("train", "test")).splits.values()} == {5, 2}
    assert len(read(table(tmp_path / "a.csv", reviews(30)), need=("test",)).test) == 3


def test_too_small_to_be_split(tmp_path):
    with pytest.raises(ValueError, match="cannot be split: no label has more than 2 different texts"):
        read(table(tmp_path / "a.csv", [("a", "x"), ("b", "x"), ("c", "y")]))
    with pytest.raises(ValueError, match="whether --label names the right column"):
        read(table(tmp_path / "b.csv", [(f"text {i}", f"id {i}") for i in range(50)]))


def test_regression_from_one_file(tmp_path):
    data = read(table(tmp_path / "a.csv", [(f"t{i}", i / 4) for i in range(100)]))
    assert data.labels is None
    assert [len(split) for split in data.splits.values()] == [80, 10, 10]
    assert all(isinstance(label, float) for label in data.test.labels)
    assert data.describe().endswith("train 80, dev 10, test 10 texts; numbers from 0 to 24.75")


def test_columns_have_other_names_or_no_labels(tmp_path):
    path = table(tmp_path / "a.tsv", [(f"p{i}", i % 2, f"h{i}") for i in range(30)], ("premise", "gold", "hypothesis"))
    data = read(path, text="premise", pair="hypothesis", label="gold")
    assert data.train.pairs[0] == data.train.texts[0].replace("p", "h")
    assert data.describe().endswith("pairs; 0 50%, 1 50%")
    data = read(path, text="premise", label=None)
    assert (data.labels, data.train.labels, data.train.pairs) == (None, None, None)
    assert data.describe().endswith("no labels")
    with pytest.raises(
        ValueError, match=r"a.tsv has no column 'label'; it has: 'premise', 'gold', 'hypothesis'; name "
    ):
        read(path, text="premise")


# ------------------------------------------------------------------------------------------------ a folder


def test_a_folder_is_read_as_it_is(tmp_path):
    for name, rows in (("train", reviews(30)), ("dev", reviews(4, 30)), ("test", reviews(5, 40))):
        table(tmp_path / f"{name}.csv", rows)
    data = read(tmp_path)
    assert [len(split) for split in data.splits.values()] == [30, 4, 5]
    assert data.train == Split(
        tuple(t for t, _ in reviews(30)), None, tuple(int(label == "good") for _, label in reviews(30))
    )
    (tmp_path / "dev.csv").unlink()
    data = read(tmp_path)
    assert [len(split) for split in data.splits.values()] == [27, 3, 5]
    assert data == read(tmp_path)


def test_a_folder_without_labelled_test_measures_on_dev(tmp_path, caplog):
    table(tmp_path / "train.tsv", reviews(30))
    table(tmp_path / "dev.tsv", reviews(4, 30))
    table(tmp_path / "test.tsv", [(0, "what?")], ("index", "text"))  # as GLUE does
    data = read(tmp_path)
    assert [len(split) for split in data.splits.values()] == [27, 3, 4]
    assert "test.tsv has no labels and is not used" in caplog.text
    assert "has no labelled test: its dev is the test" in caplog.text
    (tmp_path / "dev.tsv").unlink()
    assert [len(split) for split in read(tmp_path).splits.values()] == [24, 3, 3]
    assert [len(split) for split in read(tmp_path, need=("train",)).splits.values()] == [27, 3]


def test_a_folder_that_lacks_what_is_needed(tmp_path):
    table(tmp_path / "test.csv", reviews(5))
    with pytest.raises(ValueError, match=r"has 'test', expected 'train', 'test'; add a file called train.csv"):
        read(tmp_path)
    assert len(read(tmp_path, need=("test",)).test) == 5
    table(tmp_path / "train.csv", [("a", "b", "good"), ("c", "d", "bad")], ("text", "text_pair", "label"))
    with pytest.raises(ValueError, match="'text_pair' is a column of some files and not of others"):
        read(tmp_path)


def test_a_label_unseen_in_training(tmp_path):
    table(tmp_path / "train.csv", reviews(30))
    table(tmp_path / "test.csv", [*reviews(2), ("so so", "mixed")])
    with pytest.raises(
        ValueError, match=r"test.csv, line 4: the label 'mixed' is unseen in training, .* 'bad', 'good'"
    ):
        read(tmp_path)


def test_one_class_only(tmp_path):
    with pytest.raises(ValueError, match=r"a.csv has one class only: all of its 2 examples have the label 'good'"):
        read(table(tmp_path / "a.csv", [("a", "good"), ("b", "good")]))


def test_empty_texts_and_texts_in_two_splits_are_told(tmp_path, caplog):
    table(tmp_path / "train.csv", [*reviews(30), ("", "good"), (" ", "bad")])
    table(tmp_path / "test.csv", reviews(5, 27))
    data = read(tmp_path, need=("train", "test"))
    assert f"{tmp_path.name}: 2 texts are empty; they are kept" in caplog.text
    assert sum(not text.strip() for split in data.splits.values() for text in split.texts) == 2
    assert "of 5 texts in test stand in train, too" in caplog.text


# ------------------------------------------------------------------------------------------------ Data


def test_the_fingerprint_is_that_of_the_content():
    split = Split(("ab", "c"), None, (0, 1))
    data = Data("x", split, None, split, ("n", "p"))
    same = Data("y", Split(("ab", "c"), None, (0, 1)), None, split, ("n", "p"))
    assert data.fingerprint == same.fingerprint
    assert len(data.fingerprint) == 64
    others = [
        Data("x", split, split, None, ("n", "p")),
        Data("x", split, None, split, ("p", "n")),
        Data("x", split, None, split, None),
        *(
            Data("x", changed, None, split, ("n", "p"))
            for changed in (
                replace(split, texts=("a", "bc")),
                replace(split, labels=(1, 1)),
                replace(split, labels=None),
                replace(split, pairs=("", "")),
                split.take([1, 0]),
            )
        ),
    ]
    assert len({other.fingerprint for other in [data, *others]}) == len(others) + 1
    assert Data("x", split, None, None, ("n", "p"), "given").fingerprint == "given"


def test_take():
    split = Split(("a", "b", "c"), ("x", "y", "z"), (0, 1, 2))
    assert split.take([2, 0]) == Split(("c", "a"), ("z", "x"), (2, 0))
    assert len(Split(("a", "b")).take([1])) == 1


def test_aligned_with_a_model(tmp_path):
    data = read(table(tmp_path / "test.csv", [("a", "pos"), ("b", "neg")]), need=("test",))
    turned = data.aligned(("pos", "other", "neg"))
    assert (turned.labels, turned.test.labels) == (("pos", "other", "neg"), (0, 2))
    assert turned.fingerprint != data.fingerprint
    assert data.aligned(("neg", "pos")) is data
    with pytest.raises(
        ValueError, match=r"test.csv has among its labels 'neg', unseen in training; the model knows 'pos'"
    ):
        data.aligned(("pos",))
    stars = read(table(tmp_path / "test.csv", [("a", 5), ("b", 1)]), need=("test",))
    assert stars.aligned(None).test.labels == (5.0, 1.0)
    floats = read(table(tmp_path / "test.csv", [("a", 0.5), ("b", 1)]), need=("test",))
    assert floats.aligned(None) is floats
    with pytest.raises(ValueError, match=r"test.csv has numbers for labels, but the model knows the classes 'a', 'b'"):
        floats.aligned(("a", "b"))
    bare = read(tmp_path / "test.csv", label=None, need=("test",))
    assert bare.aligned(("a", "b")) is bare


def test_many_classes_are_counted(tmp_path):
    data = read(table(tmp_path / "test.csv", [(f"t{i}", f"class {i}") for i in range(40)]), need=("test",))
    assert data.describe() == "test.csv: test 40 texts; 40 classes"


# ------------------------------------------------------------------------------------------------ the embedded data


def test_rotten_tomatoes():
    try:
        data = read("rotten-tomatoes")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert data.labels == ("rotten", "fresh")
    assert data.describe() == "rotten-tomatoes: train 10,238, dev 1,415, test 1,155 texts; rotten 43%, fresh 57%"
    assert data.fingerprint == "03f62d5df03a70dd66ecef94321119a571c8e866924e89b07e418acb0d9485ad"  # never changes
    assert read("rotten-tomatoes", label=None).train.labels is None


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
@pytest.mark.parametrize(
    ("folder", "columns", "sizes"),
    [
        ("elue_stsb", {"text": "sentence1", "pair": "sentence2", "label": "label"}, None),
        ("sst2_glue/train.tsv", {"text": "sentence"}, (53869, 6740, 6740)),
    ],
)
def test_real_files(folder, columns, sizes):
    data = read(SHARED / folder, **columns)
    if sizes:
        assert tuple(map(len, data.splits.values())) == sizes
        assert Counter(sum((s.labels for s in data.splits.values()), ())) == {0: 29780, 1: 37569}
    else:
        assert data.labels is None
        assert data.train.pairs


# ------------------------------------------------------------------------------------------------ lines


def test_lines_of_plain_text_stay_in_step(tmp_path):
    (tmp_path / "a.txt").write_bytes('\ufeffone\r\n\n two \nthr\u2028ee, "3"\n{\n'.encode())
    assert [*lines(tmp_path / "a.txt")] == [(t, None) for t in ("one", "", " two ", 'thr\u2028ee, "3"', "{")]


@FRESH_FOLDER
@given(texts=st.lists(TEXT.map(lambda t: t.replace("\n", "").replace("\r", "")), min_size=1))
def test_plain_lines_round_trip(tmp_path, texts):
    stream = io.BytesIO("".join(t + "\n" for t in texts).encode())
    assert [t for t, _ in lines(stream, form="text")] == [
        t.removeprefix("\ufeff") if not i else t for i, t in enumerate(texts)
    ]


def test_lines_of_files_and_streams(tmp_path, monkeypatch):
    csv_ = 'label,text,text_pair\n1,"a, b",c\n'
    for name, content in (
        ("a.csv", csv_),
        ("a.tsv", "text\ttext_pair\na, b\tc\n"),
        ("a.jsonl", '{"text": "a, b", "text_pair": "c"}'),
    ):
        (tmp_path / name).write_text(content)
        assert [*lines(tmp_path / name)] == [*lines(str(tmp_path / name))] == [("a, b", "c")]
        assert [*lines(io.StringIO(content))] == [*lines(io.BytesIO(content.encode()))] == [("a, b", "c")]
        with (tmp_path / name).open() as stream:
            assert [*lines(stream)] == [("a, b", "c")]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("naïve\n".encode()), encoding="ascii"))
    assert [*lines("-")] == [("naïve", None)]  # UTF-8 whatever the locale says
    assert next(lines(io.StringIO(csv_), form="text")) == ("label,text,text_pair", None)
    assert [*lines(io.StringIO('{"txt": 1}\n{}'))] == [('{"txt": 1}', None), ("{}", None)]
    assert [*lines(io.StringIO("text\nfine"))] == [("text", None), ("fine", None)]  # a word alone is no header
    assert [*lines(io.StringIO("text\nfine"), form="csv")] == [("fine", None)]
    assert [*lines(io.StringIO("review\nfine"), text="review")] == [("fine", None)]  # unless it was named
    assert [*lines(io.StringIO("id;review\n1;fine"), text="review")] == [("fine", None)]


def test_lines_of_parquet(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": ["a", "b"] * 3000}), tmp_path / "a.parquet")
    assert [*lines(tmp_path / "a.parquet")] == [("a", None), ("b", None)] * 3000


def test_lines_complain(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        lines(tmp_path / "none.txt")  # at once, not at the first line
    with pytest.raises(ValueError, match="is a folder, expected a file"):
        lines(tmp_path)
    with pytest.raises(ValueError, match="form is 'xml', expected csv, tsv, jsonl or text"):
        lines("-", form="xml")
    (tmp_path / "a.txt").write_bytes(b"fine\nb\xe9\n")
    with pytest.raises(ValueError, match=r"a.txt, line 2: byte 2 of the line"):
        [*lines(tmp_path / "a.txt")]
    for name in ("b.txt", "b.csv", "b.jsonl"):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=f"{name} is empty; expected one"):
            [*lines(tmp_path / name)]
    with pytest.raises(ValueError, match="the input is empty"):
        [*lines(io.BytesIO())]
    with pytest.raises(ValueError, match="the input, line 2: not JSON"):
        [*lines(io.StringIO('{"text": "a"}\n{'))]


@pytest.mark.parametrize(
    ("content", "named", "message"),
    [
        ('{"sentence": "a"}\n', {"text": "sentnce"}, "no column 'sentnce'; it has: 'sentence'; name .* with --text"),
        ('{"sentence": "a"}\n', {"pair": "sentence"}, "no column 'text'; it has: 'sentence'; name .* with --text"),
        ("sentence,label\na,b\n", {"text": "review"}, "no column 'review'; it has: 'sentence', 'label'; .* --text"),
        ("sentence\na\n", {"text": "review"}, "no column 'review'; it has: 'sentence'; name the right one with --text"),
        ('{"text": "a", "second": "b"}\n', {"pair": "secnd"}, "no column 'secnd'; it has: 'text', 'second'; .* --pair"),
        ("text,second\na,b\n", {"pair": "secnd"}, "no column 'secnd'; it has: 'text', 'second'; name .* with --pair"),
        ("text\tsecond\na\tb\n", {"pair": "secnd"}, "no column 'secnd'; it has: 'text', 'second'; name .* --pair"),
    ],
)
def test_a_column_that_is_named_must_be_there(tmp_path, content, named, message):
    form = "jsonl" if "{" in content else "tsv" if "\t" in content else "csv"
    (tmp_path / f"a.{form}").write_text(content)
    for source in (io.StringIO(content), io.BytesIO(content.encode()), tmp_path / f"a.{form}"):
        with pytest.raises(ValueError, match=message):
            [*lines(source, **named)]


def test_a_column_that_is_named_is_not_looked_for_in_plain_text(tmp_path):
    (tmp_path / "a.txt").write_text("one\n")
    told = r"a.txt is read as plain text, a text a line, and has no column 'review'; leave --text and --pair away, or"
    with pytest.raises(ValueError, match=told):
        [*lines(tmp_path / "a.txt", text="review")]
    with pytest.raises(ValueError, match="the input has no column 'text'; it has: 'one'"):
        [*lines(io.StringIO("one\n"), pair="second")]


def test_only_the_first_text_must_have_the_pair_that_is_named():
    given = '{"text": "a", "second": "b"}\n{"text": "c"}\n'
    assert [*lines(io.StringIO(given), pair="second")] == [("a", "b"), ("c", None)]


def test_a_named_column_of_parquet_must_be_there(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": ["a"], "second": ["b"], "third": ["c"]}), tmp_path / "a.parquet")
    assert [*lines(tmp_path / "a.parquet", pair="second")] == [("a", "b")]
    with pytest.raises(ValueError, match=r"no column 'secnd'; it has: 'text', 'second', 'third'; .* with --pair"):
        [*lines(tmp_path / "a.parquet", pair="secnd")]


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl"])
def test_lines_take_constant_memory(tmp_path, name):
    head, row = {"a.csv": ("text\n", '"{}"'), "a.tsv": ("text\n", '"{}"'), "a.jsonl": ("", '{{"text": "{}"}}')}.get(
        name, ("", "{}")
    )
    with (tmp_path / name).open("w") as file:
        file.write(head)
        file.writelines(row.format("some words " * 20) + "\n" for _ in range(20_000))  # 4.4 MB
    tracemalloc.start()
    try:
        assert sum(1 for _ in lines(tmp_path / name)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 400_000
    finally:
        tracemalloc.stop()


def test_reading_imports_neither_torch_nor_transformers(tmp_path):
    path = table(tmp_path / "a.csv", reviews(30))
    code = f"""
import sys, gossamer.data, gossamer.task
gossamer.task.of(gossamer.data.read({str(path)!r}))
heavy = {{"torch", "transformers", "pandas", "pyarrow", "datasets"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)
