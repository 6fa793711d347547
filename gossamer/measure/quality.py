"""How good the answers are, and how sure the examples let us be of it.

Classification: accuracy with the Wilson score interval (Wilson, JASA 1927), which stays inside [0, 1] and keeps its
coverage near both ends.  Correlations: Fisher's z interval (Fisher, Metron 1921).  Anything else, such as F1 and
perplexity: the percentile interval of the bootstrap over texts (Efron, Annals of Statistics 1979), with a fixed seed.
"""

from dataclasses import dataclass
from math import atanh, isfinite, sqrt, tanh
from typing import Any, Protocol

import numpy as np

from gossamer.formats import COLUMNS

DRAWS = 1000  # samples of the bootstrap
Z95 = 1.959963984540054  # the standard normal's 97.5 % point


class Scored(Protocol):
    """The part of a task that quality reads (gossamer.task has the tasks)."""

    @property
    def metric(self) -> str:
        """Its name, as in "accuracy"."""

    def score(self, logits: Any, labels: Any) -> float:
        """Of all examples together."""

    def right(self, logits: Any, labels: Any) -> Any:
        """(n,) 0 or 1 for each example; None where right and wrong are not the question."""


@dataclass(frozen=True)
class Quality:
    """A score between the two ends of its 95 % interval; better: which scores are, the "higher" or the "lower" ones."""

    value: float
    metric: str
    low: float
    high: float
    better: str = "higher"


def wilson(right: int, n: int, z: float = Z95) -> tuple[float, float]:
    """The interval of a proportion of `right` out of `n`, both ends inside [0, 1].

    Raises ValueError when there is nothing to count.
    """
    if n < 1 or not 0 <= right <= n:
        raise ValueError(f"{right} right of {n} examples: expected 0 <= right <= n and at least one labelled example")
    share, spread = right / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z * sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return (0.0 if right == 0 else middle - half), (1.0 if right == n else middle + half)


def fisher(r: float, n: int, z: float = Z95) -> tuple[float, float]:
    """The interval of a correlation `r` over `n` pairs; (-1, 1), which says nothing, for fewer than four.

    Raises ValueError when r is not a correlation.
    """
    if not -1 <= r <= 1:
        raise ValueError(
            f"a correlation of {r}: expected a number from -1 to 1; predictions or labels that are all the same "
            "have none"
        )
    if n < 4:
        return -1.0, 1.0
    if abs(r) == 1:
        return r, r
    half = z / sqrt(n - 3)
    return tanh(atanh(r) - half), tanh(atanh(r) + half)


def bootstrap(task: Scored, answers: Any, labels: Any, draws: int = DRAWS) -> tuple[float, float]:
    """The middle 95 % of the scores of `draws` samples of as many texts, drawn with replacement from a fixed seed."""
    chance, n = np.random.default_rng(0), len(answers)
    tally = task.tally(answers, labels)  # type: ignore[attr-defined]
    assert tally is not None and len(tally) == n, "a task whose interval is the bootstrap's keeps a tally"
    often = chance.multinomial(n, np.full(n, 1 / n), draws)  # (draws, n): how often each text is drawn
    found = [task.of_tally(sums) for sums in often @ tally]  # type: ignore[attr-defined]
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)


def quality(task: Scored, logits: Any, labels: Any) -> Quality:
    """The task's metric over all examples, with its 95 % interval.

    logits: (n, classes), or (n, 1) for regression, or n answers of another task (gossamer.task); labels: n of them, and
    None where the texts themselves are what is asked for.
    Raises ValueError when an answer or the score is not a finite number, or when there are no labels.
    """
    if getattr(task, "interval", "") == "bootstrap":
        return _of_texts(task, logits, labels)
    if labels is None or len(labels) == 0:
        raise ValueError("the examples carry no labels; quality needs them (name their column with --label)")
    logits, labels = np.asarray(logits), np.asarray(labels)
    if len(logits) != len(labels):
        raise ValueError(f"{len(logits)} answers for {len(labels)} labels; expected one answer each")
    broken = int((~np.isfinite(logits.reshape(len(logits), -1))).any(1).sum())
    if broken:
        raise ValueError(
            f"{broken} of {len(logits)} answers are not numbers (nan or inf); "
            "the model is broken, train or compress it again"
        )
    value, right = float(task.score(logits, labels)), task.right(logits, labels)
    low, high = wilson(int(np.sum(right)), len(labels)) if right is not None else fisher(value, len(labels))
    return Quality(value, task.metric, low, high)


def _of_texts(task: Any, answers: Any, labels: Any) -> Quality:
    """The same of a task whose answers are no rows of numbers."""
    if labels is None and COLUMNS[task.kind][2] is not None:
        raise ValueError("the examples carry no labels; quality needs them (name their column with --label)")
    if labels is not None and len(answers) != len(labels):
        raise ValueError(f"{len(answers)} answers for {len(labels)} labels; expected one answer each")
    broken = int((~task.finite(answers)).sum())
    if broken:
        raise ValueError(
            f"{broken} of {len(answers)} answers are not numbers (nan or inf); "
            "the model is broken, train or compress it again"
        )
    value = float(task.score(answers, labels))
    if not isfinite(value):
        raise ValueError(
            f"{task.metric} of {len(answers)} texts is {value}, expected a finite number; either there is nothing to "
            "score in them, or the model is broken: train or compress it again"
        )
    low, high = bootstrap(task, answers, labels)
    if not (isfinite(low) and isfinite(high)):
        raise ValueError(
            f"{task.metric} is {value:.6g}, and its 95 % interval [{low:.6g}, {high:.6g}] is none; give more texts"
        )
    return Quality(value, task.metric, low, high, task.better)
