"""How many times faster, in the three ways the field says it.

A clock measures everything, on one machine.  Multiply-accumulates count products, heads and selectors included, and
know nothing of memory, threads or kernels.  Layers take every layer for equal and the rest for nothing.  The three
differ, so a report gives them side by side; only the first is time.
"""

from collections.abc import Mapping
from typing import Any

Side = Mapping[str, Any]


def speedups(baseline: Side, one: Side) -> dict[str, Any] | None:
    """What the sides of a report say: baseline over artefact, each None where either is unknown; None: nothing is.

    measured: the side's `faster` (wall clock and CPU time).  macs: each text alone; macs_batched: in batches.  layers:
    that the baseline runs over those that the artefact ran, sums over the same texts; token_layers: with their tokens.
    """
    found: dict[str, Any] = {
        "measured": one.get("faster"),
        "macs": ratio(baseline.get("macs"), one.get("macs")),
        "macs_batched": ratio(baseline.get("macs_batched"), one.get("macs_batched")),
        "layers": _layers(baseline, one, "executed"),
        "token_layers": _layers(baseline, one, "token_layers"),
    }
    return found if any(value is not None for value in found.values()) else None


def ratio(before: float | None, after: float | None) -> float | None:
    """before / after; None where one is unknown or zero."""
    return before / after if before and after else None


def _layers(baseline: Side, one: Side, what: str) -> float | None:
    return ratio(*((side.get("layers") or {}).get(what) for side in (baseline, one)))
