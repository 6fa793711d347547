"""One report about a model and what became of it, both measured in the same run.

    report = measure("runs/small", data="reviews.csv", baseline="runs/teacher")

One file per metric: quality, loyalty, size, macs, time.  Nothing heavy is imported before it is needed.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gossamer.finite import sound

from .aspects import Aims, base, wanted
from .side import Opening, Progress, Side, opened
from .sides import sides
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
    text: str = "",
    pair: str = "",
    label: str = "",
    seed: int = 0,
    engine: str = "auto",
    threads: int | None = None,
    schedule: Schedule = Schedule(),
    examples: int = 200,
    recipe: str | None = None,
    only: Sequence[str] | None = None,
    more: Sequence[str] = (),
    welcome: Sequence[str] = (),
    energy_seconds: float = 30.0,
    energy_by: str = "best",
    region: str = "world",
    far: "str | Path | Data | None" = None,
    reseeded: Source | None = None,
    loyalty_base: float | str = 2,
    task: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure artefacts and their baseline on the test split (dev where there is none), taking turns; the report.

    artefacts: folders that `compress` wrote, plain transformers folders, or Subjects in memory; one or several.
    baseline: folder, hub id or Subject; by default the teacher that the first artefact's report names, if it is still
    there.  A plain model runs as transformers does by itself: eager, fp32, batches in the order of the texts.
    threads: the same for all sides, tokenizers too where it is 1; by default what torch uses.  schedule: how much to
    time.  examples: how many inputs the multiply-accumulates are averaged over.  recipe: by default what the first
    artefact's recipe.txt says.
    only: aspects to measure, of gossamer.measure.aspects.ALWAYS; more: those of ASKED, such as "robustness", "energy".
    welcome: more of them, which nobody misses where the task or a missing baseline rules them out.
    energy_seconds: for each side.  energy_by: "best", or "codecarbon", which asks for "energy".  region: of the
    electricity.  loyalty_base: 2 or math.e ("e"), of the logarithm in probability loyalty.
    far: data of another domain with the same labels, for the aspect "domains", which it asks for.
    reseeded: the baseline trained on the same data with another seed, for the aspect "noise", which it asks for: what
    changes without any compression.

    task: its kind (gossamer.task.TASKS), by default what the first artefact was made for.

    Returns {"task", "data", "seed", "versions", "hardware", "recipe", "timing", "baseline": side or None,
    "compressed": side}, with "others" (the sides of the second artefact and on) where several were given, and
    "reseeded" (a short side) where it was.  A side has model, engine, quality {value, metric, low, high}, parameters,
    parameters_without_embeddings, bytes, bytes_folder, macs (each text alone), flops (2 macs), macs_batched (with
    padding), layers {executed, full, token_layers, token_layers_full}, latency_ms {p50, p50_low, p50_high, p99,
    p99_low, p99_high}, throughput_per_s, throughput_interval {low, high}, cpu, timed, calibration and errors; one
    that was compared also label_loyalty, probability_loyalty, loyalty_base, faster {latency, throughput, latency_cpu,
    throughput_cpu}, faster_interval (of each {low, high}), speedups {measured, macs, macs_batched, layers,
    token_layers}, fidelity, churn and slices; what was asked for in `more` stands under its own name.  What could not
    be had is None, and errors says why.  Every number is finite.
    Raises ValueError for wrong arguments or data, ImportError for energy_by="codecarbon" without it; where nothing
    could be opened, the artefact's own error.
    """
    from gossamer.environment import hardware, versions

    given = [artefacts] if isinstance(artefacts, (str, Path, Subject)) else list(artefacts)
    if not given:
        raise ValueError("no artefact to measure; expected at least one folder that gossamer compress wrote")
    first = given[0]
    if baseline is None and not isinstance(first, Subject):
        baseline = teacher_of(first)
        log.info("baseline: %s", baseline or "none given, none recorded that is still there (--baseline names one)")
    if reseeded is not None and baseline is None:
        raise ValueError(
            f"reseeded={str(getattr(reseeded, 'name', reseeded))!r} without a baseline; name the model that it is "
            "another seed of, with --baseline (baseline=...)"
        )
    asked = [*more, *welcome]
    asked += [
        name
        for name, wish in {"domains": far, "noise": reseeded, "energy": energy_by != "best" or None}.items()
        if wish is not None
    ]
    aims = Aims(
        wanted(only, asked),
        schedule,
        examples,
        seed,
        energy_seconds,
        region,
        named=frozenset((*(only or ()), *more)),
        energy_by=energy_by,
        loyalty_base=base(loyalty_base),
    )
    kind = _kind(first, task)
    elsewhere = None if far is None else _data(far, text, pair, label, seed, kind)
    found = _data(data, text, pair, label, seed, kind)
    longest = _longest(first, found.kind)
    split, part = _split(found)
    with _threads(threads) as count:
        openings = [_opening(source, engine, count) for source in given]
        if baseline is not None:
            openings.insert(0, _opening(baseline, "eager", count, found.kind, longest))
        if progress is not None:
            progress("opening the models", 0.0)
        bases = len(openings) - len(given)
        ready = opened(openings, artefact=bases)
        posed, split = _task(
            found, part, [subject for _, subject in ready[bases:] + ready[:bases] if subject is not None]
        )
        _tell(posed, ready[:bases])
        aims = replace(aims, threads=threads or 0)
        if elsewhere is not None:
            aims = replace(aims, far=_split(elsewhere.aligned(getattr(posed, "labels", None)))[0])
        again = (
            None
            if reseeded is None
            else opened([_opening(reseeded, "eager", count, found.kind, longest)], needed=False)[0]
        )
        measured = sides(
            ready,
            split,
            posed,
            baseline=baseline is not None,
            aims=aims,
            progress=progress,
            reseeded=again,
        )
    report = {
        "task": posed.kind,
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
    told = {} if again is None else {name: figure for name, figure in sound(again[0]).items() if figure is not None}
    return report | ({"others": measured} if measured else {}) | ({"reseeded": told} if again is not None else {})


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


def _opening(
    source: Source, engine: str, threads: int, kind: str | None = None, longest: int | None = None
) -> tuple[str, Opening]:
    """The name of a source, and how to get at it; engine "eager": as transformers alone runs it."""
    if isinstance(source, Subject):
        return source.name, lambda: source
    if engine == "eager":
        return str(source), lambda: reference(source, threads, kind, longest)
    return str(source), lambda: candidate(source, engine, threads)


def _kind(source: Source, wanted: str | None) -> str | None:
    """The kind of task that an artefact was made for, None for a class or a number; `wanted`, where it is not None."""
    from gossamer.task import Classification, Regression, named, of_model

    if wanted is None:
        try:
            if isinstance(source, Subject):
                wanted = source.predictor.task.kind  # type: ignore[attr-defined]
            else:
                wanted = of_model(json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))).kind
        except (OSError, ValueError, AttributeError):  # opening it will say what is wrong
            return None
    return None if named(wanted) in (Classification, Regression) else wanted


def _longest(source: Source, kind: str | None) -> int | None:
    """How much the first artefact reads of a text, where the baseline must read the same: of language models.

    Their perplexities are over the words that they read.
    """
    if kind not in ("masked-lm", "causal-lm") or isinstance(source, Subject):
        return None
    from gossamer.engines.texts import facts

    try:
        return facts(Path(source)).max_length
    except (OSError, ValueError):  # opening it will say what is wrong
        return None


def _data(data: "str | Path | Data", text: str, pair: str, label: str, seed: int, kind: str | None = None) -> "Data":
    from gossamer.data import Data, read

    if isinstance(data, Data):
        return data
    return read(data, text=text, pair=pair, label=label, seed=seed, need=("test",), task=kind)


def _task(data: "Data", part: str, subjects: Sequence[Subject]) -> "tuple[Task, Split]":
    """The task of the first subject that such data fits, and the split with its labels turned into that one's.

    Raises ValueError, the one of the first subject, when the data fits none of them.
    """
    from gossamer.task import Classification, Regression, TokenClassification, of

    if data.kind not in (None, TokenClassification.kind):
        return of(data), getattr(data, part)
    failures = []
    for labels in dict.fromkeys(subject.predictor.labels for subject in subjects):
        try:
            turned = data.aligned(labels)
        except ValueError as error:
            failures.append(error)
        else:
            posed: Task = Regression() if labels is None else Classification(labels)
            if data.kind is not None and labels is not None:
                posed = TokenClassification(labels)
            return posed, getattr(turned, part)
    raise failures[0]


def _tell(task: "Task", baselines: "Sequence[tuple[Side, Subject | None]]") -> None:
    """Tell plain models what the data asks, where no config of theirs does: whether nothing is an answer."""
    for _, subject in baselines:
        if subject is not None and task.kind == "question-answering" and hasattr(subject.predictor, "tokenizer"):
            subject.predictor.task = task  # type: ignore[attr-defined]


def _split(data: "Data") -> "tuple[Split, str]":
    for name in ("test", "dev"):
        split: Split | None = getattr(data, name)
        if split is not None and len(split.texts):
            return split, name
    raise ValueError(f"{data.name} has neither a test nor a dev split; expected texts that no model was trained on")


def _recipe(source: Source) -> str | None:
    folder = source.folder if isinstance(source, Subject) else Path(source)
    file = None if folder is None else folder / "recipe.txt"
    try:
        return None if file is None else file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):  # none, or a damaged one, which must not cost the report
        return None


@contextmanager
def _threads(wanted: int | None) -> Iterator[int]:
    """torch's own number of threads, or `wanted` for a while; the number in force.

    With 1, tokenizers keep to that one as well, so that CPU time is that of one thread.
    """
    if wanted is not None and wanted < 1:
        raise ValueError(f"threads={wanted}: expected at least 1")
    with _tokenizers_alone() if wanted == 1 else nullcontext():
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


@contextmanager
def _tokenizers_alone() -> Iterator[None]:
    """Keep the tokenizers package from starting threads; it looks at the environment each time."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


class _Measure(ModuleType):
    """`gossamer.measure` names both this package and its function: calling the one calls the other."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return measure(*args, **kwargs)


sys.modules[__name__].__class__ = _Measure
