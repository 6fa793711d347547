from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.data import Split
from gossamer.measure.domains import domains, gap, relative, relative_bias

score = st.floats(0, 1)


class Says:
    """Answers the class that a text spells."""

    def __init__(self, classes, mistakes=()):
        self.classes, self.mistakes = classes, mistakes

    def logits(self, texts, pairs=None, batch_size=32):
        answers = [int(text) if text not in self.mistakes else (int(text) + 1) % self.classes for text in texts]
        return np.eye(self.classes)[answers]


def by(rule):
    return SimpleNamespace(
        metric="accuracy",
        score=lambda logits, labels: float(rule(logits, labels).mean()),
        right=lambda logits, labels: rule(logits, labels).astype(int),
    )


three = by(lambda logits, labels: logits.argmax(-1) == labels)
two = by(lambda logits, labels: (logits.argmax(-1) == 0) == (labels == 0))


def test_golden_values():
    found = relative_bias(gap(0.82, 0.60), gap(0.84, 0.73))
    assert found.relative_bias == pytest.approx(2.0)
    assert (found.compressed.gap, found.baseline.gap) == pytest.approx((0.22, 0.11))
    assert found.reason is None


@given(score, score, score, score)
def test_both_gaps_are_given_whether_or_not_their_ratio_is(dev_c, ood_c, dev_f, ood_f):
    found = relative_bias(gap(dev_c, ood_c), gap(dev_f, ood_f))
    assert (found.compressed.gap, found.baseline.gap) == (dev_c - ood_c, dev_f - ood_f)
    assert (found.relative_bias is None) == (dev_f - ood_f <= 0) == (found.reason is not None)
    if found.relative_bias is not None and dev_f - ood_f > 1e-9:
        assert (found.relative_bias > 1) == (dev_c - ood_c > dev_f - ood_f)


def test_an_undefined_ratio_says_why():
    assert relative(0.1, 0.0) == (None, "the baseline loses nothing (its drop is 0); compare the drops themselves")
    assert "its drop is -0.25" in relative(0.1, -0.25)[1]
    assert relative(0.1, None) == (None, "no baseline was given")
    assert relative_bias(gap(1, 0.5), None).baseline is None


def test_models_are_asked_about_both_sets():
    inside = Split(("0", "1", "2", "0"), labels=(0, 1, 2, 0))
    outside = Split(("0", "1", "2", "2"), labels=(0, 1, 1, 0))
    found = domains(Says(3, {"0"}), inside, outside, three, baseline=Says(3))
    assert asdict(found.compressed) == {"in_domain": 0.5, "out_of_domain": 0.25, "gap": 0.25}
    assert asdict(found.baseline) == {"in_domain": 1.0, "out_of_domain": 0.5, "gap": 0.5}
    assert (found.relative_bias, found.metrics) == (0.5, ("accuracy", "accuracy"))
    merged = domains(Says(3), inside, outside, three, outside_task=two)  # 2 for 1 is no mistake where only 0 is asked
    assert merged.compressed.out_of_domain == 0.75
    assert (merged.relative_bias, merged.reason) == (None, "no baseline was given")


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match=r"an out-of-domain score of nan: expected a finite number"):
        gap(1.0, float("nan"))
    with pytest.raises(ValueError, match="carry no labels"):
        domains(Says(3), Split(("0",), labels=(0,)), Split(("0",)), three)
