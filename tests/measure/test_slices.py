"""Whom compression hurt: slices that add up, and the worst examples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.measure.slices import bands, paired, rarity, slices, worst


def logits(answers: list[int], classes: int = 2, sure: float = 4.0) -> np.ndarray:
    return sure * np.eye(classes)[answers]


TEXTS = ["a b c d e f g h", "a", "a b", "a b c", "zeppelin quark", "a a a a a"]
LABELS = [0, 1, 0, 1, 0, 1]


def test_a_slice_tells_who_was_hurt() -> None:
    """The student gives up the long texts and nothing else."""
    teacher, student = logits(LABELS), logits([1, 1, 0, 1, 0, 0])
    by = {(s.by, s.name): s for s in slices(teacher, student, TEXTS, LABELS, ["neg", "pos"], parts=2)}
    assert by["label", "neg"].examples == 3 and by["label", "neg"].damage == pytest.approx(1 / 3)
    long = by["length", "3 to 8"]
    assert (long.examples, long.before, long.after) == (3, 1.0, pytest.approx(1 / 3))
    assert by["length", "1 to 2"].damage == 0 and by["length", "1 to 2"].agreement == 1
    assert long.low is not None and long.high is not None and long.low < long.damage < long.high


def test_without_labels_there_is_agreement_and_no_damage() -> None:
    found = slices(logits(LABELS), logits([1, 1, 0, 1, 0, 0]), TEXTS)
    assert {s.by for s in found} == {"answer", "length", "rarity of words", "difficulty"}
    assert all(s.damage is s.before is s.after is None and 0 <= s.agreement <= 1 for s in found)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 1000))
def test_the_slices_of_a_kind_are_the_whole(n: int, parts: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    teacher, student, labels = chance.normal(size=(n, 3)), chance.normal(size=(n, 3)), chance.integers(0, 3, n)
    texts = ["w " * int(k) for k in chance.integers(0, 6, n)]
    found = slices(teacher, student, texts, labels, parts=parts)
    right = (teacher.argmax(1) == labels).mean() - (student.argmax(1) == labels).mean()
    for by in {s.by for s in found}:
        own = [s for s in found if s.by == by]
        assert sum(s.examples for s in own) == n and all(s.examples for s in own)
        assert len(own) <= max(parts, 3)
        assert sum(s.examples * (s.damage or 0) for s in own) / n == pytest.approx(right)
        assert all(s.low <= s.damage <= s.high for s in own)  # type: ignore[operator]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 6))
def test_bands_are_ordered_and_keep_equals_together(scale: list[int], parts: int) -> None:
    found = bands(scale, parts)
    assert sum(rows.sum() for _, rows in found) == len(scale) and len(found) <= parts
    values = np.array(scale)
    tops = [values[rows].max() for _, rows in found]
    bottoms = [values[rows].min() for _, rows in found]
    assert all(a < b for a, b in zip(tops, bottoms[1:], strict=False))


def test_bands_of_different_values_are_of_equal_size() -> None:
    assert [int(rows.sum()) for _, rows in bands(range(9), 3)] == [3, 3, 3]


def test_rare_words_weigh_more_and_new_ones_most() -> None:
    known = [["the"] * 8, ["cat"] * 2]
    common, rarer, new, empty = rarity([["the"], ["cat"], ["quark"], []], known)
    assert common < rarer < new and empty == 0
    assert common == pytest.approx(-np.log2(9 / 13)) and new == pytest.approx(np.log2(13))


def test_the_worst_are_those_that_lost_most_and_were_right() -> None:
    teacher = np.array([[3.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.0, 1.0]])
    student = np.array([[0.0, 3.0], [0.0, 0.1], [0.0, 3.0], [5.0, 0.0]])
    found = worst(teacher, student, [0, 0, 1, 0])
    assert [h.row for h in found] == [0, 1], "the third is still right, the fourth was wrong before"
    assert found[0].was == 0 and found[0].answer == 1 and found[0].lost > found[1].lost > 0
    assert [h.row for h in worst(teacher, student)] == [0, 3, 1], "without labels the teacher is right"
    assert worst(teacher, student)[0].label is None and len(worst(teacher, student, count=1)) == 1


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(ValueError, match="2 answers for 1 texts, expected one answer, text and label each"):
        slices(logits([0, 1]), logits([0, 1]), ["a"])
    with pytest.raises(ValueError, match="parts=0: expected at least 1"):
        slices(logits([0]), logits([0]), ["a"], parts=0)
    with pytest.raises(ValueError, match="answers of the student are not numbers"):
        slices(logits([0]), logits([0]) * np.nan, ["a"])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_an_interval_holds_what_was_found_and_is_never_sure(bad: int, good: int, rest: int) -> None:
    n = max(1, bad + good + rest)
    low, high = paired(bad, good, n)
    assert -1 <= low <= (bad - good) / n <= high <= 1 and high > low
    mirrored = paired(good, bad, n)
    assert mirrored[0] == pytest.approx(-high) and mirrored[1] == pytest.approx(-low)


def test_few_examples_without_a_flip_say_little() -> None:
    assert paired(0, 0, 4)[1] > 0.2 > paired(0, 0, 400)[1]
