"""How many joules a piece of work takes, by the best means that this machine has, and by which means that was.

Tiers: counters first (gossamer.measure.counters): NVML for the GPUs, RAPL for the processors; where there are none, or
one of them goes, an estimate from CPU time and thermal design power (gossamer.measure.processors).  Each part of the
sum says where it comes from.  E = PUE x the sum of the parts, as in "Towards the Systematic Reporting of the Energy and
Carbon Footprints of Machine Learning" (Henderson et al., JMLR 2020), whose Experiment Impact Tracker judged SustaiNLP
2020 (Wang and Wolf, 2020); there one run is one pass over a test set, and the least joules win.

A run that is shorter than the counters' step is noise, so the work is repeated until `seconds` have passed.  What the
machine draws at rest is measured before and taken off what counters say; an estimate has no such share in it.  Counters
see all processes: measure on a quiet machine.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from .counters import Counter, Tally, gpus, rapl
from .parts import Part, Ran, board, processors
from .processors import Assumed
from .sensors import Sensors
from .time import Clock

JOULES_PER_KWH = 3.6e6
TRACKER_PUE = 1.58  # what the Experiment Impact Tracker multiplies by, for numbers comparable with SustaiNLP's

Tier = Literal["best", "codecarbon"]
NO_CODECARBON = 'codecarbon is not installed; type: pip install "gossamer[energy]" (or pip install codecarbon)'


@dataclass(frozen=True)
class Energy:
    """What `runs` runs in `seconds` took, and one of them.

    joules: PUE x the sum of the parts; kwh: the same.  idle_watts: at rest, already taken off; None where it was not
    measured.  estimated: at least one part is, or is missing.  assumed: the numbers of the estimate, None without one.
    """

    joules: float
    joules_per_run: float
    kwh: float
    seconds: float
    runs: int
    parts: tuple[Part, ...]
    idle_watts: float | None
    pue: float
    estimated: bool
    assumed: Assumed | None = None


def energy(
    work: Callable[[], object],
    seconds: float = 30.0,
    idle: bool = True,
    *,
    idle_seconds: float = 5.0,
    warmup: int = 1,
    pue: float = 1.0,
    tier: Tier = "best",
    sensors: Sensors | None = None,
) -> Energy:
    """Run `work` again and again until `seconds` have passed; the joules of all runs and of one.

    work: one run, say a pass over a test set; on a GPU it has to wait for its results, or their joules are missed.
    idle: measure for idle_seconds, before anything runs, what counters count at rest, and take it off.  warmup: runs
    before any counts.  pue: what the data centre draws for each watt of the machine: 1 for the machine alone,
    TRACKER_PUE for SustaiNLP's.  tier: "best" of this machine's own; "codecarbon" leaves measuring to that package.
    sensors: where to read, and what you know of the machine; by default Sensors(), as they are now.

    A counter that cannot be read, stands still or goes on the way costs no exception: its part is an estimate, and says
    why.  Raises ValueError for arguments that cannot be, ImportError for tier="codecarbon" without codecarbon, and
    whatever the work raises.
    """
    _check(seconds, idle_seconds, warmup, pue, tier)
    sensors = sensors or Sensors()
    if tier == "codecarbon":
        return _codecarbon(work, seconds, warmup, pue, sensors)
    clock = sensors.clock
    with gpus(sensors.nvml, sensors.visible if sensors.gpu else "") as (boards, missing):
        counters = [*rapl(sensors.powercap, sensors.dram), *boards]
        rest = _rest(counters, idle_seconds, sensors) if idle and counters else {}
        for _ in range(warmup):
            work()
        tally = Tally(counters, clock.wall)
        ran = _repeat(work, seconds, clock, tally.glance)
        tally.close()
    parts = [board(tally, i, rest, ran) for i, one in enumerate(counters) if one.tier == "nvml"]
    if missing and sensors.machine()["accelerators"]:
        parts.append(Part("gpu", "unavailable", None, True, f"{missing}; gpu=False leaves GPUs out"))
    own, assumed = processors(tally, rest, ran, sensors)
    return _sum([*own, *parts], ran, pue, rest, assumed)


def times_less(baseline: Energy, other: Energy) -> float:
    """How many times less energy one run of `other` takes than one of `baseline`, PUE aside.

    Raises ValueError when the two were not measured by the same means, or when there is nothing to divide by.
    """
    means = [({(p.source, p.tier) for p in one.parts}, one.idle_watts is None) for one in (baseline, other)]
    if means[0] != means[1]:
        one, two = (", ".join(f"{p.source} by {p.tier}" for p in e.parts) for e in (baseline, other))
        raise ValueError(
            f"the baseline's energy is {one}, the other's {two}: expected the same means and the same idle for both; "
            "measure them again, in one process"
        )
    if not other.joules_per_run > 0:
        raise ValueError(f"the other took {other.joules_per_run} J a run: expected more; measure it for more seconds")
    return (baseline.joules_per_run / baseline.pue) / (other.joules_per_run / other.pue)


def _check(seconds: float, idle_seconds: float, warmup: int, pue: float, tier: str) -> None:
    for name, value in (("seconds", seconds), ("idle_seconds", idle_seconds)):
        if not (isfinite(value) and value > 0):
            raise ValueError(f"{name}={value}: expected more than 0 (a counter needs about 30 to be worth reading)")
    if warmup < 0:
        raise ValueError(f"warmup={warmup}: expected at least 0")
    if not (isfinite(pue) and pue >= 1):
        raise ValueError(f"pue={pue}: expected at least 1 (1 for the machine alone, {TRACKER_PUE} for SustaiNLP's)")
    if tier not in ("best", "codecarbon"):
        raise ValueError(f'tier={tier!r}: expected "best" or "codecarbon"')


def _repeat(work: Callable[[], object], seconds: float, clock: Clock, between: Callable[[], object]) -> Ran:
    start, busy, runs = clock.wall(), clock.cpu(), 0
    while True:
        work()
        runs += 1
        passed = clock.wall() - start
        if passed >= seconds:
            return Ran(passed, runs, clock.cpu() - busy)
        between()


def _rest(counters: list[Counter], seconds: float, sensors: Sensors) -> dict[str, float]:
    """Watts at rest of each counter that could be read; a long window is slept in pieces, for counters that wrap."""
    tally = Tally(counters, sensors.clock.wall)
    end = tally.began + seconds
    while (left := end - sensors.clock.wall()) > 0:
        sensors.sleep(min(left, 10.0))
        tally.read()
    passed = max(tally.looked - tally.began, 1e-9)
    return {c.source: tally.joules[i] / passed for i, c in enumerate(counters) if tally.lost[i] is None}


def _sum(parts: list[Part], ran: Ran, pue: float, rest: Mapping[str, float], assumed: Assumed | None) -> Energy:
    joules = pue * sum(part.joules for part in parts if part.joules is not None)
    used = [rest[part.source] for part in parts if part.source in rest and not part.estimated]
    return Energy(
        joules=joules,
        joules_per_run=joules / ran.runs,
        kwh=joules / JOULES_PER_KWH,
        seconds=ran.seconds,
        runs=ran.runs,
        parts=tuple(parts),
        idle_watts=sum(used) if used else None,
        pue=pue,
        estimated=any(part.estimated for part in parts),
        assumed=assumed,
    )


def _codecarbon(work: Callable[[], object], seconds: float, warmup: int, pue: float, sensors: Sensors) -> Energy:
    """The same by CodeCarbon, offline; it writes and sends nothing but what its own configuration file asks for.

    It does not say which of its parts it measured, so all count as estimated.  Idle is in them.
    """
    try:
        package = importlib.import_module("codecarbon")
    except ImportError as error:
        raise ImportError(NO_CODECARBON) from error
    tracker = package.OfflineEmissionsTracker(
        country_iso_code="FRA",  # it wants one for its grams, which are not read
        measure_power_secs=max(1.0, min(15.0, seconds / 4)),
        output_methods=[],
        log_level="error",
        pue=1.0,  # ours comes on top
    )
    for _ in range(warmup):
        work()
    tracker.start()
    try:
        ran = _repeat(work, seconds, sensors.clock, lambda: None)
    finally:
        tracker.stop()
    accelerators = sensors.machine()["accelerators"]
    found = getattr(tracker, "final_emissions_data", None)  # it keeps its own errors to itself
    if found is None:
        own, assumed = processors(Tally([], sensors.clock.wall), {}, ran, sensors, "codecarbon gave no result")
        gone = [Part("gpu", "unavailable", None, True, "codecarbon gave no result")] if accelerators else []
        return _sum([*own, *gone], ran, pue, {}, assumed)
    version = getattr(package, "__version__", "of unknown version")
    note = f"codecarbon {version}, the whole machine, idle included; it does not say what it measured"
    joules = {name: float(getattr(found, f"{name}_energy")) * JOULES_PER_KWH for name in ("cpu", "gpu", "ram")}
    parts = [Part(name, "codecarbon", some, True, note) for name, some in joules.items() if name != "gpu" or some > 0]
    if accelerators and not joules["gpu"] > 0:
        parts.append(Part("gpu", "unavailable", None, True, f"codecarbon {version} counted nothing on {accelerators}"))
    return _sum(parts, ran, pue, {}, None)
