"""Whether the model is right as often as it says it is.

Expected and maximum calibration error and the reliability table of "On Calibration of Modern Neural Networks" (Guo,
Pleiss, Sun, Weinberger, ICML 2017, equations 3 and 5): examples are put in bins by confidence, the probability of
the chosen class, and in each bin the mean confidence is held against the accuracy.  Ten bins of equal width, closed on
the right, as Stanton et al. (NeurIPS 2021) report it; or bins of equal mass (Nguyen and O'Connor, EMNLP 2015), which
leave none nearly empty.  The Brier score is the original one (Brier, Monthly Weather Review 1950): the sum of squares
over all classes, from 0 to 2; some libraries halve it for two classes.

The errors depend on bins and on the number of examples (few examples raise them), so a report states both.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .loyalty import softmax

Equal = Literal["width", "mass"]


@dataclass(frozen=True)
class Bin:
    """The examples whose confidence is over `low` and up to `high`, their mean confidence and the share of them right.

    Of equal mass, low and high are the least and the greatest confidence in the bin itself.  confidence and accuracy
    are None where the bin holds no example.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """The errors, each from 0 (calibrated) to 1, the Brier score from 0 to 2, and the reliability table.

    ece: the mean distance of accuracy and confidence over the examples' bins.  mce: the greatest of any bin.
    confidence, accuracy: over all examples; confidence over accuracy is overconfidence.  equal: "width" or "mass".
    """

    ece: float
    mce: float
    brier: float
    confidence: float
    accuracy: float
    examples: int
    equal: Equal
    bins: tuple[Bin, ...]


def calibration(logits: Any, labels: Any, bins: int = 10, equal: Equal = "width") -> Calibration:
    """How far confidence is from accuracy.

    logits: (n, classes).  labels: (n,) class indices.  bins: how many.  equal: "width" cuts [0, 1] evenly; "mass" puts
    the same number of examples, give or take one, in each bin.  Examples of equal confidence then share a bin, so that
    the order of the examples does not matter; bins left empty by that, or by too few examples, are not listed.
    Raises ValueError for logits or labels that do not fit each other or are not numbers, and for wrong bins.
    """
    if bins < 1:
        raise ValueError(f"{bins} bins: expected at least 1")
    if equal not in ("width", "mass"):
        raise ValueError(f'bins of equal {equal!r}: expected "width" or "mass"')
    hits = right(logits, labels)
    p = softmax(logits)
    confidence, n = p.max(-1), len(p)
    edges = np.arange(bins + 1) / bins
    if equal == "width":
        place = np.searchsorted(edges, np.minimum(confidence, 1), side="left") - 1  # right-closed; confidence > 0
    else:
        place = np.searchsorted(np.sort(confidence), confidence, side="left") * bins // n
    table = []
    for i in range(bins):
        here = place == i
        count = int(here.sum())
        if not count and equal == "mass":
            continue
        ends = (edges[i], edges[i + 1]) if equal == "width" else (confidence[here].min(), confidence[here].max())
        means = (float(confidence[here].mean()), float(hits[here].mean())) if count else (None, None)
        table.append(Bin(float(ends[0]), float(ends[1]), count, *means))
    gaps = [
        (b.count, abs(b.accuracy - b.confidence)) for b in table if b.accuracy is not None and b.confidence is not None
    ]
    target = np.eye(p.shape[1])[np.asarray(labels, dtype=np.int64)]  # (n, classes), one 1 a row
    return Calibration(
        ece=sum(count * gap for count, gap in gaps) / n,
        mce=max(gap for _, gap in gaps),
        brier=float(((p - target) ** 2).sum(-1).mean()),
        confidence=float(confidence.mean()),
        accuracy=float(hits.mean()),
        examples=n,
        equal=equal,
        bins=tuple(table),
    )


def right(logits: Any, labels: Any) -> NDArray[np.bool_]:
    """(n,) whether the largest logit is the label's.

    logits: (n, classes), at least two classes.  labels: (n,) class indices.
    Raises ValueError when there is nothing to count, when they do not fit each other, or when a logit is not finite.
    """
    x, y = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if x.ndim != 2 or x.shape[1] < 2 or not len(x):
        raise ValueError(f"answers of shape {x.shape}: expected (examples, classes) with at least two classes")
    if y.shape != (len(x),):
        raise ValueError(f"labels of shape {y.shape} for {len(x)} answers: expected ({len(x)},), one label each")
    broken = int((~np.isfinite(x)).any(1).sum())
    if broken:
        raise ValueError(
            f"{broken} of {len(x)} answers are not numbers (nan or inf); "
            "the model is broken, train or compress it again"
        )
    wrong = [label for label in np.unique(y).tolist() if label not in range(x.shape[1])]
    if wrong:
        raise ValueError(
            f"label {wrong[0]!r} among {x.shape[1]} classes: expected whole numbers from 0 to {x.shape[1] - 1}"
        )
    return np.asarray(x.argmax(-1) == y)
