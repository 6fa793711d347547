"""How far the compressed model still is the model it came from.

Label and probability loyalty of "Beyond Preserved Accuracy: Evaluating Loyalty and Robustness of BERT Compression"
(Xu et al., EMNLP 2021).  The authors' text recommends a function that returns the square root of the Jensen-Shannon
divergence, in nats; we take base 2 unless told otherwise, so that loyalty spans [0, 1] (with base e it cannot fall
under 1 - sqrt(ln 2) = 0.167), and a report states its base.
"""

from math import e, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def softmax(logits: Any) -> Array:
    """(n, classes) logits -> probabilities, in double precision."""
    x = np.asarray(logits, dtype=np.float64)
    x = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(x / x.sum(-1, keepdims=True))


def distance(p: Any, q: Any, base: float = 2) -> Array:
    """Jensen-Shannon distance sqrt(JSD(p, q)) of each row; JSD = KL(p | m) / 2 + KL(q | m) / 2, m = (p + q) / 2.

    p, q: (n, classes) probabilities -> (n,).
    """
    p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    middle, apart = (p + q) / 2, (p - q) / 2
    x = np.divide(apart, middle, out=np.zeros_like(middle), where=middle > 0)  # p = (1 + x) m, q = (1 - x) m

    def term(x: Array) -> Array:  # (1 + x) log(1 + x), to the last digit where p and q are nearly equal; 0 log 0 = 0
        return np.asarray((1 + x) * np.log1p(x, out=np.zeros_like(x), where=x > -1))

    nats: Array = (middle * (term(x) + term(-x))).sum(-1) / 2
    return np.asarray(np.sqrt(np.clip(nats, 0, log(2)) / log(base)))  # rounding may step just outside


def label_loyalty(teacher: Any, student: Any) -> float:
    """The share of examples on which both choose the same class; logits or probabilities, (n, classes) each."""
    teacher, student = same_shape(teacher, student)
    return float((teacher.argmax(-1) == student.argmax(-1)).mean())


def probability_loyalty(teacher: Any, student: Any, base: float = 2) -> float:
    """The mean over examples of 1 - sqrt(JSD) between the two models' class probabilities.

    teacher, student: (n, classes) logits.  base: 2, or e for numbers comparable with the paper's code.
    """
    if base not in (2, e):
        raise ValueError(f"loyalty in base {base}: expected 2 or math.e")
    teacher, student = same_shape(teacher, student)
    return float(1 - distance(softmax(teacher), softmax(student), base).mean())


def same_shape(teacher: Any, student: Any) -> tuple[Array, Array]:
    """Two equal (examples, classes) of numbers, in double precision.

    Raises:
        ValueError: they are not.
    """
    teacher, student = np.asarray(teacher, dtype=np.float64), np.asarray(student, dtype=np.float64)
    if teacher.shape != student.shape or teacher.ndim != 2 or not len(teacher):
        raise ValueError(
            f"teacher answers of shape {teacher.shape} against {student.shape}: expected two equal (examples, classes)"
        )
    for name, logits in (("teacher", teacher), ("student", student)):
        if not np.isfinite(logits).all():
            raise ValueError(
                f"answers of the {name} are not numbers (nan or inf); the model is broken, train or compress it again"
            )
    return teacher, student
