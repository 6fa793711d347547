import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gossamer.benchmarks.scores import accuracy, f1, macro_f1, matthews, pearson, spearman, standing
from gossamer.metrics.correlation import ranks

columns = st.integers(1, 40).flatmap(
    lambda n: st.tuples(*[arrays(np.int64, n, elements=st.integers(0, 3))] * 2)
)  # (predictions, labels)
numbers = (
    st.integers(2, 40)
    .flatmap(lambda n: st.tuples(*[arrays(np.float64, n, elements=st.integers(-6, 6).map(lambda i: i / 2))] * 2))
    .filter(lambda pair: all(len(set(column)) > 1 for column in pair))
)  # many ties


def brute_matthews(predictions, labels):
    """Of two classes, from the four counts."""
    tp, tn, fp, fn = (
        sum((p, t) == kind for p, t in zip(predictions, labels, strict=True))
        for kind in ((1, 1), (0, 0), (1, 0), (0, 1))
    )
    below = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (tp * tn - fp * fn) / below if below else 0.0


def brute_f1(predictions, labels, positive):
    tp = sum(p == t == positive for p, t in zip(predictions, labels, strict=True))
    precision = tp / max(1, sum(p == positive for p in predictions))
    recall = tp / max(1, sum(t == positive for t in labels))
    return 2 * precision * recall / (precision + recall) if tp else 0.0


def test_golden_values():
    predictions, labels = [1, 1, 0, 0, 1, 0], [1, 0, 0, 0, 1, 1]  # 2 TP, 1 FP, 1 FN, 2 TN
    assert accuracy(predictions, labels) == pytest.approx(4 / 6)
    assert f1(predictions, labels) == pytest.approx(2 / 3)
    assert f1(predictions, labels, positive=0) == pytest.approx(2 / 3)
    assert matthews(predictions, labels) == pytest.approx((2 * 2 - 1) / 9)
    assert macro_f1([0, 1, 2, 2], [0, 1, 1, 2]) == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert pearson([1, 2, 3], [1, 2, 4]) == pytest.approx(9 / math.sqrt(84), abs=1e-12)
    assert spearman([1, 2, 3], [1, 20, 400]) == 1


@given(columns.map(lambda pair: tuple(column % 2 for column in pair)))
def test_matthews_of_two_classes_is_the_four_counts(pair):
    assert matthews(*pair) == pytest.approx(brute_matthews(*(column.tolist() for column in pair)), abs=1e-9)


@given(columns)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(pair):
    predictions, labels = (column.tolist() for column in pair)
    for positive in range(4):
        assert f1(predictions, labels, positive) == pytest.approx(brute_f1(predictions, labels, positive), abs=1e-12)
    each = [brute_f1(predictions, labels, one) for one in sorted({*predictions, *labels})]
    assert macro_f1(predictions, labels) == pytest.approx(sum(each) / len(each), abs=1e-12)


@settings(deadline=None)  # the first call imports
@pytest.mark.filterwarnings("ignore")  # scikit-learn warns where a score is not defined; we document its value
@given(columns)
def test_they_are_scikit_learns(pair):
    metrics = pytest.importorskip("sklearn.metrics")
    predictions, labels = pair
    assert accuracy(*pair) == pytest.approx(metrics.accuracy_score(labels, predictions), abs=1e-6)
    assert macro_f1(*pair) == pytest.approx(metrics.f1_score(labels, predictions, average="macro"), abs=1e-6)
    assert matthews(*pair) == pytest.approx(metrics.matthews_corrcoef(labels, predictions), abs=1e-6)
    two = [column % 2 for column in pair]
    assert f1(*two) == pytest.approx(metrics.f1_score(two[1], two[0], labels=[0, 1]), abs=1e-6)


@settings(deadline=None)  # the first call imports
@given(numbers)
def test_correlations_are_scipys(pair):
    stats = pytest.importorskip("scipy.stats")
    assert pearson(*pair) == pytest.approx(stats.pearsonr(*pair).statistic, abs=1e-6)
    assert spearman(*pair) == pytest.approx(stats.spearmanr(*pair).statistic, abs=1e-6)
    assert ranks(pair[0]) == pytest.approx(stats.rankdata(pair[0]))


@given(columns)
def test_names_of_classes_do_not_matter(pair):
    names = np.array(["d", "a", "c", "b"])
    named = [names[column] for column in pair]
    assert accuracy(*named) == accuracy(*pair)
    assert macro_f1(*named) == pytest.approx(macro_f1(*pair), abs=1e-12)
    assert matthews(*named) == pytest.approx(matthews(*pair), abs=1e-12)
    assert f1(*named, positive="a") == f1(*pair)


@given(numbers, st.floats(0.1, 10), st.floats(-10, 10))
def test_correlations_are_symmetric_and_ignore_scale_and_shift(pair, scale, shift):
    one, other = pair
    for correlation in (pearson, spearman):
        r = correlation(one, other)
        assert -1 <= r <= 1
        assert correlation(other, one) == pytest.approx(r, abs=1e-9)
        assert correlation(-one, other) == pytest.approx(-r, abs=1e-9)
        assert correlation(one[:, None], other) == r
    assert pearson(scale * one + shift, other) == pytest.approx(pearson(one, other), abs=1e-6)


def test_huge_and_tiny_numbers_still_correlate():
    for size in (1e-200, 1e200):
        assert pearson(np.array([1, 2, 4]) * size, [1, 2, 4]) == pytest.approx(1)


def test_what_is_not_defined_is_zero_as_in_scikit_learn():
    assert f1([0, 0], [0, 0]) == 0 and f1([0, 0], [1, 0]) == 0
    assert matthews([1, 1, 1], [0, 1, 1]) == 0 and matthews([0, 1], [1, 1]) == 0
    assert macro_f1([0], [0]) == accuracy([0], [0]) == 1


def test_a_prediction_that_never_varies_correlates_with_nothing():
    for correlation in (pearson, spearman):
        with pytest.raises(ValueError, match=r"all 3 predictions are 0\.1: they correlate with nothing"):
            correlation([0.1] * 3, [1, 2, 3])
        with pytest.raises(ValueError, match="all 2 labels are 5"):
            correlation([1, 2], [5, 5])
        with pytest.raises(ValueError, match="one example has no correlation"):
            correlation([1], [1])


@pytest.mark.parametrize("metric", [accuracy, f1, macro_f1, matthews, pearson, spearman])
def test_what_cannot_be_compared_is_refused(metric):
    with pytest.raises(ValueError, match="no predictions and no labels: expected at least one"):
        metric([], [])
    with pytest.raises(ValueError, match="3 predictions for 2 labels: expected one each"):
        metric([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match=r"predictions of shape \(3, 2\): expected one (class|number) per example"):
        metric(np.zeros((3, 2)), [0, 1, 0])
    with pytest.raises(ValueError, match="1 of 3 predictions are n"):
        metric([0.0, math.nan, 1.0], [0.0, 1.0, 1.0])


def test_logits_and_mixed_classes_are_told_apart():
    with pytest.raises(ValueError, match=r"take the argmax\(-1\) of logits"):
        accuracy(np.zeros((3, 2)), [0, 1, 0])
    with pytest.raises(ValueError, match="class numbers for both, or class names for both"):
        accuracy([0, 1], ["a", "b"])


GROUPS = {"one": ("one",), "two": ("two-a", "two-b")}


def test_metrics_are_averaged_before_parts_and_parts_before_tasks():
    found = {"one": {"x": 0.2, "y": 0.4}, "two-a": {"x": 0.5}, "two-b": {"x": 0.7}, "aside": {"x": 0.0}}
    result = standing(found, GROUPS, aside=("aside",))
    assert result.tasks == pytest.approx({"one": 0.3, "two": 0.6})
    assert result.average == pytest.approx(0.45)
    assert asdict(result)["missing"] == ()


def test_a_missing_task_is_named_and_leaves_no_average():
    result = standing({"one": {"x": 0.2}, "two-a": {"x": 0.5}}, GROUPS)
    assert (result.average, result.missing, result.tasks) == (None, ("two-b",), {"one": 0.2})
    result = standing({"one": {"x": 0.2}}, GROUPS, without=["two"])
    assert (result.average, result.missing, result.without) == (0.2, (), ("two",))


def test_a_standing_of_strangers_is_refused():
    with pytest.raises(ValueError, match="'three' is no task; expected 'one', 'two-a', 'two-b'"):
        standing({"three": {"x": 1.0}}, GROUPS)
    with pytest.raises(ValueError, match="'WNLI' is no task"):
        standing({}, GROUPS, without=["WNLI"])
    with pytest.raises(ValueError, match="'one' has no metrics"):
        standing({"one": {}}, GROUPS)
    with pytest.raises(ValueError, match="every task is left out"):
        standing({}, GROUPS, without=["one", "two"])
