"""PoWER-BERT: Accelerating BERT Inference via Progressive Word-vector Elimination (Goyal et al., ICML 2020).

After the attention of every layer only those tokens go on that receive most attention, their own left out, and the
first one.  How many is learned: tokens are weighed by their rank, r_i[k] in [0, 1], under a price on the sum of the
weights, times the layer's number (section 3.3); what is left of them is how many stay.  Then the model adapts to that.
Lengths are shares of the text's own here, and ranks fall into classes, so that one schedule fits all texts; the paper's
are for one padded length, whose padding counts as saved.  The paper adapts for 3 to 5 epochs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from gossamer.fields import Between
from gossamer.job import Job
from gossamer.loss import Loss, Step, Task
from gossamer.runtime.tokens import Ranked
from gossamer.train import Moment, Train
from gossamer.walking import depth, walk

LENGTH = 128  # the paper's prices are for sums over so many ranks


@dataclass(frozen=True)
class PoWERBERT:
    """Progressive elimination by rank.  price: lambda; search_lr: of the weights of ranks; bins: classes of rank."""

    rows: ClassVar[tuple[str, ...]] = ("power_bert",)
    kind: ClassVar[str] = "walk"

    price: Annotated[float, Between(0.0, 1.0)] = 3e-4
    search_lr: Annotated[float, Between(1e-6, 1.0)] = 3e-3
    bins: Annotated[int, Between(2, 512)] = 32
    search_epochs: Annotated[float, Between(0.1, 100)] = 1.0
    tune_epochs: Annotated[float, Between(0.1, 100)] = 2.0
    lr: Annotated[float, Between(1e-6, 1e-3)] = 3e-5

    def __call__(self, job: Job) -> Iterator[Train]:
        """Search how many, then adapt."""
        layers = depth(job.model)
        ranked = Ranked(layers, [1.0] * layers, bins=self.bins)
        walk(job.model, ranked)
        loss = Task() + self.price * Retained(ranked)

        def clip(moment: Moment) -> None:
            assert ranked.kept is not None
            ranked.kept.data.clamp_(0, 1)

        yield Train(loss, epochs=self.search_epochs, lr=self.lr, extra_lr=self.search_lr, each_step=clip, name="search")
        ranked.shares = shares(ranked.kept)
        ranked.kept, ranked.bins = None, 0
        yield Train(Task(), epochs=self.tune_epochs, lr=self.lr, name="adapt")


@torch.no_grad()
def shares(kept: Tensor | None) -> list[float]:
    """Of the text's length, from the weights of the ranks (layers, bins): never more than the layer before."""
    assert kept is not None
    found: list[float] = kept.clamp(0, 1).mean(1).cummin(0).values.tolist()
    return found


class Retained(Loss):
    """sum_i i |r_i|_1, over LENGTH ranks."""

    def __init__(self, ranked: Ranked) -> None:
        super().__init__()
        self._read = [ranked]

    def forward(self, step: Step) -> Tensor:
        """kept: (layers, bins)."""
        kept = self._read[0].kept
        assert kept is not None
        numbers = torch.arange(1, len(kept) + 1, device=kept.device)
        return (numbers * kept.clamp(0, 1).mean(1)).sum() * LENGTH
