"""The nine methods and three combinations on Rotten Tomatoes, several seeds; writes docs/results/spine.md.

    python benchmarks/spine.py [--seeds 3] [--steps 80] [--folder runs/spine] [--render]

Every stage of every method takes at most --steps steps of 32 texts, so that the whole table fits into two hours on two
cores; `--steps 0` trains as long as the methods' own defaults say.  Training comes first, one process with one thread
for each core; measuring comes afterwards, alone on the machine.  What has been trained or measured is kept in --folder
and not repeated; recipes that begin alike share what they have in common.
Out of domain are the VADER tweets (Hutto & Gilbert, 2014), if the sdist of vaderSentiment 3.3.2 can be had: put its
additional_resources/hutto_ICWSM_2014.tar.gz into --folder.
"""

import argparse
import csv
import hashlib
import io
import json
import logging
import os
import re
import statistics
import tarfile
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gossamer
from gossamer import artefact, recipe
from gossamer.data import Data, Split, read
from gossamer.engines import export, load
from gossamer.environment import hardware, versions
from gossamer.job import Job
from gossamer.measure import compare
from gossamer.measure.subject import candidate, reference
from gossamer.measure.time import Schedule
from gossamer.pipeline import FineTune, opened, prepared
from gossamer.task import of
from gossamer.train import drive

COFI = "CoFi(0.5, warmup=0.5, lr=1e-4)"
RECIPES = {
    "CoFi": COFI,
    "TinyBERT": "TinyBERT(layers=3, hidden=0, general_epochs=0.0)",
    "Theseus": "Theseus(layers=3, lr=2e-4)",
    "DRONE": "DRONE(keep=0.5, lr=5e-5)",
    "TernaryBERT": "TernaryBERT(lr=1e-4)",
    "PABEE": "PABEE(patience=4, lr=1e-4)",
    "LTP": "LTP(threshold=0.004, lr=5e-5)",
    "Share": "Share(groups=3)",
    "Int8": "Int8()",
    "CoFi, Int8": f"then({COFI}, Int8())",
    "Theseus, PABEE": "then(Theseus(layers=3, lr=5e-5), PABEE(patience=1))",
    "CoFi, LTP, Int8": f"then({COFI}, LTP(), Int8())",
}
SCHEDULE = Schedule(singles=40, pool=64, rounds=3, seconds=15.0)
TEACHER_EPOCHS = 1.25

NOTES = """Why some rows are as they are:

- Early exits: the first token's state, which classifiers read, hardly depends on the text before the fifth layer of
  this encoder (its makers pooled the mean of all tokens): the logits of the exits at layers 1 to 4 differ by about 1e-3
  between texts at most, so those exits give the majority class, and repeat it. With a patience of 1 or 2 everybody
  leaves with that answer (58.1 %, as in the combination with Theseus); a patience of 4 waits for the fifth layer.
- Theseus at a rate of 5e-5, as in that combination, gave the majority class after so few steps; at 2e-4 it learns.
- LTP at its default threshold, 1.28 times the mean importance, gave 60 % after so little training (in the combination
  with CoFi and Int8 it is used so); in its own row the threshold is half the mean. Tokens leave, but looking for them
  needs the attention's probabilities, which fused kernels do not give: at batch 1 that costs more than it saves here.
- Token skipping and integers together run on torch, which multiplies bytes slowly without VNNI.
"""


def tweets(folder: Path) -> Split | None:
    """Every third of VADER's tweets that are negative (below -0.5) or positive (above 0.5), as rotten and fresh."""
    archive = folder / "hutto_ICWSM_2014.tar.gz"
    if not archive.is_file():
        return None
    with tarfile.open(archive) as tar:
        name = next(m for m in tar.getmembers() if m.name.endswith("tweets_GroundTruth.txt"))
        found = tar.extractfile(name)
        assert found is not None
        lines = io.TextIOWrapper(found, encoding="latin-1")
        rows = [row for row in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if len(row) >= 3]
    kept = [(row[2], float(row[1])) for row in rows if abs(float(row[1])) > 0.5][::3]
    return Split(tuple(t for t, _ in kept), None, tuple(int(v > 0) for _, v in kept))


def job_for(model: Any, tokenizer: Any, data: Data, folder: Path, seed: int, steps: int, length: int = 128) -> Job:
    """A job on the data, in fp32 on every machine; stages that stand in the folder are read back."""
    job = prepared(model, tokenizer, data, length, folder)
    job.seed, job.max_steps, job.autocast, job.resume = seed, steps or None, False, True
    job.save_every = 10**9
    return job


def same_code(folder: Path) -> None:
    """Refuse to add to what other recipes or other code have left: one mean is not to mix them."""
    sources = sorted(Path(gossamer.__file__).parent.rglob("*.py"))
    now = hashlib.sha256("".join([*(file.read_text() for file in sources), *RECIPES.values()]).encode()).hexdigest()
    note = folder / "code.txt"
    if note.is_file() and note.read_text() != now:
        raise SystemExit(f"{folder} holds runs of other code or recipes; choose another --folder, or --render them")
    note.write_text(now)


def slug(name: str) -> str:
    """A name as part of a file's."""
    return name.lower().replace(", ", "-")


def teacher(data: Data, folder: Path, seed: int, length: int = 128, epochs: float = TEACHER_EPOCHS) -> Path:
    """The fine-tuned teacher of a seed."""
    place = folder / f"teacher-{seed}"
    if not place.exists():
        model, tokenizer, _ = opened("minilm", data)
        job = job_for(model, tokenizer, data, folder / "work" / f"teacher-{seed}", seed, 0, length)
        drive(job, FineTune(epochs=epochs))
        artefact.plain_copy(job.model, tokenizer, place)
    return place


def accuracy(predictor: Any, split: Split | None) -> float | None:
    """The share of right answers on a split with the same labels."""
    if split is None or split.labels is None:
        return None
    return float((predictor.logits(list(split.texts)).argmax(1) == np.array(split.labels)).mean())


def train(name: str, folder: Path, seed: int, steps: int) -> Path:
    """The artefact of one recipe and one seed."""
    place = folder / f"artefact-{slug(name)}-{seed}-{steps}"
    if place.exists():
        return place
    data = read("rotten-tomatoes")
    model, tokenizer, _ = opened(str(teacher(data, folder, seed)), data)
    first = re.split(r"[,(]", RECIPES[name].removeprefix("then("))[0]  # recipes that begin alike share their stages
    job = job_for(model, tokenizer, data, folder / "work" / f"{first}-{seed}-{steps}", seed, steps)
    job.teacher = deepcopy(model).requires_grad_(False)
    job.model.requires_grad_(True)
    drive(job, recipe.parse(RECIPES[name]))

    def graph(part: Path) -> None:
        try:
            export.write(job.model, tokenizer, part)
        except ValueError as error:
            logging.info("no graph: %s", error)

    artefact.save(job.model, place, tokenizer=tokenizer, also=graph)
    return place


def work(folder: Path, seeds: int, steps: int) -> None:
    """Train everything, a process with one thread for each core; what begins alike goes to the same one."""
    groups: dict[str, list[tuple[str, int]]] = {}
    for seed in range(seeds):
        for name, text in RECIPES.items():
            groups.setdefault(f"{re.split('[,(]', text.removeprefix('then('))[0]}-{seed}", []).append((name, seed))
    count = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(count, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        list(pool.map(partial(teach, folder), range(seeds)))
        for names in pool.map(partial(several, folder, steps), groups.values()):
            print("trained", names, flush=True)


def teach(folder: Path, seed: int) -> None:
    """The teacher of a seed, in a process of its own."""
    teacher(read("rotten-tomatoes"), folder, seed)


def several(folder: Path, steps: int, runs: list[tuple[str, int]]) -> list[str]:
    """Train some recipes, one after another."""
    return [train(name, folder, seed, steps).name for name, seed in runs]


def judge(name: str, data: Data, folder: Path, seed: int, steps: int, far: Split | None) -> dict[str, Any]:
    """One artefact, beside its teacher."""
    note = folder / f"{slug(name)}-{seed}-{steps}.json"
    if note.is_file():
        return dict(json.loads(note.read_text()))
    place, home = train(name, folder, seed, steps), teacher(data, folder, seed)
    base, small = compare(reference(home), candidate(place), data, of(data), schedule=SCHEDULE, examples=50)
    ours = home / "far.json"
    if far is not None and not ours.is_file():
        ours.write_text(json.dumps(accuracy(reference(home).predictor, far)))
    report = {
        "baseline": base,
        "compressed": small,
        "far": [None if far is None else json.loads(ours.read_text()), accuracy(load(place), far)],
    }
    note.write_text(json.dumps(report, default=str))
    return report


def mean(values: list[float | None], form: str = "{:.1f}", scale: float = 1.0, spread: bool = False) -> str:
    """The mean over seeds, with the standard deviation if asked."""
    known = [scale * v for v in values if v is not None]
    if not known:
        return "-"
    text = form.format(statistics.mean(known))
    return f"{text} ± {form.format(statistics.stdev(known))}" if spread and len(known) > 1 else text


def render(results: dict[str, list[dict[str, Any]]], data: Data, steps: int, seeds: int) -> str:
    """The page."""
    machine, software = hardware(), versions()
    first = [r["baseline"] for r in results["Int8"]]
    head = [
        "method", "accuracy %", "tweets %", "params M", "MB", "MACs M", "batch 1 x", "batch 32 x", "label loyalty",
        "prob. loyalty", "engine",
    ]  # fmt: skip
    rows = [
        [
            "teacher (eager fp32)",
            mean([b["quality"]["value"] for b in first], scale=100, spread=True),
            mean([r["far"][0] for r in results["Int8"]], scale=100, spread=True),
            mean([b["parameters"] for b in first], scale=1e-6),
            mean([b["bytes"] for b in first], scale=1e-6),
            mean([b["macs"] for b in first], "{:.0f}", scale=1e-6),
            "1", "1", "-", "-", "transformers",
        ]
    ]  # fmt: skip
    for name, runs in results.items():
        sides = [r["compressed"] for r in runs]
        faster = [s.get("faster") or {} for s in sides]
        rows.append(
            [
                name,
                mean([s["quality"]["value"] for s in sides], scale=100, spread=True),
                mean([r["far"][1] for r in runs], scale=100, spread=True),
                mean([s["parameters"] for s in sides], scale=1e-6),
                mean([s["bytes"] for s in sides], scale=1e-6),
                mean([s["macs"] for s in sides], "{:.0f}", scale=1e-6),
                mean([f.get("latency") for f in faster], "{:.1f}"),
                mean([f.get("throughput") for f in faster], "{:.1f}"),
                mean([s["label_loyalty"] for s in sides], "{:.3f}"),
                mean([s["probability_loyalty"] for s in sides], "{:.3f}"),
                str(sides[0]["engine"]),
            ]
        )
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    recipes = "\n".join(f"- {name}: `{text}`" for name, text in RECIPES.items() if name in results)
    budget = f"at most {steps} steps of 32 texts a stage" if steps else "the methods' own defaults"
    return f"""# The spine, measured

Written by `python benchmarks/spine.py --seeds {seeds} --steps {steps}`.  {data.describe()}.
Teacher: all-MiniLM-L6-v2 fine-tuned for {TEACHER_EPOCHS} epochs, one per seed; each method starts from it.
Budget: {budget}: far less than the papers train (3 to 40 epochs), so these figures show what
a short run gives, not what a method can do.
Mean ± standard deviation over {seeds} seeds; one standard error of a single accuracy is about 1.2 points.  Tweets: the
VADER tweets, never trained on.  MB: what the engine reads, config and tokenizer included.  MACs: mean over 50 test
texts at their true lengths.  Speed: against the teacher in transformers eager fp32, interleaved in the same run.
{machine.get("cpu", machine)}; torch {software.get("torch")}, transformers {software.get("transformers")},
onnxruntime {software.get("onnxruntime")}.

{chr(10).join(lines)}

{recipes}

{NOTES}"""


def main() -> None:
    """Run what has not been run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--folder", type=Path, default=Path("runs/spine"))
    parser.add_argument("--render", action="store_true", help="only write the page from what has been run")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if not options.render:
        same_code(options.folder)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    data, far = read("rotten-tomatoes"), tweets(options.folder)
    if not options.render:
        work(options.folder, options.seeds, options.steps)
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in range(options.seeds):
        for name in RECIPES:
            if options.render and not (options.folder / f"{slug(name)}-{seed}-{options.steps}.json").is_file():
                continue
            results.setdefault(name, []).append(judge(name, data, options.folder, seed, options.steps, far))
            print(name, seed, results[name][-1]["compressed"]["quality"], flush=True)
    seeds = min(len(runs) for runs in results.values())
    Path("docs/results").mkdir(parents=True, exist_ok=True)
    Path("docs/results/spine.md").write_text(render(results, data, options.steps, seeds))


if __name__ == "__main__":
    main()
