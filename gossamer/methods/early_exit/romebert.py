"""RomeBERT: Robust Training of Multi-Exit BERT (Geng, Gao, Fu & Zhang, arXiv 2101.09755, 2021).

DeeBERT's exits, trained in one stage with the model: L = CE_L + sum_i (1 - gamma) CE_i + gamma T^2 KL(p_L || p_i)
(self-distillation, eq. 5).  Where the exits' gradient points against the last classifier's, the part that does is taken
out (gradient regularization, eq. 8).  As in the authors' code either may be the one that stands: `anchor`.  The
divergence is a mean over texts, which that code divides by the number of classes too; new layers learn at ten times the
rate of the model here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch

from gossamer.anatomy import blocks
from gossamer.fields import Between
from gossamer.job import Job
from gossamer.loss import EveryExit, Projected, Task
from gossamer.methods.early_exit.deebert import ramps
from gossamer.train import Train


@dataclass(frozen=True)
class RomeBERT:
    """Self-distillation and gradient surgery.  anchor: whose gradient stands ("exits" for all but very large data)."""

    rows: ClassVar[tuple[str, ...]] = ("romebert",)
    kind: ClassVar[str] = "walk"
    serves: ClassVar[str] = "classes"

    threshold: Annotated[float, Between(0.0, 10.0)] = 0.1
    gamma: Annotated[float, Between(0.0, 1.0)] = 0.9
    heat: Annotated[float, Between(0.1, 100)] = 3.0
    anchor: Literal["exits", "last", "none"] = "exits"
    pool: Literal["first", "mean"] = "first"
    epochs: Annotated[float, Between(0.1, 100)] = 3.0
    lr: Annotated[float, Between(1e-6, 1e-3)] = 2e-5

    def __call__(self, job: Job) -> Iterator[Train]:
        """One stage."""
        found = ramps(job, {"is": "Entropy"}, self.threshold, self.pool)
        count = len(found.places)
        pulls = torch.zeros(count + 1, count + 1)
        pulls[:count, count] = self.gamma
        exits = EveryExit(found, [*[1 - self.gamma] * count, 0.0], pulls, self.heat)
        over = [p for block in blocks(job.model)[:-1] for p in block.layer.parameters() if p.ndim > 1]
        loss = {
            "exits": Projected(exits, Task(), over),
            "last": Projected(Task(), exits, over),
            "none": Task() + exits,
        }[self.anchor]
        yield Train(loss, epochs=self.epochs, lr=self.lr, extra_lr=10 * self.lr, name="exits")
