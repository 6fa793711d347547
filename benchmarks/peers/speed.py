"""Everybody in turn on the same texts, round by round, with the machine's own limit timed in between."""

import gc
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from gossamer.environment import hardware, installed, versions
from gossamer.task import Read

from . import limit, shapes
from .contestants import EAGER, Contestant, opened
from .shapes import Folders, Texts, say

REST = 0.05  # seconds before a turn: the threads of the one before come to rest
CHUNK = 32  # texts in a batch
FEW = 8  # texts of the call that begins a turn and does not count
SINGLES, BATCHES = 24, 2  # calls of a turn: the clock wanders within a minute, so turns are short
TICKS = os.sysconf("SC_CLK_TCK")
TOOLS = ("nncf", "ctranslate2")  # beside those that gossamer.environment knows


@dataclass(frozen=True)
class Load:
    """What is asked in one round.

    calls(r): the calls of round r, the texts of each.  size: how many texts at once at most.  low: only those with
    less than fp32 take part.  warm: what is asked before all rounds and does not count: every shape where there are
    many, for OpenVINO prepares itself for each; None: the first call.
    """

    name: str
    what: str
    calls: Callable[[int], list[list[Read]]]
    size: int = CHUNK
    low: bool = False
    warm: list[list[Read]] | None = None

    def turns(self, turn: int) -> list[list[list[Read]]]:
        """The calls of a round, -1 for the one that warms up, as many at a time as make a turn."""
        if turn < 0:
            return [self.calls(0)[:1] if self.warm is None else self.warm]
        calls, long = self.calls(turn), SINGLES if self.size == 1 else BATCHES
        return [calls[at : at + long] for at in range(0, len(calls), long)]

    def takes(self, one: Contestant) -> bool:
        """Whether a contestant is asked."""
        return not (self.low and one.precision == "fp32")


def loads(texts: Texts, singles: int, bulk: bool) -> list[Load]:
    """What is timed.  singles: texts asked alone in a round, others in the next; bulk: bulk as well."""
    some = texts.skewed

    def alone(turn: int) -> list[list[Read]]:
        return [[some[(turn * singles + i) % len(some)]] for i in range(singles)]

    arrived = [some[at : at + CHUNK] for at in range(0, len(some), CHUNK)]
    found = [
        Load("single", "batch 1, skewed", alone, size=1, warm=lengths(some)),
        Load("single-128", "batch 1, 128 tokens", lambda turn: [[one] for one in texts.fixed[:4]], size=1),
        Load("arrival", f"batches of {CHUNK} in the order of arrival, skewed", lambda turn: arrived, warm=arrived),
        Load("sorted", f"{len(some)} texts at once, in batches of {CHUNK}, skewed", lambda turn: [some]),
        Load("fixed", f"a batch of {len(texts.fixed)} texts of 128 tokens", lambda turn: [texts.fixed]),
        Load("bulk", f"{len(texts.bulk)} texts at once, skewed", lambda turn: [texts.bulk], low=True),
    ]
    return found if bulk else found[:-1]


def lengths(reads: Sequence[Read]) -> list[list[Read]]:
    """One text of each length, each as a call."""
    return [[one] for one in {len(one.ids): one for one in reads}.values()]


def measure(shape: str, folders: Folders, options: Any) -> dict[str, Any]:
    """All figures of one shape; options: threads, rounds, quick, compiled, among."""
    import torch

    torch.set_num_threads(options.threads)
    texts = shapes.texts(options.quick)
    contestants, absent = opened(folders, options.threads, options.compiled, options.among)
    say(f"  {len(contestants)} contestants; {len(absent)} left out")
    token, text, layer = shapes.macs(folders.plain)
    asked = loads(texts, singles=16 if options.quick else len(texts.skewed), bulk=not options.quick)
    failed: dict[str, str] = {}
    accuracy = _accuracy(contestants, texts, failed)
    gemms = limit.gemms(layer, options.threads)
    if EAGER in failed:
        raise RuntimeError(f"nothing to compare with: {EAGER} failed ({failed[EAGER]})")
    laps, notes, rates = rounds([c for c in contestants if c.name not in failed], asked, gemms, options.rounds, failed)
    contestants = [one for one in contestants if one.name not in failed]
    return {
        "shape": shape,
        "threads": options.threads,
        "hardware": hardware(),
        "versions": versions() | {tool: has for tool in TOOLS if (has := installed(tool))},
        "texts": {"skewed": shapes.described(texts.skewed), "bulk": shapes.described(texts.bulk)},
        "loads": {
            load.name: {
                "what": load.what,
                "texts": sum(map(len, load.calls(0))),
                "tokens": sum(len(one.ids) for call in load.calls(0) for one in call),
            }
            for load in asked
        },
        "macs": {"token": token, "text": text, "layer": layer},
        "rounds": notes,
        "gemms": rates,
        "absent": absent | failed,
        "auto": _auto(folders, options.threads),
        "contestants": {
            one.name: {"precision": one.precision, "ours": one.predictor is not None, **accuracy[one.name]}
            | {"seconds": passes(laps[one.name]), "single": _singles(laps[one.name])}
            for one in contestants
        },
    }


def _auto(folders: Folders, threads: int) -> dict[str, str]:
    """Which of its engines gossamer chooses by itself, by precision."""
    from gossamer.engines import load

    found = {}
    for precision, folder in (("fp32", folders.fp32), ("int8", folders.int8)):
        try:
            found[precision] = load(folder, engine="auto", threads=threads).name
        except Exception as error:  # it is a note, no more
            found[precision] = _why(error)
    return found


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


def _accuracy(contestants: Sequence[Contestant], texts: Texts, failed: dict[str, str]) -> dict[str, dict[str, Any]]:
    """How far from the first contestant's logits the others' are; and of gossamer's, packed from padded ones."""
    found: dict[str, dict[str, Any]] = {}
    wanted: Any = None
    arrived = [texts.skewed[at : at + CHUNK] for at in range(0, len(texts.skewed), CHUNK)]
    for one in contestants:
        try:
            said = np.concatenate([one.ask(call, CHUNK) for call in arrived]).astype(np.float64)
            wanted = said if wanted is None else wanted
            found[one.name] = _apart(said, wanted) | {"packed": packed_apart(one, texts.skewed)}
        except Exception as error:  # as when it is opened
            failed[one.name] = _why(error)
        say(f"    {one.name}: {failed.get(one.name) or _short(found[one.name])}")
    return found


def _apart(said: Any, wanted: Any) -> dict[str, Any]:
    """max, mean: of the difference between logits.  likeness: the correlation of their margins.  same: labels."""
    apart = np.abs(said - wanted)
    margins = [one[:, 1] - one[:, 0] for one in (said, wanted)]
    return {
        "max": _digits(apart.max()),
        "mean": _digits(apart.mean()),
        "likeness": _digits(np.corrcoef(margins)[0, 1], 6),
        "same": _digits((said.argmax(1) == wanted.argmax(1)).mean()),
    }


def packed_apart(one: Contestant, reads: Sequence[Read]) -> float | None:
    """The largest difference between the logits of texts laid end to end and of texts alone; None: it has one way."""
    pack, run = getattr(one.predictor, "pack", None), getattr(one.predictor, "run", None)
    if pack is None or run is None:
        return None
    from gossamer.engines.predictor import pad

    packed = dict(pack(reads))
    alone = [run(pad([read], one.predictor.facts))[0] for read in reads]
    return _digits(max(float(np.abs(packed[i][0] - alone[i]).max()) for i in range(len(reads))))


def _short(found: dict[str, Any]) -> str:
    return f"logits differ by {found['max']:.1e} at most, {100 * found['same']:.1f} % of labels the same"


Laps = dict[str, dict[str, list[list[float]]]]  # by contestant, load, round: seconds of each call


def rounds(
    contestants: Sequence[Contestant],
    asked: Sequence[Load],
    gemms: Sequence[limit.Gemm],
    count: int,
    failed: dict[str, str],
) -> tuple[Laps, list[dict[str, float]], dict[str, dict[str, list[float]]]]:
    """Laps, what else went on in each round, and the rates of products."""
    laps: Laps = {one.name: {load.name: [] for load in asked} for one in contestants}
    rates: dict[str, dict[str, list[float]]] = {}
    notes = []
    for turn in range(-1, count):  # the first one warms up and does not count
        top: dict[int, float] = {}
        with watched() as note, uncollected():
            for load in asked:
                _asked(load, contestants, turn, laps, failed)
                for at, gemm in enumerate(gemms):
                    time.sleep(REST)
                    top[at] = max(top.get(at, 0.0), gemm.rate(limit.REPEATS))
        if turn >= 0:
            notes.append(note)
            for at, gemm in enumerate(gemms):
                rates.setdefault(gemm.precision, {}).setdefault(gemm.name, []).append(_digits(top[at]))
        said = "warm-up" if turn < 0 else f"round {turn + 1} of {count}"
        say(f"  {said}: {note['seconds']:.0f} s, others used {note['foreign']:.2f} cores")
    return laps, notes, rates


def _shuffled(contestants: Sequence[Contestant], *turn: int) -> list[Contestant]:
    """In an order of the turn's own: nobody has always the same one before him."""
    return random.Random(str(turn)).sample(contestants, len(contestants))


def _asked(load: Load, contestants: Sequence[Contestant], turn: int, laps: Laps, failed: dict[str, str]) -> None:
    """A round of one load: some calls of it to everybody, then the next ones; in changing orders."""
    took: dict[str, list[float]] = {}
    for number, calls in enumerate(load.turns(turn)):
        for one in _shuffled(contestants, turn, number):
            if one.name not in failed and load.takes(one):
                try:
                    took.setdefault(one.name, []).extend(_turn(one, calls, load.size))
                except Exception as error:
                    failed[one.name] = _why(error)
    for name, seconds in took.items():
        if turn >= 0 and name not in failed:
            laps[name][load.name].append(seconds)


def _turn(one: Contestant, calls: Sequence[list[Read]], size: int) -> list[float]:
    """Seconds of each call."""
    time.sleep(REST)
    one.ask(calls[0][:FEW], size)
    found = []
    for call in calls:
        began = time.perf_counter()
        one.ask(call, size)
        found.append(time.perf_counter() - began)
    return found


def passes(laps: dict[str, list[list[float]]]) -> dict[str, list[float]]:
    """By load, of each round: the seconds of all calls; of texts asked alone the median of a call."""
    return {
        name: [_digits(median(calls) if name.startswith("single") else sum(calls)) for calls in found]
        for name, found in laps.items()
        if found
    }


def _singles(laps: dict[str, list[list[float]]]) -> dict[str, dict[str, float]]:
    """By load of texts asked alone: percentiles in ms over all rounds."""
    found = {}
    for name, turns in laps.items():
        if name.startswith("single") and turns:
            p50, p99 = (1e3 * float(np.percentile(np.concatenate(turns), p)) for p in (50, 99))
            found[name] = {"p50": _digits(p50), "p99": _digits(p99)}
    return found


def _digits(value: Any, count: int = 4) -> float:
    """So many digits, as far as they say something."""
    return float(f"{float(value):.{count}g}")


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """What goes on beside the block: seconds, load (the system's average), foreign (cores that others used).

    stolen: cores that the host of a virtual machine took away.
    """
    note: dict[str, float] = {}
    began, (busy, stolen), own = time.perf_counter(), _worked(), time.process_time()
    yield note
    seconds = time.perf_counter() - began
    now, gone = _worked()
    others = (now - busy) - (time.process_time() - own)
    note |= {"seconds": round(seconds, 1), "load": round(os.getloadavg()[0], 2)}
    note |= {"foreign": round(max(0.0, others / seconds), 3), "stolen": round((gone - stolen) / seconds, 3)}


def _worked() -> tuple[float, float]:
    """Processor seconds that this machine has worked, and that were stolen from it; 0 where there is no /proc."""
    try:
        with open("/proc/stat") as stream:
            user, nice, system, _, _, irq, soft, stolen, *_ = map(int, stream.readline().split()[1:])
    except (OSError, ValueError):
        return 0.0, 0.0
    return (user + nice + system + irq + soft) / TICKS, stolen / TICKS


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection inside."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
