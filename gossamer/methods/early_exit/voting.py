"""Early Exiting with Ensemble Internal Classifiers (Sun, Zhou, Liu, Zhang, Jiang, Cao, Huang & Qiu, arXiv 2021).

arXiv 2105.13792.  Every exit has a vote; an example leaves once one class has enough of them, with that class.  The
exits are trained to be right and to differ: sum_i CE_i - price * D_i, D_i the least cross-entropy between the exit and
an earlier one.  There is no official code, and the exact form of D is not certain: here the classes other than the
right one are compared (`masked`), as summaries of the paper have it, and each D is bounded.  New layers learn at ten
times the rate of the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from gossamer.fields import Between
from gossamer.job import Job
from gossamer.loss import EveryExit, Loss, Reads, Step, every_exit
from gossamer.runtime.exits import Exits
from gossamer.train import Train
from gossamer.walking import able_to_stop, depth, exits


@dataclass(frozen=True)
class Voting:
    """Votes of internal classifiers that were trained to differ.  power: votes count as votes / i^power."""

    rows: ClassVar[tuple[str, ...]] = ("voting",)
    kind: ClassVar[str] = "walk"
    serves: ClassVar[str] = "classes"

    votes: Annotated[float, Between(0.1, 24)] = 3.0
    power: Annotated[float, Between(0.0, 1.0)] = 0.0
    price: Annotated[float, Between(0.0, 10)] = 0.1
    masked: bool = True
    pool: Literal["first", "mean"] = "first"
    epochs: Annotated[float, Between(0.1, 100)] = 5.0
    lr: Annotated[float, Between(1e-6, 1e-3)] = 2e-5

    def __call__(self, job: Job) -> Iterator[Train]:
        """One stage."""
        layers = depth(job.model)
        if not self.power:
            able_to_stop(job.model, "Voting", "votes", self.votes, 1)
        found = exits(
            job.model, {"is": "SharedPooler"}, {"is": "Votes", "power": self.power}, self.votes, pool=self.pool
        )
        loss: Loss = EveryExit(found, [1.0] * layers)
        if self.price:
            loss = loss + self.price * Diversity(found, self.masked)
        yield Train(loss, epochs=self.epochs, lr=self.lr, extra_lr=10 * self.lr, name="exits")


class Diversity(Loss):
    """-sum_i min_{j < i} CE(p_j, p_i), each at most `most`, over all classes or over the wrong ones."""

    reads = Reads(student_hidden=True)

    def __init__(self, exits: Exits, masked: bool = True, most: float = 5.0) -> None:
        super().__init__()
        self._exits = [exits]
        self.masked, self.most = masked, most

    def forward(self, step: Step) -> Tensor:
        """logits: (b, classes)."""
        z = torch.stack([one.float() for one, _ in every_exit(self._exits[0], step)])  # (exits + 1, b, classes)
        if self.masked and z.shape[-1] > 2:  # of two classes, one is left, and nothing to differ in
            right = torch.nn.functional.one_hot(step.batch["labels"], z.shape[-1]).bool()
            z = z.masked_fill(right[None], -1e9)
        log = z.log_softmax(-1)
        total = z.new_zeros(())
        for i in range(1, len(z)):
            apart = -(log[:i].detach().exp() * log[i][None].clamp_min(-1e4)).sum(-1)  # (i, b)
            total = total - apart.amin(0).clamp_max(self.most).mean()
        return total
