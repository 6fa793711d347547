"""What a model loses on examples unlike those it was trained on, and whether compression made it lose more.

The gap is the in-domain score less the out-of-domain score.  Du et al., "What do Compressed Large Language Models
Forget? Robustness Challenges in Model Compression" (2021), see compressed models keep the first and lose the second;
their relative bias is the compressed model's gap over the full model's,

    RB = (dev_c - ood_c) / (dev_f - ood_f),

above 1 where the compressed model is the less robust one (in this form; the paper's own could not be compared).  It
means nothing where the full model loses nothing, and it hides how much is lost at all: both gaps are always given.
Usual pairs of sets are MNLI and HANS, QQP and PAWS, FEVER and its symmetric test.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Protocol

import numpy as np

from .quality import Scored, quality
from .subject import Answers


class Examples(Protocol):
    """Labelled texts, such as gossamer.data.Split."""

    @property
    def texts(self) -> Sequence[str]:
        """The (first) texts."""

    @property
    def pairs(self) -> Sequence[str] | None:
        """The second texts, where the task is about two."""

    @property
    def labels(self) -> Sequence[int | float] | None:
        """Class indices, or numbers."""


@dataclass(frozen=True)
class Gap:
    """Two scores of one model, and in_domain - out_of_domain; a higher score is a better one."""

    in_domain: float
    out_of_domain: float
    gap: float


@dataclass(frozen=True)
class Domains:
    """Both sides' gaps, and the ratio of the compressed model's gap to the baseline's.

    relative_bias: above 1: less robust than the baseline; None where it is undefined, and reason says why.
    """

    compressed: Gap
    baseline: Gap | None
    relative_bias: float | None
    reason: str | None
    metrics: tuple[str, str] | None = None  # in the domain, out of it


def gap(in_domain: float, out_of_domain: float) -> Gap:
    """The gap between two scores on the same scale.

    Raises ValueError when a score is not a number.
    """
    for name, score in (("in-domain", in_domain), ("out-of-domain", out_of_domain)):
        if not isfinite(score):
            raise ValueError(f"an {name} score of {score}: expected a finite number")
    return Gap(float(in_domain), float(out_of_domain), float(in_domain) - float(out_of_domain))


def relative(compressed: float, baseline: float | None) -> tuple[float | None, str | None]:
    """What the compressed model loses over what the baseline loses, and why there is no such ratio where it is None."""
    if baseline is None:
        return None, "no baseline was given"
    if baseline <= 0:
        return None, f"the baseline loses nothing (its drop is {baseline:.6g}); compare the drops themselves"
    return compressed / baseline, None


def relative_bias(compressed: Gap, baseline: Gap | None) -> Domains:
    """The two gaps and their ratio (Du et al.); the ratio is None where the baseline's gap is not above 0."""
    ratio, reason = relative(compressed.gap, None if baseline is None else baseline.gap)
    return Domains(compressed, baseline, ratio, reason)


def domains(
    compressed: Answers,
    inside: Examples,
    outside: Examples,
    task: Scored,
    *,
    baseline: Answers | None = None,
    outside_task: Scored | None = None,
    batch_size: int = 32,
) -> Domains:
    """Ask both sides about both sets, score, and compare.

    task: how the answers are scored; outside_task: the same for the outside set where it is scored otherwise (HANS has
    two classes where MNLI has three: neutral and contradiction count as one).
    Raises ValueError when examples carry no labels or an answer is not a number.
    """
    other = outside_task or task

    def side(predictor: Answers) -> Gap:
        scores = []
        for examples, how in ((inside, task), (outside, other)):
            logits = np.asarray(predictor.logits(examples.texts, examples.pairs, batch_size=batch_size))
            labels: Any = None if examples.labels is None else np.asarray(examples.labels)
            scores.append(quality(how, logits, labels).value)
        return gap(*scores)

    found = relative_bias(side(compressed), None if baseline is None else side(baseline))
    return Domains(found.compressed, found.baseline, found.relative_bias, found.reason, (task.metric, other.metric))
