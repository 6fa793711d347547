"""Which answers changed, whether that is more than chance, and more than another seed would have changed.

Two models of equal accuracy can be wrong on different examples.  Churn is the share of answers that changed ("Launch
and Iterate: Reducing Prediction Churn", Milani Fard, Cormier, Canini, Gupta, NeurIPS 2016); with labels, bad flips
(right before, wrong now) are told from good ones.  McNemar's test (Psychometrika 1947) asks whether good and bad flips
balance: exactly, with the mid-p value beside it (Fagerland, Lydersen, Laake, BMC Medical Research Methodology 2013,
13:91), which is less timid than the exact one; for very many flips by chi-square with Edwards' continuity correction
(Psychometrika 1948).

The noise floor says how much of it means anything: a teacher trained again with nothing changed but the seed differs
from itself as well.
"""

from dataclasses import dataclass
from math import comb, erfc, sqrt
from operator import index
from typing import Any, Literal

import numpy as np

from .calibration import right
from .fidelity import two_answers
from .loyalty import Array, label_loyalty, probability_loyalty

Test = Literal["exact binomial", "chi-square with continuity correction"]


@dataclass(frozen=True)
class McNemar:
    """A two-sided test of whether bad and good flips are equally likely.

    p: by `test`.  mid_p: beside the exact one only.  statistic: chi-square on one degree of freedom, beside that only.
    """

    bad: int
    good: int
    p: float
    test: Test
    mid_p: float | None
    statistic: float | None


@dataclass(frozen=True)
class Churn:
    """What changed on the way from one model to another.

    changed: the share of the examples whose answer is another one.  bad: how many went from right to wrong; good: from
    wrong to right; astray: from wrong to another wrong.  Those, and the test of bad against good, are None where there
    are no labels.
    """

    changed: float
    examples: int
    bad: int | None = None
    good: int | None = None
    astray: int | None = None
    test: McNemar | None = None


@dataclass(frozen=True)
class Drift:
    """How far a model is from the teacher: two loyalties (gossamer.measure.loyalty) and the churn."""

    label_loyalty: float
    probability_loyalty: float
    churn: Churn


@dataclass(frozen=True)
class NoiseFloor:
    """The student's distance from its teacher beside that of a teacher to which nothing was done but another seed.

    beyond: the share of changed answers over the re-seeded one's; at or under 0, compression changed no more than the
    seed does.  test: whether the student changes more (`bad`: only the student changed; `good`: only the re-seeded
    model).  It speaks of these two models on such examples, not of other seeds.
    """

    student: Drift
    reseeded: Drift
    beyond: float
    test: McNemar
    loyalty_base: float


def churn(teacher: Any, student: Any, labels: Any = None) -> Churn:
    """What changed from the teacher's answers to the student's.

    teacher, student: (n, classes) logits or probabilities.  labels: (n,) class indices, if known.
    Raises ValueError when the three do not fit each other or are not numbers.
    """
    teacher, student = two_answers(teacher, student)
    moved = teacher.argmax(-1) != student.argmax(-1)
    share = float(moved.mean())
    if labels is None:
        return Churn(share, len(moved))
    before, after = right(teacher, labels), right(student, labels)
    bad, good = int((before & ~after).sum()), int((~before & after).sum())
    return Churn(share, len(moved), bad, good, int((moved & ~before & ~after).sum()), mcnemar(bad, good))


def mcnemar(bad: int, good: int, exact_up_to: int = 1000) -> McNemar:
    """Whether `bad` against `good` flips, of pairs that changed, could be the tosses of a fair coin.

    exact_up_to: the most flips that are counted exactly.  That is cheap to a thousand, hence the default; the 25 of
    textbooks dates from tables on paper.  No flips at all are no evidence: p = mid_p = 1.
    Raises ValueError for negative counts, TypeError for what is no count.
    """
    bad, good = index(bad), index(good)  # 2**n of numpy's integers would overflow
    if bad < 0 or good < 0:
        raise ValueError(f"{bad} bad and {good} good flips: expected counts, at least 0")
    n, few = bad + good, min(bad, good)
    if n > exact_up_to:
        statistic = max(abs(bad - good) - 1, 0) ** 2 / n  # the correction must not turn a balance into a difference
        chance = erfc(sqrt(statistic / 2))  # the upper tail of chi-square on one degree of freedom
        return McNemar(bad, good, chance, "chi-square with continuity correction", None, statistic)
    ways = 2**n  # whole numbers: no sum of many small floats
    p = min(1.0, 2 * sum(comb(n, k) for k in range(few + 1)) / ways)
    observed = comb(n, few) / ways
    if n == 0:
        mid_p = 1.0
    elif bad == good:
        mid_p = 1 - observed / 2
    else:
        mid_p = p - observed
    return McNemar(bad, good, p, "exact binomial", mid_p, None)


def noise_floor(teacher: Any, reseeded: Any, student: Any, labels: Any = None, base: float = 2) -> NoiseFloor:
    """How different the student is from its teacher, and how different another seed of the teacher is.

    teacher, reseeded, student: (n, classes) logits on the same examples; reseeded was trained as the teacher was, with
    another seed.  labels: (n,) class indices, if known.  base: of probability loyalty, 2 or math.e.
    Raises ValueError when they do not fit each other or are not numbers.
    """
    reference, compressed = two_answers(teacher, student)
    other = np.asarray(reseeded, dtype=np.float64)
    if other.shape != reference.shape or not np.isfinite(other).all():
        raise ValueError(
            f"answers of the re-seeded teacher of shape {other.shape} against the teacher's {reference.shape}: "
            "expected the same shape, and finite numbers"
        )

    def drift(answers: Array) -> Drift:
        return Drift(
            label_loyalty(reference, answers),
            probability_loyalty(reference, answers, base),
            churn(reference, answers, labels),
        )

    of_student, of_seed = drift(compressed), drift(other)
    own = reference.argmax(-1)
    by_student, by_seed = compressed.argmax(-1) != own, other.argmax(-1) != own
    test = mcnemar(int((by_student & ~by_seed).sum()), int((by_seed & ~by_student).sum()))
    return NoiseFloor(of_student, of_seed, of_student.churn.changed - of_seed.churn.changed, test, base)
