"""LeeBERT: Learned Early Exit for BERT with Cross-Level Optimization (Zhu, ACL 2021).

PABEE's exits, and each learns from every other as well (mutual distillation).  How much each of these losses counts is
learned too: weights that serve the exits' mean loss on other examples (bi-level, section 3.3).  There is no official
code; here the training examples are halved, and every `every` steps the weights take a step along the first-order
estimate of that gradient: the losses' change, on a batch of the first half, when exits and model are moved by +- eps
along the gradient of the outer loss on a batch of the second (and, times `cross`, of the first: cross-level).  The
steps of the model itself use both halves, and new layers learn at ten times its rate.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from gossamer.fields import Between
from gossamer.job import Job
from gossamer.loss import EveryExit, Step, every_exit
from gossamer.runtime.exits import Exits
from gossamer.runtime.walks import in_full
from gossamer.trace import tracing
from gossamer.train import Moment, Train
from gossamer.walking import able_to_stop, exits


@dataclass(frozen=True)
class LeeBERT:
    """Mutual distillation with learned weights, left by patience.  rate: of the weights; cross: mu."""

    rows: ClassVar[tuple[str, ...]] = ("leebert",)
    kind: ClassVar[str] = "walk"
    serves: ClassVar[str] = "texts"

    patience: Annotated[int, Between(1, 24)] = 3
    tolerance: Annotated[float, Between(0.0, 10.0)] = 0.1
    rate: Annotated[float, Between(0.0, 100.0)] = 1.0
    cross: Annotated[float, Between(0.0, 1.0)] = 0.5
    every: Annotated[int, Between(1, 1000)] = 8
    heat: Annotated[float, Between(0.1, 100)] = 1.0
    pool: Literal["first", "mean"] = "first"
    epochs: Annotated[float, Between(0.1, 100)] = 5.0
    lr: Annotated[float, Between(1e-6, 1e-3)] = 2e-5

    def __call__(self, job: Job) -> Iterator[Train]:
        """Exits, their losses, and how much each counts."""
        able_to_stop(job.model, "LeeBERT", "patience", self.patience, 2)
        found = exits(
            job.model,
            {"is": "SharedPooler"},
            {"is": "Agreement", "tolerance": self.tolerance},
            float(self.patience),
            pool=self.pool,
        )
        loss = Mutual(found, self.heat)
        step = CrossLevel(job, found, loss, self)
        yield Train(loss, epochs=self.epochs, lr=self.lr, extra_lr=10 * self.lr, name="exits", each_step=step)


class Mutual(EveryExit):
    """sum_i w_i CE_i + sum_ij a_ij KL(p_j || p_i); w and a are softmaxes of free numbers, times how many there are."""

    def __init__(self, exits: Exits, heat: float = 1.0) -> None:
        super().__init__(exits, heat=heat)
        count = len(exits.places) + 1
        self.register_buffer("free", torch.cat([torch.arange(1.0, count + 1).log(), torch.zeros(count * count)]))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.settle()

    def settle(self) -> None:
        """The weights from the free numbers: those of the task as they would be without a partner, 1 in sum."""
        count = len(self.get_buffer("weights"))
        own, others = self.get_buffer("free").split([count, count * count])
        self.get_buffer("weights").copy_(own.softmax(0))
        apart = others.view(count, count).masked_fill(torch.eye(count, device=others.device).bool(), -torch.inf)
        self.get_buffer("pulls").copy_(apart.flatten().softmax(0).view(count, count))


class CrossLevel:
    """Moves the weights of a Mutual between the steps of the others."""

    def __init__(self, job: Job, exits: Exits, loss: Mutual, told: LeeBERT) -> None:
        self.job, self.exits, self.loss, self.told = job, exits, loss, told

    def __call__(self, moment: Moment) -> None:
        """Every so many steps; nothing at the end of the stage, where there is no optimizer."""
        if moment.optimizer is None:
            return
        turn = self.loss.get_buffer("steps").add_(1)  # it is kept with the loss, should the stage be interrupted
        if int(turn) % self.told.every == 0 and self.told.rate:
            self.move(int(turn) // self.told.every)

    def move(self, turn: int) -> None:
        """One step of the weights."""
        inner, outer = self.batch(0, turn), self.batch(1, turn)
        params = [p for p in self.job.model.parameters() if p.requires_grad]
        grads = self.gradient(outer, params)
        if self.told.cross:
            own = self.gradient(inner, params)
            grads = [g + self.told.cross * o for g, o in zip(grads, own, strict=True)]
        length = torch.stack([g.square().sum() for g in grads]).sum().sqrt().clamp_min(1e-12)
        eps = 0.002 / length
        with torch.no_grad():
            teaching = self.said(inner)
        moved = list[Tensor]()
        with torch.no_grad():
            for sign in (1, -2):  # there, and to the other side
                for p, g in zip(params, grads, strict=True):
                    p.add_(g, alpha=float(sign * eps))
                moved.append(torch.cat([t.flatten() for t in self.terms(inner, teaching)]))
            for p, g in zip(params, grads, strict=True):
                p.add_(g, alpha=float(eps))
        slope = (moved[0] - moved[1]) / (2 * eps)  # <grad of each loss, grad of the outer one>, > 0 where it helps
        with torch.no_grad():
            weights = torch.cat([self.loss.get_buffer("weights"), self.loss.get_buffer("pulls").flatten()])
            self.loss.get_buffer("free").add_(self.told.rate * weights * (slope - (weights * slope).sum()) / length)
            self.loss.settle()

    def batch(self, half: int, turn: int) -> dict[str, Tensor]:
        """Some examples of one half of the training data, other ones each turn."""
        mine, size = self.job.train[half::2], 32
        start = turn * size % max(1, len(mine) - size + 1)
        return {k: v.to(self.job.device) for k, v in self.job.collate(mine[start : start + size]).items()}

    def said(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """The logits of all exits; nothing is dropped."""
        model: Any = self.job.model
        training = model.training
        model.eval()
        try:
            with in_full(model), tracing(model) as seen:
                out = model(**self.job.task.given(batch))
            seen.out = self.job.task.said(out, batch)
            return [z for z, _ in every_exit(self.exits, Step(seen, None, batch, 0.0))]
        finally:
            model.train(training)

    def terms(self, batch: dict[str, Tensor], teaching: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Each of the losses on a batch; teaching: logits from which exits learn, where not from one another."""
        return self.loss.terms(self.said(batch), batch["labels"], teaching)

    def gradient(self, batch: dict[str, Tensor], params: list[nn.Parameter]) -> list[Tensor]:
        """Of the mean of the exits' task losses."""
        tasks, _ = self.terms(batch)
        found = torch.autograd.grad(tasks.mean(), params, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(params, found, strict=True)]
