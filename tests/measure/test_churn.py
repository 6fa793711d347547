import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gossamer.measure.churn import churn, mcnemar, noise_floor
from gossamer.measure.loyalty import label_loyalty, probability_loyalty

counts = st.integers(0, 60)
shapes = st.tuples(st.integers(1, 30), st.integers(2, 4))


def answers(k):
    return shapes.flatmap(
        lambda shape: st.tuples(
            *[arrays(np.float64, shape, elements=st.floats(-9, 9))] * k,
            arrays(np.int64, shape[:1], elements=st.integers(0, shape[1] - 1)),
        )
    )


def chosen(*classes):
    return np.eye(3)[list(classes)]


def test_flips_counted_by_hand():
    found = churn(chosen(0, 0, 1, 1, 2, 2), chosen(0, 1, 0, 2, 2, 1), [0, 0, 0, 0, 1, 1])
    #              stays, bad, good, astray, stays wrong, good
    assert (found.bad, found.good, found.astray, found.examples) == (1, 2, 1, 6)
    assert found.changed == pytest.approx(4 / 6)
    assert found.test == mcnemar(1, 2)


@given(answers(2))
def test_churn_is_what_label_loyalty_leaves_and_its_kinds_add_up(drawn):
    teacher, student, labels = drawn
    found = churn(teacher, student, labels)
    assert found.changed == pytest.approx(1 - label_loyalty(teacher, student), abs=1e-12)
    assert found.bad + found.good + found.astray == round(found.changed * found.examples)
    accuracies = [(x.argmax(1) == labels).mean() for x in (teacher, student)]
    assert (found.good - found.bad) / len(labels) == pytest.approx(accuracies[1] - accuracies[0], abs=1e-12)
    back = churn(student, teacher, labels)
    assert (back.bad, back.good, back.astray, back.test.p) == (found.good, found.bad, found.astray, found.test.p)


@given(answers(1))
def test_nothing_changed_is_no_churn(drawn):
    x, labels = drawn
    found = churn(x, x.copy(), labels)
    assert (found.changed, found.bad, found.good, found.astray, found.test.p) == (0, 0, 0, 0, 1)


def test_without_labels_only_the_share_is_known():
    found = churn(chosen(0, 1), chosen(0, 2))
    assert (found.changed, found.bad, found.good, found.astray, found.test) == (0.5, None, None, None, None)


def test_mcnemar_is_the_published_example():
    # Fagerland et al. 2013, table 1 (Bentur et al.): 1 against 7 discordant pairs
    found = mcnemar(1, 7)
    assert (found.p, found.mid_p) == (pytest.approx(0.0703, abs=5e-5), pytest.approx(0.0391, abs=5e-5))
    assert (found.test, found.statistic) == ("exact binomial", None)


@settings(deadline=None)
@given(counts, counts)
def test_the_exact_test_is_scipys(bad, good):
    stats = pytest.importorskip("scipy.stats")
    found = mcnemar(bad, good)
    assert found.p == pytest.approx(stats.binomtest(bad, bad + good).pvalue if bad + good else 1, rel=1e-9)


@settings(deadline=None)
@given(counts, counts)
def test_mid_p_counts_what_is_as_likely_half(bad, good):
    stats = pytest.importorskip("scipy.stats")
    n, found = bad + good, mcnemar(bad, good)
    if n:
        chances = stats.binom.pmf(np.arange(n + 1), n, 0.5)
        alike = np.isclose(chances, chances[bad], rtol=1e-9, atol=0)
        less = (chances < chances[bad]) & ~alike
        assert found.mid_p == pytest.approx(chances[less].sum() + chances[alike].sum() / 2, rel=1e-9)
        assert 0 < found.mid_p < found.p <= 1


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_approximation_is_scipys(bad, good):
    stats = pytest.importorskip("scipy.stats")
    found = mcnemar(bad, good)
    if bad + good > 1000:
        statistic = max(abs(bad - good) - 1, 0) ** 2 / (bad + good)
        assert (found.test, found.mid_p) == ("chi-square with continuity correction", None)
        assert found.statistic == pytest.approx(statistic)
        assert found.p == pytest.approx(stats.chi2.sf(statistic, 1), rel=1e-6, abs=1e-300)


def test_both_tests_meet_where_one_takes_over():
    for bad in (400, 450, 470, 499, 500):
        exact, rough = mcnemar(bad, 1000 - bad), mcnemar(bad, 1000 - bad, exact_up_to=999)
        assert (exact.test, rough.test) == ("exact binomial", "chi-square with continuity correction")
        assert exact.p == pytest.approx(rough.p, abs=1e-3)


def test_a_balance_is_no_difference():
    assert mcnemar(0, 0) == mcnemar(0, 0, exact_up_to=0)
    assert (mcnemar(0, 0).p, mcnemar(0, 0).mid_p) == (1, 1)
    for few in (mcnemar(5, 5), mcnemar(5, 5, exact_up_to=9)):  # uncorrected, the correction would say 0.1
        assert few.p == 1
    assert mcnemar(np.int64(300), np.int64(300)).p == 1  # as numpy counts


@given(st.integers(0, 40), st.integers(0, 40))
def test_bad_and_good_are_alike_to_the_test(bad, good):
    one, other = mcnemar(bad, good), mcnemar(good, bad)
    assert (one.p, one.mid_p) == (other.p, other.mid_p)


def test_the_floor_worked_by_hand():
    teacher, seed, student = chosen(0, 0, 0, 0), chosen(0, 0, 0, 1), chosen(0, 1, 1, 1)
    found = noise_floor(teacher, seed, student, [0, 0, 1, 1])
    assert (found.reseeded.churn.changed, found.student.churn.changed, found.beyond) == (0.25, 0.75, 0.5)
    assert (found.reseeded.label_loyalty, found.student.label_loyalty) == (0.75, 0.25)
    assert (found.student.churn.bad, found.student.churn.good, found.reseeded.churn.good) == (1, 2, 1)
    assert (found.test, found.loyalty_base) == (mcnemar(2, 0), 2)
    json.dumps(asdict(found), allow_nan=False)


@given(answers(3), st.sampled_from([2, math.e]))
def test_the_floor_is_the_same_figures_for_both(drawn, base):
    teacher, seed, student, labels = drawn
    found = noise_floor(teacher, seed, student, labels, base)
    for drift, other in ((found.student, student), (found.reseeded, seed)):
        assert drift.label_loyalty == label_loyalty(teacher, other)
        assert drift.probability_loyalty == probability_loyalty(teacher, other, base)
        assert drift.churn == churn(teacher, other, labels)
    turned = noise_floor(teacher, student, seed, labels, base)
    assert (turned.student, turned.reseeded, turned.beyond) == (found.reseeded, found.student, -found.beyond)
    assert (turned.test.bad, turned.test.good, turned.test.p) == (found.test.good, found.test.bad, found.test.p)


@given(answers(2))
def test_the_re_seeded_teacher_itself_is_at_the_floor(drawn):
    teacher, seed, _ = drawn
    found = noise_floor(teacher, seed, seed.copy())
    assert (found.student, found.beyond, found.test.p) == (found.reseeded, 0, 1)


def test_what_cannot_be_compared_is_refused():
    x = chosen(0, 1)
    with pytest.raises(ValueError, match=r"\(2, 3\) against \(1, 3\)"):
        churn(x, x[:1])
    with pytest.raises(ValueError, match="at least two classes"):
        churn(x[:, :1], x[:, :1])
    with pytest.raises(ValueError, match=r"labels of shape \(1,\) for 2 answers"):
        churn(x, x, [0])
    with pytest.raises(ValueError, match="answers of the student are not numbers"):
        noise_floor(x, x, x * np.nan)
    with pytest.raises(ValueError, match=r"re-seeded teacher of shape \(1, 3\) against the teacher's \(2, 3\)"):
        noise_floor(x, x[:1], x)
    with pytest.raises(ValueError, match=r"re-seeded teacher .* finite"):
        noise_floor(x, x + np.inf, x)
    with pytest.raises(ValueError, match="base 10"):
        noise_floor(x, x, x, base=10)
    with pytest.raises(ValueError, match="-1 bad and 2 good flips"):
        mcnemar(-1, 2)
    with pytest.raises(TypeError):
        mcnemar(1.5, 2)
