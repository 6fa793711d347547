"""How well the student matches the teacher's predictive distribution.

Fidelity of "Does Knowledge Distillation Really Work?" (Stanton, Izmailov, Kirichenko, Alemi, Wilson, NeurIPS
2021): average top-1 agreement, which is label loyalty, and average predictive Kullback-Leibler divergence,
KL(teacher || student).  The divergence the other way round is given too: the first punishes a student that misses what
its teacher thinks possible, the second one that invents.  An ensemble teaches by the mean of its members'
probabilities.  All divergences are in nats.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .loyalty import Array, label_loyalty, same_shape


@dataclass(frozen=True)
class Fidelity:
    """Agreement as a share of the examples (the paper prints it times 100), and mean divergences in nats.

    teacher_student: KL(teacher || student), the paper's; student_teacher: KL(student || teacher).
    """

    agreement: float
    teacher_student: float
    student_teacher: float
    examples: int


def fidelity(teacher: Any, student: Any) -> Fidelity:
    """How alike two models answer.

    teacher, student: (n, classes) logits or log-probabilities; of several teachers, `ensemble(teachers)`.
    Raises ValueError when their shapes differ, when there is nothing to compare, or when an answer is not finite.
    """
    teacher, student = two_answers(teacher, student)
    t, s = log_softmax(teacher), log_softmax(student)
    return Fidelity(label_loyalty(teacher, student), float(kl(t, s).mean()), float(kl(s, t).mean()), len(t))


def kl(log_p: Any, log_q: Any) -> Array:
    """KL(p || q) = sum p (log p - log q) of each row, in nats; a class that p thinks impossible adds nothing.

    log_p, log_q: (n, classes) log-probabilities -> (n,).
    """
    log_p, log_q = np.asarray(log_p, dtype=np.float64), np.asarray(log_q, dtype=np.float64)
    p = np.exp(log_p)
    ratio = np.subtract(log_p, log_q, out=np.zeros_like(p), where=p > 0)  # -inf less -inf would be nan
    return np.asarray(np.maximum((p * ratio).sum(-1), 0))  # rounding may step just under


def log_softmax(logits: Any) -> Array:
    """(n, classes) logits -> log-probabilities, in double precision.

    Not log(softmax(x)): where softmax rounds to 0, this still says how unlikely.
    """
    x = np.asarray(logits, dtype=np.float64)
    x = x - x.max(-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(-1, keepdims=True)))


def ensemble(members: Any) -> Array:
    """The log of the mean of the members' probabilities, by log-mean-exp; mean logits would be another model.

    members: (members, n, classes) logits, as an array or a sequence of (n, classes) -> (n, classes) log-probabilities,
    which serve as logits anywhere.
    Raises ValueError when there is no member, or when they are not of one shape or not finite.
    """
    each = [np.asarray(member, dtype=np.float64) for member in members]
    if not each:
        raise ValueError("an ensemble of no members; expected the logits of at least one")
    for i, member in enumerate(each):
        if member.shape != each[0].shape or member.ndim != 2:
            raise ValueError(
                f"member {i} of the ensemble answers in shape {member.shape}, member 0 in {each[0].shape}: "
                "expected equal (examples, classes)"
            )
        if not np.isfinite(member).all():
            raise ValueError(f"answers of member {i} of the ensemble are not numbers (nan or inf); it is broken")
    logs = np.stack([log_softmax(member) for member in each])
    top = logs.max(0)  # (n, classes)
    return np.asarray(top + np.log(np.exp(logs - top).mean(0)))


def two_answers(teacher: Any, student: Any) -> tuple[Array, Array]:
    """Both as (n, classes) of double precision.

    Raises ValueError when they cannot be compared as distributions over at least two classes.
    """
    teacher, student = same_shape(teacher, student)
    if teacher.shape[1] < 2:
        raise ValueError(
            f"answers of shape {teacher.shape}: expected at least two classes; "
            "a regression has no distribution to match"
        )
    return teacher, student
