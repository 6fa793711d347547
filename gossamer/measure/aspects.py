"""What can be measured of a model, by name, and how the answers to the test texts become figures.

`ALWAYS` is measured unless `only` names less; `ASKED` costs more, or shows more of the data, and is named in `more`.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .sample import chosen, spread
from .subject import Answers, Predictor, Subject
from .time import Schedule

if TYPE_CHECKING:
    from gossamer.data import Split
    from gossamer.task import Task

ALWAYS = ("quality", "size", "macs", "speed", "loyalty", "fidelity", "calibration", "churn", "slices")
ASKED = ("worst", "robustness", "attack", "domains", "energy", "reasons", "cold", "noise")
ANSWERS = frozenset({"quality", "calibration", "loyalty", "fidelity", "churn", "slices", "worst", "noise"})  # of logits
LONGEST = 300  # characters of a text that a report repeats

Figures = dict[str, Any]


def wanted(only: Sequence[str] | None = None, more: Sequence[str] = ()) -> frozenset[str]:
    """The aspects to measure: those of `only`, or all of ALWAYS, and those of `more`.

    Raises:
        ValueError: a name that is none, or no name at all.
    """
    if only is not None and not only and not more:
        raise ValueError(f"only names nothing to measure; expected one or more of {', '.join((*ALWAYS, *ASKED))}")
    names = [*(ALWAYS if only is None else only), *more]
    for name in names:
        if name not in (*ALWAYS, *ASKED):
            raise ValueError(f"cannot measure {name!r}; expected one or more of {', '.join((*ALWAYS, *ASKED))}")
    return frozenset(names)


@dataclass(frozen=True)
class Aims:
    """What to measure, and how much of it.

    aspects: of ALWAYS and ASKED.  schedule: what to time.  examples: texts that multiply-accumulates, disturbances and
    attributions are averaged over.  seed: of the disturbances.  seconds: for the energy of each side.  region: where
    the electricity comes from (gossamer.measure.carbon).  attacked: texts that are attacked.  threads: of processes
    that are started afresh, 0 for their own.  far: labelled texts of another domain.  named: the aspects that somebody
    asked for by name, whose absence is an error.  energy_by: "best" or "codecarbon" (gossamer.measure.energy).
    loyalty_base: 2 or math.e, of the logarithm in probability loyalty.

    Raises ValueError for a region without a row and for a base that is neither, ImportError for a package that energy
    needs: here, where it costs no minutes.
    """

    aspects: frozenset[str] = frozenset(ALWAYS)
    schedule: Schedule = field(default_factory=Schedule)
    examples: int = 200
    seed: int = 0
    seconds: float = 30.0
    region: str = "world"
    attacked: int = 50
    threads: int = 0
    far: "Split | None" = None
    named: frozenset[str] = frozenset()
    energy_by: str = "best"
    loyalty_base: float = 2

    def __post_init__(self) -> None:
        from .carbon import grid

        grid(self.region)
        if self.energy_by not in ("best", "codecarbon"):
            raise ValueError(f'energy_by={self.energy_by!r}: expected "best" or "codecarbon"')
        if "energy" in self.aspects and self.energy_by == "codecarbon" and find_spec("codecarbon") is None:
            from .energy import NO_CODECARBON

            raise ImportError(NO_CODECARBON)


def base(given: float | str) -> float:
    """2 or math.e, of "2", "e", 2 or math.e.

    Raises:
        ValueError: something else.
    """
    found = {"2": 2, "e": math.e}.get(str(given), given)
    if found not in (2, math.e):
        raise ValueError(f"loyalty_base={given!r}: expected 2 or e")
    return float(found) if found == math.e else 2


class Ordered:
    """A predictor whose classes stand in the order of the task's labels."""

    def __init__(self, predictor: Predictor, task: "Task") -> None:
        self.predictor, self.task = predictor, task

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None, batch_size: int = 32) -> Any:
        """(n, classes) in the order of the texts."""
        return aligned(self.predictor, self.task, texts, pairs, batch_size)


def aligned(
    predictor: Predictor, task: "Task", texts: Sequence[str], pairs: Sequence[str] | None, batch_size: int = 32
) -> Any:
    """The predictor's logits, (n, labels), with the columns in the order of the task's labels; or its other answers.

    A side whose classes have no names (LABEL_0, ...) is taken at its order.
    Raises ValueError when the model answers something else, or with other classes, than the task asks for.
    """
    from gossamer.labels import translation

    named, has, its = getattr(task, "labels", None), predictor.labels, getattr(predictor, "task", task)
    if its.kind != task.kind:
        raise ValueError(
            f"the model was made for {its.kind}, and the data asks for {task.kind}; "
            "give data that the model was trained for, or a model that was trained for such data"
        )
    answers = predictor.logits(texts, pairs, batch_size=batch_size)
    if task.per_text:
        answers, width = np.asarray(answers), 1 if named is None else len(named)
        if answers.shape != (len(texts), width):
            raise ValueError(
                f"answers of shape {answers.shape}, expected ({len(texts)}, {width}): "
                "a model is measured on data that has the labels it was trained for"
            )
    if named is None or has is None or has == named or all(x == f"LABEL_{i}" for i, x in enumerate(named)):
        return answers
    return task.reorder(answers, [int(i) for i in translation(named, has, "the task")])


class Rows(NamedTuple):
    """Two models' class logits (m, classes), the labels (m,) or None, and the text that each row belongs to."""

    teacher: Any
    student: Any
    labels: Any
    texts: list[str]


def rows(task: "Task", teacher: Any, student: Any, split: "Split") -> Rows | None:
    """The answers of two models as rows of class logits, without words that one did not read; None for others."""
    first, second = task.flat(teacher, split.labels), task.flat(student, split.labels)
    if first is None or second is None:
        return None
    said, base, ours, labels = read(split), first.logits, second.logits, first.labels
    read_by: Any = np.ones(len(base), dtype=bool)
    if len(base) == len(ours):
        read_by = ~(np.isneginf(base).all(1) | np.isneginf(ours).all(1))
        base, ours = base[read_by], ours[read_by]
    texts = [said[i] for i in first.owners[read_by]]
    return Rows(base, ours, None if labels is None else labels[read_by], texts)


def calibration(logits: Any, labels: Any) -> Figures:
    """ECE, MCE and Brier score with the reliability table."""
    from .calibration import calibration as measured

    return _told(measured(logits, labels))


def fidelity(teacher: Any, student: Any) -> Figures:
    """Agreement and predictive KL both ways, in nats."""
    from .fidelity import fidelity as measured

    return _told(measured(teacher, student))


def churn(teacher: Any, student: Any, labels: Any) -> Figures:
    """What became of the answers, with McNemar's test."""
    from .churn import churn as measured

    return _told(measured(teacher, student, labels))


def slices(teacher: Any, student: Any, texts: Sequence[str], labels: Any, names: Sequence[str]) -> list[Figures]:
    """The damage to parts of the data."""
    from .slices import slices as measured

    return [_told(one) for one in measured(teacher, student, texts, labels, names)]


def worst(teacher: Any, student: Any, texts: Sequence[str], labels: Any, names: Sequence[str]) -> list[Figures]:
    """The worst examples with their texts, cut to LONGEST characters, and classes by name."""
    from .slices import worst as measured

    def named(i: int | None) -> Any:
        return None if i is None else names[i]

    return [
        _told(one)
        | {
            "text": texts[one.row][:LONGEST],
            "label": named(one.label),
            "was": named(one.was),
            "answer": named(one.answer),
        }
        for one in measured(teacher, student, labels)
    ]


def robustness(
    baseline: Answers | None, compressed: Answers, split: "Split", examples: int, seed: int
) -> tuple[Figures, Figures | None]:
    """What disturbances of the texts do: the artefact's figures, and the baseline's mean accuracy under them."""
    from .robustness import robustness as measured

    rows = spread(len(split.texts), min(examples, len(split.texts)))
    texts, pairs = chosen(split.texts, split.pairs, rows)
    labels = None if split.labels is None else [split.labels[i] for i in rows]
    found = _told(measured(compressed, texts, labels, pairs=pairs, baseline=baseline, seed=seed))
    kept = [one for one in found["disturbances"] if one["preserving"]]

    def mean(side: str) -> float:
        return float(np.mean([one[side]["accuracy"] for one in kept]))

    base = None if baseline is None else {"accuracy": mean("baseline"), "clean": found["clean_baseline"]}
    return found | {"accuracy": mean("compressed"), "clean": found["clean_compressed"]}, base


def attack(predictor: Answers, split: "Split", examples: int) -> Figures:
    """What greedy word substitution does to some of the texts; without the texts themselves."""
    from .attack import attack as measured

    rows = spread(len(split.texts), min(examples, len(split.texts)))
    texts, pairs = chosen(split.texts, split.pairs, rows)
    labels = None if split.labels is None else [split.labels[i] for i in rows]
    found = _told(measured(predictor, texts, labels, pairs=pairs))
    return {name: value for name, value in found.items() if name != "attempts"}


def domains(
    baseline: Answers | None, compressed: Answers, split: "Split", far: "Split | None", task: "Task"
) -> Figures:
    """The scores in the domain and out of it, their gaps, and the artefact's gap over the baseline's.

    Raises:
        ValueError: there are no texts of another domain.
    """
    from .domains import domains as measured

    if far is None:
        raise ValueError("no texts of another domain; name some with --far, labelled as these are")
    return _told(measured(compressed, split, far, task, baseline=baseline))


def energy(
    predictor: Answers, split: "Split", schedule: Schedule, seconds: float, region: str, by: str = "best"
) -> Figures:
    """Joules of batches of texts, with the tiers that gave them, and grams of CO2 for a million texts."""
    from .carbon import emissions
    from .energy import JOULES_PER_KWH
    from .energy import energy as measured

    texts, pairs = chosen(split.texts, split.pairs, spread(len(split.texts), schedule.pool))
    found = measured(
        lambda: predictor.logits(texts, pairs, batch_size=schedule.batch_size),
        seconds,
        tier="codecarbon" if by == "codecarbon" else "best",
    )
    each = found.joules_per_run / len(texts)
    carbon = emissions(1e6 * each / JOULES_PER_KWH, region)
    return _told(found) | {"joules_per_text": each, "co2_per_million": _told(carbon)}


def reasons(teacher: Subject, student: Subject, split: "Split", examples: int) -> Figures:
    """How far the two agree on which tokens count; both must read the same tokens, and be there in torch.

    Raises:
        ValueError: one of them has no torch form, or they do not read alike.
    """
    import torch

    from gossamer.engines.predictor import pad
    from gossamer.labels import translation

    from .attribution import reasons as measured

    read, facts = (getattr(student.counted, name, None) for name in ("read", "facts"))
    if teacher.model is None or student.model is None or read is None or facts is None:
        raise ValueError("attributions need both models in torch; install gossamer[compress], and measure an artefact")
    vocabularies = [m.get_input_embeddings().num_embeddings for m in (teacher.model, student.model)]  # type: ignore[operator]
    if vocabularies[0] != vocabularies[1]:
        raise ValueError(f"the models read {vocabularies[0]} and {vocabularies[1]} kinds of tokens, expected the same")
    rows = spread(len(split.texts), min(examples, len(split.texts)))
    texts, pairs = chosen(split.texts, split.pairs, rows)
    found = sorted(read(texts, pairs), key=lambda one: -len(one.ids))
    batches = [
        {key: torch.from_numpy(value) for key, value in pad(found[at : at + 32], facts).items()}
        for at in range(0, len(found), 32)
    ]
    [empty] = read([""], None)
    ours, theirs = teacher.predictor.labels, student.predictor.labels
    order = None if ours is None or ours == theirs else [int(i) for i in translation(ours, theirs, "the baseline")]
    return _told(measured(teacher.model, student.model, batches, special=tuple(empty.ids), order=order))


def _told(found: Any) -> Figures:
    """A dataclass as a report holds it: of dicts, lists, numbers and words."""
    return dict(json.loads(json.dumps(asdict(found))))


def read(split: "Split") -> list[str]:
    """What stands to be read of each example: its text, or both."""
    if split.pairs is None:
        return list(split.texts)
    return [f"{text} / {pair}" for text, pair in zip(split.texts, split.pairs, strict=True)]
