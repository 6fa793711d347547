"""Transkimmer: Transformer Learns to Layer-wise Skim (Guan, Li, Leng, Lin & Guo, ACL 2022).

Before every layer a small network says of each token whether it goes on; what does not keeps its state to the end
(section 3.2).  Learned end to end: a hard choice by chance with the gradient of a soft one (Gumbel-softmax), and a
price on the share of tokens that go on, the mean over the layers (eq. 8).  The official code multiplies attention by
the choices after the softmax, which is not what leaving does; here the softmax is over the tokens that are there.  It
also chooses by chance in use; here the more probable choice is taken.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from gossamer.anatomy import width
from gossamer.fields import Between
from gossamer.job import Job
from gossamer.loss import Loss, Step, Task
from gossamer.runtime.tokens import Policy
from gossamer.train import Train
from gossamer.walking import depth, walk


@dataclass(frozen=True)
class Transkimmer:
    """Learned skimming before every layer.  price: of the share of tokens that go on."""

    rows: ClassVar[tuple[str, ...]] = ("transkimmer",)
    kind: ClassVar[str] = "walk"

    price: Annotated[float, Between(0.0, 10.0)] = 0.5
    epochs: Annotated[float, Between(0.1, 100)] = 3.0
    lr: Annotated[float, Between(1e-6, 1e-3)] = 2e-5
    skim_lr: Annotated[float, Between(1e-6, 1.0)] = 2e-5

    def __call__(self, job: Job) -> Iterator[Train]:
        """One stage."""
        layers = depth(job.model)
        wide = width(job.model)
        policy = Policy(layers, wide, list(range(layers)), hidden=wide, deep=True)
        walk(job.model, policy)
        policy.mode = "soft"
        loss = Task() + self.price * Skimmed(policy)
        yield Train(loss, epochs=self.epochs, lr=self.lr, extra_lr=self.skim_lr, name="skim")
        policy.rest()


class Skimmed(Loss):
    """The share of tokens that go on, the mean over layers and texts."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self._read = [policy]

    def forward(self, step: Step) -> Tensor:
        """Of the run that the student has just finished."""
        return self._read[0].share().mean()
