"""docs/results/dynamic.md and its pictures, from the notes that benchmarks/dynamic.py and dynamic_speed.py left.

    python benchmarks/dynamic_page.py [--folder runs/dynamic]

The notes of the committed page are in docs/results/dynamic.  It draws with matplotlib.

A note is of one method, seed and data set; quality is a share of right answers, macs a share of the plain model's.
Between two points of a curve, sorted by cost, accuracy is taken to be straight; nothing is taken below the cheapest.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean, median, stdev
from textwrap import fill
from typing import Any

import numpy as np
from dynamic import EXITS, TABLES, TITLES, TOKENS
from dynamic_speed import WHOLE, clock, kept, together
from peers.page import QUIET, table
from spine import mean, slug

from gossamer.environment import hardware, versions
from gossamer.measure.curves import Point, elue, front

Note = dict[str, Any]
Runs = dict[str, dict[int, Note]]  # by method and seed
SPEEDUPS = (1.2, 1.5, 2.0)
EQUAL = 1 / 1.5  # the cost at which groups of methods are compared
SAME = 3  # exits, the first of a model, that are right equally often by no coincidence
BASELINE = "PABEE"  # its exits, each as the end of a model, are the multi-exit baseline
ENSEMBLES = ("PABEE", "Voting", "LeeBERT", "PastFuture", "PCEEBERT")
CONFIDENT = ("DeeBERT", "RightTool", "FastBERT", "RomeBERT")
LEARNED = ("LTP", "TRBERT", "Transkimmer")
FIXED = ("PoWERBERT", "LAT")
OLDER = (  # until they have been run anew
    "**Of an earlier version** are Rotten Tomatoes' times on torch: single texts had oneDNN's products too then, and "
    "it kept what it had prepared for 128 shapes only, which made CoFi and the methods that let tokens go slower than "
    "they are ([why](../engines.md#float32-in-torch)). So is TRBERT on BBC News and Rotten Tomatoes: its rule was not "
    "yet made to keep as many tokens as it was learned with, and kept next to none.",
)
STYLES = {"exit": "-", "token": "--"}  # by a note's kind
COLOURS = (
    "#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#17a2b8", "#c71585", "#808000", "#9a6324", "#800000",
    "#1e9e76", "#000075", "#7f7f7f", "#d4a017", "#ff69b4", "#5f9ea0", "#2f4f4f", "#6a5acd",
)  # fmt: skip


def write(folder: Path, page: Path, exits: list[str], tokens: list[str]) -> Path:
    """The page and a picture for each data set, from what is there."""
    page.parent.mkdir(parents=True, exist_ok=True)
    parts, efforts, commands = list[str](), list[str](), list[str]()
    for place in sorted(one for one in folder.iterdir() if one.is_dir()):
        steps, runs = read(place, [*exits, *tokens])
        if runs:
            drawn = page.with_name(f"{page.stem}-{place.name}.svg")
            picture(place.name, runs, [*exits, *tokens], drawn)
            parts += dataset(place.name, runs, [*exits, *tokens], drawn)
            efforts.append(effort(place.name, steps, runs))
            source = f"{place.name}=FOLDER" if place.name == "trec" else place.name
            seeds = 1 + max(seed for mine in runs.values() for seed in mine)
            commands.append(f"python benchmarks/dynamic.py --data {source} --seeds {seeds} --steps {steps}")
    for file in sorted(folder.glob("speed-*.json")):
        figures = json.loads(file.read_text(encoding="utf-8"))
        told = " ".join(f"--{name} {value}" for name, value in figures["settings"].items())
        some = {*exits, *tokens} - {*figures["found"]}
        told += f" --among {','.join(figures['found'])}".lower() if some else ""
        commands.append(f"python benchmarks/dynamic_speed.py {told}")
        parts += sections(figures)
    head = opening(efforts, [*commands, "python benchmarks/dynamic_page.py"])
    page.write_text("\n\n".join([head, *parts]) + "\n", encoding="utf-8")
    return page


def read(place: Path, methods: Sequence[str]) -> tuple[int, Runs]:
    """The notes of a data set that were trained for so many steps a stage, the number of which there are most."""
    names = {slug(method): method for method in methods}
    found = dict[tuple[str, int, int], Note]()
    for file in sorted(place.glob("*.json")):
        match = re.fullmatch(r"(.+)-(\d+)-(\d+)\.json", file.name)
        if match and match[1] in names:
            note = json.loads(file.read_text(encoding="utf-8"))
            note["curve"] = sorted(note.get("curve") or [note["default"]], key=lambda one: one["macs"])
            found[names[match[1]], int(match[2]), int(match[3])] = note
    if not found:
        return 0, {}
    steps = max(Counter(steps for _, _, steps in found).items(), key=lambda one: (one[1], one[0]))[0]
    runs: Runs = {}
    for method in methods:
        mine = {seed: note for (name, seed, many), note in found.items() if name == method and many == steps}
        if mine:
            runs[method] = dict(sorted(mine.items()))
    return steps, runs


def opening(efforts: Sequence[str], commands: Sequence[str]) -> str:
    """What was run, on what, and how to read it."""
    about = (
        "MiniLM (six layers of 384) is fine-tuned, once for each seed; each method starts from it by its recipe in "
        "`benchmarks/dynamic.py`. **That is little training**, far less than in the papers: the figures show what a "
        "short run gives, not what a method can do. Costs are multiply-accumulates (MACs) of texts one by one, those "
        "of exits and selectors included, over the plain model's. This encoder was made to be read by the mean of its "
        "tokens, so exits read the mean here where the papers' read the first token (FastBERT's look at all tokens "
        "anyway): on the first token they give one class up to the third or fourth layer."
    )
    points = [
        *efforts,
        "± is the standard deviation over seeds. All seeds have the same test texts, whose own error is not in it.",
        "**At 1.2x, 1.5x, 2x**: the best accuracy with so many times fewer MACs, interpolated along the front of the "
        "curve. These thresholds were seen on the test texts, which flatters.",
        "**Chosen on dev**: a threshold that was taken on development texts (the best with 1.5 times fewer layers; the "
        "fastest that loses at most 0.5 points), as it does on test texts: accuracy, and how many times fewer MACs.",
        f"**Score**: ELUE's, in points: the mean over a curve's points of the accuracy above a baseline of equal cost, "
        f"here {BASELINE}'s exits of the same seed, each as the end of a model that costs its share of the layers. "
        "Points cheaper or dearer than all of these are held against the nearest.",
        "**Heads**: what the exits cost when nobody leaves, in MACs, over the plain model.",
        *OLDER,
    ]
    return "\n\n".join(
        [
            "# Early exit and token skipping",
            fill(about, 120),
            "\n".join(fill(f"- {point}", 120, subsequent_indent="  ") for point in points),
            fill(f"Where this page was written: {machine(hardware(), versions())}", 120),
            "\n".join(["Written by", "", *(f"    {line}" for line in commands)]),
        ]
    )


def sections(figures: Mapping[str, Any]) -> list[str]:
    """What the page says of all this."""
    every = figures["found"]
    single = {name: one for name, one in every.items() if name != WHOLE}
    parts = [clock(single, figures["settings"]), kept(single)]
    parts += [together(every[WHOLE])] if WHOLE in every else []
    failed = dict(figures["failed"])
    failed |= {f"{name}, {what}": why for name, one in every.items() for what, why in one["failed"].items()}
    if failed:
        parts.append("Failed:\n\n" + "\n".join(f"- {name}: {why}" for name, why in failed.items()))
    busy = [note["foreign"] + note["stolen"] for one in every.values() for note in one["rounds"]]
    if busy:
        told = f"Others took {min(busy):.2f} to {max(busy):.2f} cores meanwhile."
        told += " **That is not quiet: these figures are no evidence.**" if median(busy) > QUIET else ""
        parts.append(fill(f"{told} Measured on: {machine(figures['hardware'], figures['versions'])}", 120))
    return [part for part in parts if part]


def machine(found: Mapping[str, Any], software: Mapping[str, str]) -> str:
    """Hardware and software in a sentence each."""
    skills = ", ".join(found["instructions"]) or "no special instructions"
    told = f"{found['cpu']} with {skills}; {found['cores']} cores, {found['memory_gib']} GiB"
    return f"{told}. {', '.join(f'{name} {one}' for name, one in software.items())}."


def effort(name: str, steps: int, runs: Runs) -> str:
    """How much was trained."""
    seeds = {seed for mine in runs.values() for seed in mine}
    hours = sum(note["seconds"] for mine in runs.values() for note in mine.values()) / 3600
    budget = f"at most {steps} steps of 32 texts a stage" if steps else "as long as the methods' own defaults say"
    count = "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
    return f"**{TITLES.get(name, name)}**: {count}; {budget}; {hours:.1f} core hours in all, testing included."


def dataset(name: str, runs: Runs, methods: Sequence[str], drawn: Path) -> list[str]:
    """The sections of a data set."""
    first = next(iter(next(iter(runs.values())).values()))
    error = 100 * (first["whole"] * (1 - first["whole"]) / first["test"]) ** 0.5
    about = f"{first['test']:,} test texts; the standard error of a single accuracy is {error:.1f} points."
    absent = [method for method in methods if method not in runs]
    if absent:
        about += f" Not run: {', '.join(absent)}."
    plain = {(seed, note["whole"]) for mine in runs.values() for seed, note in mine.items()}
    if len(plain) > len({seed for seed, _ in plain}):
        about += (
            " Methods of one seed that name different plain models started from one that was fine-tuned anew, which"
            " ends elsewhere on another processor: compare each with its own."
        )
    parts = [f"## {TITLES.get(name, name)}", fill(about, 120)]
    if drawn.is_file():
        parts.append(f"![Accuracy over multiply-accumulates, {TITLES.get(name, name)}]({drawn.name})")
    parts += [summary(runs), tables(runs), endings(runs), relations(runs)]
    return [part for part in parts if part]


def tables(runs: Runs) -> str:
    """What stands in tables, and what they weigh."""
    told = [
        f"{method}'s table of {note['entries']:,} entries holds {100 * note['held']:.1f} % of the trigrams of the test "
        f"texts, looks the others up as pairs and words, and makes {note['bytes before'] / 1e6:.0f} MB of weights "
        f"{note['bytes'] / 1e6:.0f} MB."
        for method, mine in runs.items()
        for note in list(mine.values())[:1]
        if note["kind"] == "table"
    ]
    return fill(" ".join(told), 120)


def along(note: Note, cost: float) -> float | None:
    """The accuracy at a cost, straight between points; None below the cheapest, that of the dearest above it."""
    costs = [p["macs"] for p in note["curve"]]
    if cost < costs[0]:
        return None
    return float(np.interp(cost, costs, [p["quality"] for p in note["curve"]]))


def best(note: Note, cost: float) -> float | None:
    """The same along the front: no dearer point is any worse."""
    return along({"curve": [{"macs": p.cost, "quality": p.metric} for p in front(curve(note))]}, cost)


def curve(note: Note) -> list[Point]:
    """All points of a note."""
    return [Point(p["macs"], p["quality"]) for p in note["curve"]]


def score(note: Note, baseline: Note | None) -> float | None:
    """ELUE's, in points; None without the baseline of the same seed."""
    if baseline is None:
        return None
    ends = [Point(p / baseline["depth"], q) for p, q in zip(baseline["places"], baseline["layers"], strict=True)]
    return 100 * elue(curve(note), ends).score


def named(method: str, mine: Mapping[int, Note], runs: Runs) -> str:
    """The method, and its seeds where others have more."""
    most = max(len(one) for one in runs.values())
    return method if len(mine) == most else f"{method} ({len(mine)} of {most} seeds)"


def percent(values: Sequence[float | None], most: int) -> str:
    """Mean and deviation in per cent; of how many seeds, where it is not all."""
    return f"{mean([*values], scale=100, spread=True)}{fewer(sum(one is not None for one in values), most)}"


def fewer(count: int, most: int) -> str:
    """Of how many seeds, where it is neither all nor none."""
    return "" if count in (0, most) else f" ({count} of {most})"


def signed(values: Sequence[float]) -> str:
    """Mean and deviation of differences, in points."""
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * fmean(values):+.1f}{spread}"


def verdict(values: Sequence[float], held: bool) -> str:
    """Whether it was found, and whether seeds are of one mind."""
    said = "held" if held else "not held"
    return f"{said}, within its deviation" if len(values) > 1 and abs(fmean(values)) <= stdev(values) else said


def operating(points: Sequence[Mapping[str, Any] | None]) -> str:
    """Accuracy, and how many times fewer multiply-accumulates."""
    known = [one for one in points if one is not None]
    if not known:
        return "-"
    times = mean([1 / one["macs"] for one in known], "{:.2f}")
    said = mean([one["quality"] for one in known], scale=100, spread=True)
    return f"{said} at {times}x{fewer(len(known), len(points))}"


def summary(runs: Runs) -> str:
    """A row for each method."""
    heads = ["method", "criterion", "plain", *(f"at {s:g}x" for s in SPEEDUPS), "chosen on dev, 1.5x"]
    heads += ["chosen on dev, drop <= 0.5", "as it comes", "score", "heads"]
    lines = []
    for method, mine in runs.items():
        notes = list(mine.values())
        many = len(notes)
        scores = [score(note, runs.get(BASELINE, {}).get(seed)) for seed, note in mine.items()]
        share = mean([note.get("heads") for note in notes], "{:.1f}", scale=100)
        lines.append(
            [
                named(method, mine, runs),
                notes[0].get("criterion", "-"),
                percent([note["whole"] for note in notes], many),
                *(percent([best(note, 1 / s) for note in notes], many) for s in SPEEDUPS),
                *(operating([note.get("chosen", {}).get(what) for note in notes]) for what in ("1.5", "drop 0.5")),
                operating([note.get("default") for note in notes]),
                mean(scores, "{:+.1f}", spread=False),
                share if share == "-" else f"{share} %",
            ]
        )
    return f"Accuracy in per cent.\n\n{table(heads, lines)}"


def endings(runs: Runs) -> str:
    """The accuracy of each exit as the end of a model."""
    known = {method: mine for method, mine in runs.items() if all("layers" in note for note in mine.values())}
    if not known:
        return ""
    depth = max(note["depth"] for mine in known.values() for note in mine.values())
    lines = []
    for method, mine in known.items():
        row = [named(method, mine, runs)]
        for place in range(1, depth + 1):
            found: list[float | None] = [
                note["layers"][note["places"].index(place)] for note in mine.values() if place in note["places"]
            ]
            row.append(mean(found, scale=100, spread=True))
        lines.append(row)
    heads = ["method", *(f"layer {place}" for place in range(1, depth + 1))]
    about = "Accuracy in per cent."
    stuck = [name for name, mine in known.items() if any(len({*n["layers"][:SAME]}) == 1 for n in mine.values())]
    if stuck:
        about += (
            f" Of {', '.join(stuck)} the first exits are right equally often, to the very text: they give every text "
            "the same answer, and have learned nothing yet."
        )
    return f"### Each exit as the end of a model\n\n{fill(about, 120)}\n\n{table(heads, lines)}"


def relations(runs: Runs) -> str:
    """What the papers claim, and what was found."""
    lines = [
        line
        for line in (
            patience(runs),
            versus("Ensembles beat confidence", ENSEMBLES, CONFIDENT, runs),
            versus("Learned thresholds and choices beat fixed schedules", LEARNED, FIXED, runs),
        )
        if line
    ]
    if not lines:
        return ""
    about = (
        f"At equal cost, {EQUAL:.2f} of the MACs, along the curves as they are, without picking the best. Means over "
        "methods first, then over seeds; ± over seeds. A difference within its deviation over seeds says little."
    )
    heads = ["relation", "found", ""]
    return f"### Relations that the papers claim\n\n{fill(about, 120)}\n\n{table(heads, lines)}"


def patience(runs: Runs) -> list[str]:
    """PABEE beside the plain model: the best of its points that cost less, and the one that was chosen on dev."""
    gaps, costs, taken = list[float](), list[float](), list[tuple[float, float]]()
    for note in runs.get("PABEE", {}).values():
        top = max((p for p in note["curve"] if p["macs"] < 1), key=lambda p: p["quality"], default=None)
        if top is not None:
            gaps, costs = [*gaps, top["quality"] - note["whole"]], [*costs, top["macs"]]
        if own := note.get("chosen", {}).get("drop 0.5"):
            taken.append((own["quality"] - note["whole"], own["macs"]))
    if not gaps:
        return []
    found = f"its best point on the test texts {signed(gaps)} points at {mean([1 / c for c in costs], '{:.2f}')}x"
    if taken:
        apart = signed([gap for gap, _ in taken])
        found += f"; chosen on dev, drop <= 0.5: {apart} points at {mean([1 / c for _, c in taken], '{:.2f}')}x"
    what = "PABEE is at least as accurate as the plain model with fewer MACs"
    return [what, found, verdict(gaps, fmean(gaps) >= 0)]


def versus(what: str, ours: Sequence[str], others: Sequence[str], runs: Runs) -> list[str]:
    """Two groups of methods at equal cost."""
    seeds = sorted({seed for mine in runs.values() for seed in mine})
    pairs = [[group(names, seed, runs) for names in (ours, others)] for seed in seeds]
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not both:
        return []
    sides = [
        f"{', '.join(name for name in names if reached(name, runs))}: {mean([*values], scale=100)}"
        for names, values in zip((ours, others), zip(*both, strict=True), strict=True)
    ]
    gaps = [a - b for a, b in both]
    return [what, f"{sides[0]}; {sides[1]}; difference {signed(gaps)}", verdict(gaps, fmean(gaps) > 0)]


def group(names: Sequence[str], seed: int, runs: Runs) -> float | None:
    """The mean accuracy of some methods at equal cost, of one seed; None where nobody gets there or one has not run."""
    ran = [runs[name] for name in names if runs.get(name)]
    if not all(seed in mine for mine in ran):
        return None
    notes = [mine[seed] for mine in ran]
    found = [at for note in notes if (at := along(note, EQUAL)) is not None]
    return fmean(found) if found else None


def reached(name: str, runs: Runs) -> bool:
    """Whether a method gets to that cost at all."""
    return any(along(note, EQUAL) is not None for note in runs.get(name, {}).values())


def picture(name: str, runs: Runs, methods: Sequence[str], file: Path) -> None:
    """Accuracy over cost, means over seeds; nothing where matplotlib is missing."""
    try:
        import matplotlib

        matplotlib.use("svg")
        from matplotlib import pyplot
    except ImportError:
        print(f"no {file.name}; type: pip install matplotlib")
        return
    matplotlib.rcParams["svg.hashsalt"] = name
    figure, axes = pyplot.subplots(figsize=(9, 5.2), layout="constrained")
    colours = dict(zip(methods, cycle(COLOURS), strict=False))  # the same on every picture
    for method, mine in runs.items():
        costs, values = averaged(list(mine.values()))
        style = STYLES.get(next(iter(mine.values()))["kind"], "-.")
        marker = "o" if costs[0] == costs[-1] else ""
        axes.plot(costs, values, color=colours[method], linestyle=style, marker=marker, label=method, linewidth=1.6)
    wholes = [100 * note["whole"] for mine in runs.values() for note in mine.values()]
    axes.axhline(fmean(wholes), color="black", linestyle=":", linewidth=1.2, label="plain model")
    axes.set(xlabel="multiply-accumulates, share of the plain model's", ylabel="accuracy, %")
    axes.set_title(f"{TITLES.get(name, name)}: exits solid, token skipping dashed")
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right center", fontsize=9, frameon=False)
    figure.savefig(file, format="svg", metadata={"Date": None}, facecolor="white")
    pyplot.close(figure)


def averaged(notes: Sequence[Note]) -> tuple[list[float], list[float]]:
    """Costs that all seeds reach, and the mean accuracy in per cent."""
    low, high = max(note["curve"][0]["macs"] for note in notes), min(note["curve"][-1]["macs"] for note in notes)
    costs = [float(cost) for cost in np.linspace(low, max(low, high), 120)]
    return costs, [100 * fmean(along(note, cost) or 0.0 for note in notes) for cost in costs]


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/dynamic"))
    told = parser.parse_args()
    print("wrote", write(told.folder, Path("docs/results/dynamic.md"), [*EXITS], [*TOKENS, *TABLES]))


if __name__ == "__main__":
    main()
