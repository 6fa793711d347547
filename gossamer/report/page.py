"""A report as one page to look at: a single HTML file with its pictures inside, nothing fetched from anywhere.

What it shows: the verdict, the table, cost against quality with the Pareto front, how the latencies are spread, which
parts of the data compression hurt, the worst examples, and how each figure was measured.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from pathlib import Path
from typing import Any

from gossamer.finite import healthy

from . import NOTHING, SAME, Report, digits, failures, lower_is_better, points, rows, short, verdict, worded
from . import names as named
from .card import DIFFER, how
from .ways import seeds, ways

WIDTH, HEIGHT = 460, 280  # of a picture, in units of its view box
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 40
KINDS = ("base", "one", "two", "three", "four", "five")


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where, in units of the view box, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A point with its name; `kind` picks the colour."""

    x: float
    y: float
    name: str
    kind: str
    tip: str


@dataclass(frozen=True)
class Line:
    """A line of "x,y x,y ..." with its name; `kind` picks the colour."""

    points: str
    name: str
    kind: str


@dataclass(frozen=True)
class Picture:
    """A plot: axes, points and lines, all in units of the view box."""

    x_label: str
    y_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    marks: Sequence[Mark] = ()
    lines: Sequence[Line] = ()
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


@dataclass(frozen=True)
class Bar:
    """Damage to one slice: a bar from zero, its interval, in per cent of the width, and the words beside it."""

    by: str
    name: str
    start: float
    length: float
    low: float
    high: float
    worse: bool
    text: str
    examples: int


@dataclass(frozen=True)
class Scale:
    """Values of an axis to places in the view box; logarithmic if asked."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where a value lies."""
        a, b, v = (log10(max(x, 1e-12)) if self.log else x for x in (self.low, self.high, value))
        return self.start + (v - a) / ((b - a) or 1) * (self.end - self.start)


def write(report: Report, file: str | Path) -> Path:
    """Write the page; it appears whole or not at all.

    Raises:
        ImportError: jinja2 is missing; the message says what to type.
    """
    place = Path(file)
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        part.write_text(render(report), encoding="utf-8")
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)
    return place


def template() -> Any:
    """The page without its figures.

    Raises:
        ImportError: jinja2 is missing; the message says what to type.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise ImportError("an HTML report needs jinja2; type: pip install 'gossamer[report]'") from error
    place = Environment(
        loader=PackageLoader("gossamer.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return place.get_template("page.html.j2")


def render(report: Report) -> str:
    """The page as text; raises what `template` raises."""
    report = healthy(report)
    base, artefacts = report.get("baseline"), [report["compressed"], *report.get("others", [])]
    sides = [*([base] if base else []), *artefacts]
    names = _names(sides, bool(base))
    ours = list(zip(names[bool(base) :], artefacts, strict=True))
    text: str = template().render(
        report=report,
        base=base,
        artefacts=artefacts,
        names=names,
        kinds=_kinds(sides, bool(base)),
        rows=rows(report),
        heroes=_heroes(report),
        verdicts=_verdicts(report, artefacts, names),
        failures=failures(report),
        trade=trade(sides, names, bool(base)),
        spread=spread(sides, names, bool(base)),
        damage=[(names[i + bool(base)], bars(one)) for i, one in enumerate(artefacts) if one.get("slices")],
        worst=[(names[i + bool(base)], one["worst"]) for i, one in enumerate(artefacts) if one.get("worst")],
        robust=[(names[i + bool(base)], one["robustness"]) for i, one in enumerate(artefacts) if one.get("robustness")],
        how=[_split(line) for line in how(report)],
        ways=ways(report, ours),
        differ=_split(DIFFER)[1],
        seeds=seeds(report, ours),
        nothing=NOTHING,
    )
    return text


def trade(sides: Sequence[Mapping[str, Any]], names: Sequence[str], based: bool) -> Picture | None:
    """Quality against the time of one text at batch 1; the front is what no other beats in both."""
    known = [
        (s["latency_ms"]["p50"], s["quality"]["value"], name, kind)
        for s, name, kind in zip(sides, names, _kinds(sides, based), strict=True)
        if s.get("latency_ms") and s.get("quality")
    ]
    if not known:
        return None
    lows, highs = zip(*((s["quality"]["low"], s["quality"]["high"]) for s in sides if s.get("quality")), strict=True)
    x = Scale(min(k[0] for k in known) / 1.6, max(k[0] for k in known) * 1.6, LEFT, WIDTH - RIGHT, log=True)
    pad = (max(highs) - min(lows)) * 0.1 or 0.01
    y = Scale(min(lows) - pad, max(highs) + pad, HEIGHT - BOTTOM, TOP)
    metric = next(s["quality"]["metric"] for s in sides if s.get("quality"))
    sign = -1 if lower_is_better(next(s["quality"] for s in sides if s.get("quality"))) else 1
    front, best = list[tuple[float, float]](), float("-inf")
    for cost, quality, *_ in sorted(known, key=lambda k: (k[0], -sign * k[1])):
        if sign * quality > best:
            front, best = [*front, (cost, quality)], sign * quality
    marks = [
        Mark(x(cost), y(quality), name, kind, f"{name}: {digits(cost)} ms, {metric} {quality:.3f}")
        for cost, quality, name, kind in known
    ]
    intervals = []
    for one, (cost, _, _, kind) in zip(
        (s for s in sides if s.get("latency_ms") and s.get("quality")), known, strict=True
    ):
        low, high = (y(one["quality"][end]) for end in ("low", "high"))
        intervals.append(Line(f"{x(cost):.1f},{low:.1f} {x(cost):.1f},{high:.1f}", "", kind))
    line = Line(" ".join(f"{x(c):.1f},{y(q):.1f}" for c, q in front), "Pareto front", "front")
    return Picture(
        "median latency at batch 1, ms (logarithmic)", metric, _log_ticks(x), _ticks(y, 5), marks, [*intervals, line]
    )


def spread(sides: Sequence[Mapping[str, Any]], names: Sequence[str], based: bool) -> Picture | None:
    """The share of single texts that were answered within a time."""
    known = [
        (s["timed"]["latency_quantiles_ms"], name, kind)
        for s, name, kind in zip(sides, names, _kinds(sides, based), strict=True)
        if (s.get("timed") or {}).get("latency_quantiles_ms")
    ]
    if not known:
        return None
    x = Scale(min(q[0] for q, *_ in known) / 1.2, max(q[-1] for q, *_ in known) * 1.2, LEFT, WIDTH - RIGHT, log=True)
    y = Scale(0, 1, HEIGHT - BOTTOM, TOP)
    lines = [
        Line(" ".join(f"{x(v):.1f},{y(i / (len(q) - 1)):.1f}" for i, v in enumerate(q)), name, kind)
        for q, name, kind in known
    ]
    shares = [Tick(y(v), f"{100 * v:.0f} %") for v in (0, 0.25, 0.5, 0.75, 1)]
    return Picture("latency at batch 1, ms (logarithmic)", "texts answered", _log_ticks(x), shares, (), lines)


def bars(one: Mapping[str, Any]) -> list[Bar]:
    """What became of each slice, losses to the left; without labels, the agreement that is missing."""
    found = []
    for s in one["slices"]:
        change = s["agreement"] - 1 if s["damage"] is None else 0.0 - s["damage"]
        ends = (change, change) if s["low"] is None else (-s["high"], -s["low"])
        found.append((s, change, *ends))
    reach = max(0.02, *(abs(v) for _, *values in found for v in values))
    scale = Scale(-reach, reach, 0, 100)
    return [
        Bar(
            s["by"], s["name"], min(scale(0), scale(change)), abs(scale(change) - scale(0)), scale(low), scale(high),
            change < 0,
            f"{100 * change:+.1f} points" if s["damage"] is not None else f"{100 * s['agreement']:.1f} % agree",
            s["examples"],
        )
        for s, change, low, high in found
    ]  # fmt: skip


def _heroes(report: Report) -> list[tuple[str, str]]:
    """The four numbers that people look for first."""
    base, one = report.get("baseline"), report["compressed"]
    if not base:
        return []
    faster, found = one.get("faster") or {}, list[tuple[str, str]]()
    for ratio, better, what, where in (
        (_ratio(base, one, "bytes"), "smaller", "size", ""),
        (faster.get("latency"), "faster", "speed", " at batch 1"),
        (faster.get("throughput"), "faster", "speed", f" at batch {report['timing']['batch_size']}"),
    ):
        if ratio and (said := worded(ratio, better)) == SAME:
            found.append((SAME, what + where))
        elif ratio:
            number, word = said.split()
            found.append((number, word + where))
    if base.get("quality") and one.get("quality"):
        change, metric = one["quality"]["value"] - base["quality"]["value"], base["quality"]["metric"]
        lower = lower_is_better(base["quality"])
        found.append((f"{change:+.2f}", metric) if lower else (points(change), f"points of {metric}"))
    return found


def _verdicts(report: Report, artefacts: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """What is better and what it cost, a sentence each; with the name where there are several."""
    base = report.get("baseline")
    said = [(name, verdict(base, one, report) if base else "") for name, one in zip(names[1:], artefacts, strict=False)]
    return [f"{name}: {words}" if len(artefacts) > 1 else words for name, words in said if words]


def _ratio(base: Mapping[str, Any], one: Mapping[str, Any], what: str) -> float | None:
    return base[what] / one[what] if base.get(what) and one.get(what) else None


def _names(sides: Sequence[Mapping[str, Any]], based: bool) -> list[str]:
    return [*["baseline"] * based, *named([s["model"] for s in sides[based:]])]


def _kinds(sides: Sequence[Any], based: bool) -> list[str]:
    return [KINDS[min(i + (not based), len(KINDS) - 1)] for i in range(len(sides))]


def _ticks(scale: Scale, count: int) -> list[Tick]:
    """About `count` round values inside a linear scale."""
    step = (scale.high - scale.low) / count
    unit = 10 ** floor(log10(step))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= step * 0.999)
    places = max(0, ceil(-log10(step) + 0.3)) if step < 1 else 0
    first = ceil(scale.low / step - 1e-9)
    values = [i * step for i in range(first, floor(scale.high / step + 1e-9) + 1)]
    return [Tick(scale(v), f"{v:.{places}f}") for v in values]


def _log_ticks(scale: Scale) -> list[Tick]:
    """1, 2, 5, 10, ... inside a logarithmic scale; ends where it holds none of them."""
    powers = range(floor(log10(scale.low)), ceil(log10(scale.high)) + 1)
    values = [m * 10.0**p for p in powers for m in (1, 2, 5) if scale.low <= m * 10.0**p <= scale.high]
    return [Tick(scale(v), f"{v:g}") for v in values or (scale.low, scale.high)]


def _split(line: str) -> tuple[str, str]:
    """A line of the kind **Name**: words, as its two parts."""
    name, _, words = line.removeprefix("**").partition("**")
    return name, words.lstrip(": ").replace("**", "")


__all__ = ["Bar", "Line", "Mark", "Picture", "Scale", "Tick", "bars", "render", "short", "spread", "trade", "write"]
