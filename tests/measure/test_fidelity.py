import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gossamer.measure.fidelity import ensemble, fidelity, kl, log_softmax
from gossamer.measure.loyalty import label_loyalty, softmax

P, Q = np.array([[0.75, 0.2, 0.05]]), np.array([[0.8, 0.1, 0.1]])
shapes = st.tuples(st.integers(1, 6), st.integers(2, 5))
two = shapes.flatmap(lambda shape: st.tuples(*[arrays(np.float64, shape, elements=st.floats(-30, 30))] * 2))
several = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(2, 4)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(-30, 30))
)


def test_golden_values():
    found = fidelity(np.log(P), np.log(Q))
    assert found.teacher_student == pytest.approx(0.055568, abs=1e-6)
    assert found.student_teacher == pytest.approx(0.051631, abs=1e-6)
    assert (found.agreement, found.examples) == (1, 1)


@settings(deadline=None)
@given(two)
def test_it_is_scipys_entropy_and_label_loyalty(pair):
    stats, special = pytest.importorskip("scipy.stats"), pytest.importorskip("scipy.special")
    teacher, student = pair
    found, p, q = fidelity(teacher, student), softmax(teacher), softmax(student)
    assert found.teacher_student == pytest.approx(stats.entropy(p, q, axis=1).mean(), abs=1e-9)
    assert found.student_teacher == pytest.approx(special.rel_entr(q, p).sum(1).mean(), abs=1e-9)
    assert found.agreement == label_loyalty(teacher, student)


@given(two)
def test_divergence_is_never_negative_and_turns_around(pair):
    one, other = pair
    there, back = fidelity(one, other), fidelity(other, one)
    assert there.teacher_student >= 0 and there.student_teacher >= 0
    assert (there.teacher_student, there.student_teacher) == (back.student_teacher, back.teacher_student)
    same = fidelity(one, one.copy())
    assert (same.agreement, same.teacher_student, same.student_teacher) == (1, 0, 0)


@given(two, st.floats(-50, 50))
def test_a_constant_does_not_matter(pair, constant):
    one, other = pair
    assert fidelity(one + constant, other).teacher_student == pytest.approx(
        fidelity(one, other).teacher_student, abs=1e-9
    )


def test_certainty_stays_finite_where_softmax_rounds_to_nothing():
    found = fidelity(np.array([[0.0, 0]]), np.array([[2000.0, 0]]))
    assert found.teacher_student == pytest.approx(1000 - np.log(2))  # log(softmax) would say infinite
    assert found.student_teacher == pytest.approx(np.log(2))
    masked = np.array([[1.0, 2, np.finfo(np.float32).min]])  # how transformers rules a class out
    assert fidelity(masked, masked + 1).teacher_student == pytest.approx(0, abs=1e-12)


def test_what_is_impossible_adds_nothing_to_one_and_everything_to_the_other():
    log_p, log_q = np.array([[0.0, -np.inf]]), np.log([[0.5, 0.5]])
    assert kl(log_p, log_q) == pytest.approx([np.log(2)])
    assert kl(log_p, log_p) == [0]
    assert kl(log_q, log_p) == [np.inf]


def test_log_softmax_is_scipys():
    special = pytest.importorskip("scipy.special")
    x = np.random.default_rng(0).normal(size=(20, 7)) * 50
    assert log_softmax(x) == pytest.approx(special.log_softmax(x, axis=-1), abs=1e-9)


@given(several)
def test_an_ensemble_is_the_mean_of_probabilities(members):
    mixed = ensemble(members)
    assert np.exp(mixed) == pytest.approx(softmax(members).mean(0), abs=1e-12)
    assert softmax(mixed) == pytest.approx(np.exp(mixed), abs=1e-12)  # so it serves as logits


def test_one_loud_member_does_not_outvote_two():
    members = np.log([[[0.9999, 0.0001]], [[0.1, 0.9]], [[0.1, 0.9]]])
    assert members.mean(0).argmax() == 0  # what averaged logits would say
    assert fidelity(ensemble(members), members[1]).agreement == 1


@given(two)
def test_an_ensemble_of_one_twice_is_that_one(pair):
    one, _ = pair
    assert ensemble([one, one]) == pytest.approx(log_softmax(one), abs=1e-12)


def test_an_ensemble_stays_finite_where_all_members_round_to_nothing():
    assert ensemble([np.array([[0.0, 2000]])] * 3)[0, 0] == -2000


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 2\) against \(2, 2\)"):
        fidelity(np.zeros((3, 2)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"\(0, 2\)"):
        fidelity(np.zeros((0, 2)), np.zeros((0, 2)))
    with pytest.raises(ValueError, match="a regression has no distribution to match"):
        fidelity(np.zeros((3, 1)), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="answers of the teacher are not numbers"):
        fidelity(P * np.nan, Q)
    with pytest.raises(ValueError, match="ensemble of no members"):
        ensemble([])
    with pytest.raises(ValueError, match=r"member 1 of the ensemble answers in shape \(1, 2\), member 0 in \(1, 3\)"):
        ensemble([P, P[:, :2]])
    with pytest.raises(ValueError, match="answers of member 1 of the ensemble are not numbers"):
        ensemble([P, Q * np.inf])
