"""How much is lost when the texts are not as clean as the test set, and whether compression made it more.

Every side is asked about the same disturbed texts (gossamer.measure.disturb).  A disturbance that leaves the right
answer alone is measured by the accuracy that it costs, and by the share of answers that flip; the ratio of the
compressed model's drop to the baseline's has the form of Du et al.'s relative bias (gossamer.measure.domains): above 1,
compression made the model less robust.  One that should change the answer (negation) has no accuracy, for its right
answer is unknown: there a high flip rate is the good one.  Of pairs only the second text is edited, as attacks on
inference edit the hypothesis alone (Jin et al., AAAI 2020).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .calibration import right
from .disturb import SUITE, Disturbance, disturbed
from .domains import relative
from .loyalty import Array
from .subject import Answers

Edit = Literal["first", "second", "both"]


@dataclass(frozen=True)
class Effect:
    """What a disturbance did to one model.

    accuracy: on the disturbed texts; drop: the clean accuracy less that; both None where the answers should change.
    flip_rate: the share of all examples with another answer than on the clean text, right or wrong.
    """

    accuracy: float | None
    drop: float | None
    flip_rate: float


@dataclass(frozen=True)
class Disturbed:
    """One disturbance, and what it did to each side.

    changed: the share of the examples that it changed at all; flips are among these.  relative: the compressed model's
    drop over the baseline's, above 1 for less robust; None where it is undefined, and reason says why.
    """

    name: str
    rate: float
    preserving: bool
    changed: float
    compressed: Effect
    baseline: Effect | None
    relative: float | None
    reason: str | None


@dataclass(frozen=True)
class Robustness:
    """The accuracies on clean texts, and the disturbances in the order given.

    edited: which text of a pair was disturbed; "first" where there are no pairs.
    """

    examples: int
    seed: int
    edited: Edit
    clean_compressed: float
    clean_baseline: float | None
    disturbances: tuple[Disturbed, ...]


def robustness(
    compressed: Answers,
    texts: Sequence[str],
    labels: Any,
    *,
    pairs: Sequence[str] | None = None,
    baseline: Answers | None = None,
    disturbances: Sequence[Disturbance] = SUITE,
    seed: int = 0,
    edit: Edit | None = None,
    batch_size: int = 32,
) -> Robustness:
    """Ask about clean texts once and about disturbed ones once for each disturbance.

    texts, pairs: n each.  labels: (n,) class indices.  edit: which of a pair to disturb; by default the second.
    Raises ValueError when these do not fit each other, when there is nothing to ask or to do, or when a model answers
    with anything but finite (n, classes) of at least two classes.
    """
    check(texts, pairs, labels)
    if not disturbances:
        raise ValueError(
            "no disturbance to measure under; expected at least one, such as gossamer.measure.disturb.SUITE"
        )
    where = edited(edit, pairs)
    sides = {"compressed": compressed} | ({} if baseline is None else {"baseline": baseline})
    clean = {name: answers(side, texts, pairs, batch_size, name) for name, side in sides.items()}
    hits = {name: right(logits, labels) for name, logits in clean.items()}
    rows = []
    for disturbance in disturbances:
        first = disturbed(texts, disturbance, seed) if where != "second" else list(texts)
        second = None if pairs is None else disturbed(pairs, disturbance, seed) if where != "first" else list(pairs)
        effects = {}
        for name, side in sides.items():
            logits = answers(side, first, second, batch_size, name)
            flips = float((logits.argmax(-1) != clean[name].argmax(-1)).mean())
            effects[name] = _effect(hits[name], right(logits, labels), flips, disturbance.preserving)
        moved = [a != b for a, b in zip(texts, first, strict=True)]
        if pairs is not None and second is not None:
            moved = [before or a != b for before, a, b in zip(moved, pairs, second, strict=True)]
        rows.append(_row(disturbance, sum(moved) / len(moved), effects["compressed"], effects.get("baseline")))
    accuracy = {name: float(hit.mean()) for name, hit in hits.items()}
    return Robustness(len(texts), seed, where, accuracy["compressed"], accuracy.get("baseline"), tuple(rows))


def answers(
    predictor: Answers, texts: Sequence[str], pairs: Sequence[str] | None, batch_size: int, name: str = "model"
) -> Array:
    """(n, classes) logits in double precision.

    Raises ValueError when there are not n finite answers over at least two classes.
    """
    logits = np.asarray(predictor.logits(texts, pairs, batch_size=batch_size), dtype=np.float64)
    if logits.ndim != 2 or len(logits) != len(texts) or logits.shape[1] < 2:
        raise ValueError(
            f"answers of the {name} have shape {logits.shape} for {len(texts)} texts: expected (texts, classes) with "
            "at least two classes; whether a number (regression) flipped is not defined"
        )
    if not np.isfinite(logits).all():
        raise ValueError(
            f"answers of the {name} are not numbers (nan or inf); the model is broken, train or compress it again"
        )
    return logits


def check(texts: Sequence[str], pairs: Sequence[str] | None, labels: Any) -> None:
    """Raises ValueError unless there is at least one text, and one label and, if any, one pair for each."""
    if labels is None or not len(texts):
        raise ValueError("no labelled texts to disturb; expected at least one text and one label for each")
    if len(labels) != len(texts) or (pairs is not None and len(pairs) != len(texts)):
        more = "" if pairs is None else f" and {len(pairs)} second texts"
        raise ValueError(f"{len(labels)} labels{more} for {len(texts)} texts: expected one for each")


def edited(edit: Edit | None, pairs: Sequence[str] | None) -> Edit:
    """Which text to edit: as told; else the second of a pair, else the only one.

    Raises ValueError when there is no second text to edit.
    """
    if edit not in (None, "first", "second", "both"):
        raise ValueError(f"edit={edit!r}: expected 'first', 'second' or 'both'")
    if pairs is None and edit in ("second", "both"):
        raise ValueError(f"edit={edit!r} but there are no pairs; leave edit out, or pass pairs=")
    return edit or ("first" if pairs is None else "second")


def _effect(before: NDArray[np.bool_], after: NDArray[np.bool_], flips: float, preserving: bool) -> Effect:
    if not preserving:
        return Effect(None, None, flips)
    lost = int(before.sum()) - int(after.sum())  # whole numbers: no drop is exactly 0
    return Effect(float(after.mean()), lost / len(before), flips)


def _row(disturbance: Disturbance, changed: float, compressed: Effect, baseline: Effect | None) -> Disturbed:
    ratio: float | None = None
    reason: str | None = "the answers should change, so there is no drop; compare the flip rates"
    if compressed.drop is not None:
        ratio, reason = relative(compressed.drop, None if baseline is None else baseline.drop)
    name, rate, preserving = disturbance.name, disturbance.rate, disturbance.preserving
    return Disturbed(name, rate, preserving, changed, compressed, baseline, ratio, reason)
