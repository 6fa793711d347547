"""The sides of a report: every figure of every model, and what keeps one failure from costing the others."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from . import aspects as aspect
from .aspects import ANSWERS, Aims
from .subject import Subject
from .time import Clock, faster, speeds

if TYPE_CHECKING:
    import numpy as np

    from gossamer.data import Split
    from gossamer.task import Task

    Logits = np.ndarray[Any, Any]

log = logging.getLogger(__name__)

Side = dict[str, Any]
Progress = Callable[[str, float], None]  # what is being done, and the share of the whole that lies behind
Opening = Callable[[], Subject]
Opened = tuple[Side, Subject | None]
Got = TypeVar("Got")

FIGURES = (
    "engine",
    "quality",
    "parameters",
    "bytes",
    "bytes_folder",
    "macs",
    "latency_ms",
    "throughput_per_s",
    "cpu",
    "timed",
)
COMPARED = ("label_loyalty", "probability_loyalty", "faster", "fidelity", "churn", "slices")
LOYALTY_BASE = 2


def opened(openings: Sequence[tuple[str, Opening]], artefact: int = 0) -> list[Opened]:
    """A blank side and its subject for each opening; the subject is None where it failed, and the side says why.

    Raises the error of opening number `artefact` when nothing could be opened.
    """
    failures: list[Exception] = []
    found = []
    for name, way in openings:
        blank: Side = {"model": name, **dict.fromkeys(FIGURES), "errors": {}}
        found.append((blank, _attempt(blank, "open", way, failures)))
    if len(failures) == len(openings):
        raise failures[artefact]
    return found


def sides(
    found: Sequence[Opened],
    split: "Split",
    task: "Task",
    *,
    baseline: bool,
    aims: Aims,
    clock: Clock = Clock(),
    progress: Progress | None = None,
) -> list[Side]:
    """Fill in the sides, in their order; the first is what the others are compared with if `baseline` says so.

    A figure that could not be had stays None, and the side's "errors" says why under that figure's name.
    """
    aspects = aims.aspects
    slow = [name for name in ("speed", *LATER) if name in aspects]
    steps, done = 2 * len(found) + len(slow), iter(range(1000))

    def tell(what: str) -> None:
        if progress is not None:
            progress(what, next(done) / steps)

    logits: list[Logits | None] = []
    for one, subject in found:
        tell(f"quality of {one['model']}")
        asked = subject is not None and aspects & ANSWERS
        logits.append(_answers(one, subject, split, task, aspects) if subject is not None and asked else None)
        tell(f"size and multiply-accumulates of {one['model']}")
        if subject is not None:
            one["engine"] = subject.predictor.name
            _sizes(one, subject, split, aims)
    if "speed" in aspects:
        tell("speed, all taking turns")
        _speed(found, split, aims, clock, baseline)
    for i, (one, _) in enumerate(found[1:], 1) if baseline else ():
        one |= {name: one.get(name) for name in (*COMPARED, "loyalty_base")}
        _compared(one, logits[0], logits[i], split, task, aspects)
    for name, measured in LATER.items():
        if name in aspects:
            tell(f"{name}, one after another")
            measured(found, split, task, aims, baseline)
    if progress is not None:
        progress("measured", 1.0)
    return [one for one, _ in found]


def _speed(found: Sequence[Opened], split: "Split", aims: Aims, clock: Clock, baseline: bool) -> None:
    alive = {str(i): subject.predictor for i, (_, subject) in enumerate(found) if subject is not None}
    times = speeds(alive, split.texts, split.pairs, aims.schedule, clock)
    for name, speed in times.items():
        one = found[int(name)][0]
        one.update(speed.summary())
        one["errors"].update(speed.failed)
        if baseline and name != "0":
            one["faster"] = faster(times["0"], speed) if "0" in times else None


def _robustness(found: Sequence[Opened], split: "Split", task: "Task", aims: Aims, baseline: bool) -> None:
    """Of each artefact beside the baseline, on the same disturbed texts."""
    base = found[0][1] if baseline else None
    for one, subject in found[int(baseline) :]:
        if subject is None:
            continue
        ours = aspect.Ordered(subject.predictor, task)
        theirs = None if base is None else aspect.Ordered(base.predictor, task)
        both = _attempt(one, "robustness", partial(aspect.robustness, theirs, ours, split, aims.examples, aims.seed))
        if both is not None:
            one["robustness"], of_base = both
            if of_base is not None:
                found[0][0]["robustness"] = of_base


def _attack(found: Sequence[Opened], split: "Split", task: "Task", aims: Aims, baseline: bool) -> None:
    for one, subject in found:
        if subject is not None:
            work = partial(aspect.attack, aspect.Ordered(subject.predictor, task), split, aims.attacked)
            one["attack"] = _attempt(one, "attack", work)


def _domains(found: Sequence[Opened], split: "Split", task: "Task", aims: Aims, baseline: bool) -> None:
    base = found[0][1] if baseline else None
    theirs = None if base is None else aspect.Ordered(base.predictor, task)
    for one, subject in found[int(baseline) :]:
        if subject is not None:
            ours = aspect.Ordered(subject.predictor, task)
            one["domains"] = _attempt(one, "domains", partial(aspect.domains, theirs, ours, split, aims.far, task))


def _energy(found: Sequence[Opened], split: "Split", task: "Task", aims: Aims, baseline: bool) -> None:
    for one, subject in found:
        if subject is not None:
            work = partial(aspect.energy, subject.predictor, split, aims.schedule, aims.seconds, aims.region)
            one["energy"] = _attempt(one, "energy", work)


def _reasons(found: Sequence[Opened], split: "Split", task: "Task", aims: Aims, baseline: bool) -> None:
    teacher = found[0][1] if baseline else None
    for one, subject in found[1:] if teacher is not None else ():
        if subject is not None and teacher is not None:
            one["reasons"] = _attempt(one, "reasons", partial(aspect.reasons, teacher, subject, split, aims.examples))


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


LATER = {
    "robustness": _robustness,
    "attack": _attack,
    "domains": _domains,
    "energy": _energy,
    "reasons": _reasons,
    "cold": _cold,
}  # in this order, once quality and speed are known


def _attempt(one: Side, what: str, action: Callable[[], Got], failures: list[Exception] | None = None) -> Got | None:
    """The result; or None, with the reason among the side's errors."""
    try:
        return action()
    except Exception as error:  # whatever it is, it must not cost the other figures
        sentence = f"{type(error).__name__}: {error}"
        log.warning("%s of %s: %s", what, one["model"], sentence)
        one["errors"].setdefault(what, sentence)
        if failures is not None:
            failures.append(error)
        return None


def _answers(one: Side, subject: Subject, split: "Split", task: "Task", aspects: frozenset[str]) -> "Logits | None":
    """(n, classes) logits in the order of the task's labels; their quality goes into the side."""
    from .quality import quality

    logits = _attempt(one, "quality", lambda: aspect.aligned(subject.predictor, task, split.texts, split.pairs))
    if logits is None:
        return None
    answers = logits
    if "quality" in aspects:
        score = _attempt(one, "quality", lambda: quality(task, answers, split.labels))
        one["quality"] = None if score is None else asdict(score)
    if "calibration" in aspects and split.labels is not None and getattr(task, "labels", None) is not None:
        one["calibration"] = _attempt(one, "calibration", lambda: aspect.calibration(answers, split.labels))
    return logits


def _sizes(one: Side, subject: Subject, split: "Split", aims: Aims) -> None:
    from . import size

    counted = subject.counted if "macs" in aims.aspects else None
    model, folder = (subject.model, subject.folder) if "size" in aims.aspects else (None, None)
    if model is not None:
        one["parameters"] = _attempt(one, "parameters", lambda: size.parameters(model))
    if folder is not None:
        one["bytes"] = _attempt(one, "bytes", lambda: size.needed_bytes(folder, subject.predictor.name))
        one["bytes_folder"] = _attempt(one, "bytes_folder", lambda: size.folder_bytes(folder))
    elif model is not None:
        one["bytes"] = _attempt(one, "bytes", lambda: size.tensor_bytes(model))
    if counted is not None:

        def average() -> int:
            from . import macs

            return round(macs.average(counted, split.texts, split.pairs, aims.examples))

        one["macs"] = _attempt(one, "macs", average)


def _compared(
    one: Side, teacher: "Logits | None", student: "Logits | None", split: "Split", task: "Task", aspects: frozenset[str]
) -> None:
    """What the answers say beside the baseline's; of classes, for a regression has none."""
    from .loyalty import label_loyalty, probability_loyalty

    names = getattr(task, "labels", None)
    if teacher is None or student is None or names is None:
        return
    base, ours = teacher, student
    figures: dict[str, tuple[str, Callable[[], Any]]] = {
        "label_loyalty": ("loyalty", lambda: label_loyalty(base, ours)),
        "probability_loyalty": ("loyalty", lambda: probability_loyalty(base, ours, LOYALTY_BASE)),
        "fidelity": ("fidelity", lambda: aspect.fidelity(base, ours)),
        "churn": ("churn", lambda: aspect.churn(base, ours, split.labels)),
        "slices": ("slices", lambda: aspect.slices(base, ours, split, names)),
        "worst": ("worst", lambda: aspect.worst(base, ours, split, names)),
    }
    one["loyalty_base"] = LOYALTY_BASE if "loyalty" in aspects else None
    for figure, (which, measured) in figures.items():
        if which in aspects:
            one[figure] = _attempt(one, figure, measured)
