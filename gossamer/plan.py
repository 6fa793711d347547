"""What a job will do and about how long it takes, said before it starts."""

import os
import time
from copy import deepcopy
from typing import Any

import torch

from gossamer.job import Job
from gossamer.loss import Task
from gossamer.train import Lesson, Method, attending, drive, products

AFTER = 200  # export, reading back and measuring a small encoder take as long as so many of its steps
LEAST = 0.05  # of a stage, however short the time
ANSWER = 0.35  # of a step: the teacher's answers to as many texts


def planned(job: Job, method: Method, first: Method | None = None, within: float | None = None) -> dict[str, Any]:
    """The stages of `first` and of `method`, by walking through them on a copy of the model without training.

    within: minutes; where all of it would take longer, every stage is shortened by one share, which job.share keeps.

    Returns {"stages": [{"stage", "steps", "reads", "seconds"}], "seconds", "share", "autocast", "device", "lines"}.

    Raises:
        ValueError: a method does not fit the model.
    """
    dry = deepcopy_of(job)
    if first is not None:
        drive(dry, first)
        dry.model = dry.teacher = deepcopy(job.model)
    drive(dry, method)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    pace, stages = seconds_per_step(job, max(1, 32 // world)), list(dry.plan or [])
    asked = sum(stage.pop("teacher") for stage in stages) > 0
    fixed = pace * (AFTER + asked * ANSWER * len(job.train) / 32)
    steps = sum(s["steps"] for s in stages)
    if within is not None and fixed + steps * pace > 60 * within:
        shorter = max(LEAST, (60 * within - fixed) / (steps * pace))
        job.share *= shorter
        for stage in stages:
            stage["steps"] = max(1, round(shorter * stage["steps"]))
    for stage in stages:
        stage["seconds"] = round(stage["steps"] * pace, 1)
    total = sum(s["seconds"] for s in stages) + fixed
    mode = "bfloat16 autocast (faster here, override with --no-autocast)" if job.autocast else "fp32"
    lines = [f"training in {mode}, batches grouped by length, on {job.device.type}"]
    if first is not None:
        lines.append("the model has no trained head for this task: it is fine-tuned first, and becomes the teacher")
    if job.share < 1:
        late = "" if within is None or total <= 61 * within else ", and even so it takes longer than the time given"
        lines.append(f"every stage is shortened to {job.share:.0%} of its length for the sake of time{late}")
    lines += [
        f"stage {i}: {s['stage']}, {s['steps']} steps, loss {s['reads']}, about {minutes(s['seconds'])}"
        for i, s in enumerate(stages, 1)
    ]
    lines.append(f"with export, read-back and measurement about {minutes(total)}")
    return {
        "stages": stages, "seconds": total, "share": job.share, "autocast": job.autocast, "device": job.device.type,
        "lines": lines,
    }  # fmt: skip


def deepcopy_of(job: Job) -> Job:
    """The same job on copies of its models, to be walked through without training."""
    model = deepcopy(job.model)
    return Job(
        model=model, teacher=model, task=job.task, tokenizer=job.tokenizer, train=job.train, dev=job.dev,
        folder=job.folder, pretrained=job.pretrained, seed=job.seed, max_steps=job.max_steps, share=job.share,
        plan=[], dry=True,
    )  # fmt: skip


def minutes(seconds: float) -> str:
    """A duration in words."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def seconds_per_step(job: Job, size: int = 32) -> float:
    """How long a step of fine-tuning takes here: the median of three on a batch of typical length, after one more."""
    model = deepcopy(job.model).to(job.device).train()
    order = sorted(range(len(job.train)), key=lambda i: len(job.train[i]["input_ids"]))
    start = max(0, int(0.6 * len(order)) - size // 2)  # the mean is longer than the median
    batch = job.collate([job.train[i] for i in order[start : start + size]])
    lesson, took = Lesson(model, Task(), None, job.task), list[float]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    with attending(job, model), products(job):
        for _ in range(4):
            began = time.monotonic()
            with torch.autocast(job.device.type, torch.bfloat16, enabled=job.autocast):
                loss = lesson(**{k: v.to(job.device) for k, v in batch.items()})["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            took.append(time.monotonic() - began)
    return sorted(took[1:])[1]
