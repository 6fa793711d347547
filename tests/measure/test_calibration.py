import json
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gossamer.measure.calibration import calibration, right
from gossamer.measure.loyalty import softmax

shapes = st.tuples(st.integers(1, 40), st.integers(2, 5))
answered = shapes.flatmap(
    lambda shape: st.tuples(
        arrays(np.float64, shape, elements=st.floats(-8, 8)),
        arrays(np.int64, shape[:1], elements=st.integers(0, shape[1] - 1)),
    )
)


def sure(*confidences):
    """Logits of two classes that choose class 0 with these confidences."""
    return np.log([[c, 1 - c] for c in confidences])


def test_a_table_worked_by_hand():
    found = calibration(sure(0.95, 0.95, 0.65, 0.55), [0, 1, 0, 1])
    assert [(b.count, b.accuracy) for b in found.bins if b.count] == [(1, 0), (1, 1), (2, 0.5)]
    assert [b.confidence for b in found.bins if b.count] == pytest.approx([0.55, 0.65, 0.95])
    assert found.ece == pytest.approx((0.55 + 0.35 + 2 * 0.45) / 4)
    assert found.mce == pytest.approx(0.55)
    squares = [0.05**2, 0.95**2, 0.35**2, 0.55**2]
    assert found.brier == pytest.approx(2 * sum(squares) / 4)
    assert (found.confidence, found.accuracy, found.examples) == (pytest.approx(0.775), 0.5, 4)


@pytest.mark.parametrize("equal", ["width", "mass"])
def test_right_as_often_as_it_says_is_calibrated(equal):
    found = calibration(np.repeat(sure(0.75, 0.5), 4, axis=0), [0, 0, 0, 1, 0, 0, 1, 1], equal=equal)
    assert found.ece == pytest.approx(0, abs=1e-12) and found.mce == pytest.approx(0, abs=1e-12)


def test_certain_and_always_right_or_always_wrong_are_the_ends():
    best, worst = (calibration([[900.0, 0]] * 3, [label] * 3) for label in (0, 1))
    assert (best.ece, best.mce, best.brier) == (0, 0, 0)
    assert (worst.ece, worst.mce, worst.brier) == (1, 1, 2)
    assert best.bins[-1].count == 3  # a confidence of 1 is in the last bin


def test_bins_of_equal_width_are_closed_on_the_right():
    found = calibration(np.array([[0.0, 0]]), [0], bins=2)  # a confidence of exactly 0.5
    assert [b.count for b in found.bins] == [1, 0]
    assert (found.bins[1].low, found.bins[1].high) == (0.5, 1)
    assert found.bins[1].confidence is None and found.bins[1].accuracy is None


@settings(deadline=None)
@given(answered, st.integers(1, 15))
def test_equal_width_is_the_definition_bin_by_bin(pair, bins):
    logits, labels = pair
    p = softmax(logits)
    confidence, hit = p.max(1), logits.argmax(1) == labels
    gaps = []
    for m in range(1, bins + 1):  # Guo et al., equations 3 and 5, word by word
        inside = [i for i, c in enumerate(confidence) if (m - 1) / bins < min(c, 1) <= m / bins]
        if inside:
            gaps.append(
                (len(inside), abs(np.mean([hit[i] for i in inside]) - np.mean([confidence[i] for i in inside])))
            )
    found = calibration(logits, labels, bins)
    assert len(found.bins) == bins
    assert found.ece == pytest.approx(sum(n * gap for n, gap in gaps) / len(labels), abs=1e-9)
    assert found.mce == pytest.approx(max(gap for _, gap in gaps), abs=1e-9)


@given(answered, st.integers(1, 15), st.sampled_from(["width", "mass"]))
def test_the_errors_are_in_their_ranges_and_the_table_adds_up(pair, bins, equal):
    logits, labels = pair
    found = calibration(logits, labels, bins, equal)
    assert 0 <= found.ece <= found.mce + 1e-12 <= 1 + 1e-9
    assert 0 <= found.brier <= 2 + 1e-9
    assert abs(found.confidence - found.accuracy) <= found.ece + 1e-9  # one bin sees least
    assert sum(b.count for b in found.bins) == len(labels)
    assert sum(b.count * b.accuracy for b in found.bins if b.count) == pytest.approx(found.accuracy * len(labels))
    assert all(b.low - 1e-12 <= b.confidence <= b.high + 1e-9 for b in found.bins if b.count)
    assert all(one.high <= other.low + 1e-12 for one, other in pairwise(found.bins))
    json.dumps(asdict(found), allow_nan=False)


@given(answered, st.sampled_from(["width", "mass"]), st.randoms(use_true_random=False))
def test_the_order_of_examples_does_not_matter(pair, equal, random):
    logits, labels = pair
    logits = logits.round()  # many ties
    order = list(range(len(labels)))
    random.shuffle(order)
    one, other = calibration(logits, labels, 4, equal), calibration(logits[order], labels[order], 4, equal)
    assert [b.count for b in one.bins] == [b.count for b in other.bins]
    assert one.ece == pytest.approx(other.ece, abs=1e-12)


@pytest.mark.parametrize(("n", "bins"), [(103, 10), (50, 10), (3, 10), (10, 1)])
def test_bins_of_equal_mass_hold_as_many_each(n, bins):
    logits = np.random.default_rng(0).normal(size=(n, 3))
    found = calibration(logits, np.zeros(n, int), bins, "mass")
    counts = [b.count for b in found.bins]
    assert len(counts) == min(n, bins) and max(counts) - min(counts) <= 1


def test_equal_confidences_are_not_torn_apart():
    found = calibration(np.repeat(sure(0.6, 0.9), [5, 1], axis=0), [0, 0, 0, 1, 1, 1], 3, "mass")
    assert [(b.count, b.low) for b in found.bins] == [(5, pytest.approx(0.6)), (1, pytest.approx(0.9))]


@given(answered)
def test_brier_is_the_mean_of_squares(pair):
    logits, labels = pair
    p = softmax(logits)
    by_hand = np.mean([sum((p[i, c] - (c == y)) ** 2 for c in range(p.shape[1])) for i, y in enumerate(labels)])
    assert calibration(logits, labels).brier == pytest.approx(by_hand, abs=1e-12)


def test_brier_counts_every_class_so_two_classes_count_twice():
    assert calibration(sure(0.7), [0]).brier == pytest.approx(2 * 0.3**2)  # halved, it is the binary score


def test_what_cannot_be_calibrated_is_refused():
    logits = np.array([[0.0, 1], [1, 0]])
    with pytest.raises(ValueError, match=r"shape \(2, 1\): expected .* at least two classes"):
        calibration(logits[:, :1], [0, 0])
    with pytest.raises(ValueError, match=r"shape \(0, 2\)"):
        calibration(np.zeros((0, 2)), [])
    with pytest.raises(ValueError, match=r"labels of shape \(3,\) for 2 answers: expected \(2,\)"):
        calibration(logits, [0, 1, 1])
    with pytest.raises(ValueError, match="1 of 2 answers are not numbers"):
        right([[0.0, 1], [np.inf, 0]], [0, 1])
    with pytest.raises(ValueError, match="label -100 among 2 classes: expected whole numbers from 0 to 1"):
        calibration(logits, [0, -100])
    with pytest.raises(ValueError, match=r"label 0\.5 among 2 classes"):
        calibration(logits, [0, 0.5])
    with pytest.raises(ValueError, match="label 'good' among 2 classes"):
        calibration(logits, ["good", "good"])
    with pytest.raises(ValueError, match="0 bins: expected at least 1"):
        calibration(logits, [0, 1], bins=0)
    with pytest.raises(ValueError, match=r"equal 'height': expected \"width\" or \"mass\""):
        calibration(logits, [0, 1], equal="height")
