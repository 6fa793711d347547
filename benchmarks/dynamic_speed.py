"""What the clock says of early exit and token skipping beside the multiply-accumulates; for docs/results/dynamic.md.

    python benchmarks/dynamic_speed.py [--folder runs/dynamic] [--data rotten-tomatoes] [--steps 100] [--seed 0]
                                       [--texts 64] [--rounds 3] [--threads N] [--among WORD,...]

--data and --steps as benchmarks/dynamic.py was told, --seed one of its seeds.  Stages that it has finished in --folder
are read back, what is missing is trained; each method becomes an artefact with graphs.  With exits, the threshold is
taken on development texts: the best with 1.5 times fewer layers.  Then the method and the plain model take turns on
every engine, from token ids to logits, one text at a time and batches of 32 in the order of arrival; a ratio is that of
the same engine.  On one thread, in CPU time and on torch: what is left of the ideal when half of the layers are passed,
and what exits cost that nobody takes: a minute for each method, with 95 % intervals (freed memory stays with the
process there).  At the end four kinds of method alone and all in one artefact.  Figures go to speed-DATA.json in
--folder after each method, and an interrupted run goes on; `python benchmarks/dynamic_page.py` writes the page.  Use
the machine for nothing else meanwhile.
"""

import argparse
import json
import math
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from dynamic import EXITS, RECIPES, TITLES, TOKENS, begun, source
from engines import apart
from peers import contestants, goals, page, speed
from peers.shapes import described, once, say, stamp, there
from spine import accuracy, mean, slug

from gossamer import artefact, points, recipe
from gossamer.engines import ENGINES
from gossamer.environment import cores, hardware, versions
from gossamer.measure import formula, layers, macs
from gossamer.measure.sample import chosen, spread
from gossamer.measure.time import Clock, Schedule, Work, interleave, intervals
from gossamer.pipeline import graph
from gossamer.replay import BEYOND, exits_of
from gossamer.task import Read
from gossamer.train import drive

SPEEDUP, CHUNK = 1.5, 32
PLAIN, WHOLE = "plain", "all four"
FOUR = {  # the order is that of gossamer.order
    "CoFi": "CoFi(0.5, warmup=0.5, lr=1e-4)",
    "LTP": TOKENS["LTP"],
    "PABEE": EXITS["PABEE"],
    "Int8": "Int8()",
}
FOUR_ENGINES = ("torch", "onnxruntime")
LOADS = ("1", "32")
KEPT, HEADS = 0.90, 0.03  # goals
MINUTE, ROUNDS = 60.0, 10_000  # of CPU time, of which a few per cent are asked; so many rounds at most
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}  # a new process keeps what it frees

Sides = Mapping[str, tuple[Path, float | None]]  # by name: an artefact, and the threshold of its exits


def made(text: str, name: str, like: str, options: argparse.Namespace) -> Path:
    """The artefact of a recipe ("": the plain model), written again by a process of its own when the code has changed.

    like: the name under which dynamic.py keeps its stages.
    """
    place: Path = options.folder / called(options) / f"artefact-{name}-{options.seed}-{options.steps}"
    told = f"{stamp()} {text}"
    if not there(place, told):
        apart(once, place, told, partial(_write, text, like, options))
    return place


def called(options: argparse.Namespace) -> str:
    """What the data is called."""
    name: str = options.data.partition("=")[0]
    return name


def _write(text: str, like: str, options: argparse.Namespace, place: Path) -> None:
    name, data = source(options.data, options.folder)
    job = begun(name, data, options.folder / name, like, options.seed, options.steps)
    if text:
        drive(job, recipe.parse(text))

    def rest(part: Path) -> None:
        if exits_of(job.model) is not None:
            labels = np.array([one["labels"] for one in job.dev])
            found = points.curve(job.model, job.asked(job.dev), labels, job.task)
            (part / points.CURVE).write_text(json.dumps(found.plain(), indent=1) + "\n", encoding="utf-8")
        graph(job, part)

    artefact.save(job.model, place, tokenizer=job.tokenizer, also=rest, verify=False)


def threshold(place: Path) -> float | None:
    """The best on development texts with so many times fewer layers, or else the fastest; None without exits."""
    if not (place / points.CURVE).is_file():
        return None
    found = points.read(place)
    try:
        return points.chosen(found, speedup=SPEEDUP).threshold
    except ValueError:
        return found.points[0].threshold


def asked(options: argparse.Namespace) -> list[str]:
    """The test texts that are timed."""
    _, data = source(options.data, options.folder)
    assert data.test is not None
    return chosen(data.test.texts, None, spread(len(data.test.texts), options.texts))[0]


def batches(reads: Sequence[Read]) -> list[list[Read]]:
    """In the order of arrival."""
    return [list(reads[at : at + CHUNK]) for at in range(0, len(reads), CHUNK)]


def timed(sides: Sides, engines: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each round by engine, side and load, all in turn; who failed; what else went on."""
    torch.set_num_threads(options.threads)
    who, failed, reads = list[contestants.Contestant](), dict[str, str](), list[Read]()
    for engine in engines:
        for name, (place, level) in sides.items():
            try:
                ask, predictor = contestants.gossamer(place, engine, options.threads, threshold=level)
            except Exception as error:  # one engine's trouble is not another's
                failed[f"{engine} {name}"] = _why(error)
                continue
            reads = reads or predictor.reads(asked(options))
            who.append(contestants.Contestant(f"{engine} {name}", "saved", ask, predictor))
    loads = [
        speed.Load("1", "one text at a time", lambda turn: [[one] for one in reads], 1, warm=speed.lengths(reads)),
        speed.Load("32", f"batches of {CHUNK} in the order of arrival", lambda turn: batches(reads), size=CHUNK),
    ]
    laps, notes, _ = speed.rounds(who, loads, [], options.rounds, failed)
    seconds = {one.name: {"seconds": speed.passes(laps[one.name])} for one in who if one.name not in failed}
    return {"contestants": seconds, "failed": failed, "rounds": notes, "texts": described(reads)}


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"


def counted(sides: Sides, engines: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Of each side: multiply-accumulates and token-layers of a text alone, and the accuracy on all test texts."""
    from gossamer.engines import load

    torch.set_num_threads(options.threads)
    _, data = source(options.data, options.folder)
    texts = asked(options)
    found = dict[str, Any]()
    for name, (place, level) in sides.items():
        one = load(place, engine="torch", threads=options.threads, threshold=level)
        passed = layers.average(one.model, one, texts, examples=None)
        found[name] = {
            "threshold": level,
            "macs": macs.average(one, texts, examples=None),
            "layers": passed.executed,
            "token_layers": passed.token_layers,
            "each_layer": formula.layers(one.model, round(np.mean([len(read.ids) for read in one.reads(texts)]))),
            "accuracy": {"torch": accuracy(one, data.test)},
        }
        for engine in (engine for engine in engines if engine != "torch"):
            try:
                said = accuracy(load(place, engine=engine, threads=options.threads, threshold=level), data.test)
            except Exception as error:  # told of where it is timed
                say(f"  {engine} {name}: {_why(error)}")
                continue
            found[name]["accuracy"][engine] = said
    return found


def alone(plain: Path, place: Path, options: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of each round on torch and one thread: the plain model, half of the layers, and nobody leaving.

    layers: passed by the mean of these texts where half was aimed at; depth: all.
    """
    from gossamer.engines import load

    torch.set_num_threads(1)
    curve = points.read(place)
    depth = curve.points[-1].layers
    half = min(curve.points, key=lambda one: abs(one.layers - depth / 2)).threshold
    one = load(place, engine="torch", threads=1, threshold=half)
    exits = exits_of(one.model)
    assert exits is not None
    never = BEYOND if exits.rule.rising else -BEYOND
    texts = asked(options)
    passed = layers.average(one.model, one, texts, examples=None)
    calls = batches(one.reads(texts))
    asks = {
        name: contestants.gossamer(folder, "torch", 1, threshold=level)[0]
        for name, folder, level in ((PLAIN, plain, None), ("half", place, half), ("never", place, never))
    }
    works = {name: Work(partial(_through, ask, calls), _nothing) for name, ask in asks.items()}
    processor = Clock(wall=time.process_time)
    interleave(works, 1, 1, Schedule(warmup=0), processor)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    laps, failed = interleave(works, ROUNDS, 1, Schedule(warmup=0, seconds=MINUTE), processor)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    if failed:
        raise RuntimeError(str(failed))
    return {
        "seconds": {name: [lap.cpu for lap in found] for name, found in laps.items()},
        "threshold": half,
        "layers": passed.executed,
        "depth": passed.full,
        "faults": faults / sum(map(len, laps.values())),
    }


def _nothing() -> None:
    """One thread has none that spins on."""


def _through(ask: contestants.Ask, calls: Sequence[Sequence[Read]], turn: int) -> None:
    for call in calls:
        ask(call, CHUNK)


def method(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one method beside the plain model."""
    plain = made("", PLAIN, PLAIN, options)
    place = made(RECIPES[name], slug(name), slug(name), options)
    sides = {PLAIN: (plain, None), name: (place, threshold(place))}
    found: dict[str, Any] = {"sides": apart(counted, sides, ("torch",), options)}
    if name in EXITS:
        with patch.dict(os.environ, MALLOC):
            found["cpu"] = apart(alone, plain, place, options)
    return {**found, **apart(timed, sides, ENGINES, options)}


def four(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Four kinds of method, each alone and all in one; what all and the first one begin with is trained once."""
    first = slug(next(iter(FOUR)))
    sides: dict[str, tuple[Path, float | None]] = {PLAIN: (made("", PLAIN, PLAIN, options), None)}
    for one, text in FOUR.items():
        shared = slug(one) if RECIPES.get(one, text) == text else f"{slug(one)}-of-four"
        place = made(text, shared, shared, options)
        sides[one] = (place, threshold(place))
    text = f"then({', '.join(FOUR.values())})"
    place = made(text, slug(name).replace(" ", "-"), first, options)
    sides[name] = (place, threshold(place))
    found: dict[str, Any] = {"recipe": text, "sides": apart(counted, sides, FOUR_ENGINES, options)}
    return {**found, **apart(timed, sides, FOUR_ENGINES, options)}


def settled(file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The figures so far; others than these settings gave are not added to."""
    settings = {"data": called(options)}
    settings |= {name: getattr(options, name) for name in ("steps", "seed", "texts", "rounds", "threads")}
    way = {"minute": MINUTE, **MALLOC}
    if not file.is_file():
        about = {"settings": settings, "way": way, "hardware": hardware(), "versions": versions()}
        return {**about, "found": {}, "failed": {}}
    figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    for name, here in (("settings", settings), ("way", way)):
        if figures.get(name) != here:
            raise SystemExit(f"{file} holds figures of {figures.get(name)}, expected {here}; move it away")
    return figures


def keep(file: Path, figures: Mapping[str, Any]) -> None:
    """Write them whole or not at all."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(figures, separators=(",", ":")) + "\n", encoding="utf-8")
    os.replace(part, file)


def clock(found: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Ratios of time on every engine, beside those of what was counted."""
    if not found:
        return ""
    texts = next(iter(found.values()))["texts"]
    loads = [(engine, load) for engine in ENGINES for load in LOADS]
    plain = [[goals.faster(one, "torch plain", f"{e} plain", load) for one in found.values()] for e, load in loads]
    medians = [statistics.median(known) if (known := [r for r in some if r]) else None for some in plain]
    lines = [["plain, x torch", "-", "1", "1", *map(times, medians)]]
    lines += [
        [name, right(one, name, "torch")]
        + [times(one["sides"][PLAIN][what] / one["sides"][name][what]) for what in ("macs", "token_layers")]
        + [times(goals.faster(one, f"{engine} {PLAIN}", f"{engine} {name}", load)) for engine, load in loads]
        for name, one in found.items()
    ]
    about = (
        f"{TITLES[settings['data']]}, seed {settings['seed']}, {settings['steps']} steps a stage at most. "
        f"{texts['texts']} test texts of {texts['mean']} tokens on average, {settings['threads']} threads, "
        f"{settings['rounds']} rounds, from token ids to logits. A method and the plain model take turns; a ratio is "
        "that of the same engine, the median over rounds. 1: texts one by one; 32: batches in the order of arrival. "
        "MACs and token-layers (tokens that enter a layer, summed over the layers) are counted on torch, text by text: "
        "the ideal. Graphs for other engines, the plain model's too, leave out what the head does not read of the last "
        f"layer. Thresholds of exits: the best on dev with {SPEEDUP:g} times fewer layers; where none is so fast, the "
        "fastest."
    )
    heads = ["method", "accuracy, %", "MACs x", "token-layers x", *(f"{engine}, {load}" for engine, load in loads)]
    return f"## What the clock says: {TITLES[settings['data']]}\n\n{fill(about, 120)}\n\n{page.table(heads, lines)}"


def times(value: float | None) -> str:
    """A ratio."""
    return "-" if value is None else f"{value:.2f}"


def right(one: Mapping[str, Any], name: str, engine: str) -> str:
    """Accuracy in per cent."""
    return mean([one["sides"][name]["accuracy"].get(engine)], scale=100)


def kept(found: Mapping[str, Any]) -> str:
    """What is left of the ideal when texts leave, and what exits cost that nobody takes."""
    lines = []
    for name, cpu in [(name, one["cpu"]) for name, one in found.items() if "cpu" in one]:
        plain, half, never = (cpu["seconds"][side] for side in (PLAIN, "half", "never"))
        best = cpu["depth"] / cpu["layers"]
        ratio, low, high = _median([a / b for a, b in zip(plain, half, strict=True)])
        cost, least, most = (100 * (one - 1) for one in _median([b / a for a, b in zip(plain, never, strict=True)]))
        held = ["held" if good else "missed" for good in (ratio / best >= KEPT, cost < 100 * HEADS)]
        cells = [f"{cpu['layers']:.2f}", times(best), times(ratio)]
        cells += [f"{ratio / best:.2f} ({low / best:.2f} to {high / best:.2f})"]
        cells += [f"{cost:+.1f} % ({least:+.1f} to {most:+.1f})"]
        lines.append([name, *cells, *held])
    if not lines:
        return ""
    about = (
        f"On torch, batches of {CHUNK}, CPU time on one thread; medians of ratios to the plain model with 95 % "
        "intervals, in which a goal may lie. Kept: measured over ideal, which is the ratio of layers, where the mean "
        f"text passes about half of them. Heads: what they cost when nobody may leave. Goals: {KEPT:.2f} kept at "
        f"least, heads under {100 * HEADS:.0f} %."
    )
    if all("faults" in one["cpu"] for one in found.values() if "cpu" in one):
        most = max(one["cpu"]["faults"] for one in found.values() if "cpu" in one)
        about += f" Freed memory stays with the process ({most:,.0f} page faults a pass at most)."
    heads = ["method", "layers passed", "ideal", "measured", "kept", "heads", "kept enough", "heads cheap"]
    return f"### What is kept of the ideal\n\n{fill(about, 120)}\n\n{page.table(heads, lines)}"


def _median(values: Sequence[float]) -> tuple[float, float, float]:
    """With the ends of its interval."""
    ends = (intervals(values, 1, (50,)) or [{"low": math.nan, "high": math.nan}])[0]
    return statistics.median(values), ends["low"], ends["high"]


def together(one: Mapping[str, Any]) -> str:
    """Four kinds of method alone, what they promise together, and what they keep."""
    loads = [(engine, load) for engine in FOUR_ENGINES for load in LOADS]
    sides, names = one["sides"], [*FOUR, WHOLE]
    ratios = {
        name: [sides[PLAIN]["macs"] / sides[name]["macs"]]
        + [goals.faster(one, f"{engine} {PLAIN}", f"{engine} {name}", load) for engine, load in loads]
        for name in names
    }
    ratios[PLAIN] = [1.0] * (1 + len(loads))
    lines = [
        [name, *(right(one, name, e) for e in FOUR_ENGINES), *map(times, [sides[name]["layers"], *ratios[name]])]
        for name in (PLAIN, *names)
    ]
    columns = zip(*(ratios[name] for name in FOUR), strict=True)
    predicted = [None if None in some else float(np.prod(np.array(some, float))) for some in columns]
    lines.insert(-1, ["product of the four", "-", "-", "-", *map(times, predicted)])
    about = (
        "Each alone, and all in one artefact, in one run. Layers: passed by the mean text. Thresholds are taken as "
        "above, for each artefact by itself; the product predicts only what passes as many layers as PABEE alone."
    )
    left = [100 * a / b for a, b in zip(sides["CoFi"]["each_layer"], sides[PLAIN]["each_layer"], strict=True)]
    about += (
        f" Of the layers' MACs, CoFi leaves {', '.join(f'{share:.0f}' for share in left)} %. Exits save the "
        "last layers, and of those less is left to save than MACs x says."
    )
    heads = ["", *(f"accuracy on {engine}, %" for engine in FOUR_ENGINES), "layers", "MACs x"]
    heads += [f"{engine}, {load}" for engine, load in loads]
    return f"### All four at once\n\n{fill(about, 120)}\n\n    {one['recipe']}\n\n{page.table(heads, lines)}"


def main() -> None:
    """Measure what has not been measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/dynamic"))
    parser.add_argument("--data", default="rotten-tomatoes")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--among", default="", metavar="WORD,...", help=f"of the methods and '{WHOLE}'")
    options = parser.parse_args()
    words = [word.lower() for word in options.among.split(",") if word]
    options.folder.mkdir(parents=True, exist_ok=True)
    file = options.folder / f"speed-{called(options)}.json"
    figures = settled(file, options)
    jobs: dict[str, Callable[..., dict[str, Any]]] = {**dict.fromkeys(RECIPES, method), WHOLE: four}
    for name, measure in jobs.items():
        if name in figures["found"] or (words and not any(word in name.lower() for word in words)):
            continue
        say(name)
        try:
            figures["found"][name] = measure(name, options)
            figures["failed"].pop(name, None)
        except Exception as error:  # it is tried again by the next run, and costs the others nothing
            figures["failed"][name] = _why(error)
            say(f"  {_why(error)}")
        keep(file, figures)


if __name__ == "__main__":
    main()
