"""Jobs on tiny random models and made-up texts, for tests that drive a method without a tokenizer or a file of data."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from gossamer import train
from gossamer.job import Job
from gossamer.task import Classification, Regression
from tests import tiny


class Tokenizer:
    """As much of a tokenizer as a job asks for."""

    pad_token_id = 0


def texts(count: int = 48, classes: int = 2, longest: int = 12, seed: int = 1) -> list[dict[str, Any]]:
    """Encoded texts of 3 to `longest` tokens whose second token tells the label; classes 0: a label in [0, 1]."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for i in range(count):
        length = int(torch.randint(3, longest + 1, (1,), generator=draw))
        words = torch.randint(10, 50, (length,), generator=draw).tolist()
        words[0], words[1] = 1, 3 + i % (classes or 3)
        found.append({"index": i, "input_ids": words, "labels": i % classes if classes else (i % 3) / 2})
    return found


def job(folder: Path, family: str = "bert", layers: int = 4, classes: int = 2, count: int = 48, **more: Any) -> Job:
    """A job whose model, teacher and pretrained model are the same; three steps a stage.  more: fields of the job."""
    settings = {"n_layers": layers} if family == "distilbert" else {"num_hidden_layers": layers}
    if not classes:
        settings |= {"problem_type": "regression"}
    model: Any = tiny.build(family, "classes", num_labels=classes or 1, **settings)
    found = texts(count, classes)
    task = Classification(tuple(f"class {i}" for i in range(classes))) if classes else Regression()
    teacher = copy.deepcopy(model).requires_grad_(False)
    given = {"max_steps": 3, "pretrained": copy.deepcopy(teacher)} | more
    return Job(
        model=model, teacher=teacher, task=task, tokenizer=Tokenizer(), train=found, dev=found[:16], folder=folder,
        **given,
    )  # fmt: skip


def stages(at: Job, method: train.Method) -> Iterator[train.Train]:
    """Run a method and stop after each of its stages: what is yielded has just been trained."""
    for stage in method(at):
        train.train(at, stage)
        yield stage


def run(at: Job, method: train.Method) -> Any:
    """Run a method to its end; the model."""
    train.drive(at, method)
    return at.model


def inputs(at: Job, count: int = 6) -> dict[str, torch.Tensor]:
    """A padded batch of the job's texts, without labels."""
    return {k: v for k, v in at.collate(at.train[:count]).items() if k not in ("labels", "index")}


@torch.no_grad()
def logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the model answers in evaluation mode."""
    return model.eval()(**batch).logits


def wider(batch: dict[str, torch.Tensor], by: int = 5) -> dict[str, torch.Tensor]:
    """The batch with `by` more columns of padding."""
    return {
        k: torch.nn.functional.pad(v, (0, by)) if k in ("input_ids", "attention_mask", "token_type_ids") else v
        for k, v in batch.items()
    }
