"""GLUE and ELUE on their own files, as far as they can be had; every score checked; writes docs/results/glue.md.

    python benchmarks/glue.py [--data ../shared/data] [--folder runs/glue] [--workers 2] [--minutes 0] [--render]

The files are laid out in --folder/data as the leaderboards have them.  MiniLM, the teacher of the demo, is fine-tuned
on each task's own train and nothing else, compressed, and scored by `gossamer.benchmarks` on the files of that layout.
Predictions are read back from the files of the submission and scored again by scikit-learn and scipy.  Every stage
takes a fixed number of steps of 32 (see GROUPS), so that all of it fits into an hour on two cores.  Figures are kept in
--folder/figures and not measured twice; --minutes begins nothing new after so long; what is not there is skipped, and
the page says so.  Needs scikit-learn and scipy: pip install scikit-learn
"""

import argparse
import csv
import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from gossamer import artefact
from gossamer.benchmarks import elue, files, glue
from gossamer.benchmarks.run import benchmark
from gossamer.data import Data, Split
from gossamer.engines import load
from gossamer.environment import hardware, versions
from gossamer.measure import curves
from gossamer.measure.time import Schedule
from gossamer.pipeline import FineTune, compress
from gossamer.task import encode, max_length, of

Cells = Sequence[str]
Rows = list[tuple[str, ...]]

RECIPES = {
    "Int8": "Int8()",
    "PABEE": "PABEE(patience=4, lr=1e-4)",
    "Theseus": "Theseus(layers=3, lr=2e-4)",
}
QUICK = Schedule(singles=12, pool=64, rounds=3, warmup=1, seconds=4.0)
PATIENCES = (1, 2, 3, 4)  # with six layers, five would let nobody leave
WIDE = elue.Encoder(layers=6, width=384, inner=1536, heads=12, size=32)  # MiniLM
LONGEST = 128


@dataclass(frozen=True)
class Part:
    """A task, and how long it is trained.

    steps: of the teacher; 0: it is the one of GLUE's task of the same name, whose examples are the same.  others: of
    each stage of the recipes that train.  soon: what is made first; the rest waits for the other tasks.
    """

    suite: str
    name: str
    steps: int
    lr: float
    others: int
    recipes: tuple[str, ...]
    scored: tuple[str, ...]
    soon: tuple[str, ...] = ("Int8", "teacher")

    @property
    def task(self) -> Any:
        """The task of the benchmark's module."""
        return next(t for t in (glue if self.suite == "glue" else elue).TASKS if t.name == self.name)


STATIC, EXITS = ("Int8", "Theseus"), ("Int8", "PABEE", "Theseus")
CURVE = ("Int8", "teacher", "PABEE")
GROUPS = (  # what shares a teacher stays together
    (Part("glue", "SST-2", 250, 5e-5, 100, STATIC, ("dev", "test")),),
    (Part("glue", "MRPC", 150, 1e-4, 80, STATIC, ("dev", "test")), Part("elue", "MRPC", 0, 1e-4, 80, EXITS, ("test",))),
    (Part("elue", "SST-2", 200, 5e-5, 120, EXITS, ("test",), CURVE),),
    (
        Part("glue", "STS-B", 150, 1e-4, 100, STATIC, ("dev", "test")),
        Part("elue", "STS-B", 0, 1e-4, 100, EXITS, ("test",)),
    ),
    (Part("glue", "CoLA", 250, 1e-4, 100, STATIC, ("dev",)),),
    (Part("elue", "SciTail", 80, 1e-4, 60, EXITS, ("test",)),),
    (Part("glue", "RTE", 80, 1e-4, 60, STATIC, ("dev", "test")),),
    (Part("elue", "SNLI", 100, 1e-4, 100, EXITS, ("test",)),),
)
LATER = (  # the most telling first
    ("elue", "STS-B", "PABEE"), ("elue", "SST-2", "Theseus"), ("elue", "SciTail", "PABEE"), ("elue", "MRPC", "PABEE"),
    ("elue", "SNLI", "PABEE"),
    ("glue", "SST-2", "Theseus"), ("glue", "CoLA", "Theseus"), ("glue", "STS-B", "Theseus"),
    ("elue", "STS-B", "Theseus"), ("glue", "MRPC", "Theseus"), ("elue", "MRPC", "Theseus"),
    ("elue", "SciTail", "Theseus"), ("glue", "RTE", "Theseus"), ("elue", "SNLI", "Theseus"),
)  # fmt: skip
PARTS = tuple(part for group in GROUPS for part in group)
ABSENT = {  # of the nine, the diagnostic set and the six
    "GLUE QQP": "no file of it is at hand",
    "GLUE MNLI, AX": "no file of them is at hand",
    "GLUE QNLI": "no file of it is at hand",
    "GLUE RTE": "not at hand; the RTE below is made from SNLI in RTE's layout and sizes, and never counts as RTE",
    "GLUE WNLI": "no file of it is at hand",
    "ELUE IMDb": "neither its train nor its test is at hand",
}


# --- the official layout ----------------------------------------------------------------------------------------------


def cells(path: Path) -> Rows:
    """All rows of a table between tabs, its header included."""
    return [tuple(line.split("\t")) for line in path.read_text(encoding="utf-8-sig").split("\n") if line]


def put(path: Path, rows: Iterable[Cells]) -> None:
    """Write a table."""
    files.write(path, "".join("\t".join(row) + "\n" for row in rows), replace=True)


def copied(source: Path, target: Path, names: dict[str, str]) -> None:
    """Copy files, byte by byte in meaning: names of the target by those of the source."""
    for old, new in names.items():
        files.write(target / new, (source / old).read_bytes().decode("utf-8"), replace=True)


def tenth(key: str) -> bool:
    """Whether a key is in the tenth that becomes dev; depends on nothing but the key."""
    return hashlib.sha256(key.encode()).digest()[0] < 26


def cola(data: Path, place: Path) -> str:
    copied(data / "cola", place, {"in_domain_train.tsv": "train.tsv", "in_domain_dev.tsv": "dev.tsv"})
    return (
        "CoLA 1.1's in_domain_train.tsv and in_domain_dev.tsv, renamed; GLUE's dev has 516 sentences more, of other "
        "domains, which are not at hand; nor is the test, so there is no file for the leaderboard"
    )


def sst2(data: Path, place: Path) -> str:
    for name in ("train", "dev", "test"):
        rows = cells(data / "sst2_glue" / f"{name}.tsv")[1:]
        if name == "test":
            put(
                place / "test.tsv",
                [("index", "sentence", "label"), *((str(i), r[1], r[0]) for i, r in enumerate(rows))],
            )
        else:
            put(place / f"{name}.tsv", [("sentence", "label"), *((r[1], r[0]) for r in rows)])
    return (
        "columns renamed and turned (label, content to sentence, label); the test carries the labels of SST and stands "
        "in the order of SST, not of GLUE, so its submission file is right in form only"
    )


def mrpc(data: Path, place: Path) -> str:
    names = ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt")
    copied(data / "mrpc", place, {name: name for name in names})
    dev = cells(data / "elue_mrpc" / "dev.tsv")[1:]
    put(place / "dev_ids.tsv", [row[1:3] for row in dev])
    return (
        "Microsoft's own two files as they are; dev_ids.tsv, which says what of train is dev, from the ids of ELUE's "
        "dev, which is the same 408 pairs; the test carries its labels"
    )


def stsb(data: Path, place: Path) -> str:
    head = ("index", "genre", "filename", "year", "old_index", "source1", "source2", "sentence1", "sentence2", "score")
    for name in ("train", "dev", "test"):
        with (data / "stsb" / f"stsb-en-{name}.csv").open(encoding="utf-8", newline="") as stream:
            rows = [[" ".join(cell.split()) for cell in row] for row in csv.reader(stream)]
        put(place / f"{name}.tsv", [head, *((str(i), *["-"] * 6, a, b, score) for i, (a, b, score) in enumerate(rows))])
    return "csv to GLUE's ten columns, of which genre, file, year and sources are unknown (-); the test has its scores"


def rte(data: Path, place: Path) -> str:
    """RTE's sizes (2,490, 277, 3,000), half of each entailment."""
    names = {"0": "entailment", "1": "not_entailment", "2": "not_entailment"}
    held = {row[0] for row in cells(data / "elue_snli" / "test_full.tsv")[1:]}
    pool = [row for row in cells(data / "elue_snli" / "dev.tsv")[1:] if row[0] not in held]
    parts = {
        "train": ([row for row in pool if not tenth(row[0])], 2490),
        "dev": ([row for row in pool if tenth(row[0])], 277),
        "test": (cells(data / "elue_snli" / "test_full.tsv")[1:], 3000),
    }
    for name, (rows, size) in parts.items():
        ranked = sorted(rows, key=lambda row: hashlib.sha256("\t".join(row[:2]).encode()).digest())
        groups = {label: [r for r in ranked if names[r[2]] == label] for label in ("entailment", "not_entailment")}
        chosen = [*groups["entailment"][: size // 2], *groups["not_entailment"][: size - size // 2]]
        chosen.sort(key=lambda row: hashlib.sha256("\t".join(row[:2]).encode()).digest())
        lines = [(str(i), row[0], row[1], names[row[2]]) for i, row in enumerate(chosen)]
        put(place / f"{name}.tsv", [("index", "sentence1", "sentence2", "label"), *lines])
    return (
        "not RTE: SNLI with neutral and contradiction as not_entailment, in RTE's layout and sizes; train and dev from "
        "SNLI's dev file (other premises in each), test from its test file"
    )


def elue_copy(source: str, data: Path, place: Path) -> str:
    copied(data / source, place, {f"{n}.tsv": f"{n}.tsv" for n in ("train", "dev", "test", "test_full")})
    return "as they are"


def elue_cut(source: str, by: int, data: Path, place: Path) -> str:
    """A task that comes without train: nine tenths of dev become train, whole groups of rows at a time."""
    copied(data / source, place, {"test.tsv": "test.tsv", "test_full.tsv": "test_full.tsv"})
    head, *rows = cells(data / source / "dev.tsv")
    held = {cell for row in cells(data / source / "test_full.tsv")[1:] for cell in row[:2]}
    kept = [row for row in rows if not held & set(row[:2])] if by else [row for row in rows if row[0] not in held]
    put(place / "train.tsv", [head, *(row for row in kept if not tenth(row[by]))])
    put(place / "dev.tsv", [head, *(row for row in kept if tenth(row[by]))])
    what = head[by]
    return (
        f"train is not at hand: about nine tenths of dev are train and the rest is dev, cut so that no {what} stands "
        f"in both, {len(rows) - len(kept)} rows that share a text with the test left out; the test is whole"
    )


LAYOUTS: dict[tuple[str, str], Callable[[Path, Path], str]] = {
    ("glue", "CoLA"): cola,
    ("glue", "SST-2"): sst2,
    ("glue", "MRPC"): mrpc,
    ("glue", "STS-B"): stsb,
    ("glue", "RTE"): rte,
    ("elue", "SST-2"): partial(elue_copy, "elue_sst2"),
    ("elue", "MRPC"): partial(elue_copy, "elue_mrpc"),
    ("elue", "STS-B"): partial(elue_copy, "elue_stsb"),
    ("elue", "SNLI"): partial(elue_cut, "elue_snli", 0),
    ("elue", "SciTail"): partial(elue_cut, "elue_scitail", 1),
}


def laid_out(part: Part, data: Path, folder: Path) -> dict[str, Any]:
    """Lay a task out once; {"note"} or, where its files are missing, {"skipped"}."""
    place = folder / "data" / part.suite.upper() / part.name
    note = place / "layout.json"
    if note.is_file():
        return dict(json.loads(note.read_text()))
    try:
        found = {"note": LAYOUTS[part.suite, part.name](data, place)}
    except FileNotFoundError as error:
        return {"skipped": f"{error.filename or error} is not there"}
    files.write(note, json.dumps(found), replace=True)
    return found


def read(part: Part, folder: Path) -> Data:
    """A task by our own loader."""
    root = folder / "data" / part.suite.upper()
    if part.suite == "elue":
        return elue.load(part.task, root)
    need = [name for name in ("train", "dev", "test") if name in ("train", *part.scored)]
    return glue.load(part.task, root, need)


# --- scores, and the same ones by other means -------------------------------------------------------------------------


def oracle(name: str, predictions: Any, labels: Any) -> float:
    """A metric by scikit-learn or scipy."""
    if name in ("pearson", "spearman"):
        stats: Any = import_module("scipy.stats")
        return float((stats.pearsonr if name == "pearson" else stats.spearmanr)(predictions, labels).statistic)
    try:
        metrics: Any = import_module("sklearn.metrics")
    except ImportError as error:
        raise SystemExit("the scores are checked against scikit-learn; type: pip install scikit-learn") from error
    known = {"accuracy": metrics.accuracy_score, "f1": metrics.f1_score, "matthews": metrics.matthews_corrcoef}
    return float(known[name](labels, predictions))


def checked(part: Part, scores: dict[str, float], predictions: Any, labels: Any) -> dict[str, float]:
    """The same scores by scikit-learn and scipy. ValueError: one differs."""
    theirs = {m.__name__: oracle(m.__name__, predictions, labels) for m in part.task.metrics}
    off = {name: (scores[name], value) for name, value in theirs.items() if not abs(scores[name] - value) <= 1e-6}
    if off:
        raise ValueError(f"{part.suite} {part.name}: ours and theirs differ: {off}")
    return theirs


class Heard:
    """A predictor whose answers are kept."""

    def __init__(self, predictor: Any) -> None:
        self.predictor, self.name, self.labels = predictor, predictor.name, predictor.labels
        self.said: list[Any] = []

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None, batch_size: int = 32) -> Any:
        """(n, classes)."""
        self.said.append(np.asarray(self.predictor.logits(texts, pairs, batch_size=batch_size)))
        return self.said[-1]


def decided(part: Part, logits: Any) -> Any:
    """Classes or numbers."""
    return logits[:, 0] if part.task.labels is None else logits.argmax(1)


def written(part: Part, file: Path) -> Any:
    """The predictions of a submission's file."""
    if part.suite == "elue":
        return np.array(elue.read_predictions(part.task, file))
    told = files.table(file).cells("prediction")
    if part.task.labels is None:
        return np.array([float(one) for one in told])
    return np.array(files.classes(part.name, part.task.labels, told))


def scored(part: Part, name: str, place: Path, data: Data, folder: Path) -> dict[str, Any]:
    """By part of the data: {examples, scores, oracle, submission}, everything by `benchmark`.

    The test's predictions come out of the submission's file; a dev has none, so there they are overheard.
    """
    root, out = folder / "data" / part.suite.upper(), {}
    for which in part.scored:
        split: Split = getattr(data, which)
        if which == "test":
            target = folder / "submissions" / f"{part.suite}-{name}"
            target = target / part.name if part.suite == "elue" else target  # its declared.json tells of one run
            found = benchmark(
                f"{part.suite}/{part.name}", place, data=root, part=which, submission=target, replace=True
            )
            predictions = written(part, Path(found["submission"]))
        else:
            heard = Heard(load(place, threads=1))
            assert heard.labels == part.task.labels, heard.labels
            found = benchmark(f"{part.suite}/{part.name}", heard, data=root, part=which)
            predictions = decided(part, heard.said[0])
        theirs = checked(part, found["scores"], predictions, split.labels)
        out[which] = found | {"oracle": theirs}
        if found["submission"]:
            out[which]["submission"] = Path(found["submission"]).name
    return out


def in_train(data: Data, split: Split) -> int:
    """How many examples stand in train as well, but for case, spaces and punctuation."""

    def plain(one: Split) -> list[tuple[str, ...]]:
        return [tuple("".join(c for c in text.lower() if c.isalnum()) for text in key) for key in one.keys]

    assert data.train is not None
    known = set(plain(data.train))
    return sum(key in known for key in plain(split))


def majority(part: Part, data: Data) -> dict[str, dict[str, float]]:
    """What the class that is commonest in train would score; one number for all correlates with nothing, hence 0."""
    assert data.train is not None and data.train.labels is not None
    if part.task.labels is None:
        return {which: {m.__name__: 0.0 for m in part.task.metrics} for which in part.scored}
    common = Counter(data.train.labels).most_common(1)[0][0]
    module: Any = glue if part.suite == "glue" else elue
    out = {}
    for which in part.scored:
        split: Split = getattr(data, which)
        said = [common] * len(split)
        out[which] = module.score(part.task, said, split.labels)
        checked(part, out[which], said, split.labels)
    return out


# --- ELUE's curves ----------------------------------------------------------------------------------------------------


def told(points: Iterable[curves.Point]) -> list[dict[str, Any]]:
    return [{"name": one.name, "cost": one.cost, "metric": one.metric} for one in points]


def exits(part: Part, place: Path, data: Data, folder: Path) -> dict[str, Any]:
    """The curve of a model with exits, the points of each patience, and their files.

    Every point is checked; so is that the artefact itself, whose examples really leave, answers as was worked out.
    """
    task, split = part.task, data.test
    assert split is not None and split.labels is not None
    model, tokenizer = artefact.load(place).eval(), AutoTokenizer.from_pretrained(place)
    kind = of(data)
    encoded = encode(kind, tokenizer, split, max_length(tokenizer, model.config, LONGEST))
    lengths = np.array([len(one["input_ids"]) for one in encoded])
    order = np.argsort(lengths, kind="stable")
    pad = int(tokenizer.pad_token_id)
    batches = (kind.collate([encoded[i] for i in order[at : at + 64]], pad) for at in range(0, len(order), 64))
    logits = np.empty((WIDE.layers, len(order), 1 if task.labels is None else len(task.labels)))
    logits[:, order] = elue.layer_logits(model, batches)
    spent = elue.costs(WIDE, lengths)
    curve = elue.curve(task, logits, split.labels, spent)
    both = [checked(part, elue.score(task, decided(part, one), split.labels), decided(part, one), split.labels)
            for one in logits]  # fmt: skip
    worst = max(abs(float(np.mean(list(t.values()))) - p.metric) for t, p in zip(both, curve, strict=True))
    asked, rows = elue.costs(WIDE, lengths, every_exit=True), np.arange(len(lengths))
    points, runs, left = [], [], {}
    for times in PATIENCES:
        out = elue.patience(logits, times)
        points.append(elue.point(task, logits, split.labels, asked, out, f"patience {times}"))
        said = decided(part, logits[out - 1, rows])
        theirs = float(np.mean(list(checked(part, elue.score(task, said, split.labels), said, split.labels).values())))
        worst = max(worst, abs(theirs - points[-1].metric))
        left[times] = [int((out == layer).sum()) for layer in range(1, WIDE.layers + 1)]
        millions = points[-1].cost / 1e6, sum(p.numel() for p in model.parameters()) / 1e6
        runs.append(elue.Run(task, said.tolist(), *millions, exit_layers=out.tolist(), setting=f"patience{times}"))
    target = folder / "submissions" / "elue-PABEE-curve" / task.name
    elue.submit(runs, target, replace=True)
    for run in runs:
        name = task.name.lower()
        assert elue.read_predictions(task, target / f"{name}_{run.setting}.tsv") == tuple(run.predictions)
        file = target / f"{name}_infer_exit_layer_{run.setting}.tsv"
        assert elue.read_exit_layers(file) == tuple(run.exit_layers or ())
    really = decided(part, np.asarray(load(place, threads=1).logits(split.texts, split.pairs)))
    close = np.abs(really - np.array(runs[-1].predictions)) < 1e-3
    return {"curve": told(curve), "points": told(points), "left": left, "worst": worst, "same": float(close.mean()),
            "tokens": float(lengths.mean())}  # fmt: skip


def static(part: Part, place: Path, data: Data, scores: dict[str, float], layers: int) -> list[dict[str, Any]]:
    """The one point of a model that always answers at its end."""
    assert data.test is not None
    tokenizer, config = AutoTokenizer.from_pretrained(place), json.loads((place / "config.json").read_text())
    encoded = encode(of(data), tokenizer, data.test, max_length(tokenizer, config, LONGEST))
    cost = elue.costs(WIDE, [len(one["input_ids"]) for one in encoded])[layers - 1].mean()
    return told([curves.Point(float(cost), scores["mean"], f"{layers} layers")])


# --- work -------------------------------------------------------------------------------------------------------------


def home(part: Part, folder: Path) -> Path:
    """The teacher's folder."""
    suite = part.suite if part.steps else "glue"
    return folder / "models" / f"{suite}-{part.name}-teacher"


def trained(part: Part, name: str, data: Data, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The artefact of a recipe, made if it is not there, and its report; the first of them tunes the teacher."""
    place, teacher = folder / "models" / f"{part.suite}-{part.name}-{name}", home(part, folder)
    fresh = bool(part.steps) and name == "Int8"  # not known by the folder: an interrupted run is to go on as it began
    bare = Data(f"{part.suite}/{part.name}", data.train, data.dev, None, data.labels)  # the test is not even seen
    report = compress(
        "minilm" if fresh else str(teacher), RECIPES[name], data=bare, out=place, max_steps=part.steps if fresh
        else part.others, fine_tune=FineTune(epochs=100.0, lr=part.lr), teacher_out=teacher if fresh else None,
        resume=True, autocast=False, longest=LONGEST,
        measuring={"only": ("size", "macs", "speed"), "schedule": QUICK, "examples": 10, "threads": 1},
    )  # fmt: skip
    return place, report


def figures(part: Part, name: str, folder: Path) -> Path:
    return folder / "figures" / f"{part.suite}-{part.name}-{name}.json"


def figure(part: Part, name: str, data: Data, folder: Path) -> dict[str, Any]:
    """Everything about a teacher or one artefact."""
    begun = time.monotonic()
    if name == "teacher":
        place, told_ = home(part, folder), dict[str, Any]()
        if not place.is_dir():
            raise FileNotFoundError(f"{place} is not there: the part that makes it failed")
    else:
        place, report = trained(part, name, data, folder)
        base, small = report["baseline"], report["compressed"]
        told_ = {
            "recipe": RECIPES[name],
            "steps": 0 if name == "Int8" else part.others,
            "bytes": [base["bytes"], small["bytes"]],
            "parameters": [base["parameters"], small["parameters"]],
            "macs": [base["macs"], small["macs"]],
            "faster": small["faster"],
            "engine": small["engine"],
        }
    found = told_ | {"parts": scored(part, name, place, data, folder)}
    if name == "teacher":
        assert data.train is not None
        found |= {
            "train": len(data.train),
            "steps": part.steps,
            "seen": {which: in_train(data, getattr(data, which)) for which in part.scored},
            "majority": majority(part, data),
        }
    if part.suite == "elue":
        scores = found["parts"]["test"]["scores"]
        if name == "PABEE":
            found |= exits(part, place, data, folder)
        else:
            found["points"] = static(part, place, data, scores, 3 if name == "Theseus" else WIDE.layers)
    return found | {"seconds": time.monotonic() - begun}


def work(data: Path, folder: Path, until: float, wanted: tuple[tuple[Part, str], ...]) -> list[str]:
    """Parts and sides, one after another; what went wrong with one does not stop the others."""
    torch.set_num_threads(1)
    said = []
    for part, name in wanted:
        note = figures(part, name, folder)
        if "skipped" in laid_out(part, data, folder) or note.is_file() or time.time() > until:
            continue
        try:
            files.write(note, json.dumps(figure(part, name, read(part, folder), folder), default=float))
        except Exception as error:
            logging.exception("%s %s %s", part.suite, part.name, name)
            said.append(f"{note.stem} failed: {error}")
        else:
            said.append(note.stem)
            print("done", note.stem, flush=True)
    return said


# --- the page ---------------------------------------------------------------------------------------------------------


def table(heads: list[str], lines: list[list[str]]) -> str:
    """A table of Markdown."""
    rule = "|" + "---|" * len(heads)
    return "\n".join(["| " + " | ".join(heads) + " |", rule, *("| " + " | ".join(x) + " |" for x in lines)])


def shown(part: Part, scores: dict[str, float] | None) -> str:
    """Scores times 100, in the order of the task's metrics."""
    return "-" if scores is None else " / ".join(f"{100 * scores[m.__name__]:.1f}" for m in part.task.metrics)


EARLY = (
    "The first token's state, which a classifier of this encoder reads, hardly depends on the text before the "
    "fifth layer, for its makers pooled the mean of all tokens: after so little training the exits of the first "
    "three or four layers say nearly the same of every text. The curves jump there, so a point says more about "
    "which side of the jump it fell on than about the model. The model with exits was also trained longer than "
    "the teacher that it began from, by the steps below, which may be why the teacher stays under its last exit "
    "on STS-B. These scores do not compare with those against ElasticBERT's curve."
)


Figures = dict[tuple[str, str], dict[str, dict[str, Any]]]


def run_of(suite: str, known: Figures) -> list[str]:
    """The recipes that were run on a benchmark, on one task at least."""
    parts = [part for part in PARTS if part.suite == suite]
    return [name for name in RECIPES if any(name in known.get((suite, part.name), {}) for part in parts)]


def line(part: Part, known: dict[str, dict[str, Any]], which: str, recipes: list[str]) -> list[str]:
    """A task's line of its table."""
    base, metrics = known["teacher"], " / ".join(m.__name__ for m in part.task.metrics)
    found = base["parts"][which]
    steps = str(base["steps"]) if base["steps"] else "as GLUE's"
    return [
        part.name + (" (made from SNLI)" if (part.suite, part.name) == ("glue", "RTE") else ""), which,
        f"{base['train']:,}", steps, f"{found['examples']:,}", str(base["seen"][which]), metrics,
        shown(part, base["majority"][which]), shown(part, found["scores"]),
        *(shown(part, known[name]["parts"][which]["scores"] if name in known else None) for name in recipes),
    ]  # fmt: skip


def scores_table(suite: str, known: Figures) -> str:
    """The scores of a benchmark."""
    parts = [part for part in PARTS if part.suite == suite and "teacher" in known.get((suite, part.name), {})]
    recipes = run_of(suite, known)
    heads = ["task", "part", "train", "steps", "examples", "in train, too", "metric", "majority", "teacher", *recipes]
    return table(heads, [line(p, known[suite, p.name], which, recipes) for p in parts for which in p.scored])


def cost_line(part: Part, name: str, one: dict[str, Any]) -> list[str]:
    """An artefact's line of the table of costs."""
    fast = one["faster"] or {}
    return [
        f"{part.suite.upper()} {part.name}", name,
        *(f"{count / 1e6:.1f}" for count in (*one["bytes"], one["parameters"][1])),
        *("-" if fast.get(kind) is None else f"{fast[kind]:.1f}" for kind in ("latency", "throughput")), one["engine"],
    ]  # fmt: skip


def cost_table(known: Figures) -> str:
    """What the artefacts cost."""
    sides = ((part, name, known.get((part.suite, part.name), {}).get(name)) for part in PARTS for name in part.recipes)
    heads = ["task", "recipe", "teacher MB", "MB", "params M", "batch 1 x", "batch 32 x", "engine"]
    return table(heads, [cost_line(part, name, one) for part, name, one in sides if one is not None])


def averages(known: Figures) -> str:
    """GLUE's average over what is there, said to be that."""
    there = [p for p in PARTS if p.suite == "glue" and "teacher" in known.get(("glue", p.name), {}) and p.name != "RTE"]
    if not there:
        return "No task yet."
    without = [name for name in glue.AVERAGED if name not in {p.name for p in there}]
    lines = []
    for name in ("majority", "teacher", *run_of("glue", known)):
        sides = [known["glue", p.name]["teacher" if name == "majority" else name] for p in there
                 if name == "majority" or name in known["glue", p.name]]  # fmt: skip
        if len(sides) < len(there):
            continue
        results = {
            p.name: side["majority"]["dev"] if name == "majority" else side["parts"]["dev"]["scores"]
            for p, side in zip(there, sides, strict=True)
        }
        stand = glue.standing(results, without)
        assert stand.average is not None and glue.standing(results).average is None
        lines.append([name, *(f"{100 * stand.tasks[p.name]:.1f}" for p in there), f"{100 * stand.average:.1f}"])
    return (
        f"Mean over {len(there)} of GLUE's nine tasks, by GLUE's rule (a task's metrics are averaged first), on dev; "
        f"without {', '.join(without)}. It is not the GLUE score, which the package refuses to give while a task is "
        "missing.\n\n" + table(["", *(p.name for p in there), "mean"], lines)
    )


def elue_scores(known: Figures) -> str:
    """Curves, points and scores."""
    parts = [p for p in PARTS if p.suite == "elue" and "PABEE" in known.get(("elue", p.name), {})]
    if not parts:
        return "No curve yet."
    curve_lines, point_lines, score_lines = [], [], []
    every: dict[str, list[float]] = {}
    names = ["teacher", *run_of("elue", known)]
    for part in parts:
        sides = known["elue", part.name]
        base = [curves.Point(p["cost"], p["metric"], p["name"]) for p in sides["PABEE"]["curve"]]
        curve_lines.append([part.name, *(f"{100 * p.metric:.1f} ({p.cost / 1e6:,.0f})" for p in base)])
        point_lines.append(
            [part.name, *(f"{100 * p['metric']:.1f} ({p['cost'] / 1e6:,.0f})" for p in sides["PABEE"]["points"])]
        )
        row = [part.name]
        for name in names:
            points = [curves.Point(p["cost"], p["metric"], p["name"]) for p in sides.get(name, {}).get("points", [])]
            if not points:
                row.append("-")
                continue
            found = curves.elue(points, base)
            every.setdefault(name, []).append(found.score)
            row.append(f"{100 * found.score:+.2f}" + (f" ({found.clamped} beyond the curve)" if found.clamped else ""))
        score_lines.append(row)
    means = [f"{100 * float(np.mean(every[n])):+.2f}" if len(every.get(n, [])) == len(parts) else "-"
             for n in names]  # fmt: skip
    if len(parts) > 1:
        score_lines.append([f"mean of {len(parts)}", *means])
    layers = [f"layer {i + 1}" for i in range(WIDE.layers)]
    agree = ", ".join(f"{p.name} {100 * known['elue', p.name]['PABEE']['same']:.2f} %" for p in parts)
    return "\n\n".join(
        [
            "The baseline's curve, the model that PABEE made asked after each of its layers: metric times 100, and in "
            "brackets the MFLOPs by ELUE's count, averaged over the test at its true lengths:",
            table(["task", *layers], curve_lines),
            "The same model with each patience; every exit that is asked on the way counts:",
            table(["task", *(f"patience {n}" for n in PATIENCES)], point_lines),
            "ELUE scores against that curve, in points; PABEE's is over its four patiences, the others are one point "
            "(the counter does not know of bytes, so Int8 costs what its teacher costs):",
            table(["task", *names], score_lines),
            EARLY,
            "The package refuses an overall ELUE score without IMDb, and none is given here. The artefact, whose "
            f"examples really leave on the way, answers as worked out from all layers (patience 4): {agree}.",
        ]
    )


def differences(known: Figures) -> tuple[int, float]:
    """How many scores were computed twice, and the largest difference."""
    found = []
    for sides in known.values():
        for one in sides.values():
            for result in one["parts"].values():
                found += [abs(result["scores"][name] - value) for name, value in result["oracle"].items()]
            found += [one["worst"]] * (WIDE.layers + len(PATIENCES)) if "worst" in one else []
    return len(found), max(found, default=0.0)


def budget(part: Part, sides: dict[str, dict[str, Any]]) -> str:
    """How long a task's models were trained."""
    steps = sides["teacher"]["steps"]
    said = f"teacher {steps} steps at {part.lr:g}" if steps else "teacher that of GLUE"
    others = [f"{name} {sides[name]['steps']} a stage" for name in part.recipes if name in sides and name != "Int8"]
    return f"- {part.suite.upper()} {part.name}: {', '.join([said, *others])}."


def render(known: Figures, layouts: dict[str, str], skipped: dict[str, str]) -> str:
    """The page."""
    machine, software = hardware(), versions()
    count, worst = differences(known)
    notes = "\n".join(f"- {name}: {note}." for name, note in layouts.items())
    trained = [(part, known.get((part.suite, part.name), {})) for part in PARTS]
    steps = "\n".join(budget(part, sides) for part, sides in trained if "teacher" in sides)
    gone = "\n".join(f"- {name}: {why}." for name, why in {**ABSENT, **skipped}.items())
    left = [
        f"{name} on {suite.upper()} {title}"
        for suite, title, name in LATER
        if name not in known.get((suite, title), {})
    ]
    gone += f"\n- Not run for lack of time, though the script would: {', '.join(left)}." if left else ""
    there = {*run_of("glue", known), *run_of("elue", known)}
    used = "\n".join(f"- {name}: `{recipe}`" for name, recipe in RECIPES.items() if name in there)
    return f"""# GLUE and ELUE, on their own files

Written by `python benchmarks/glue.py`.  Teacher: all-MiniLM-L6-v2 (22.7 M parameters), fine-tuned on each task's own
train and nothing else, on a fixed small number of steps of 32; one seed.  Scores are what `gossamer.benchmarks` gives
on files in the official layout, times 100; "-" was not run.
{machine.get("cpu", machine)}, one thread for each job, two jobs at a time; torch {software.get("torch")}, transformers
{software.get("transformers")}, onnxruntime {software.get("onnxruntime")}.

## GLUE

{scores_table("glue", known)}

{averages(known)}

## ELUE

{scores_table("elue", known)}

{elue_scores(known)}

## What the artefacts cost

Ratios against the teacher in transformers eager fp32, interleaved, one thread, 12 single texts and batches of 32 of
dev, while other jobs ran: good to a factor, not to a digit.  MB: what the engine reads.

{cost_table(known)}

{used}

## Checked

{count} scores were computed twice on the very same predictions, by this package and by scikit-learn (accuracy, F1,
Matthews) or scipy (Pearson, Spearman), majority baselines aside; the largest difference is {worst:.1e}.  The
predictions of a test are those read back from its submission's file, so the files are checked, too; the files with
predictions and exit layers of each patience read back equal to what was written.

## What is not official

- No leaderboard has seen any of it: labels of the tests are the public ones, not GLUE's hidden ones.
- Training is a fraction of the usual three epochs on all data: these are no figures of what MiniLM can do.  Learning
  rates were set beforehand and nothing was chosen by a test.
- all-MiniLM-L6-v2 was made from a billion pairs, which its makers say include SNLI and MultiNLI, the captions of
  Flickr30k (which SNLI's premises are, and some of STS-B) and duplicates from Quora: SNLI and STS-B flatter it.
- On STS-B this short a fine-tuning does worse than none: the cosine of the same encoder's mean-pooled sentences gives a
  Spearman of 82.0 on the test (measured once, not by this script).  Here it reads both sentences at once.
- SST-2 of GLUE (phrases) and of ELUE (sentences) come from the same reviews; each has a teacher of its own.  "in
  train, too" counts the examples that stand in the task's own train but for case, spaces and punctuation.
- A difference under 2 points says nothing with one seed; one standard error of an accuracy is 1.1 points for the 872
  examples of SST-2's dev, and 3 for the 277 of RTE's.

## Missing

{gone}

## What was converted

{notes}

## Steps

Of 32 examples each; the rate falls linearly to zero after a tenth of them.

{steps}
"""


def main() -> None:
    """Run what has not been run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--folder", type=Path, default=Path("runs/glue"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/glue.md"))
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--minutes", type=float, default=0.0, help="begin nothing new after so long; 0: no limit")
    parser.add_argument("--render", action="store_true", help="only write the page from what has been run")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    layouts, skipped = dict[str, str](), dict[str, str]()
    for part in PARTS:
        title = f"{part.suite.upper()} {part.name}"
        found = laid_out(part, options.data, options.folder)
        (skipped if "skipped" in found else layouts)[title] = next(iter(found.values()))
    for title, why in skipped.items():
        print(f"skipped: {title}: {why}", flush=True)
    if not options.render:
        until = time.time() + 60 * options.minutes if options.minutes else float("inf")
        with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
            once = partial(work, options.data, options.folder, until)
            first = [tuple((part, name) for part in group for name in part.soon) for group in GROUPS]
            of_name = {(part.suite, part.name): part for part in PARTS}
            for wanted in (first, [((of_name[suite, title], name),) for suite, title, name in LATER]):
                for said in pool.map(once, wanted):
                    print(*(one for one in said if "failed" in one), sep="\n", end="", flush=True)
    known: Figures = {}
    for part in PARTS:
        for name in ("teacher", *part.recipes):
            note = figures(part, name, options.folder)
            if note.is_file():
                known.setdefault((part.suite, part.name), {})[name] = json.loads(note.read_text())
    count, worst = differences(known)
    print(f"{count} scores computed twice, the largest difference {worst:.1e}")
    files.write(options.page, render(known, layouts, skipped), replace=True)


if __name__ == "__main__":
    main()
