"""Early exit, all methods, on real texts: what each threshold costs and saves; writes docs/results/dynamic.md.

    python benchmarks/dynamic.py [--folder runs/dynamic] [--data rotten-tomatoes] [--seeds 1] [--steps 300]
                                 [--among WORD,...] [--render]

A teacher for each seed (MiniLM, fine-tuned), each method on top of it by its recipe, --steps optimizer steps a stage at
most (0: as long as the methods want), a process with one thread for each core.  Then one pass over the test texts gives
the whole curve of each (gossamer.points); thresholds are also chosen on development texts and judged on the test texts.
--data: rotten-tomatoes, or a file or folder as `gossamer compress` reads it.  What has been trained stays in --folder,
and an interrupted run goes on.  --render writes the page from what is there.
"""

import argparse
import json
import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from spine import job_for, slug, teacher

from gossamer import points, recipe
from gossamer.data import read
from gossamer.environment import hardware, versions
from gossamer.measure import curves
from gossamer.pipeline import opened
from gossamer.replay import exits_of, record
from gossamer.task import encode, max_length
from gossamer.train import drive

RECIPES = {
    "DeeBERT": "DeeBERT(lr=1e-3)",
    "RightTool": "RightTool()",
    "FastBERT": "FastBERT(lr=1e-3)",
    "RomeBERT": "RomeBERT()",
    "PABEE": "PABEE()",
    "LeeBERT": "LeeBERT()",
    "Voting": "Voting()",
    "PastFuture": "PastFuture()",
    "PCEEBERT": "PCEEBERT()",
    "BERxiT": "BERxiT()",
    "CAT": "CAT()",
}
BASELINE = "PABEE"  # whose exits, each as the end of a model, are the multi-exit baseline of the ELUE score
SPEEDUPS = (1.2, 1.5, 2.0)


def run(name: str, folder: Path, steps: int, one: tuple[str, int]) -> str:
    """Train one method on one seed, and note its curves on development and test texts."""
    method, seed = one
    note = folder / f"{slug(method)}-{seed}-{steps}.json"
    if note.is_file():
        return note.name
    data = read(name)
    model, tokenizer, _ = opened(str(teacher(data, folder, seed)), data)
    job = job_for(model, tokenizer, data, folder / "work" / f"{slug(method)}-{seed}-{steps}", seed, steps)
    job.teacher = deepcopy(model).requires_grad_(False)
    job.model.requires_grad_(True)
    drive(job, recipe.parse(RECIPES[method]))
    assert data.test is not None
    test = encode(job.task, tokenizer, data.test, max_length(tokenizer, model.config, 128))
    exits = exits_of(job.model)
    assert exits is not None
    found: dict[str, Any] = {"own": exits.threshold, "criterion": exits.criterion["is"]}
    labels = {part: np.array([e["labels"] for e in some]) for part, some in (("dev", job.dev), ("test", test))}
    said = record(job.model, job.asked(test))
    for part, some in (("dev", job.dev), ("test", test)):
        curve = points.curve(job.model, job.asked(some), labels[part], job.task)
        found[part] = [asdict(point) for point in curve.points]
        if part == "dev":
            chosen = {f"{s:g}": points.chosen(curve, speedup=s) for s in SPEEDUPS if curve.points[0].speedup >= s}
            chosen |= {f"drop {d:g}": points.chosen(curve, max_drop=d) for d in (0.5, 1.0)}
            found["chosen"] = {
                what: asdict(points.point(exits, said, labels["test"], job.task, point.threshold))
                for what, point in chosen.items()
            }
    found["layers"] = [
        float(job.task.score(logits.numpy(), labels["test"])) for logits in said.logits
    ]  # of each exit, as the end of a model
    found["places"] = said.places
    found["default"] = asdict(points.point(exits, said, labels["test"], job.task, exits.threshold))
    note.with_suffix(".part").write_text(json.dumps(found))
    os.replace(note.with_suffix(".part"), note)
    return note.name


def work(name: str, folder: Path, seeds: int, steps: int, methods: Sequence[str]) -> None:
    """Everything, a process with one thread for each core."""
    jobs = [(method, seed) for seed in range(seeds) for method in methods]
    count = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(count, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        list(pool.map(partial(teacher, read(name), folder), range(seeds)))
        for note in pool.map(partial(run, name, folder, steps), jobs):
            print("done", note, flush=True)


def best(curve: Sequence[dict[str, Any]], speedup: float) -> float | None:
    """The best quality at a speed-up."""
    fits = [point["quality"] for point in curve if point["speedup"] >= speedup]
    return max(fits) if fits else None


def mean(values: Sequence[float | None], form: str = "{:.1f}", scale: float = 100.0) -> str:
    """Over the seeds, with the deviation."""
    known = [scale * v for v in values if v is not None]
    if not known:
        return "-"
    told = form.format(statistics.mean(known))
    return f"{told} ± {form.format(statistics.stdev(known))}" if len(known) > 1 else told


def elue(found: dict[str, Any], baseline: dict[str, Any]) -> float:
    """The ELUE score of the curve, in points, against the baseline's exits as ends of models; cost: share of layers."""
    depth = found["places"][-1]
    line = [
        curves.Point(place / depth, 100 * quality, str(place))
        for place, quality in zip(baseline["places"], baseline["layers"], strict=True)
    ]
    mine = [curves.Point(p["layers"] / depth, 100 * p["quality"], "") for p in found["test"]]
    return curves.elue(mine, line).score


def render(name: str, folder: Path, steps: int, seeds: int) -> str:
    """The page."""
    results: dict[str, list[dict[str, Any]]] = {}
    for method in RECIPES:
        notes = [folder / f"{slug(method)}-{seed}-{steps}.json" for seed in range(seeds)]
        results[method] = [json.loads(note.read_text()) for note in notes if note.is_file()]
    results = {method: found for method, found in results.items() if found}
    heads = ["method", "criterion", "whole model %", *(f"best at {s:g}x %" for s in SPEEDUPS), "chosen on dev for 1.5x",
             "drop <= 0.5 on dev", "as it comes", "ELUE score"]  # fmt: skip
    lines = []
    for method, found in results.items():
        base = results.get(BASELINE, [])
        chosen = [one["chosen"].get("1.5") for one in found]
        safe = [one["chosen"]["drop 0.5"] for one in found]
        cells = [f"`{method}`", found[0]["criterion"], mean([one["layers"][-1] for one in found])]
        cells += [mean([best(one["test"], s) for one in found]) for s in SPEEDUPS]
        for some in (chosen, safe, [one["default"] for one in found]):
            known = [one for one in some if one]
            cells.append(
                f"{mean([one['quality'] for one in known])} at {mean([one['speedup'] for one in known], '{:.2f}', 1)}x"
                if known else "-"
            )  # fmt: skip
        cells.append(mean([elue(a, b) for a, b in zip(found, base, strict=False)], "{:+.2f}", 1.0) if base else "-")
        lines.append("| " + " | ".join(cells) + " |")
    depth = results[next(iter(results))][0]["places"]
    each = []
    for method, found in results.items():
        if found[0]["places"] == depth:
            cells = [mean([one["layers"][i] for one in found]) for i in range(len(depth))]
            each.append("| " + " | ".join([f"`{method}`", *cells]) + " |")
    machine, software = hardware(), versions()
    told = ", ".join(f"{k} {v}" for k, v in software.items())
    return "\n".join(
        [
            "# Early exit, all methods",
            "",
            f"Written by `python benchmarks/dynamic.py --data {name} --seeds {seeds} --steps {steps}`.",
            f"{machine['cpu']}; {told}.",
            "",
            f"MiniLM (6 layers) fine-tuned on {name}, {seeds} seed(s), at most {steps or 'all'} steps a stage.",
            "Every figure is of the test texts. Speed-ups are in layers; what the clock says of them is in",
            "[engines](engines.md).",
            "",
            "| " + " | ".join(heads) + " |",
            "|" + "---|" * len(heads),
            *lines,
            "",
            "## Each exit as the end of a model, accuracy %",
            "",
            "| method | " + " | ".join(f"layer {place}" for place in depth) + " |",
            "|" + "---|" * (len(depth) + 1),
            *each,
            "",
        ]
    )


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/dynamic"))
    parser.add_argument("--data", default="rotten-tomatoes")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--among", default="")
    parser.add_argument("--render", action="store_true")
    told = parser.parse_args()
    methods = [m for m in RECIPES if not told.among or any(word.lower() in m.lower() for word in told.among.split(","))]
    place = told.folder / slug(Path(told.data).stem)
    place.mkdir(parents=True, exist_ok=True)
    if not told.render:
        work(told.data, place, told.seeds, told.steps, methods)
    page = Path("docs/results/dynamic.md")
    page.write_text(render(told.data, place, told.steps, told.seeds))
    print(f"wrote {page}")


if __name__ == "__main__":
    main()
