"""What is measured only when it is asked for, once quality and speed are known: of each side, into each side."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from . import aspects as aspect
from .aspects import Aims
from .side import Opened, attempt

if TYPE_CHECKING:
    from gossamer.data import Split
    from gossamer.task import Task


def _robustness(found: Sequence[Opened], split: "Split", task: "Task", aims: Aims, baseline: bool) -> None:
    """Of each artefact beside the baseline, on the same disturbed texts."""
    base = found[0][1] if baseline else None
    for one, subject in found[int(baseline) :]:
        if subject is None:
            continue
        ours = aspect.Ordered(subject.predictor, task)
        theirs = None if base is None else aspect.Ordered(base.predictor, task)
        both = attempt(one, "robustness", partial(aspect.robustness, theirs, ours, split, aims.examples, aims.seed))
        if both is not None:
            one["robustness"], of_base = both
            if of_base is not None:
                found[0][0]["robustness"] = of_base


def _attack(found: Sequence[Opened], split: "Split", task: "Task", aims: Aims, baseline: bool) -> None:
    for one, subject in found:
        if subject is not None:
            work = partial(aspect.attack, aspect.Ordered(subject.predictor, task), split, aims.attacked)
            one["attack"] = attempt(one, "attack", work)


def _domains(found: Sequence[Opened], split: "Split", task: "Task", aims: Aims, baseline: bool) -> None:
    base = found[0][1] if baseline else None
    theirs = None if base is None else aspect.Ordered(base.predictor, task)
    for one, subject in found[int(baseline) :]:
        if subject is not None:
            ours = aspect.Ordered(subject.predictor, task)
            one["domains"] = attempt(one, "domains", partial(aspect.domains, theirs, ours, split, aims.far, task))


def _energy(found: Sequence[Opened], split: "Split", task: "Task", aims: Aims, baseline: bool) -> None:
    for one, subject in found:
        if subject is not None:
            work = partial(
                aspect.energy, subject.predictor, split, aims.schedule, aims.seconds, aims.region, aims.energy_by
            )
            one["energy"] = attempt(one, "energy", work)


def _reasons(found: Sequence[Opened], split: "Split", task: "Task", aims: Aims, baseline: bool) -> None:
    teacher = found[0][1] if baseline else None
    for one, subject in found[1:] if teacher is not None else ():
        if subject is not None and teacher is not None:
            one["reasons"] = attempt(one, "reasons", partial(aspect.reasons, teacher, subject, split, aims.examples))


def _cold(found: Sequence[Opened], split: "Split", task: "Task", aims: Aims, baseline: bool) -> None:
    """Of all sides that lie in a folder, taking turns."""
    from .cold import cold

    places = {
        str(i): (subject.folder, "eager" if "eager" in subject.predictor.name else subject.predictor.name)
        for i, (_, subject) in enumerate(found)
        if subject is not None and subject.folder is not None
    }
    pair = None if split.pairs is None else split.pairs[0]
    for name, result in cold(places, split.texts[0], pair, aims.threads).items():
        one = found[int(name)][0]
        if isinstance(result, str):
            one["errors"]["cold"] = result
        else:
            one["cold"] = asdict(result)


OF_TEXTS = ("robustness", "attack", "domains", "reasons")  # that ask for a class or a number for each text
LATER = {
    "robustness": _robustness,
    "attack": _attack,
    "domains": _domains,
    "energy": _energy,
    "reasons": _reasons,
    "cold": _cold,
}  # in this order, once quality and speed are known


def later(name: str, found: Sequence[Opened], split: "Split", task: "Task", aims: Aims, baseline: bool) -> None:
    """Measure one of LATER, and write it, or why there is none, into the sides."""
    if name not in OF_TEXTS or answers_texts(name, found, task):
        LATER[name](found, split, task, aims, baseline)


def answers_texts(name: str, found: Sequence[Opened], task: "Task") -> bool:
    """Whether the task has one answer a text; where it has not, each side says why there is none of this figure."""
    for one, _ in () if task.per_text else found:
        one["errors"].setdefault(name, f"{name} asks for one answer a text, and this task is {task.kind}")
    return task.per_text
