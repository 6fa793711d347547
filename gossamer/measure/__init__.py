"""One report about a model and what became of it, both measured in the same run.

    report = measure("runs/small", data="reviews.csv", baseline="runs/teacher")

One file per metric: quality, loyalty, size, macs, time.  Nothing heavy is imported before it is needed.
"""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .aspects import Aims, wanted
from .sides import Opening, Progress, Side, opened, sides
from .subject import Predictor, Subject, candidate, reference, teacher_of
from .time import Schedule

if TYPE_CHECKING:
    from torch import nn

    from gossamer.data import Data, Split
    from gossamer.task import Task

__all__ = ["Predictor", "Schedule", "Subject", "candidate", "compare", "measure", "reference", "side"]

log = logging.getLogger(__name__)

Source = str | Path | Subject


def measure(
    artefacts: Source | Sequence[Source],
    *,
    data: "str | Path | Data",
    baseline: Source | None = None,
    text: str = "text",
    pair: str = "text_pair",
    label: str = "label",
    seed: int = 0,
    engine: str = "auto",
    threads: int | None = None,
    schedule: Schedule = Schedule(),
    examples: int = 200,
    recipe: str | None = None,
    only: Sequence[str] | None = None,
    more: Sequence[str] = (),
    energy_seconds: float = 30.0,
    region: str = "world",
    far: "str | Path | Data | None" = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure artefacts and their baseline on the test split (dev where there is none), taking turns; the report.

    artefacts: folders that `compress` wrote, plain transformers folders, or Subjects in memory; one or several.
    baseline: folder, hub id or Subject; by default the teacher that the first artefact's report names, if it is still
    there.  A plain model runs as transformers does by itself: eager, fp32, batches in the order of the texts.
    threads: the same for all sides; by default what torch uses.  schedule: how much to time.  examples: how many inputs
    the multiply-accumulates are averaged over.  recipe: by default what the first artefact's recipe.txt says.
    only: aspects to measure, of gossamer.measure.aspects.ALWAYS; more: those of ASKED, such as "robustness", "energy".
    energy_seconds: for each side.  region: of the electricity.  far: data of another domain with the same labels, for
    the aspect "domains", which it asks for.

    Returns {"task", "data", "seed", "versions", "hardware", "recipe", "timing", "baseline": side or None,
    "compressed": side}, with "others" (the sides of the second artefact and on) where several were given.  A side has
    model, engine, quality {value, metric, low, high}, parameters, bytes, bytes_folder, macs, latency_ms {p50, p99},
    throughput_per_s, cpu, timed, calibration and errors; one that was compared also label_loyalty, probability_loyalty,
    loyalty_base, faster {latency, throughput, latency_cpu, throughput_cpu}, fidelity, churn and slices; what was asked
    for in `more` stands under its own name.  What could not be had is None, and errors says why.
    Raises ValueError for wrong arguments or data; where nothing could be opened, the artefact's own error.
    """
    from gossamer.environment import hardware, versions

    given = [artefacts] if isinstance(artefacts, (str, Path, Subject)) else list(artefacts)
    if not given:
        raise ValueError("no artefact to measure; expected at least one folder that gossamer compress wrote")
    first = given[0]
    if baseline is None and not isinstance(first, Subject):
        baseline = teacher_of(first)
        log.info("baseline: %s", baseline or "none given, none recorded that is still there (--baseline names one)")
    aims = Aims(
        wanted(only, (*more, *(["domains"] if far is not None else []))),
        schedule,
        examples,
        seed,
        energy_seconds,
        region,
    )
    elsewhere = None if far is None else _data(far, text, pair, label, seed)
    found = _data(data, text, pair, label, seed)
    split, part = _split(found)
    with _threads(threads) as count:
        openings = [_opening(source, engine, count) for source in given]
        if baseline is not None:
            openings.insert(0, _opening(baseline, "eager", count))
        if progress is not None:
            progress("opening the models", 0.0)
        bases = len(openings) - len(given)
        ready = opened(openings, artefact=bases)
        task, split = _task(
            found, part, [subject for _, subject in ready[bases:] + ready[:bases] if subject is not None]
        )
        aims = replace(aims, threads=threads or 0)
        if elsewhere is not None:
            aims = replace(aims, far=_split(elsewhere.aligned(getattr(task, "labels", None)))[0])
        measured = sides(
            ready,
            split,
            task,
            baseline=baseline is not None,
            aims=aims,
            progress=progress,
        )
    report = {
        "task": task.kind,
        "data": {
            "name": found.name,
            "fingerprint": found.fingerprint,
            "split": part,
            "examples": len(split.texts),
            "labels": None if found.labels is None else list(found.labels),
        },
        "seed": seed,
        "versions": versions(),
        "hardware": hardware() | {"threads": count},
        "recipe": _recipe(first) if recipe is None else recipe,
        "timing": asdict(schedule) | {"threads": count, "macs_examples": min(examples, len(split.texts))},
        "baseline": measured.pop(0) if baseline is not None else None,
        "compressed": measured.pop(0),
    }
    return report | ({"others": measured} if measured else {})


def compare(
    baseline: Subject,
    compressed: Subject,
    data: "Data",
    task: "Task",
    *,
    schedule: Schedule = Schedule(),
    examples: int = 200,
    progress: Progress | None = None,
) -> tuple[Side, Side]:
    """The sides of two subjects in memory, timed against each other; the second with loyalty and ratios.

    task: the one that the data's labels are written for (gossamer.task.of(data)).
    """
    ready = opened([(one.name, lambda one=one: one) for one in (baseline, compressed)])  # type: ignore[misc]
    split = _split(data)[0]
    aims = Aims(schedule=schedule, examples=examples)
    two = sides(ready, split, task, baseline=True, aims=aims, progress=progress)
    return two[0], two[1]


def side(
    predictor: Predictor,
    model: "nn.Module | None",
    folder: str | Path | None,
    data: "Data",
    task: "Task",
    *,
    counted: Predictor | None = None,
    schedule: Schedule = Schedule(),
    examples: int = 200,
) -> Side:
    """One model on its own.

    counted: a predictor that runs the model in torch, for the multiply-accumulates; by default `predictor`.
    """
    place = None if folder is None else Path(folder)
    subject = Subject(str(folder or predictor.name), predictor, model, counted or predictor, place)
    ready = opened([(subject.name, lambda: subject)])
    return sides(ready, _split(data)[0], task, baseline=False, aims=Aims(schedule=schedule, examples=examples))[0]


def _opening(source: Source, engine: str, threads: int) -> tuple[str, Opening]:
    """The name of a source, and how to get at it; engine "eager": as transformers alone runs it."""
    if isinstance(source, Subject):
        return source.name, lambda: source
    if engine == "eager":
        return str(source), lambda: reference(source, threads)
    return str(source), lambda: candidate(source, engine, threads)


def _data(data: "str | Path | Data", text: str, pair: str, label: str, seed: int) -> "Data":
    from gossamer.data import Data, read

    if isinstance(data, Data):
        return data
    return read(data, text=text, pair=pair, label=label, seed=seed, need=("test",))


def _task(data: "Data", part: str, subjects: Sequence[Subject]) -> "tuple[Task, Split]":
    """The task that the first of the subjects was trained for, and the split with its labels turned into that one's."""
    from gossamer.task import Classification, Regression

    labels = subjects[0].predictor.labels
    return Regression() if labels is None else Classification(labels), getattr(data.aligned(labels), part)


def _split(data: "Data") -> "tuple[Split, str]":
    for name in ("test", "dev"):
        split: Split | None = getattr(data, name)
        if split is not None and len(split.texts):
            return split, name
    raise ValueError(f"{data.name} has neither a test nor a dev split; expected texts that no model was trained on")


def _recipe(source: Source) -> str | None:
    folder = source.folder if isinstance(source, Subject) else Path(source)
    file = None if folder is None else folder / "recipe.txt"
    return file.read_text(encoding="utf-8").strip() if file is not None and file.is_file() else None


@contextmanager
def _threads(wanted: int | None) -> Iterator[int]:
    """torch's own number of threads, or `wanted` for a while; the number in force."""
    if wanted is not None and wanted < 1:
        raise ValueError(f"threads={wanted}: expected at least 1")
    if find_spec("torch") is None:  # an installation that only predicts
        yield wanted or len(os.sched_getaffinity(0))
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield wanted or before
    finally:
        torch.set_num_threads(before)


class _Measure(ModuleType):
    """`gossamer.measure` names both this package and its function: calling the one calls the other."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return measure(*args, **kwargs)


sys.modules[__name__].__class__ = _Measure
