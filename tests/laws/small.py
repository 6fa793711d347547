"""A tiny job, and for every method the smallest form of it that a model of four layers can take."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, set_seed

from gossamer import recipe
from gossamer.job import Job
from gossamer.task import Classification
from gossamer.train import drive

STEPS = 3
# Only where the defaults are meant for a deeper or wider model.
FORMS = {
    "CoFi": "CoFi(0.5)",
    "DRONE": "DRONE(samples=16)",
    "LTP": "LTP(threshold=0.2)",
    "PABEE": "PABEE(patience=1)",
    "TinyBERT": "TinyBERT(layers=2, hidden=16, general_epochs=1)",
}


class Tokenizer:
    """As much of a tokenizer as a job needs."""

    pad_token_id = 0


def names() -> list[str]:
    """Every method that the package has."""
    return list(recipe.methods())


def form(name: str) -> str:
    """The recipe of one method for the tiny model."""
    return FORMS.get(name, f"{name}()")


@cache
def model() -> BertForSequenceClassification:
    """Four layers, width 32, two classes; biases and norms not at their blank values."""
    set_seed(0)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64, vocab_size=100,
        max_position_embeddings=32, type_vocab_size=2,
    )  # fmt: skip
    made = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn_like(p) * (0.1 if p.ndim == 1 else 0.05))
    return made


def examples(count: int = 48) -> list[dict[str, Any]]:
    """Texts of 3 to 11 tokens whose second token tells their class."""
    chance = torch.Generator().manual_seed(1)
    made = []
    for i in range(count):
        length = int(torch.randint(3, 12, (1,), generator=chance))
        ids = torch.randint(10, 100, (length,), generator=chance).tolist()
        ids[1] = 5 + i % 2
        made.append({"index": i, "input_ids": ids, "labels": i % 2})
    return made


def job(folder: Path, start: Any = None, **options: Any) -> Job:
    """A job on the tiny model, three steps a stage."""
    made = deepcopy(model() if start is None else start)
    train = examples()
    return Job(
        model=made, teacher=deepcopy(model()).requires_grad_(False), task=Classification(("a", "b")),
        tokenizer=Tokenizer(), train=train, dev=train[:16], folder=folder, pretrained=deepcopy(model()),
        max_steps=STEPS, **options,
    )  # fmt: skip


def run(text: str, folder: Path, **options: Any) -> Job:
    """Drive a recipe on the tiny model."""
    made = job(folder, **options)
    drive(made, recipe.parse(text))
    return made


def batch(count: int = 8, job_: Job | None = None) -> dict[str, torch.Tensor]:
    """A padded batch."""
    task = Classification(("a", "b")) if job_ is None else job_.task
    found = task.collate(examples()[:count], 0)
    return {k: v for k, v in found.items() if k not in ("labels", "index")}


@torch.no_grad()
def logits(model_: Any, given: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
    """The model's answers, in evaluation."""
    return model_.eval()(**(batch() if given is None else given)).logits
