"""Whom compression hurt: the same figures on parts of the data, and the worst single examples.

One accuracy hides much: a compressed model can keep it and still have given up long texts, a rare class, rare words, or
whatever its teacher found hard ("What do Compressed Large Language Models Forget?", Du et al., 2021, who see compressed
models lose most on what is not easy).  Slices are made by length, by label, by rarity of words and by difficulty, which
is how unsure the teacher was; each in at most `parts` parts of equal size.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .loyalty import same_shape, softmax
from .quality import Z95

WORD = re.compile(r"\w+")
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Slice:
    """A part of the data: by what, which, how many examples, the two accuracies, and what became of them.

    damage: before - after, between low and high with 95 % (paired); agreement: share of equal answers.  before, after
    and damage are None without labels.
    """

    by: str
    name: str
    examples: int
    before: float | None
    after: float | None
    damage: float | None
    low: float | None
    high: float | None
    agreement: float


@dataclass(frozen=True)
class Hurt:
    """An example that the compressed model answers worse.

    lost: the probability that the right class (without labels, the teacher's) fell by.  answer, was: class indices.
    """

    row: int
    label: int | None
    was: int
    answer: int
    lost: float


def slices(
    teacher: Any,
    student: Any,
    texts: Sequence[str],
    labels: Any = None,
    names: Sequence[str] | None = None,
    known: Sequence[str] = (),
    parts: int = 3,
) -> list[Slice]:
    """Slices by length in words, by label (by the teacher's answer without labels), by rarity and by difficulty.

    teacher, student: (n, classes) logits.  texts, labels: of the same n examples.  names: of the classes.  known: texts
    that word frequencies are counted on, such as the training texts; by default `texts` themselves.

    Raises:
        ValueError: the answers do not fit each other, the texts or the labels.
    """
    teacher, student = same_shape(teacher, student)
    n = len(teacher)
    if len(texts) != n or (labels is not None and len(labels) != n):
        raise ValueError(f"{n} answers for {len(texts)} texts, expected one answer, text and label each")
    if parts < 1:
        raise ValueError(f"parts={parts}: expected at least 1")
    given = None if labels is None else np.asarray(labels)
    before, after = teacher.argmax(1), student.argmax(1)
    kinds = before if given is None else given
    called = [str(i) for i in range(teacher.shape[1])] if names is None else list(names)
    words = [WORD.findall(text.lower()) for text in texts]
    scales = {
        "length": np.array([float(len(one)) for one in words]),
        "rarity of words": rarity(words, [WORD.findall(text.lower()) for text in known] or words),
        "difficulty": 1 - softmax(teacher).max(1),
    }
    found = [
        _slice("label" if given is not None else "answer", called[int(kind)], kinds == kind, before, after, given)
        for kind in np.unique(kinds)
    ]
    for by, scale in scales.items():
        for name, rows in bands(scale, parts):
            found.append(_slice(by, name, rows, before, after, given))
    return found


def bands(scale: Any, parts: int) -> list[tuple[str, NDArray[np.bool_]]]:
    """At most `parts` bands of a scale, as equal in size as ties allow: their names, and who is in each (n,)."""
    scale = np.asarray(scale, dtype=np.float64)
    quantiles = np.unique(np.quantile(scale, [i / parts for i in range(1, parts)], method="higher"))
    edges = quantiles[quantiles > scale.min()]
    place = np.searchsorted(edges, scale, side="right")
    found = []
    for i in range(len(edges) + 1):
        rows = place == i
        low, high = scale[rows].min(), scale[rows].max()
        found.append((f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}", rows))
    return found


def rarity(words: Sequence[Sequence[str]], known: Sequence[Sequence[str]]) -> Values:
    """The mean over a text's words of -log2 of their frequency in `known`, one added to each count; (n,) bits."""
    counts = Counter(word for one in known for word in one)
    total = sum(counts.values()) + len(counts) + 1
    bits = {word: -log((count + 1) / total, 2) for word, count in counts.items()}
    new = log(total, 2)
    return np.array([sum(bits.get(w, new) for w in one) / len(one) if one else 0.0 for one in words])


def worst(teacher: Any, student: Any, labels: Any = None, count: int = 10) -> list[Hurt]:
    """The examples whose right class lost most probability, among those that are now answered wrongly and were not.

    teacher, student: (n, classes) logits; labels: (n,), without them the teacher's answers stand for them.
    """
    teacher, student = same_shape(teacher, student)
    was, answer = teacher.argmax(1), student.argmax(1)
    right = was if labels is None else np.asarray(labels)
    rows = np.arange(len(right))
    lost = softmax(teacher)[rows, right] - softmax(student)[rows, right]
    hurt = sorted((i for i in rows if was[i] == right[i] != answer[i]), key=lambda i: (-lost[i], i))[:count]
    return [
        Hurt(int(i), None if labels is None else int(right[i]), int(was[i]), int(answer[i]), float(lost[i]))
        for i in hurt
    ]


def _slice(by: str, name: str, rows: Any, before: Any, after: Any, labels: Any) -> Slice:
    """One slice."""
    n, agreement = int(rows.sum()), float((before[rows] == after[rows]).mean())
    if labels is None:
        return Slice(by, name, n, None, None, None, None, None, agreement)
    first, second = (a[rows] == labels[rows] for a in (before, after))
    bad, good = int((first & ~second).sum()), int((second & ~first).sum())
    low, high = paired(bad, good, n)
    return Slice(by, name, n, float(first.mean()), float(second.mean()), (bad - good) / n, low, high, agreement)


def paired(bad: int, good: int, n: int) -> tuple[float, float]:
    """The 95 % interval of (bad - good) / n, a difference of two shares of the same n examples.

    Agresti & Min (Statistics in Medicine, 2005): half an example added to each of the four cells, so that few examples
    without a flip do not look certain.
    """
    more = n + 2
    middle, either = (bad - good) / more, (bad + good + 1) / more
    half = Z95 * sqrt((either - middle**2) / more)
    return max(-1.0, min(middle - half, (bad - good) / n)), min(1.0, max(middle + half, (bad - good) / n))
