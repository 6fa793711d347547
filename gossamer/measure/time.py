"""How fast, against each other, in the same minutes.

A machine drifts and others use it, so two numbers from two runs say little.  Here all predictors take turns: in every
round each answers the same texts, who goes first changes from round to round, the first call of a turn is thrown away
(the threads of the one before may still be spinning), and a ratio is the median over pairs of the same work in the same
round.  Tokenization is inside.  Wall time is what a user waits for; process CPU time, all threads together, is steadier
on a shared machine and is given next to it.

Each figure has a 95 % interval: the percentile bootstrap (Efron, Annals of Statistics 1979) over whole rounds, since
what was timed in one round shares its weather.  Of so few rounds that is from the least to the most (for a median of
five, 94 % by the binomial), and it cannot reach beyond what was seen: the slowest text bounds a 99th percentile.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from .sample import chosen, spread
from .subject import Answers

DRAWS = 1000  # of the bootstrap
FEWEST = 3  # rounds that say anything of how they differ

Interval = dict[str, float]  # low, high


@dataclass(frozen=True)
class Clock:
    """Where the time is read, in seconds; a test brings its own."""

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time


@dataclass(frozen=True)
class Schedule:
    """How much is timed.

    batch_size: texts in a batch of the throughput runs.  singles: texts of the latency run, each asked alone.  burst:
    how many of them in one turn.  pool: texts in one throughput pass.  rounds: passes.  warmup: calls before anything
    counts.  seconds: after so long, latency and throughput each stop at the next round, though not before the third.
    """

    batch_size: int = 32
    singles: int = 200
    burst: int = 10
    pool: int = 256
    rounds: int = 5
    warmup: int = 3
    seconds: float = 90.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "singles", "burst", "pool", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"Schedule({name}={getattr(self, name)}): expected at least 1")


@dataclass(frozen=True)
class Lap:
    """What one piece of work took, in seconds: on the wall clock, and on all of the process's threads together."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Work:
    """`once(i)` does piece i and is timed; `settle()` comes before each turn and is not."""

    once: Callable[[int], object]
    settle: Callable[[], object]


@dataclass(frozen=True)
class Speed:
    """All laps of one predictor.  Lap i of two predictors of the same run did the same work in the same round.

    burst: how many of the singles make a round; of the passes each is one.
    """

    singles: tuple[Lap, ...]
    passes: tuple[Lap, ...]
    pool: int
    failed: Mapping[str, str] = field(default_factory=dict)
    burst: int = 1

    def summary(self) -> dict[str, Any]:
        """The report's figures: latency_ms, throughput_per_s both on CPU time (None where it failed), and how many.

        latency_ms: {p50, p50_low, p50_high, p99, p99_low, p99_high}, throughput_interval: {low, high}, with 95 %; ends
        are None, and so is the interval, where there are too few rounds.
        """
        return {
            **self._figures("wall"),
            "cpu": self._figures("cpu"),
            "timed": {"singles": len(self.singles), "passes": len(self.passes), "latency_quantiles_ms": self._spread()},
        }

    def _figures(self, kind: str) -> dict[str, Any]:
        return {
            "latency_ms": self._latency(kind),
            "throughput_per_s": self._per_second(kind),
            "throughput_interval": self._throughput_interval(kind),
        }

    def _latency(self, kind: str) -> dict[str, float | None] | None:
        laps = [1e3 * getattr(lap, kind) for lap in self.singles]
        if not laps:
            return None
        found: dict[str, float | None] = {}
        for percent, ends in zip((50, 99), intervals(laps, self.burst, (50, 99)) or (None, None), strict=True):
            found[f"p{percent}"] = quantile(laps, percent)
            found |= {f"p{percent}_{end}": None if ends is None else ends[end] for end in ("low", "high")}
        return found

    def _throughput_interval(self, kind: str) -> Interval | None:
        """The ends of the median pass, turned over."""
        found = intervals([max(getattr(lap, kind), 1e-9) for lap in self.passes], 1, (50,))
        return None if found is None else {"low": self.pool / found[0]["high"], "high": self.pool / found[0]["low"]}

    def _spread(self) -> list[float]:
        """The fastest, every twentieth part and the slowest of the single texts, on the wall clock."""
        laps = [1e3 * lap.wall for lap in self.singles]
        return [quantile(laps, 5 * i) for i in range(21)] if laps else []

    def _per_second(self, kind: str) -> float | None:
        laps = [getattr(lap, kind) for lap in self.passes]
        return self.pool / max(median(laps), 1e-9) if laps else None


def quantile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of them do not exceed, linear between neighbours."""
    return float(np.percentile(values, percent))


def speeds(
    predictors: Mapping[str, Answers],
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    schedule: Schedule = Schedule(),
    clock: Clock = Clock(),
) -> dict[str, Speed]:
    """Latency at batch 1 and throughput at schedule.batch_size of all predictors, taking turns on the same texts.

    One that fails is left out from there on (Speed.failed says why); the others go on.
    """
    alone, pool = spread(len(texts), schedule.singles), spread(len(texts), schedule.pool)
    singles = [chosen(texts, pairs, [row]) for row in alone]
    many, few = (chosen(texts, pairs, rows) for rows in (pool, pool[: schedule.batch_size]))

    def single(predictor: Answers) -> Work:
        def ask(i: int) -> object:
            return predictor.logits(singles[i][0], singles[i][1], batch_size=1)

        return Work(ask, lambda: ask(0))

    def batched(predictor: Answers) -> Work:
        def ask(some: tuple[list[str], list[str] | None]) -> object:
            return predictor.logits(some[0], some[1], batch_size=schedule.batch_size)

        return Work(lambda i: ask(many), lambda: ask(few))

    latency, failed = interleave(
        {name: single(p) for name, p in predictors.items()}, schedule.singles, schedule.burst, schedule, clock
    )
    throughput, failed_too = interleave(
        {name: batched(p) for name, p in predictors.items()}, schedule.rounds, 1, schedule, clock
    )
    return {
        name: Speed(
            tuple(latency[name]),
            tuple(throughput[name]),
            schedule.pool,
            {what: fell[name] for what, fell in (("latency", failed), ("throughput", failed_too)) if name in fell},
            schedule.burst,
        )
        for name in predictors
    }


def faster(baseline: Speed, other: Speed) -> dict[str, float | None]:
    """How many times faster than the baseline: medians over pairs of laps, latency and throughput, wall and CPU."""
    return {
        "latency": ratio(baseline.singles, other.singles, "wall"),
        "throughput": ratio(baseline.passes, other.passes, "wall"),
        "latency_cpu": ratio(baseline.singles, other.singles, "cpu"),
        "throughput_cpu": ratio(baseline.passes, other.passes, "cpu"),
    }


def faster_interval(baseline: Speed, other: Speed) -> dict[str, Interval | None]:
    """The 95 % interval of each figure of `faster`: {low, high}, None where there are too few rounds."""
    found: dict[str, Interval | None] = {}
    for name, slow, fast, burst in (
        ("latency", baseline.singles, other.singles, other.burst),
        ("throughput", baseline.passes, other.passes, 1),
    ):
        for kind, suffix in (("wall", ""), ("cpu", "_cpu")):
            ends = intervals(ratios(slow, fast, kind), burst, (50,))
            found[name + suffix] = None if ends is None else ends[0]
    return found


def ratio(slow: Sequence[Lap], fast: Sequence[Lap], kind: str) -> float | None:
    """The median of slow / fast over pairs of laps of the same round; None when either has none."""
    found = ratios(slow, fast, kind)
    return median(found) if found else None


def ratios(slow: Sequence[Lap], fast: Sequence[Lap], kind: str) -> list[float]:
    """slow / fast of each pair of laps of the same round."""
    return [getattr(a, kind) / max(getattr(b, kind), 1e-9) for a, b in zip(slow, fast, strict=False)]


def intervals(values: Sequence[float], burst: int, percents: Sequence[float]) -> list[Interval] | None:
    """The 95 % intervals of percentiles of `values`, `burst` of which at a time are one round.

    The percentile bootstrap over rounds, from a fixed seed.  None for fewer than FEWEST rounds.
    """
    rounds = [np.asarray(values[at : at + burst], dtype=np.float64) for at in range(0, len(values), burst)]
    if len(rounds) < FEWEST:
        return None
    picks = np.random.default_rng(0).integers(0, len(rounds), (DRAWS, len(rounds)))
    if len(rounds[-1]) == len(rounds[0]):
        drawn = np.percentile(np.stack(rounds)[picks].reshape(DRAWS, -1), percents, axis=1)
    else:  # the last round is a short one
        drawn = np.stack([np.percentile(np.concatenate([rounds[i] for i in row]), percents) for row in picks], 1)
    # an observed value is inside its interval even where rounds of unequal size would have it otherwise
    seen = np.percentile(np.concatenate(rounds), percents)
    low, high = (
        np.minimum(np.percentile(drawn, 2.5, axis=1), seen),
        np.maximum(np.percentile(drawn, 97.5, axis=1), seen),
    )
    return [{"low": float(a), "high": float(b)} for a, b in zip(low, high, strict=True)]


def interleave(
    works: Mapping[str, Work], pieces: int, burst: int, schedule: Schedule, clock: Clock
) -> tuple[dict[str, list[Lap]], dict[str, str]]:
    """The laps of each, `burst` pieces to a turn, and for those that failed the reason (and no laps)."""
    laps: dict[str, list[Lap]] = {name: [] for name in works}
    failed: dict[str, str] = {}

    def turn(name: str, settling: int, these: range) -> None:
        if name in failed:
            return
        try:
            for _ in range(settling):
                works[name].settle()
            for piece in these:
                wall, cpu = clock.wall(), clock.cpu()
                works[name].once(piece)
                laps[name].append(Lap(clock.wall() - wall, clock.cpu() - cpu))
        except Exception as error:  # whatever it is, it must not cost the others their numbers
            failed[name] = f"{type(error).__name__}: {error}"
            laps[name].clear()

    with _uncollected():
        for name in works:
            turn(name, schedule.warmup, range(0))
        names, start = list(works), clock.wall()
        for number, first in enumerate(range(0, pieces, burst)):
            if number >= 3 and clock.wall() - start > schedule.seconds:
                break
            shift = number % max(len(names), 1)
            for name in names[shift:] + names[:shift]:
                turn(name, 1, range(first, min(first + burst, pieces)))
    return laps, failed


@contextmanager
def _uncollected() -> Iterator[None]:
    """Garbage collection before, none during, as it was after."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
