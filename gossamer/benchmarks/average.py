"""The average over the tasks of GLUE or SuperGLUE, of one artefact or one result for each.

A folder has under each task's name an artefact (SST-2/), or what `gossamer benchmark glue/SST-2 ... --json` printed
(SST-2.json).  MNLI stands for both its parts.  The diagnostic sets never count; they are answered only for a
submission, AX by MNLI's artefact and AX-b and AX-g by RTE's, unless they have their own.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .files import document, field

STAND_INS = {"MNLI-m": "MNLI", "MNLI-mm": "MNLI", "AX": "MNLI", "AX-b": "RTE", "AX-g": "RTE"}

Ask = Callable[[str, Path], dict[str, Any]]  # (task, artefact) -> its report


def average(
    suite: str, module: Any, folder: Path, ask: Ask, part: str | None, without: Sequence[str], submission: Path | None
) -> dict[str, Any]:
    """Every task that the folder has something for, and the average, None while a task is missing.

    module: gossamer.benchmarks.glue or .superglue.  Returns the keys of `gossamer.benchmarks.run.benchmark`; scores has
    "average", what counts of each task by its name, and "missing" and "without"; "tasks" has each task's report.
    Raises FileNotFoundError: no folder, nothing in it for any task.  ValueError: a result of another benchmark, results
    of different parts, a submission that would not be whole.
    """
    folder = folder.expanduser()
    counted = [name for task, parts in module.AVERAGED.items() if task not in without for name in parts]
    module.standing({}, without)  # names that are none are refused before anything is asked
    wanted = [task.name for task in module.TASKS if task.name in counted or submission is not None]
    there = {name: place for name in wanted if (place := _place(folder, name)) is not None}
    if not set(there) & set(counted):
        expected = ", ".join(module.AVERAGED)
        raise FileNotFoundError(
            f"'{folder}' has nothing for a task of {suite}; expected artefacts called {expected}, or results of "
            f"`gossamer benchmark {suite}/TASK ... --json` called TASK.json"
        )
    known = {name: _saved(place, suite, name) for name, place in there.items() if place.is_file()}
    if submission is not None and (lacking := [name for name in wanted if name not in there or name in known]):
        raise ValueError(
            f"a submission to {suite} has all its files, and '{folder}' has no artefact for {', '.join(lacking)}; add "
            "them, or leave --submission out (for a single file, ask the task alone)"
        )
    reports = {name: known[name] if name in known else ask(name, place) for name, place in there.items()}
    scored = {name: report for name, report in reports.items() if name in counted}
    parts = {report["part"] for report in scored.values()}
    if len(parts | ({part} if part else set())) > 1:
        told = ", ".join(f"{name} of {report['part']}" for name, report in scored.items())
        raise ValueError(f"scores of different parts make no average: {told}; expected {part or 'one part'} for all")
    unscored = [name for name, report in scored.items() if report["scores"] is None]
    standing = module.standing({n: r["scores"] for n, r in scored.items() if r["scores"] is not None}, without)
    found = {
        "average": standing.average, **standing.tasks, "missing": list(standing.missing),
        "without": list(standing.without),
    }  # fmt: skip
    return {
        "benchmark": suite, "part": parts.pop(), "examples": sum(report["examples"] for report in scored.values()),
        "scores": None if len(unscored) == len(scored) else found,
        "submission": None if submission is None else str(submission), "tasks": reports,
    }  # fmt: skip


def _place(folder: Path, name: str) -> Path | None:
    """A task's artefact, or the file of its result."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder '{folder}'; expected one with an artefact or a result for each task")
    places = [folder / f"{name}.json", folder / name]
    places += [folder / STAND_INS[name]] if name in STAND_INS else []
    return next((place for place in places if place.exists()), None)


def _saved(file: Path, suite: str, name: str) -> dict[str, Any]:
    report = document(file)
    told = field(report, "benchmark", str, str(file))
    if told != f"{suite}/{name}":
        raise ValueError(f"{file} is a result of {told}, expected one of {suite}/{name}")
    field(report, "part", str, str(file))
    field(report, "examples", int, str(file))
    metrics = field(report, "scores", (dict, type(None)), str(file))
    for metric in metrics or ():
        field(metrics, metric, (int, float), f"{file}, scores")
    return dict(report)
