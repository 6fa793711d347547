"""The sides of a report: every figure of every model."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from gossamer.finite import sound

from . import aspects as aspect
from .asked import LATER, answers_texts, later
from .aspects import ANSWERS, Aims
from .side import Opened, Progress, Side, attempt
from .speedups import speedups
from .subject import Subject
from .time import Clock, faster, faster_interval, speeds

if TYPE_CHECKING:
    from gossamer.data import Split
    from gossamer.task import Task

COMPARED = (
    "label_loyalty", "probability_loyalty", "faster", "faster_interval", "speedups", "fidelity", "churn", "slices",
)  # fmt: skip


def sides(
    found: Sequence[Opened],
    split: "Split",
    task: "Task",
    *,
    baseline: bool,
    aims: Aims,
    clock: Clock = Clock(),
    progress: Progress | None = None,
    reseeded: Opened | None = None,
) -> list[Side]:
    """Fill in the sides, in their order; the first is what the others are compared with if `baseline` says so.

    reseeded: the baseline trained with another seed, whose answers are held beside the artefacts' ("noise").

    A figure that could not be had, or in which a number is not finite, is None, and the side's "errors" says why under
    that figure's name.
    """
    aspects = aims.aspects
    slow = [name for name in ("speed", "noise", *LATER) if name in aspects]
    steps, done = 2 * len(found) + len(slow), iter(range(1000))

    def tell(what: str) -> None:
        if progress is not None:
            progress(what, next(done) / steps)

    logits: list[Any] = []
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
    for (one, _), ours in zip(found[1:], logits[1:], strict=True) if baseline else ():
        one |= {name: one.get(name) for name in (*COMPARED, "loyalty_base")}
        _compared(one, logits[0], ours, split, task, aspects, aims.loyalty_base)
        one["speedups"] = speedups(found[0][0], one)
    _said(found, logits, task, baseline, aims)
    if "noise" in aspects:
        tell("noise of the baseline")
        _noise(logits, reseeded, found, split, task, baseline, aims.loyalty_base)
    for name in (name for name in LATER if name in aspects):
        tell(f"{name}, one after another")
        later(name, found, split, task, aims, baseline)
    if progress is not None:
        progress("measured", 1.0)
    return [sound(one) for one, _ in found]


def _speed(found: Sequence[Opened], split: "Split", aims: Aims, clock: Clock, baseline: bool) -> None:
    alive = {str(i): subject.predictor for i, (_, subject) in enumerate(found) if subject is not None}
    times = speeds(alive, split.texts, split.pairs, aims.schedule, clock)
    for name, speed in times.items():
        one = found[int(name)][0]
        one.update(speed.summary())
        one["errors"].update(speed.failed)
        if baseline and name != "0":
            one["faster"] = faster(times["0"], speed) if "0" in times else None
            one["faster_interval"] = faster_interval(times["0"], speed) if "0" in times else None


def _noise(
    logits: Sequence[Any],
    reseeded: Opened | None,
    found: Sequence[Opened],
    split: "Split",
    task: "Task",
    baseline: bool,
    base_of: float,
) -> None:
    """Of each artefact, beside the same of a baseline with another seed, whose own side says what it changed."""
    from . import noise

    if not answers_texts("noise", found, task):
        return
    base, again = found[0][1] if baseline else None, None
    one, other = ({}, None) if reseeded is None else reseeded
    if base is not None and other is not None:
        one["engine"] = other.predictor.name

        def answers(base: Subject = base, other: Subject = other) -> Any:
            noise.same_classes(base.predictor.labels, other.predictor.labels)
            return _answers(one, other, split, task, frozenset({"quality"}))

        again = attempt(one, "noise", answers)
        _compared(one, logits[0], again, split, task, frozenset({"loyalty", "churn"}), base_of)
    for (side, subject), ours in zip(found[1:], logits[1:], strict=True) if baseline else ():
        if subject is not None:
            side["noise"] = attempt(side, "noise", partial(noise.floor, logits[0], again, ours, split.labels, base_of))


def _said(found: Sequence[Opened], logits: Sequence[Any], task: "Task", baseline: bool, aims: Aims) -> None:
    """Why there is no comparison, and why figures that were asked for by name are not there."""
    from .fit import COMPARING, missing

    for i, (one, subject) in enumerate(found):
        first = baseline and i == 0
        for figure, why in missing(aims.named - set(COMPARING) if first else aims.named, task, baseline).items():
            one["errors"].setdefault(figure, why)
        wanted = baseline and not first and subject is not None and aims.aspects & ANSWERS & set(COMPARING)
        if wanted and logits[0] is None:
            one["errors"].setdefault(
                "comparison", "the baseline gave no answers to compare with; its own error says why"
            )


def _answers(one: Side, subject: Subject, split: "Split", task: "Task", aspects: frozenset[str]) -> Any:
    """(n, classes) logits in the order of the task's labels; their quality goes into the side."""
    from .quality import quality

    logits = attempt(one, "quality", lambda: aspect.aligned(subject.predictor, task, split.texts, split.pairs))
    if logits is None:
        return None
    answers = logits
    if "quality" in aspects:
        score = attempt(one, "quality", lambda: quality(task, answers, split.labels))
        one["quality"] = None if score is None else asdict(score)
    rows = aspect.rows(task, answers, answers, split) if "calibration" in aspects else None
    if rows is not None and rows.labels is not None:
        one["calibration"] = attempt(one, "calibration", lambda: aspect.calibration(rows.student, rows.labels))
    return logits


def _sizes(one: Side, subject: Subject, split: "Split", aims: Aims) -> None:
    from . import size

    counted = subject.counted if "macs" in aims.aspects else None
    model, folder = (subject.model, subject.folder) if "size" in aims.aspects else (None, None)
    if model is not None:
        one["parameters"] = attempt(one, "parameters", lambda: size.parameters(model))
        less = "parameters_without_embeddings"
        one[less] = attempt(one, less, lambda: size.beyond_embeddings(model))
    if folder is not None:
        one["bytes"] = attempt(one, "bytes", lambda: size.needed_bytes(folder, subject.predictor.name))
        one["bytes_folder"] = attempt(one, "bytes_folder", lambda: size.folder_bytes(folder))
    elif model is not None:
        one["bytes"] = attempt(one, "bytes", lambda: size.tensor_bytes(model))
    if counted is not None:

        def average() -> int:
            from . import macs

            return round(macs.average(counted, split.texts, split.pairs, aims.examples))

        def batched() -> int:
            from . import macs

            size = aims.schedule.batch_size
            return round(macs.batched(counted, split.texts, split.pairs, size, aims.examples))

        def layers(of: Any) -> dict[str, float]:
            from .layers import average

            return asdict(average(of, counted, split.texts, split.pairs, aims.examples))

        one["macs"] = attempt(one, "macs", average)
        if one["macs"] is not None:
            one["flops"] = 2 * one["macs"]
            one["macs_batched"] = attempt(one, "macs_batched", batched)
        ran = getattr(counted, "model", subject.model)
        if ran is not None:
            one["layers"] = attempt(one, "layers", lambda: layers(ran))


def _same(task: "Task", teacher: Any, student: Any) -> float | None:
    """The share of answers that are the same, None where an answer is a number."""
    same = task.same(teacher, student)
    return None if same is None else float(same.mean())


def _compared(
    one: Side, teacher: Any, student: Any, split: "Split", task: "Task", aspects: frozenset[str], base_of: float
) -> None:
    """What the answers say beside the baseline's; of classes, and where answers are none, how many are the same."""
    from .loyalty import label_loyalty, probability_loyalty

    if teacher is None or student is None:
        return
    rows = aspect.rows(task, teacher, student, split)
    if rows is None:
        if "loyalty" in aspects:
            one["label_loyalty"] = attempt(one, "label_loyalty", lambda: _same(task, teacher, student))
        return
    names: Sequence[str] = task.labels  # type: ignore[attr-defined]
    base, ours, labels, texts = rows
    figures: dict[str, tuple[str, Callable[[], Any]]] = {
        "label_loyalty": ("loyalty", lambda: label_loyalty(base, ours)),
        "probability_loyalty": ("loyalty", lambda: probability_loyalty(base, ours, base_of)),
        "fidelity": ("fidelity", lambda: aspect.fidelity(base, ours)),
        "churn": ("churn", lambda: aspect.churn(base, ours, labels)),
        "slices": ("slices", lambda: aspect.slices(base, ours, texts, labels, names)),
        "worst": ("worst", lambda: aspect.worst(base, ours, texts, labels, names)),
    }
    one["loyalty_base"] = base_of if "loyalty" in aspects else None
    for figure, (which, measured) in figures.items():
        if which in aspects:
            one[figure] = attempt(one, figure, measured)
