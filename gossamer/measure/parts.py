"""The shares that energy is summed from, each with where it comes from and with what numbers."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from .counters import Tally
from .processors import Assumed, assume
from .sensors import Sensors

ORIGINS = {
    "given": " as given",
    "listed": "",
    "typical": " typical of its family",
    "unknown": " assumed for an unknown processor",
}


@dataclass(frozen=True)
class Part:
    """One share of the sum, before PUE.

    source: "cpu package-0", "gpu 0 (name)", "ram" ...  tier: "rapl", "nvml", "codecarbon", "estimate", or
    "unavailable", whose joules are None: drawn, but by nobody counted.  joules: of all runs, without what is drawn at
    rest.  estimated: not from a counter.  note: the numbers used, or why nothing better.
    """

    source: str
    tier: str
    joules: float | None
    estimated: bool
    note: str


@dataclass(frozen=True)
class Ran:
    """How long, how often, and with how many CPU seconds of this process."""

    seconds: float
    runs: int
    cpu_seconds: float


def counted(tally: Tally, i: int, rest: Mapping[str, float], ran: Ran) -> Part:
    """What counter i says, less what is drawn at rest."""
    counter = tally.counters[i]
    note, joules = counter.scope, tally.joules[i]
    if counter.source in rest:
        watts = rest[counter.source]
        note += f"; {watts:.3g} W at rest taken off"
        if watts * ran.seconds > joules:
            note += ", which is more than was drawn: nothing is left"
        joules = max(joules - watts * ran.seconds, 0.0)
    return Part(counter.source, counter.tier, joules, False, note + tally.doubt(i))


def board(tally: Tally, i: int, rest: Mapping[str, float], ran: Ran) -> Part:
    """A GPU: counted; else at most what its power limit allows; else unavailable."""
    lost, counter = tally.lost[i], tally.counters[i]
    if lost is None:
        return counted(tally, i, rest, ran)
    if counter.limit is None:
        return Part(counter.source, "unavailable", None, True, f"NVML: {lost}")
    note = f"NVML: {lost}; instead its power limit of {counter.limit:g} W all the time, which is more than it drew"
    return Part(counter.source, "estimate", counter.limit * ran.seconds, True, note)


def processors(
    tally: Tally, rest: Mapping[str, float], ran: Ran, sensors: Sensors, why: str = ""
) -> tuple[list[Part], Assumed | None]:
    """Processors and memory: all packages counted, or all of them estimated, as the process cannot be split.

    why: there is no counter, where that is known better than "none found".
    """
    packages = [i for i, c in enumerate(tally.counters) if c.source.startswith("cpu ")]
    memory = [i for i, c in enumerate(tally.counters) if c.source.startswith("dram ")]
    parts = [
        counted(tally, i, rest, ran)
        if (lost := tally.lost[i]) is None
        else Part(tally.counters[i].source, "unavailable", None, True, f"RAPL: {lost}")
        for i in memory
    ]
    failed = [f"{tally.counters[i].source}: {lost}" for i in packages if (lost := tally.lost[i]) is not None]
    if packages and not failed:
        return [counted(tally, i, rest, ran) for i in packages] + parts, None
    assumed = assume(
        str(sensors.machine()["cpu"]),
        ran.cpu_seconds,
        os.cpu_count() or 1,
        tdp_watts=sensors.tdp_watts,
        threads=sensors.threads,
        ram_watts=sensors.ram_watts,
    )
    if failed:
        why = f"RAPL: {'; '.join(failed)}"
    why = why or f"no RAPL package under {sensors.powercap}"
    return estimated(assumed, ran, why, ram=not parts) + parts, assumed


def estimated(assumed: Assumed, ran: Ran, why: str, ram: bool) -> list[Part]:
    """The processor's share, and with `ram` the memory's, as the model has them; why: there is nothing better."""
    origin = ORIGINS[assumed.origin]
    note = (
        f"{why}; {assumed.cpu_seconds:.4g} CPU s of this process x {assumed.tdp_watts:g} W TDP{origin} "
        f"/ {assumed.threads} threads"
    )
    parts = [Part("cpu", "estimate", assumed.cpu_joules, True, note)]
    if not ram:
        return parts
    if assumed.ram_watts is None:
        note = "not in the sum: the process holds other models as well, and nothing tells whose memory draws what"
        return [*parts, Part("ram", "unavailable", None, True, note)]
    note = f"{assumed.ram_watts:.3g} W as given x {ran.seconds:.4g} s"
    return [*parts, Part("ram", "estimate", assumed.ram_watts * ran.seconds, True, note)]
