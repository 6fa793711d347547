import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.measure.quality import fisher, quality, wilson

# Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3: four places.
TABLE = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0, 0.1611), (1, 29): (0.0061, 0.1718)}

accuracy = SimpleNamespace(
    metric="accuracy",
    score=lambda logits, labels: float((logits.argmax(-1) == labels).mean()),
    right=lambda logits, labels: (logits.argmax(-1) == labels).astype(int),
)
pearson = SimpleNamespace(
    metric="pearson",
    score=lambda logits, labels: float(np.corrcoef(logits[:, 0], labels)[0, 1]),
    right=lambda logits, labels: None,
)


@pytest.mark.parametrize("counts", TABLE)
def test_wilson_is_the_published_table(counts):
    assert wilson(*counts) == pytest.approx(TABLE[counts], abs=5.1e-5)


def test_wilson_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    for right, n in ((0, 3), (2, 3), (700, 2553), (2552, 2553)):
        other = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
        assert wilson(right, n) == pytest.approx((other.low, other.high), abs=1e-9)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(counts):
    right, n = counts
    low, high = wilson(right, n)
    assert 0 <= low <= right / n <= high <= 1
    assert wilson(n - right, n) == pytest.approx((1 - high, 1 - low))


def test_fisher_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    x = np.random.default_rng(0).normal(size=(2, 40))
    x[1] += x[0]
    other = stats.pearsonr(*x)
    interval = other.confidence_interval(0.95)
    assert fisher(other.statistic, 40) == pytest.approx((interval.low, interval.high), abs=1e-9)


@given(st.floats(-1, 1), st.integers(1, 1000))
def test_fisher_holds_the_correlation(r, n):
    low, high = fisher(r, n)
    assert -1 <= low <= r + 1e-12 and r - 1e-12 <= high <= 1


def test_fisher_of_few_pairs_says_nothing():
    assert fisher(0.9, 3) == (-1.0, 1.0)


def test_quality_of_classes():
    logits, labels = np.array([[1.0, 0], [0, 1], [1, 0], [1, 0]]), np.array([0, 1, 1, 0])
    found = quality(accuracy, logits, labels)
    assert (found.value, found.metric) == (0.75, "accuracy")
    assert (found.low, found.high) == wilson(3, 4)


def test_quality_of_numbers():
    logits = np.arange(10.0)[:, None]
    found = quality(pearson, logits, np.arange(10.0) ** 2)
    assert found.metric == "pearson" and found.low < found.value < found.high < 1


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="carry no labels"):
        quality(accuracy, np.zeros((2, 2)), None)
    with pytest.raises(ValueError, match="1 of 2 answers are not numbers"):
        quality(accuracy, np.array([[0, 1], [math.nan, 0]]), [0, 1])
    with pytest.raises(ValueError, match="3 answers for 2 labels"):
        quality(accuracy, np.zeros((3, 2)), [0, 1])
    with pytest.raises(ValueError, match="all the same"), np.errstate(all="ignore"):
        quality(pearson, np.ones((5, 1)), np.arange(5.0))
    with pytest.raises(ValueError, match="at least one labelled example"):
        wilson(0, 0)


@pytest.mark.parametrize("nats", [1e4, float("nan")])
def test_a_score_that_is_no_number_is_an_error(nats):
    """A perplexity that overflows is a broken model's, not a figure; JSON could not say it either."""
    from gossamer.task import CausalLM

    answers = [np.array([[nats, 1.0]]), np.array([[nats, 2.0]])]
    with pytest.raises(ValueError, match=r"expected a finite number|are not numbers"), np.errstate(over="ignore"):
        quality(CausalLM(), answers, None)
