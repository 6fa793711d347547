"""Which figures a task, and a report without a baseline, cannot have; said aloud for those that were asked for."""

from collections.abc import Collection
from typing import Any

FIGURES: dict[str, tuple[str, ...]] = {
    "calibration": ("calibration",),
    "loyalty": ("label_loyalty", "probability_loyalty"),
    "fidelity": ("fidelity",),
    "churn": ("churn",),
    "slices": ("slices",),
    "worst": ("worst",),
}  # of each aspect that is read off answers with classes
ALONE = ("calibration",)  # of them, those that compare with nobody
COMPARING = (*(aspect for aspect in FIGURES if aspect not in ALONE), "noise", "reasons")


def missing(named: Collection[str], task: Any, baseline: bool) -> dict[str, str]:
    """{figure: why there is none}, of the aspects that somebody named.

    named: aspects by name, of gossamer.measure.aspects.  task: its labels tell whether answers are classes.
    """
    found: dict[str, str] = {}
    for aspect in named:
        figures = FIGURES.get(aspect, (aspect,))
        if aspect in FIGURES and getattr(task, "labels", None) is None:
            if aspect == "loyalty" and not task.numeric:  # answers can be the same without being classes
                figures = ("probability_loyalty",)
            why = (
                f"{aspect} is of answers with classes, and this task is {task.kind}, whose answers are not; "
                "leave it out, or measure a classifier"
            )
        elif aspect in COMPARING and not baseline:
            why = f"{aspect} compares with a baseline, and there is none; name one with --baseline"
        else:
            continue
        found |= dict.fromkeys(figures, why)
    return found
