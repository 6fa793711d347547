"""BERT-of-Theseus: Compressing BERT by Progressive Module Replacing (Xu, Zhou, Ge, Wei & Zhou, EMNLP 2020).

Each successor layer stands in for a group of predecessor layers, and starts as one of the first layers.  While
training, a coin decides for each group and batch which of the two runs, ever more often the successor (the linear
curriculum of section 3.3); predecessors, embeddings and head are frozen, and the only loss is the task's.  Then the
successors go on alone.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import nn

from gossamer.anatomy import blocks, loop
from gossamer.fields import Between
from gossamer.job import Job
from gossamer.loss import Task
from gossamer.runtime.walks import Walk
from gossamer.train import Moment, Train
from gossamer.walking import twin, walk


@dataclass(frozen=True)
class Theseus:
    """Progressive module replacing.  layers: how many successors (0: half); start: replacing rate at the first step."""

    rows: ClassVar[tuple[str, ...]] = ("theseus",)
    kind: ClassVar[str] = "rearrange"

    layers: Annotated[int, Between(0, 48)] = 0
    start: Annotated[float, Between(0.01, 1.0)] = 0.3
    curriculum: Annotated[float, Between(0.01, 1.0)] = 1.0
    replace_epochs: Annotated[float, Between(0.1, 100)] = 5.0
    tune_epochs: Annotated[float, Between(0.1, 100)] = 5.0
    lr: Annotated[float, Between(1e-6, 1e-3)] = 2e-5

    def __call__(self, job: Job) -> Iterator[Train]:
        """Replace, then tune."""
        old = [block.layer for block in blocks(job.model)]
        count = self.layers or len(old) // 2
        if not 0 < count < len(old) or len(old) % count:
            fits = [n for n in range(1, len(old)) if len(old) % n == 0]
            raise ValueError(
                f"found {len(old)} layers and {count} successors, expected a proper divisor of {len(old)} "
                f"({', '.join(map(str, fits)) or 'there is none'}); type Theseus(layers={fits[-1] if fits else 1})"
            )
        new = [twin(layer, job.model) for layer in old[:count]]
        coin = Coin(len(old), count)
        walk(job.model, coin, old + new)

        def toss(moment: Moment) -> None:
            coin.chance.manual_seed(job.seed * 1_000_003 + round(moment.progress * 1e9))  # the same in every process
            coin.rate = min(1.0, self.start + (1 - self.start) * moment.progress / self.curriculum)

        yield Train(Task(), epochs=self.replace_epochs, lr=self.lr, only=new, each_step=toss, name="replace")
        job.model.set_submodule(loop(job.model), nn.ModuleList(new))
        job.model.config.num_hidden_layers = count
        yield Train(Task(), epochs=self.tune_epochs, lr=self.lr, only=new, name="tune the successors")


class Coin(Walk):
    """Group by group, the successor or its predecessors; in evaluation always the successor."""

    def __init__(self, old: int, new: int) -> None:
        super().__init__()
        self.old, self.new, self.rate = old, new, 0.0
        self.chance = torch.Generator()

    def order(self, layers: Iterable[int]) -> Iterable[int]:
        """A new order for every batch."""
        group, stored = self.old // self.new, list(layers)
        for i in range(self.new):
            if not self.training or float(torch.rand((), generator=self.chance)) < self.rate:
                yield stored[self.old + i]
            else:
                yield from stored[i * group : (i + 1) * group]
