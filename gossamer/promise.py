"""A gate for continuous integration: whether an artefact is still as good, as fast and as small as was promised."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gossamer.finite import healthy

Side = Mapping[str, Any]


@dataclass(frozen=True)
class Promise:
    """What is asked of an artefact; what is None is not asked.

    max_drop: points of quality under the baseline (hundredths of the metric), of perplexity the percent that it rose.
    min_speedup, min_latency_speedup: times
    the baseline, in batches and at batch 1; of process CPU time with `cpu`, which other programs disturb less.
    min_smaller, min_fewer_macs: times.  min_label_loyalty, min_probability_loyalty: shares.  max_latency_ms: median at
    batch 1.  max_bytes: of what is needed to run it.  min_quality: of the metric.
    """

    max_drop: float | None = None
    min_quality: float | None = None
    min_speedup: float | None = None
    min_latency_speedup: float | None = None
    min_smaller: float | None = None
    min_fewer_macs: float | None = None
    min_label_loyalty: float | None = None
    min_probability_loyalty: float | None = None
    max_latency_ms: float | None = None
    max_bytes: float | None = None
    cpu: bool = False

    def asked(self) -> dict[str, float]:
        """The bounds that are set, by name."""
        return {f.name: v for f in fields(self) if f.name != "cpu" and (v := getattr(self, f.name)) is not None}


NEEDS = {
    "max_drop": "quality",
    "min_quality": "quality",
    "min_speedup": "speed",
    "min_latency_speedup": "speed",
    "max_latency_ms": "speed",
    "min_smaller": "size",
    "max_bytes": "size",
    "min_fewer_macs": "macs",
    "min_label_loyalty": "loyalty",
    "min_probability_loyalty": "loyalty",
}  # the aspect that tells


COMPARING = ("label_loyalty", "probability_loyalty")  # figures of the answers beside the baseline's
LOWER = "lower is better of this metric; bound it by --max-drop, by how many percent it may rise"


@dataclass(frozen=True)
class Criterion:
    """One bound and what was found; `found` is None, and the bound not met, where the figure could not be had."""

    name: str
    bound: float
    found: float | None
    met: bool
    why: str = ""

    def __str__(self) -> str:
        sign = "<=" if self.name.startswith("max") else ">="
        found = "not measured" if self.found is None else apart(self.found, self.bound)
        why = f" ({self.why})" if self.why else ""
        return f"{'pass' if self.met else 'FAIL'}  {self.name}: {found}, expected {sign} {_plain(self.bound)}{why}"


def apart(found: float, bound: float) -> str:
    """`found` with four digits, or with as many as tell it from `bound`."""
    if float(found).is_integer() and abs(found) < 1e15:
        return _plain(found)
    for places in range(4, 18):
        text = f"{found:.{places}g}"
        if (float(text) < bound, float(text) > bound) == (found < bound, found > bound):
            return text
    return repr(found)


def _plain(number: float) -> str:
    """As it was typed: 20000000, 0.85."""
    return f"{number:.15g}"


def judge(report: Mapping[str, Any], promise: Promise) -> list[Criterion]:
    """Hold a report of gossamer.measure against a promise, bound by bound.

    Raises:
        ValueError: nothing is asked, or it asks for a comparison and the report has no baseline.
    """
    report = healthy(report)
    asked, base, one = promise.asked(), report.get("baseline"), report["compressed"]
    if not asked:
        raise ValueError("no criterion; type one or more, as in --max-drop 1.0 --min-speedup 2")
    alone = {"min_quality", "max_latency_ms", "max_bytes"}
    if base is None and (compared := sorted(set(asked) - alone)):
        raise ValueError(f"{compared[0]} compares with a baseline, and there is none; name one with --baseline")
    return [_held(name, bound, base or {}, one, promise.cpu) for name, bound in asked.items()]


def _held(name: str, bound: float, base: Side, one: Side, cpu: bool) -> Criterion:
    found, figure = _figure(name, base, one, cpu)
    if found is None:
        errors = {"min_quality": LOWER, **base.get("errors", {}), **one.get("errors", {})}
        why = errors.get(figure) or (_uncompared(base, one) if figure in COMPARING else "")
        return Criterion(name, bound, None, False, why or errors.get("open") or "")
    return Criterion(name, bound, found, found <= bound if name.startswith("max") else found >= bound)


def _uncompared(base: Side, one: Side) -> str:
    """Why the answers were not compared: the baseline gave none, and its own words for it."""
    said = one.get("errors", {}).get("comparison") or ""
    own = next((base["errors"][what] for what in ("open", "quality") if what in base.get("errors", {})), "")
    return f"{said}: {own}" if said and own else said


def _figure(name: str, base: Side, one: Side, cpu: bool) -> tuple[float | None, str]:
    """The figure that a bound speaks of, and under which name its error would stand."""
    faster, suffix = one.get("faster") or {}, "_cpu" if cpu else ""

    def times(what: str) -> float | None:
        return base[what] / one[what] if base.get(what) and one.get(what) else None

    if name in ("max_drop", "min_quality"):
        before, after = ((side.get("quality") or {}).get("value") for side in (base, one))
        lower = (base.get("quality") or one.get("quality") or {}).get("better") == "lower"
        if name == "min_quality":
            return (None if lower else after), "min_quality" if lower else "quality"
        if lower:
            return (None if not before or after is None else round(100 * (after / before - 1), 9)), "quality"
        return (None if before is None or after is None else round(100 * (before - after), 9)), "quality"
    plain: dict[str, tuple[float | None, str]] = {
        "min_speedup": (faster.get(f"throughput{suffix}"), "throughput"),
        "min_latency_speedup": (faster.get(f"latency{suffix}"), "latency"),
        "min_smaller": (times("bytes"), "bytes"),
        "min_fewer_macs": (times("macs"), "macs"),
        "min_label_loyalty": (one.get("label_loyalty"), "label_loyalty"),
        "min_probability_loyalty": (one.get("probability_loyalty"), "probability_loyalty"),
        "max_latency_ms": ((one.get("latency_ms") or {}).get("p50"), "latency"),
        "max_bytes": (one.get("bytes"), "bytes"),
    }
    return plain[name]


def check(
    artefact: str | Path, promise: Promise, *, data: Any, baseline: Any = None, **measuring: Any
) -> list[Criterion]:
    """Measure an artefact beside its baseline, and hold it against a promise.

    measuring: what gossamer.measure takes besides.  Raises what gossamer.measure and `judge` raise, and ValueError when
    the artefact or the baseline cannot be opened: nothing was promised of another.
    """
    from gossamer.measure import measure
    from gossamer.measure.subject import teacher_of

    known = baseline if baseline is not None else teacher_of(artefact)
    judge({"baseline": None if known is None else {}, "compressed": {}}, promise)  # what is missing costs no minutes
    only = sorted({NEEDS[name] for name in promise.asked()})
    report = measure(artefact, data=data, baseline=known, only=only, **measuring)
    for side in (report["compressed"], report.get("baseline") or {}):
        if "open" in side.get("errors", {}):
            raise ValueError(f"{side['model']} cannot be measured: {side['errors']['open']}")
    return judge(report, promise)
