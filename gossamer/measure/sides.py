"""The sides of a report: every figure of every model, and what keeps one failure from costing the others."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from .subject import Predictor, Subject
from .time import Clock, Schedule, faster, speeds

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
COMPARED = ("label_loyalty", "probability_loyalty", "faster")
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
    schedule: Schedule,
    examples: int,
    clock: Clock = Clock(),
    progress: Progress | None = None,
) -> list[Side]:
    """Fill in the sides, in their order; the first is what the others are compared with if `baseline` says so.

    A figure that could not be had stays None, and the side's "errors" says why under that figure's name.
    """
    steps = 2 * len(found) + 1

    def tell(what: str, step: int) -> None:
        if progress is not None:
            progress(what, step / steps)

    logits: list[Logits | None] = []
    for i, (one, subject) in enumerate(found):
        tell(f"quality of {one['model']}", 2 * i)
        logits.append(None if subject is None else _answers(one, subject, split, task))
        tell(f"size and multiply-accumulates of {one['model']}", 2 * i + 1)
        if subject is not None:
            _sizes(one, subject, split, examples)
    tell("speed, all taking turns", steps - 1)
    alive = {str(i): subject.predictor for i, (_, subject) in enumerate(found) if subject is not None}
    times = speeds(alive, split.texts, split.pairs, schedule, clock)
    for name, speed in times.items():
        found[int(name)][0].update(speed.summary())
        found[int(name)][0]["errors"].update(speed.failed)
    for i, (one, _) in enumerate(found[1:], 1) if baseline else ():
        one |= dict.fromkeys((*COMPARED, "loyalty_base"))
        _compared(one, logits[0], logits[i], task)
        if "0" in times and str(i) in times:
            one["faster"] = faster(times["0"], times[str(i)])
    tell("measured", steps)
    return [one for one, _ in found]


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


def _answers(one: Side, subject: Subject, split: "Split", task: "Task") -> "Logits | None":
    """(n, classes) logits in the order of the task's labels; their quality goes into the side."""
    from .quality import quality

    one["engine"] = subject.predictor.name
    logits = _attempt(one, "quality", lambda: aligned(subject.predictor, split, task))
    if logits is not None:
        answers = logits
        score = _attempt(one, "quality", lambda: quality(task, answers, split.labels))
        one["quality"] = None if score is None else asdict(score)
    return logits


def aligned(predictor: Predictor, split: "Split", task: "Task") -> "Logits":
    """The predictor's logits, (n, labels), with the columns in the order of the task's labels.

    A side whose classes have no names (LABEL_0, ...) is taken at its order.
    Raises ValueError when the model answers with other classes than the task asks for.
    """
    import numpy as np

    from gossamer.labels import translation

    wanted, has = getattr(task, "labels", None), predictor.labels
    logits = np.asarray(predictor.logits(split.texts, split.pairs))
    width = 1 if wanted is None else len(wanted)
    if logits.ndim != 2 or logits.shape != (len(split.texts), width):
        raise ValueError(
            f"answers of shape {logits.shape}, expected ({len(split.texts)}, {width}): "
            "a model is measured on data that has the labels it was trained for"
        )
    if wanted is None or has is None or has == wanted:
        return logits
    if all(label == f"LABEL_{i}" for i, label in enumerate(wanted)):
        return logits
    return logits[:, [int(i) for i in translation(wanted, has, "the task")]]


def _sizes(one: Side, subject: Subject, split: "Split", examples: int) -> None:
    from . import size

    model, counted, folder = subject.model, subject.counted, subject.folder
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

            return round(macs.average(counted, split.texts, split.pairs, examples))

        one["macs"] = _attempt(one, "macs", average)


def _compared(one: Side, teacher: "Logits | None", student: "Logits | None", task: "Task") -> None:
    """Loyalty to the baseline; of classes, for a regression has none."""
    from .loyalty import label_loyalty, probability_loyalty

    if teacher is None or student is None or getattr(task, "labels", None) is None:
        return
    one["loyalty_base"] = LOYALTY_BASE
    one["label_loyalty"] = _attempt(one, "label_loyalty", lambda: label_loyalty(teacher, student))
    one["probability_loyalty"] = _attempt(
        one, "probability_loyalty", lambda: probability_loyalty(teacher, student, LOYALTY_BASE)
    )
