"""What another seed would have changed as well: a second teacher's answers beside the artefacts'.

The churn of an artefact means little by itself: a teacher trained again on the same data, with nothing changed but the
seed, differs from itself too (gossamer.measure.churn.noise_floor).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .churn import noise_floor


def same_classes(teacher: Sequence[str] | None, reseeded: Sequence[str] | None) -> None:
    """Raises ValueError unless both answer with the same classes, in any order; those without names by their number."""
    bare = any(_nameless(names) for names in (teacher, reseeded))
    found, expected = (names and (len(names) if bare else sorted(names)) for names in (reseeded, teacher))
    if found != expected:
        raise ValueError(
            f"the re-seeded teacher answers with {_named(reseeded)}, the baseline with {_named(teacher)}: expected the "
            "same; train it on the same data with nothing changed but the seed"
        )


def floor(teacher: Any, reseeded: Any, student: Any, labels: Any, base: float = 2) -> dict[str, Any]:
    """The student's distance from the teacher beside the re-seeded one's, as a report holds it.

    teacher, reseeded, student: (n, classes) logits on the same examples, None where there are none.
    Raises ValueError when one is missing, and what `noise_floor` raises.
    """
    if reseeded is None:
        raise ValueError(
            "no answers of a re-seeded teacher; name one with --reseeded: the baseline, trained on the same data with "
            "another seed"
        )
    if teacher is None or student is None:
        whose = "baseline" if teacher is None else "artefact"
        raise ValueError(f"no answers of the {whose} to hold against another seed's; what it lacks is said above")
    return dict(json.loads(json.dumps(asdict(noise_floor(teacher, reseeded, student, labels, base)))))


def _nameless(names: Sequence[str] | None) -> bool:
    return names is not None and all(name == f"LABEL_{i}" for i, name in enumerate(names))


def _named(names: Sequence[str] | None) -> str:
    return "a number" if names is None else f"the classes {', '.join(map(repr, names))}"
