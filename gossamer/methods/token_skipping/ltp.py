"""LTP: Learned Token Pruning for Transformers (Kim et al., KDD 2022).

A token's importance is the attention it receives; each layer learns its own threshold under which tokens are let go.
First softly, thresholds and weights together, with a price on every token kept (eq. 8); then hard, thresholds fixed,
while the weights adapt.  The official code only masks; here the tensor gets shorter after the attention of the layer.
As there, the importance is divided by one length for all texts and thresholds learn at the rate of the weights; the
first token always stays.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from gossamer.fields import Between
from gossamer.job import Job
from gossamer.loss import Loss, Step, Task
from gossamer.runtime.walks import TokenThreshold
from gossamer.train import Train
from gossamer.walking import depth, walk


@dataclass(frozen=True)
class LTP:
    """Learned token pruning.  price: lambda; heat: T of the soft mask; threshold: where the last layer's starts.

    length: what the attention that a token receives is divided by; its mean over any text's tokens is 1 / length.
    """

    rows: ClassVar[tuple[str, ...]] = ("ltp",)
    kind: ClassVar[str] = "walk"

    price: Annotated[float, Between(0.0, 1.0)] = 0.1
    heat: Annotated[float, Between(1e-5, 1e-1)] = 1e-3
    threshold: Annotated[float, Between(1e-4, 0.5)] = 0.01
    length: Annotated[int, Between(8, 8192)] = 128
    soft_epochs: Annotated[float, Between(0.1, 100)] = 2.0
    hard_epochs: Annotated[float, Between(0.1, 100)] = 3.0
    lr: Annotated[float, Between(1e-6, 1e-3)] = 2e-5
    threshold_lr: Annotated[float, Between(1e-6, 1.0)] = 2e-5

    def __call__(self, job: Job) -> Iterator[Train]:
        """Soft, then hard."""
        thresholds = TokenThreshold(depth(job.model), self.threshold, self.heat, self.length)
        walk(job.model, thresholds)
        thresholds.soft = True
        loss = Task() + self.price * Kept(thresholds)
        yield Train(loss, epochs=self.soft_epochs, lr=self.lr, extra_lr=self.threshold_lr, name="soft thresholds")
        thresholds.soft = False
        yield Train(Task(), epochs=self.hard_epochs, lr=self.lr / 2, without=[thresholds], name="hard thresholds")


class Kept(Loss):
    """The mean weight of the text's tokens, summed over the layers (the regularizer of eq. 8)."""

    def __init__(self, thresholds: TokenThreshold) -> None:
        super().__init__()
        self._read = [thresholds]

    def forward(self, step: Step) -> Tensor:
        """Of the run that the student has just finished."""
        return torch.stack([weight.mean() for weight in self._read[0].weights]).sum()
