"""What a column of labels means."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.labels import number, translation, values
from gossamer.rows import Rows


def part(name: str, *labels: object) -> Rows:
    places = tuple(range(2, len(labels) + 2))
    return Rows(name, ("text", "label"), places, ("t",) * len(labels), None, labels)


def found(*labels: object):
    names, numbers = values({"train": part("a.csv", *labels)}, "label")
    return names, numbers["train"]


@pytest.mark.parametrize(
    ("labels", "names", "indices"),
    [
        (("pos", "neg", " pos "), ("neg", "pos"), (1, 0, 1)),
        (("10", "9", "2"), ("2", "9", "10"), (2, 1, 0)),  # in numeric order
        ((1, 0, "1"), ("0", "1"), (1, 0, 1)),  # 1 in JSON and "1" in csv are one class
        ((1.0, 0.0, 1.0), ("0", "1"), (1, 0, 1)),  # as pandas writes whole numbers beside a gap
        (("1.0", "0", "1e0"), ("0", "1"), (1, 0, 1)),
        (("02", "01"), ("01", "02"), (1, 0)),  # written with zeros, answered with zeros
        ((True, False), ("false", "true"), (1, 0)),
        ((-1, 1), ("-1", "1"), (0, 1)),
        (("1", "2", "other"), ("1", "2", "other"), (0, 1, 2)),
        (("nan", "inf"), ("inf", "nan"), (1, 0)),  # words, as far as classes go
    ],
)
def test_classes(labels, names, indices):
    assert found(*labels) == (names, indices)


def test_numbers_with_fractions_are_a_regression():
    assert found("1", 2.5, "3e-1") == (None, (1.0, 2.5, 0.3))
    parts = {"train": part("a", "1", "2"), "test": part("b", "1.5", "1")}
    assert values(parts, "label") == (None, {"train": (1.0, 2.0), "test": (1.5, 1.0)})


@given(st.lists(st.one_of(st.integers(), st.text(min_size=1).filter(str.strip), st.booleans()), min_size=2))
def test_any_labels_are_classes_by_name_or_refused(labels):
    try:
        names, indices = found(*labels)
    except ValueError as error:
        assert "one class only" in str(error) or "for a label" in str(error)
        return
    if names is not None:
        assert len(names) == len(set(names)) == len(set(indices))
        spelled = [str(v).lower() if isinstance(v, bool) else str(v).strip() for v in labels]
        assert all(names[i] == v or number(v) == number(names[i]) for i, v in zip(indices, spelled, strict=True))


def test_numbers():
    assert [number(s) for s in ("1", "-2.5", "+.5", "1e3", "7.")] == [1, -2.5, 0.5, 1000, 7]
    assert all(number(s) is None for s in ("", "nan", "inf", "1_0", "1e999", "1,5", "0x1", "a", "٣ ", " 1"))


def test_the_classes_are_those_of_train():
    parts = {"train": part("train.csv", "b", "a", "c"), "test": part("test.csv", "c", "b")}
    assert values(parts, "label") == (("a", "b", "c"), {"train": (1, 0, 2), "test": (2, 1)})
    parts["test"] = part("test.csv", "c", "d", "e")
    with pytest.raises(
        ValueError, match=r"test.csv, line 3: the label 'd' is unseen in training, where there are 'a', "
    ):
        values(parts, "label")
    assert values({"test": part("test.csv", "d", "d")}, "label") == (("d",), {"test": (0, 0)})  # no train: no such rule


def test_parts_without_labels_are_left_out_but_train_must_have_them():
    parts = {"train": part("train.csv", "a", "b"), "test": part("test.csv", None, "")}
    assert set(values(parts, "label")[1]) == {"train"}
    with pytest.raises(
        ValueError, match=r"test.csv: every 'label' is empty, expected a class or a number on each line"
    ):
        values({"test": parts["test"]}, "label")
    bare = Rows("train.csv", ("text", "y"), (2,), ("t",), None, None)
    with pytest.raises(ValueError, match=r"train.csv has no column 'label'; it has: 'text', 'y'; name .* --label"):
        values({"train": bare, "test": part("test.csv", "a")}, "label")


def test_what_is_wrong_is_said_with_the_line():
    for empty in (None, "", "  ", math.nan):
        with pytest.raises(ValueError, match=r"a.csv, line 3: the label is empty; give it one, or drop the line"):
            found("a", empty, "b")
    with pytest.raises(ValueError, match=r"line 3: the label is a list \(\[1\]\), expected a string or a number"):
        found("a", [1])
    with pytest.raises(
        ValueError, match=r"line 3 has the number 0.5 for a label, a.csv, line 4 the word 'n/a'; expected"
    ):
        found("1", "0.5", "n/a")
    with pytest.raises(ValueError, match="one class only: all of its 2 examples have the label 'pos'; expected two"):
        found("pos", "pos")
    with pytest.raises(ValueError, match=r"one class only: all of its 2 examples have the label '3.5'"):
        found(3.5, 3.5)


def test_translation_into_the_classes_of_a_model():
    assert translation(("fresh", "rotten"), ("rotten", "fresh", "other"), "x") == (1, 0)
    assert translation(("0", "1"), ("negative", "positive"), "x") == (0, 1)  # whole numbers are class indices
    assert translation(("1",), ("negative", "positive"), "x") == (1,)
    assert translation(("1", "0"), ("1", "0"), "x") == (0, 1)  # but a name goes first
    assert translation(("bad", "good"), ("LABEL_0", "LABEL_1"), "x") == (0, 1)
    assert translation(("1", "5"), None, "x") == (1.0, 5.0)
    with pytest.raises(
        ValueError, match="x has among its labels 'neutral', unseen in training; the model knows 'neg', 'pos'"
    ):
        translation(("neg", "neutral"), ("neg", "pos"), "x")
    with pytest.raises(ValueError, match="x has among its labels '1', '2', unseen"):
        translation(("1", "2"), ("neg", "pos"), "x")
    with pytest.raises(ValueError, match="x has the classes 'neg', but the model answers with a number"):
        translation(("neg",), None, "x")
