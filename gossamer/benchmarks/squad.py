"""SQuAD: answers as spans of a paragraph, in version 2 also none at all.

"SQuAD: 100,000+ Questions for Machine Comprehension of Text" (Rajpurkar, Zhang, Lopyrev and Liang, EMNLP 2016) and
"Know What You Don't Know: Unanswerable Questions for SQuAD" (Rajpurkar, Jia and Liang, ACL 2018).  Scores are shares in
[0, 1]; the leaderboard prints them times 100.

Two points where this is stricter than the official script: a question without a prediction is an error, not left out;
and the search for a threshold moves equal no-answer probabilities together, since no threshold tells them apart (the
script counts them one by one and can promise a score that its own threshold does not give).
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossamer.metrics.passages import exact, normalize, token_f1
from gossamer.rows import glimpse

from .files import document, field, write_all

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Question:
    """One question of a paragraph. answers: (text, place of its first character in the context), as annotated."""

    id: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...]
    title: str = ""
    impossible: bool = False

    @property
    def golds(self) -> tuple[str, ...]:
        """The texts that count as right, without those that normalise to nothing; ("",) where no answer is left."""
        return tuple(dict.fromkeys(text for text, _ in self.answers if normalize(text))) or ("",)

    @property
    def answerable(self) -> bool:
        """Whether there is an answer to be found."""
        return self.golds != ("",)


@dataclass(frozen=True)
class Part:
    """Exact match and token F1, means over n questions, each in [0, 1]."""

    exact: float
    f1: float
    n: int


@dataclass(frozen=True)
class Best:
    """The best mean that a threshold can reach: an answer stands where its no-answer probability is not above it."""

    score: float
    threshold: float


@dataclass(frozen=True)
class Score:
    """The result over all questions.

    has_answer, no_answer: of the two kinds apart, None where there is no such question.  best_exact, best_f1: only
    where no-answer probabilities were given.
    """

    exact: float
    f1: float
    n: int
    has_answer: Part | None = None
    no_answer: Part | None = None
    best_exact: Best | None = None
    best_f1: Best | None = None


def read(path: str | Path) -> tuple[Question, ...]:
    """The questions of an official JSON file, version 1.1 or 2.0, in its order; test files without answers, too.

    Raises FileNotFoundError: no such file.  ValueError: not JSON, an entry that is missing or of a wrong type, an id
    that comes twice, an impossible question that has an answer, no questions.
    """
    questions = list[Question]()
    for number, article in enumerate(field(document(path), "data", list, str(path)), 1):
        where = f"{path}, article {number}"
        title = article.get("title", "") if isinstance(article, dict) else ""
        for paragraph in field(article, "paragraphs", list, where):
            context = field(paragraph, "context", str, where)
            questions += [_question(one, context, str(title), where) for one in field(paragraph, "qas", list, where)]
    if not questions:
        raise ValueError(f"{path} has no questions; expected SQuAD's data > paragraphs > qas")
    twice = [name for name, count in Counter(one.id for one in questions).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: {len(twice)} ids come twice, such as '{twice[0]}'; expected each question once")
    return tuple(questions)


def read_predictions(path: str | Path) -> dict[str, str]:
    """The official JSON file of predictions, id -> text, "" for none.

    Raises FileNotFoundError: no such file.  ValueError: not JSON, no object, an answer that is no text.
    """
    said = _object(path, "text")
    for name, one in said.items():
        if not isinstance(one, str):
            raise ValueError(f"{path}: the answer to '{name}' is {glimpse(one)}, expected a text, \"\" for none")
    return said


def read_no_answer(path: str | Path) -> dict[str, float]:
    """The JSON file of no-answer probabilities, id -> number. Raises as `read_predictions` does."""
    said = _object(path, "probability")
    for name, one in said.items():
        if not isinstance(one, (int, float)) or isinstance(one, bool):
            raise ValueError(f"{path}: the no-answer probability of '{name}' is {glimpse(one)}, expected a number")
    return said


def _object(path: str | Path, what: str) -> dict[str, Any]:
    said = document(path)
    if not isinstance(said, dict):
        raise ValueError(f"{path}: {glimpse(said)}, expected one object, a question's id and its {what} in each entry")
    return said


def score(
    questions: Sequence[Question],
    predictions: Mapping[str, str],
    no_answer: Mapping[str, float] | None = None,
    threshold: float = 1.0,
) -> Score:
    """Exact match and F1 over all questions.

    predictions: the answer to each question by its id, "" for none.  no_answer: the probability (or any score that
    rises with it) that there is none; an answer where it is above the threshold counts as "".  A threshold of 1 takes
    every probability as allowed, so that the predictions are scored as they stand.
    Raises ValueError: no questions, questions without a prediction or a probability, ids that the questions have not, a
    probability that is not a number.
    """
    if not questions:
        raise ValueError("no questions to score; expected at least one")
    _same_ids(questions, predictions, "prediction")
    answerable = np.array([one.answerable for one in questions])
    em = np.array([exact(predictions[one.id], one.golds) for one in questions])
    f1 = np.array([token_f1(predictions[one.id], one.golds) for one in questions])
    best: tuple[Best | None, Best | None] = (None, None)
    if no_answer is not None:
        doubt = np.array(list(_doubts(questions, no_answer).values()))
        silent = (~answerable).astype(np.float64)  # what "" scores
        best = _best(em, silent, doubt), _best(f1, silent, doubt)
        em, f1 = (np.where(doubt > threshold, silent, kind) for kind in (em, f1))
    whole = _part(em, f1)
    assert whole is not None
    has, none = (_part(em[which], f1[which]) for which in (answerable, ~answerable))
    return Score(whole.exact, whole.f1, whole.n, has, none, *best)


def submission(
    questions: Sequence[Question],
    predictions: Mapping[str, str],
    path: str | Path,
    *,
    no_answer: Mapping[str, float] | None = None,
    replace: bool = False,
) -> list[Path]:
    """Write the predictions as the leaderboard takes them: one JSON object, id -> text.

    no_answer: for version 2, written beside it as NAME_na_probs.json, id -> probability.
    Raises ValueError: a file exists and `replace` is not given; ids as `score` says.
    """
    place = Path(path).expanduser()
    _same_ids(questions, predictions, "prediction")
    texts = {place: json.dumps({one.id: predictions[one.id] for one in questions}, ensure_ascii=False)}
    if no_answer is not None:
        texts[place.with_name(f"{place.stem}_na_probs.json")] = json.dumps(_doubts(questions, no_answer))
    return write_all(texts, replace)


def _question(entry: Any, context: str, title: str, where: str) -> Question:
    name = field(entry, "id", str, f"{where}, a question")
    here = f"{where}, question '{name}'"
    answers = []
    for answer in entry.get("answers") or ():
        text, start = field(answer, "text", str, here), field(answer, "answer_start", int, here)
        answers.append((text, start))
    impossible = bool(entry.get("is_impossible", False))
    if impossible and answers:
        raise ValueError(f"{here} is impossible and has the answer '{answers[0][0]}'; expected one or the other")
    return Question(name, field(entry, "question", str, here), context, tuple(answers), title, impossible)


def _same_ids(questions: Sequence[Question], given: Mapping[str, Any], what: str) -> None:
    known = {one.id for one in questions}
    lacking = [one.id for one in questions if one.id not in given]
    if lacking:
        raise ValueError(
            f"{len(lacking)} of {len(questions)} questions have no {what}, such as '{lacking[0]}'; expected one each"
        )
    strange = [name for name in given if name not in known]
    if strange:
        raise ValueError(
            f"a {what} for '{strange[0]}', which is none of the {len(questions)} questions; is it the file?"
        )


def _doubts(questions: Sequence[Question], no_answer: Mapping[str, float]) -> dict[str, float]:
    """The no-answer probabilities in the order of the questions. ValueError: ids that differ, nan or inf."""
    _same_ids(questions, no_answer, "no-answer probability")
    doubts = {one.id: float(no_answer[one.id]) for one in questions}
    broken = [name for name, value in doubts.items() if not math.isfinite(value)]
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(doubts)} no-answer probabilities are nan or inf, such as that of '{broken[0]}'"
        )
    return doubts


def _part(em: Array, f1: Array) -> Part | None:
    return Part(float(em.mean()), float(f1.mean()), len(em)) if len(em) else None


def _best(kind: Array, silent: Array, doubt: Array) -> Best:
    """The best mean over all thresholds, and the lowest threshold that gives it; all three arrays are (n,)."""
    values, group = np.unique(doubt, return_inverse=True)
    gain = np.bincount(group, weights=kind - silent)  # what letting the answers of one probability stand adds
    totals = silent.sum() + np.concatenate([[0.0], np.cumsum(gain)])
    at = int(np.flatnonzero(totals >= totals.max() - 1e-9)[0])  # sums differ by rounding
    below = 0.0 if values[0] > 0 else float(values[0]) - 1
    return Best(float(totals[at] / len(kind)), float(values[at - 1]) if at else below)
