"""Two tables of the page: the speed-ups that do not agree, and what another seed changes as well."""

from collections.abc import Mapping, Sequence
from typing import Any

from . import NOTHING, Report, percent, points, share, times

Side = Mapping[str, Any]
Table = tuple[tuple[str, ...], list[tuple[str, ...]]]  # heads and lines


def ways(report: Report, artefacts: Sequence[tuple[str, Side]]) -> Table | None:
    """How many times faster by the clock, by MACs and by layers, a line for each artefact; None where nobody knows.

    artefacts: names and sides.
    """
    known = [(name, one["speedups"]) for name, one in artefacts if one.get("speedups")]
    batch = report["timing"]["batch_size"]
    heads = (
        "", "clock, batch 1", "CPU time, batch 1", f"clock, batch {batch}", f"CPU time, batch {batch}", "MACs",
        f"MACs, batch {batch}", "layers", "layers and tokens",
    )  # fmt: skip
    measured = ("latency", "latency_cpu", "throughput", "throughput_cpu")
    counted = ("macs", "macs_batched", "layers", "token_layers")
    lines = [
        (
            name,
            *(times((found.get("measured") or {}).get(key)) for key in measured),
            *(times(found.get(key)) for key in counted),
        )
        for name, found in known
    ]
    return (heads, lines) if lines else None


def seeds(report: Report, artefacts: Sequence[tuple[str, Side]]) -> Table | None:
    """How far each artefact is from the baseline, below the same of a baseline with another seed; None without one."""
    known = [(name, one["noise"]) for name, one in artefacts if one.get("noise")]
    if not known:
        return None
    heads = ("", "changed answers", "beyond the seed's", "McNemar p", "label loyalty", "probability loyalty")
    first = ("another seed of the baseline", *_drift(known[0][1]["reseeded"], "", NOTHING))
    return heads, [
        first,
        *(
            (name, *_drift(found["student"], f"{points(found['beyond'])} points", f"{found['test']['p']:.2g}"))
            for name, found in known
        ),
    ]


def _drift(found: Side, beyond: str, p: str) -> tuple[str, ...]:
    loyal = (share(found[key]) for key in ("label_loyalty", "probability_loyalty"))
    return (percent(found["churn"]["changed"]), beyond or NOTHING, p, *loyal)
