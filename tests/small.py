"""A small job: a random BERT of four layers, made-up texts that can be learnt, and every method in a size that fits."""

from collections.abc import Iterable
from copy import deepcopy
from functools import cache
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, set_seed

from gossamer import recipe
from gossamer.anatomy import blocks
from gossamer.job import Job
from gossamer.measure.macs import count
from gossamer.measure.size import parameters, tensor_bytes
from gossamer.runtime.criteria import Consistent
from gossamer.runtime.modules import IntLinear
from gossamer.task import Classification
from gossamer.train import drive

# Where a method's defaults are meant for twelve layers of 768, or would change next to nothing in three steps.
FIELDS: dict[str, dict[str, Any]] = {
    "BERxiT": {"threshold": 0.5, "lr": 1e-3},
    "CAT": {"epsilon": 0.5, "size": 8, "meta_steps": 20, "lr": 1e-2},
    "CoFi": {"gate_lr": 1.0, "warmup": 0.01},
    "DeeBERT": {"threshold": 0.7, "lr": 1e-2},
    "FastBERT": {"speed": 1.0, "size": 8, "lr": 1e-2},
    "LeeBERT": {"patience": 1, "every": 2},
    "PCEEBERT": {"threshold": 0.98, "lr": 1e-3},
    "PastFuture": {"threshold": 0.7, "lr": 1e-3},
    "RightTool": {"threshold": 0.53, "lr": 1e-3},
    "RomeBERT": {"threshold": 0.7, "lr": 1e-3},
    "Voting": {"votes": 1.0},
    "LTP": {"threshold": 0.3},
    "LAT": {"keep": 0.85, "rounds": 1, "children": 2, "texts": 8},
    "PABEE": {"patience": 1},
    "PoWERBERT": {"search_lr": 0.3, "price": 0.1, "bins": 4},
    "Share": {"groups": 1},
    "SkipBERT": {"entries": 400},
    "TRBERT": {"choices": 4, "alpha": 10.0, "policy_lr": 0.5},
    "Transkimmer": {"price": 10.0, "skim_lr": 1.0},
    "TinyBERT": {"layers": 3, "hidden": 16},
}
STEPS = {"CoFi": 30}  # fewer close no gate
NAMES = tuple(recipe.methods())
OTHERWISE: dict[str, tuple[str, dict[str, Any]]] = {  # ways of their own
    "Int8, static": ("Int8", {"static": True}),
    "DeeBERT, mean": ("DeeBERT", {"threshold": 0.7, "lr": 1e-2, "pool": "mean"}),
    "PastFuture, mean": ("PastFuture", {"threshold": 0.7, "lr": 1e-3, "pool": "mean"}),
    "RightTool, mean": ("RightTool", {"threshold": 0.53, "lr": 1e-3, "pool": "mean"}),
}
LABELS = ("no", "yes")


def method(name: str) -> Any:
    """The method of that name, in a size that fits."""
    name, fields = OTHERWISE.get(name, (name, FIELDS.get(name, {})))
    return recipe.methods()[name](**fields)


def model(seed: int = 0, layers: int = 4, **more: Any) -> Any:
    set_seed(seed)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=64, vocab_size=100,
        max_position_embeddings=32, id2label=dict(enumerate(LABELS)), label2id={v: k for k, v in enumerate(LABELS)},
        **more,
    )  # fmt: skip
    made = BertForSequenceClassification(config)
    with torch.no_grad():  # answers that differ from text to text, so that answers can be compared
        for p in made.parameters():
            p.copy_(torch.randn_like(p) * 0.2 + (p == 1))
    return made.eval()


def examples(count: int = 48) -> list[dict[str, Any]]:
    """Texts of 3 to 11 tokens; the second says the class."""
    chance = torch.Generator().manual_seed(1)
    made = []
    for i in range(count):
        length = int(torch.randint(3, 12, (1,), generator=chance))
        ids = torch.randint(10, 100, (length,), generator=chance).tolist()
        ids[1] = 5 + i % 2
        made.append({"index": i, "input_ids": ids, "labels": i % 2})
    return made


def job(folder: Path, seed: int = 0, steps: int | None = 3, **more: Any) -> Job:
    """A job of that many steps a stage at most, on a fresh model that is its own teacher."""
    teacher, texts = model(**more), examples()
    tokenizer = SimpleNamespace(pad_token_id=0)
    made = Job(
        model=deepcopy(teacher), teacher=teacher.requires_grad_(False), task=Classification(LABELS),
        tokenizer=tokenizer, train=texts, dev=texts[:16], folder=folder, pretrained=deepcopy(teacher), seed=seed,
        max_steps=steps,
    )  # fmt: skip
    return made


def after(made: Job, *names: str) -> Job:
    """The job once these methods have done their work."""
    for name in names:
        made.max_steps = STEPS.get(name, 3)
        drive(made, method(name))
    return made


def again(made: Job, folder: Path) -> Job:
    """A copy of a job, to go on from where it stands, in another folder."""
    copy = Job(**{k: v for k, v in vars(made).items() if k in Job.__dataclass_fields__})
    copy.model, copy.folder, copy.log = deepcopy(made.model), folder, []
    return copy


def batch(texts: Iterable[dict[str, Any]] | None = None, longest: int = 0) -> dict[str, Tensor]:
    """Texts of several lengths, padded to the longest or beyond."""
    chosen = list(examples(12) if texts is None else texts)
    size = max(longest, *(len(e["input_ids"]) for e in chosen))
    ids = [e["input_ids"] + [0] * (size - len(e["input_ids"])) for e in chosen]
    mask = [[1] * len(e["input_ids"]) + [0] * (size - len(e["input_ids"])) for e in chosen]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


@torch.no_grad()
def logits(made: nn.Module, given: dict[str, Tensor] | None = None) -> Tensor:
    """(texts, classes)."""
    return made(**(batch() if given is None else given)).logits


@torch.no_grad()
def costs(made: nn.Module) -> dict[str, float]:
    """What a model costs: bytes and weights stored; multiply-accumulates, and tokens by layers, of the mean text."""
    work, macs, texts = list[float](), list[float](), examples(12)
    layers = dict.fromkeys(block.layer for block in blocks(made))
    hooks = [m.register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[1])) for m in layers]
    for text in texts:
        seen: list[int] = []
        macs.append(count(lambda text=text: made(**batch([text]))))
        work.append(sum(seen) / len(text["input_ids"]))
    for hook in hooks:
        hook.remove()
    return {"bytes": tensor_bytes(made), "weights": parameters(made), "macs": fmean(macs), "work": fmean(work)}


@cache
def plain() -> dict[str, float]:
    """What the model costs to which nothing has been done."""
    return costs(model())


def alike(one: Tensor, two: Tensor) -> bool:
    """Whether answers (n, labels) are equal up to rounding."""
    return bool(((one - two).abs() <= 1e-5 + 1e-6 * one.abs().max()).all())


def precise(model: nn.Module) -> nn.Module:
    """The model, in double precision where it rounds activations to integers.

    In single precision a number between two of them falls to either side, as the order of a sum has it.  CAT's network
    computes in single precision whatever it is given.
    """
    if not any(isinstance(module, IntLinear) for module in model.modules()):
        return model
    made = deepcopy(model).double()
    for module in made.modules():
        if isinstance(module, Consistent):
            module.float()
    return made
