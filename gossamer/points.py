"""Operating points of early exit: what each threshold costs in accuracy and saves in layers, and which one to take.

One pass of the whole model over labelled texts gives all of them (gossamer.replay).  The artefact keeps the curve; its
threshold may be chosen when it is loaded (`gossamer.load(..., threshold=)`), or once and for all (`settle`).
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gossamer import artefact
from gossamer.replay import Record, conformal, exits_of, record, replay
from gossamer.runtime.exits import Exits
from gossamer.runtime.manifest import seal
from gossamer.task import Task

CURVE = "exits.json"
MOST = 64  # points that a curve keeps
SIZE = 32  # texts of a batch
SETTLED = "## Another threshold"  # in a model card


@dataclass(frozen=True)
class Point:
    """A threshold, and what it does.

    quality: the task's metric; drop: in points (hundredths of it), from where nobody leaves early.  layers: passed by
    the mean text; speedup: all layers over those.  consistent: the share of texts that are answered as by the whole
    model, None for numbers.
    """

    threshold: float
    quality: float
    drop: float
    layers: float
    speedup: float
    consistent: float | None


@dataclass(frozen=True)
class Curve:
    """Points from the cheapest to the dearest; the texts they were seen on; the criterion's name."""

    points: list[Point]
    texts: int
    criterion: str

    def cells(self, chosen: Point | None = None, most: int = 16) -> tuple[list[str], list[list[str]]]:
        """For a table: titles and rows, at most so many; `chosen` is marked."""
        step = max(1, -(-len(self.points) // most))
        kept = sorted({*self.points[::step], *self.points[-1:], *([chosen] if chosen else [])}, key=lambda p: p.layers)
        rows = [
            [
                f"{one.threshold:.4g}", f"{one.quality:.4f}", f"{-one.drop:+.2f}", f"{one.layers:.2f}",
                f"{one.speedup:.2f}x", "-" if one.consistent is None else f"{100 * one.consistent:.1f} %",
                "<-" if one == chosen else "",
            ]
            for one in kept
        ]  # fmt: skip
        return ["threshold", "quality", "points", "layers", "fewer layers", "as the whole model", ""], rows

    def plain(self) -> dict[str, Any]:
        """For a file."""
        return {"criterion": self.criterion, "texts": self.texts, "points": [asdict(one) for one in self.points]}


def levels(exits: Exits, found: Record) -> list[float]:
    """Thresholds between which nothing changes, at most MOST, the ones that nobody and everybody passes included."""
    scores = found.scores[:-1].flatten().double()
    seen = scores[scores.isfinite()].unique()
    if not len(seen):
        return [exits.threshold]
    between = (seen[1:] + seen[:-1]) / 2
    kept = between[torch.linspace(0, len(between) - 1, min(MOST - 2, len(between))).round().long()].tolist()
    margin = float((seen[-1] - seen[0]).abs()) / 100 + 1e-6
    return [float(seen[0]) - margin, *kept, float(seen[-1]) + margin]


def point(exits: Exits, found: Record, labels: Any, task: Task, threshold: float) -> Point:
    """What a threshold does; labels: as `task.score` takes them."""
    layers, answers = replay(exits, found, threshold)
    quality, whole = (task.score(said.numpy(), labels) for said in (answers, found.answers[-1]))
    one = answers.shape[-1] == 1
    same = None if one else float((answers.argmax(-1) == found.answers[-1].argmax(-1)).float().mean())
    passed = float(layers.float().mean())
    return Point(threshold, quality, 100 * (whole - quality), passed, found.places[-1] / passed, same)


def curve(model: nn.Module, batches: Sequence[Mapping[str, torch.Tensor]], labels: Any, task: Task) -> Curve:
    """All operating points of a model with exits on labelled texts; batches: what the model is called with.

    Raises:
        ValueError: it has no exits.
    """
    found = record(model, batches)
    exits = exits_of(model)
    assert exits is not None
    return recorded(exits, found, labels, task)


def recorded(exits: Exits, found: Record, labels: Any, task: Task) -> Curve:
    """The same of what was recorded."""
    points = {one.layers: one for level in levels(exits, found) for one in [point(exits, found, labels, task, level)]}
    return Curve([points[layers] for layers in sorted(points)], len(labels), exits.criterion["is"])


def chosen(found: Curve, max_drop: float | None = None, speedup: float | None = None) -> Point:
    """The cheapest point that loses at most so many points of the metric, or the best one at a speed-up in layers.

    Raises:
        ValueError: neither or both were asked, or no point is so fast or loses so little.
    """
    if (max_drop is None) == (speedup is None):
        raise ValueError("expected one of max_drop and speedup")
    if speedup is not None:
        fits = [one for one in found.points if one.speedup >= speedup]
        best = max((one.speedup for one in found.points), default=1.0)
        if not fits:
            raise ValueError(f"no threshold gives a speed-up of {speedup:g}; the largest is {best:.2f} of the layers")
        return max(fits, key=lambda one: (one.quality, one.speedup))
    kept = [one for one in found.points if one.drop <= (max_drop or 0.0)]
    if not kept:
        least = min(one.drop for one in found.points)
        raise ValueError(f"no threshold loses {max_drop:g} points or less; the least that one loses is {least:.2f}")
    return kept[0]


def guaranteed(model: nn.Module, batches: Sequence[Mapping[str, torch.Tensor]], epsilon: float) -> float:
    """The threshold at which an answer is the whole model's with a probability of 1 - epsilon at least (conformal).

    Marginal, for texts that are exchangeable with those given; see gossamer.replay.conformal.

    Raises:
        ValueError: it has no exits, or answers with numbers.
    """
    found = record(model, batches)
    exits = exits_of(model)
    assert exits is not None
    return conformal(found, epsilon, rising=exits.rule.rising)


def asked(
    folder: Path,
    data: str | Path | None = None,
    max_drop: float | None = None,
    speedup: float | None = None,
    consistent: float | None = None,
    **columns: str,
) -> tuple[Curve, Point | None]:
    """The curve of an artefact, kept or on these data, and the point that was asked for, if any was.

    consistent: guaranteed (see `guaranteed`), by texts that are not those of the curve: half of them each, by chance.
    These must be a file of their own: of data with parts the development texts may have set the exits already.

    Raises:
        ValueError: no exits, no curve, no labels, or nothing that does what was asked.
    """
    wanted = [value for value in (max_drop, speedup, consistent) if value is not None]
    if consistent is not None and (data is None or not Path(data).is_file()):
        what = "" if data is None else f"; found '{data}', whose development texts may have been used already"
        raise ValueError(f"a guarantee needs texts that nothing was chosen by{what}; type --data FILE")
    if data is None:
        found = read(folder)
        return found, chosen(found, max_drop, speedup) if wanted else None
    model, batches, labels, task = _loaded(folder, data, columns, mixed=consistent is not None)
    if consistent is None:
        found = curve(model, batches, labels, task)
        return found, chosen(found, max_drop, speedup) if wanted else None
    if not 0 < consistent < 1 or len(wanted) > 1:
        raise ValueError(
            f"found consistent {consistent:g}, expected a share between 0 and 1, and nothing else beside it"
        )
    half = len(batches) // 2
    if not half:
        raise ValueError(f"found {len(labels)} texts, expected more than {SIZE} to calibrate and to see")
    level = guaranteed(model, batches[:half], 1 - consistent)
    said, seen = record(model, batches[half:]), labels[half * SIZE :]
    exits = exits_of(model)
    assert exits is not None
    found = curve(model, batches[half:], seen, task)
    return found, point(exits, said, seen, task, level)


def _loaded(
    folder: Path, data: str | Path, columns: Mapping[str, str], mixed: bool = False
) -> tuple[Any, Any, Any, Task]:
    """The model, batches of the texts, their labels and the task: of a file all texts, of a folder those of dev.

    mixed: in an order by chance, for files are often sorted.
    """
    from transformers import AutoTokenizer

    from gossamer.data import read as texts
    from gossamer.engines.texts import facts
    from gossamer.task import encode, of

    model = artefact.load(folder)
    if exits_of(model) is None:
        raise ValueError(f"'{folder}' has no exits; expected an artefact of a method of early exit")
    told: dict[str, Any] = dict(columns)
    found = texts(data, need=(), **told)
    found = found.aligned(tuple(model.config.id2label.values()) if found.labels is not None else None)
    task, tokenizer = of(found), AutoTokenizer.from_pretrained(folder)
    splits = [split for split in (found.dev, found.test, found.train) if split is not None]
    longest = facts(folder).max_length  # as they will be read in use
    chosen_ = splits if Path(data).is_file() else splits[:1]
    examples = [one for split in chosen_ for one in encode(task, tokenizer, split, longest)]
    if mixed:
        examples = [examples[i] for i in np.random.default_rng(0).permutation(len(examples))]
    pad = int(tokenizer.pad_token_id or 0)
    batches = [
        task.given(task.collate(examples[at : at + SIZE], pad), labels=False) for at in range(0, len(examples), SIZE)
    ]
    return model, batches, np.array([one["labels"] for one in examples]), task


def read(folder: Path) -> Curve:
    """The curve that an artefact keeps.

    Raises:
        ValueError: it keeps none.
    """
    file = folder / CURVE
    if not file.is_file():
        raise ValueError(f"'{folder}' keeps no curve of its exits ({CURVE}); type --data FILE to see one")
    told = json.loads(file.read_text(encoding="utf-8"))
    return Curve([Point(**one) for one in told["points"]], told["texts"], told["criterion"])


def settle(folder: Path, out: Path, threshold: float, found: Curve | None = None) -> Path:
    """The same artefact with another threshold, in another folder; graphs and weights are copied as they are.

    Figures that were measured with the threshold before say so.

    Raises:
        ValueError: it has no exits, or the folder is taken.
    """
    model = artefact.load(folder)
    exits = exits_of(model)
    if exits is None:
        raise ValueError(f"'{folder}' has no exits; expected an artefact of a method of early exit")
    before, exits.threshold = exits.threshold, threshold
    with artefact.appearing(out) as part:
        shutil.copytree(folder, part, dirs_exist_ok=True)
        config = json.loads((part / "config.json").read_text(encoding="utf-8"))
        for told in config["gossamer"].values():
            for walk in told.get("walks", ()) if isinstance(told, dict) else ():
                if walk.get("is") == "Exits":
                    walk["threshold"] = threshold
        (part / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if (part / artefact.PROBE).is_file():
            kept = load_file(part / artefact.PROBE)
            kept.pop("logits")
            save_file({**kept, "logits": artefact.answer(model, kept).contiguous()}, part / artefact.PROBE)
        if found is not None:
            (part / CURVE).write_text(json.dumps(found.plain(), indent=1) + "\n", encoding="utf-8")
        _warned(part, before, threshold)
        seal(part)
    return out


def _warned(part: Path, before: float, now: float) -> None:
    """Of figures that were measured with another threshold, say so where they are."""
    report, readme = part / "report.json", part / "README.md"
    if not report.is_file():
        return
    told = json.loads(report.read_text(encoding="utf-8"))
    before = told.pop("settled", {}).get("measured", before)
    told |= {} if now == before else {"settled": {"measured": before, "threshold": now}}
    report.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    if readme.is_file():
        kept = readme.read_text(encoding="utf-8").partition(f"\n{SETTLED}\n")[0]
        words = f"Exits leave at {now:g} since. The figures above were measured at {before:g}; to measure anew, type "
        note = "" if now == before else f"\n{SETTLED}\n\n{words}`gossamer measure`.\n"
        readme.write_text(f"{kept}{note}", encoding="utf-8")
