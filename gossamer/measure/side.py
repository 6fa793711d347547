"""One side of a report while it is filled in, and what keeps one failure from costing the other figures."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from .subject import Subject

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
    "parameters_without_embeddings",
    "bytes",
    "bytes_folder",
    "macs",
    "flops",
    "macs_batched",
    "layers",
    "latency_ms",
    "throughput_per_s",
    "throughput_interval",
    "cpu",
    "timed",
)


def opened(openings: Sequence[tuple[str, Opening]], artefact: int = 0, needed: bool = True) -> list[Opened]:
    """A blank side and its subject for each opening; the subject is None where it failed, and the side says why.

    Raises the error of opening number `artefact` when nothing could be opened, if at least one is needed.
    """
    failures: list[Exception] = []
    found = []
    for name, way in openings:
        blank: Side = {"model": name, **dict.fromkeys(FIGURES), "errors": {}}
        found.append((blank, attempt(blank, "open", way, failures)))
    if needed and len(failures) == len(openings):
        raise failures[artefact]
    return found


def attempt(one: Side, what: str, action: Callable[[], Got], failures: list[Exception] | None = None) -> Got | None:
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
