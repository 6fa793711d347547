from math import e, log, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gossamer.measure.loyalty import distance, label_loyalty, probability_loyalty

P, Q = np.array([[0.75, 0.2, 0.05]]), np.array([[0.8, 0.1, 0.1]])
shapes = st.tuples(st.integers(1, 6), st.integers(2, 5))
logits = shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=st.floats(-30, 30)))
two = shapes.flatmap(lambda shape: st.tuples(*[arrays(np.float64, shape, elements=st.floats(-30, 30))] * 2))


@pytest.mark.parametrize(("base", "far"), [(e, 0.114655), (2, 0.137714)])
def test_golden_values(base, far):
    assert distance(P, Q, base)[0] == pytest.approx(far, abs=1e-6)
    assert probability_loyalty(np.log(P), np.log(Q), base) == pytest.approx(1 - far, abs=1e-6)


@pytest.mark.parametrize(("base", "least"), [(e, 1 - sqrt(log(2))), (2, 0.0)])
def test_disjoint_certainties_are_the_least_loyal(base, least):
    one, other = np.array([[900.0, 0]]), np.array([[0.0, 900]])
    assert probability_loyalty(one, other, base) == pytest.approx(least, abs=1e-9)
    assert least == pytest.approx({e: 0.167445, 2: 0}[base], abs=1e-6)
    assert label_loyalty(one, other) == 0


def test_it_is_scipys_distance():
    other = pytest.importorskip("scipy.spatial.distance").jensenshannon
    for base in (2, e):
        assert distance(P, Q, base)[0] == pytest.approx(other(P[0], Q[0], base), abs=1e-12)


@given(two, st.sampled_from([2, e]))
def test_symmetric_and_within_its_range(pair, base):
    one, other = pair
    loyal = probability_loyalty(one, other, base)
    assert loyal == pytest.approx(probability_loyalty(other, one, base), abs=1e-12)
    assert (0 if base == 2 else 0.16) <= loyal <= 1
    assert label_loyalty(one, other) == label_loyalty(other, one)


@given(logits)
def test_identical_is_one(x):
    assert probability_loyalty(x, x.copy()) == 1
    assert label_loyalty(x, x.copy()) == 1


@given(logits, st.data())
def test_different_is_less_than_one(x, data):
    row, column = data.draw(st.integers(0, len(x) - 1)), data.draw(st.integers(0, x.shape[1] - 1))
    x = x.clip(-5, 5)  # beyond, softmax may round two answers to the same
    moved = x.copy()
    moved[row, column] += 0.5
    assert probability_loyalty(x, moved) < 1


def test_what_is_nearly_equal_is_not_lost_in_rounding():
    """Where q = p + d and p is even, sqrt(JSD) = |d| / sqrt(8 p ln 2) to first order, |d| over all classes."""
    p = np.full((1, 4), 0.25)
    for small in (1e-5, 1e-9, 1e-12):
        q = p + small * np.array([[1.0, -1, 0, 0]])
        far = np.linalg.norm(q - p) / sqrt(8 * 0.25 * log(2))
        assert distance(p, q)[0] == pytest.approx(far, rel=1e-4)


@given(two, st.floats(-50, 50), st.randoms(use_true_random=False))
def test_a_constant_and_the_order_of_classes_do_not_matter(pair, constant, random):
    one, other = pair
    before = probability_loyalty(one, other)
    assert probability_loyalty(one + constant, other) == pytest.approx(before, abs=1e-6)
    order = list(range(one.shape[1]))
    random.shuffle(order)
    assert probability_loyalty(one[:, order], other[:, order]) == pytest.approx(before, abs=1e-9)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 2\) against \(2, 2\)"):
        label_loyalty(np.zeros((3, 2)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="base 10"):
        probability_loyalty(P, Q, 10)
    with pytest.raises(ValueError, match="answers of the student are not numbers"):
        label_loyalty(P, Q * np.nan)
