"""A report in words: the figures side by side, what became better, and what went wrong.

The report itself is the dict that gossamer.measure returns and report.json holds.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, e, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.finite import healthy

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Report = Mapping[str, Any]
Side = Mapping[str, Any]
NOTHING = "-"
SAME = "same"


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure of each side, and for each but the first what it is against the baseline."""

    name: str
    cells: tuple[str, ...]
    against: tuple[str, ...]


def rows(report: Report) -> list[Row]:
    """The lines of the table.

    cells: the baseline's first (where there is one), then the artefacts'.  against: one per artefact; empty strings
    where there is nothing to compare with.
    """
    report = healthy(report)
    base, artefacts = report.get("baseline"), _artefacts(report)
    sides = [*([base] if base else []), *artefacts]
    ends = " [95 % interval]"
    latency = ends * any((one.get("latency_ms") or {}).get("p50_low") is not None for one in sides)
    pace = ends * any(one.get("throughput_interval") is not None for one in sides)
    batch, inputs = _timing(report, "batch_size"), _timing(report, "macs_examples")

    def row(name: str, show: Callable[[Side], str], against: Callable[[Side, Side], str]) -> Row:
        return Row(name, tuple(map(show, sides)), tuple(against(base, one) if base else "" for one in artefacts))

    found = [
        row(_metric(sides), _quality, _points),
        row("parameters", lambda s: short(s.get("parameters")), lambda b, s: _less(b, s, "parameters", "fewer")),
        row(
            "parameters without embeddings",
            lambda s: short(s.get("parameters_without_embeddings")),
            lambda b, s: _less(b, s, "parameters_without_embeddings", "fewer"),
        ),
        row("bytes to run it", lambda s: short(s.get("bytes"), "B"), lambda b, s: _less(b, s, "bytes", "smaller")),
        row(
            "bytes of the folder",
            lambda s: short(s.get("bytes_folder"), "B"),
            lambda b, s: _less(b, s, "bytes_folder", "smaller"),
        ),
        row(
            f"multiply-accumulates (MACs), mean of {inputs} inputs",
            lambda s: short(s.get("macs")),
            lambda b, s: _less(b, s, "macs", "fewer"),
        ),
        row("FLOPs (= 2 MACs)", lambda s: short(s.get("flops")), lambda b, s: _less(b, s, "flops", "fewer")),
        row(
            f"MACs of a text in batches of {batch}, with padding",
            lambda s: short(s.get("macs_batched")),
            lambda b, s: _less(b, s, "macs_batched", "fewer"),
        ),
        row("layers run, of all", _layers, lambda b, s: _less_inside(b, s, "layers", "executed", "fewer")),
        row(f"latency at batch 1, p50{latency}", lambda s: _latency(s, "p50"), lambda b, s: _gain(s, "latency")),
        row(
            f"latency at batch 1, p99{latency}", lambda s: _latency(s, "p99"), lambda b, s: _less(b, s, "p99", "faster")
        ),
        row(f"texts per second at batch {batch}{pace}", _throughput, lambda b, s: _gain(s, "throughput")),
        row(f"speed-up by the clock (CPU time), batch {batch}", _by_clock, lambda b, s: ""),
        row("speed-up by MACs", _by_macs, lambda b, s: ""),
        row("speed-up by layers (and tokens)", _by_layers, lambda b, s: ""),
        row("label loyalty", lambda s: share(s.get("label_loyalty")), lambda b, s: ""),
        row(_probability(sides), lambda s: share(s.get("probability_loyalty")), lambda b, s: ""),
        row("predictive KL from the baseline, nats", _inside("fidelity", "teacher_student"), lambda b, s: ""),
        row("calibration error (ECE)", _inside("calibration", "ece"), lambda b, s: ""),
        row("changed answers", _changed, lambda b, s: ""),
        row("changed answers : another seed's", _beyond, lambda b, s: ""),
        row("accuracy under disturbances", _robust, _robuster),
        row("accuracy under attack", _attacked, _attacked_more),
        row("out of domain", _far, lambda b, s: ""),
        row("energy of 1,000 texts", _energy, _energy_less),
        row("cold start to the first answer", _cold, lambda b, s: _less_inside(b, s, "cold", "seconds", "faster")),
        row("peak memory", _peak, lambda b, s: _less_inside(b, s, "cold", "peak_bytes", "less")),
        row("attributions alike (rank correlation)", _inside("reasons", "correlation"), lambda b, s: ""),
    ]
    return [one for one in found if any(cell != NOTHING for cell in one.cells)]


def table(report: Report) -> "Table":
    """The rows as a rich table, baseline, compressed, ratio; below it what is better, and what could not be had."""
    from rich.table import Table
    from rich.text import Text

    report = healthy(report)
    base, artefacts = report.get("baseline"), _artefacts(report)
    called = names([one["model"] for one in artefacts])
    data = report["data"]
    title = f"{data['name']}, {data['examples']} {data['split']} examples" if isinstance(data, Mapping) else str(data)
    below = Text("\n".join((*verdicts(report), *failures(report))))
    found = Table(title=Text(title), title_justify="left", caption=below, caption_justify="left", caption_style="")
    found.add_column("")
    if base:
        found.add_column(Text(f"baseline\n{base.get('engine') or 'failed'}"), justify="right")
    for one, name in zip(artefacts, called, strict=True):
        name = name if len(artefacts) > 1 else "compressed"
        found.add_column(Text(f"{name}\n{one.get('engine') or 'failed'}"), justify="right")
        if base:
            found.add_column("ratio", justify="right", style="bold")
    for row in rows(report):
        cells = list(row.cells[: 1 if base else 0])
        for cell, against in zip(row.cells[len(cells) :], row.against, strict=True):
            cells += [cell, against] if base else [cell]
        found.add_row(*(Text(text) for text in (row.name, *cells)))
    return found


def show(report: Report, console: "Console | None" = None) -> None:
    """Print the table."""
    from rich.console import Console

    (console or Console()).print(table(report))


def verdicts(report: Report) -> list[str]:
    """One sentence per artefact: smaller, faster, and what it cost in quality; none without a baseline."""
    report = healthy(report)
    base = report.get("baseline")
    return [f"{one['model']}: {said}" for one in _artefacts(report) if base and (said := verdict(base, one, report))]


def failures(report: Report) -> list[str]:
    """One sentence for each figure that could not be had."""
    report = healthy(report)
    sides = [one for one in (report.get("baseline"), *_artefacts(report), report.get("reseeded")) if one]
    return [f"{one['model']}: no {what}: {why}" for one in sides for what, why in one.get("errors", {}).items()]


def short(number: float | None, unit: str = "") -> str:
    """22713216 -> "22.7 M"; with a unit, "22.7 MB" (powers of ten); 0.4 -> "400 m"."""
    if number is None:
        return NOTHING
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size * 0.9995:
            return f"{digits(number / size)} {prefix}{unit}"
    if number == int(number):
        return f"{number:.0f} {unit}".strip()
    if number >= 0.9995:
        return f"{digits(number)} {unit}".strip()
    size, prefix = (1e-3, "m") if number >= 0.9995e-3 else (1e-6, "µ")
    return f"{digits(number / size)} {prefix}{unit}"


def digits(number: float) -> str:
    """Three of them: 0.912, 5.73, 22.7, 431; below 0.01 two that are none."""
    if 0 < number < 0.00995:
        return f"{number:.2g}"
    places = 3 if number < 0.9995 else 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{places}f}"


def share(value: float | None) -> str:
    """Three places, or as many as it takes to tell it from 0 and from 1: 0.931, 0.0004, 0.9996."""
    if value is None:
        return NOTHING
    if 0 < abs(value) < 0.00995:
        return f"{value:.2g}"
    near = 0.9995 <= value < 1
    return f"{value:.{min(ceil(-log10(1 - value)), 9) if near else 3}f}"


def percent(value: float) -> str:
    """0.069 -> "6.9 %", 0.0004 -> "0.04 %", 0.9996 -> "99.96 %"."""
    rest = min(abs(value), abs(1 - value))
    places = 1 if rest == 0 or rest >= 0.0005 else min(ceil(-log10(100 * rest)), 7)
    return f"{100 * value:.{places}f} %"


def points(change: float, places: int = 1) -> str:
    """-0.018 -> "-1.8", in hundredths; as many places as it takes to tell it from nothing."""
    few = change and abs(100 * change) < 0.5 * 10**-places
    return f"{100 * change:+.2g}" if few else f"{100 * change:+.{places}f}"


def names(models: Sequence[Any]) -> list[str]:
    """What to call each model: the last part of its path, with as many before it as tell them apart."""
    ways = []
    for model in models:
        place = Path(str(model))
        ways.append((place.resolve() if place.name in ("", "..") else place).parts or (str(model),))
    lengths = [1] * len(ways)

    def called() -> list[str]:
        return ["/".join(way[-length:]).replace("//", "/") for way, length in zip(ways, lengths, strict=True)]

    while True:
        often = Counter(called())
        longer = [often[name] > 1 and lengths[i] < len(ways[i]) for i, name in enumerate(called())]
        if not any(longer):
            break
        lengths = [length + more for length, more in zip(lengths, longer, strict=True)]
    found, seen = called(), Counter[str]()
    for i, name in enumerate(found):  # the same model twice
        seen[name] += 1
        found[i] = f"{name} ({seen[name]})" if often[name] > 1 else name
    return found


def _artefacts(report: Report) -> list[Side]:
    return [report["compressed"], *report.get("others", [])]


def _timing(report: Report, what: str) -> Any:
    return report.get("timing", {}).get(what, "?")


def _metric(sides: list[Side]) -> str:
    found = [one["quality"] for one in sides if one.get("quality")]
    lower = ", lower is better" if found and lower_is_better(found[0]) else ""
    return f"{found[0]['metric'] if found else 'quality'}{lower} [95 % interval]"


def lower_is_better(quality: Mapping[str, Any]) -> bool:
    """Whether smaller values of a side's quality are the better ones, as of perplexity."""
    return bool(quality.get("better", "higher") == "lower")


def _quality(one: Side) -> str:
    q = one.get("quality")
    if not q:
        return NOTHING
    if q["metric"] == "accuracy":
        return f"{percent(q['value'])} [{100 * q['low']:.1f}, {100 * q['high']:.1f}]"
    return f"{q['value']:.3f} [{q['low']:.3f}, {q['high']:.3f}]"


def _points(base: Side, one: Side) -> str:
    before, after = base.get("quality"), one.get("quality")
    if not before or not after:
        return NOTHING
    difference = after["value"] - before["value"]
    return f"{points(difference)} points" if before["metric"] == "accuracy" else f"{difference:+.3f}"


def _latency(one: Side, which: str) -> str:
    found = one.get("latency_ms")
    if not found:
        return NOTHING
    return f"{digits(found[which])} ms{_ends(found.get(f'{which}_low'), found.get(f'{which}_high'))}"


def _throughput(one: Side) -> str:
    if not one.get("throughput_per_s"):
        return NOTHING
    found = one.get("throughput_interval") or {}
    return digits(one["throughput_per_s"]) + _ends(found.get("low"), found.get("high"))


def _ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{digits(low)}, {digits(high)}]"


def _probability(sides: list[Side]) -> str:
    natural = any(one.get("loyalty_base") == e for one in sides)
    return f"probability loyalty{' (base e)' if natural else ''}"


def _inside(aspect: str, figure: str) -> Callable[[Side], str]:
    return lambda one: share((one.get(aspect) or {}).get(figure))


def _changed(one: Side) -> str:
    found = one.get("churn")
    if not found:
        return NOTHING
    test = found.get("test")
    return percent(found["changed"]) + (f" (McNemar p = {test['p']:.2g})" if test else "")


def _beyond(one: Side) -> str:
    found = one.get("noise")
    if not found:
        return NOTHING
    own, seed = (percent(found[which]["churn"]["changed"]) for which in ("student", "reseeded"))
    return f"{own} : {seed} (McNemar p = {found['test']['p']:.2g})"


def _layers(one: Side) -> str:
    found = one.get("layers")
    return f"{digits(found['executed'])} of {found['full']:.4g}" if found else NOTHING


def _by_clock(one: Side) -> str:
    found = (one.get("speedups") or {}).get("measured") or {}
    wall, cpu = times(found.get("throughput")), times(found.get("throughput_cpu"))
    return wall if cpu == NOTHING else f"{wall} ({cpu})"


def _by_macs(one: Side) -> str:
    return times((one.get("speedups") or {}).get("macs"))


def _by_layers(one: Side) -> str:
    """With their tokens only where tokens leave: else that says the same again."""
    found, ran = one.get("speedups") or {}, one.get("layers")
    leave = ran and ran["token_layers"] * ran["full"] < 0.995 * ran["token_layers_full"] * ran["executed"]
    return times(found.get("layers")) + (f" ({times(found.get('token_layers'))})" if leave and found else "")


def times(ratio: float | None) -> str:
    """3.013 -> "3.01x"; None -> "-"."""
    return NOTHING if ratio is None else f"{digits(ratio)}x"


def _robust(one: Side) -> str:
    found = one.get("robustness")
    return f"{100 * found['accuracy']:.1f} %" if found else NOTHING


def _robuster(base: Side, one: Side) -> str:
    before, after = base.get("robustness"), one.get("robustness")
    return f"{100 * (after['accuracy'] - before['accuracy']):+.1f} points" if before and after else NOTHING


def _attacked(one: Side) -> str:
    found = one.get("attack")
    return (
        f"{100 * found['after_attack_accuracy']:.0f} % of {100 * found['original_accuracy']:.0f} %"
        if found
        else NOTHING
    )


def _attacked_more(base: Side, one: Side) -> str:
    before, after = ((s.get("attack") or {}).get("after_attack_accuracy") for s in (base, one))
    return NOTHING if before is None or after is None else f"{100 * (after - before):+.0f} points"


def _far(one: Side) -> str:
    found = one.get("domains")
    if not found:
        return NOTHING
    base = f", baseline {found['baseline']['out_of_domain']:.3f}" if found["baseline"] else ""
    bias = f", relative bias {found['relative_bias']:.2f}" if found["relative_bias"] is not None else ""
    return f"{found['compressed']['out_of_domain']:.3f}{base}{bias}"


def _energy(one: Side) -> str:
    found = one.get("energy")
    return f"{short(1000 * found['joules_per_text'], 'J')}{', estimated' * found['estimated']}" if found else NOTHING


def _energy_less(base: Side, one: Side) -> str:
    """Nothing where the two were not measured by the same means."""
    before, after = base.get("energy") or {}, one.get("energy") or {}
    means = [
        ({(p["source"], p["tier"]) for p in e.get("parts", ())}, e.get("idle_watts") is None) for e in (before, after)
    ]
    return _less_inside(base, one, "energy", "joules_per_text", "less") if means[0] == means[1] else NOTHING


def _cold(one: Side) -> str:
    return f"{digits(one['cold']['seconds'])} s" if one.get("cold") else NOTHING


def _peak(one: Side) -> str:
    return short(one["cold"]["peak_bytes"], "B") if one.get("cold") else NOTHING


def _less_inside(base: Side, one: Side, aspect: str, figure: str, better: str) -> str:
    before, after = ((s.get(aspect) or {}).get(figure) for s in (base, one))
    return worded(before / after, better) if before and after else NOTHING


def worded(ratio: float, better: str, interval: Mapping[str, float] | None = None) -> str:
    """4.0 -> "4.00x faster", 0.25 -> "4.00x slower"; with its interval, turned over with it."""
    opposite = {"fewer": "more", "smaller": "larger", "faster": "slower", "less": "more"}
    if 0.995 <= ratio < 1.005:
        return SAME
    low, high = (interval["low"], interval["high"]) if interval and interval["low"] > 0 else (None, None)
    if ratio > 1:
        return f"{digits(ratio)}x {better}{_ends(low, high)}"
    return f"{digits(1 / ratio)}x {opposite[better]}{_ends(high and 1 / high, low and 1 / low)}"


def _less(base: Side, one: Side, what: str, better: str) -> str:
    before, after = ((s.get("latency_ms") or {}).get(what) if what == "p99" else s.get(what) for s in (base, one))
    return worded(before / after, better) if before and after else NOTHING


def _gain(one: Side, what: str, ends: bool = True) -> str:
    ratio, interval = ((one.get(key) or {}).get(what) for key in ("faster", "faster_interval"))
    return worded(ratio, "faster", interval if ends else None) if ratio else NOTHING


def verdict(base: Side, one: Side, report: Report) -> str:
    """Smaller, faster, and the change in quality, in one sentence; "" where nothing could be compared."""
    parts = [
        (_less(base, one, "bytes", "smaller"), "size", ""),
        (_gain(one, "latency", False), "speed", " at batch 1"),
        (_gain(one, "throughput", False), "speed", f" at batch {_timing(report, 'batch_size')}"),
    ]
    said = [(f"same {what}" if part == SAME else part) + where for part, what, where in parts if part != NOTHING]
    if (change := _points(base, one)) != NOTHING:
        said.append(f"{base['quality']['metric']} {change} ({_evidence(base['quality'], one)})")
    return f"{', '.join(said)}." if said else ""


def _evidence(before: Mapping[str, Any], one: Side) -> str:
    """What speaks for a change in quality being more than chance.

    McNemar's test of the same examples, where the quality is their accuracy.  Two intervals of two models know nothing
    of the examples that both answered, and can overlap where nearly every change was for the worse; where there is
    nothing else, that is said of them.
    """
    test = (one.get("churn") or {}).get("test")
    if test and before["metric"] == "accuracy":
        return f"McNemar p = {test['p']:.2g}"
    after = one["quality"]
    overlap = before["low"] <= after["high"] and after["low"] <= before["high"]
    return f"not paired: its own 95 % interval {'overlaps' if overlap else 'does not overlap'} the baseline's"
