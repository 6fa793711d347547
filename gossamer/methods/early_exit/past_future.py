"""Past-Future: A Global Past-Future Early Exit Method for Accelerating Inference of PLMs (Liao et al., NAACL 2021).

An exit reads the pooled states of all layers so far, and guesses of those to come, which small imitation learners make
of its own (section 3.2); a gate mixes the two.  Loss: the exits' cross-entropies, deeper ones weighing more, and one
minus the cosine between guesses and what came (eq. 7), half each.  As in the official code the states of the first
layers are cut off from the gradient, for exits and for the layers above, with a probability that falls from 1 to 0 as
training goes on; unlike there the new layers learn at ten times the rate of the model.  An example leaves under an
entropy, in nats.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gossamer.fields import Between
from gossamer.job import Job
from gossamer.loss import EveryExit, Loss, Reads, Step
from gossamer.runtime.exits import Exits
from gossamer.runtime.heads import PastFuture as Head
from gossamer.train import Moment, Train
from gossamer.walking import depth, exits


@dataclass(frozen=True)
class PastFuture:
    """Past states and imitated future ones.  still: layers that are cut off from the gradient at first."""

    rows: ClassVar[tuple[str, ...]] = ("past_future",)
    kind: ClassVar[str] = "walk"
    serves: ClassVar[str] = "classes"

    threshold: Annotated[float, Between(0.0, 10.0)] = 0.1
    still: Annotated[int, Between(0, 24)] = 2
    epochs: Annotated[float, Between(0.1, 100)] = 5.0
    lr: Annotated[float, Between(1e-6, 1e-3)] = 2e-5
    pool: Literal["first", "mean"] = "first"

    def __call__(self, job: Job) -> Iterator[Train]:
        """One stage; the last exit has the last word."""
        layers = depth(job.model)
        if layers < 2:
            raise ValueError("found 1 layer: no example could stop before the end; use PastFuture on 2 layers or more")
        places = list(range(1, layers + 1))
        head = {"is": "PastFuture", "biased": True}
        found = exits(job.model, head, {"is": "Entropy"}, self.threshold, places, pool=self.pool)

        def cut(moment: Moment) -> None:
            found.cut = [1 - moment.progress] * self.still

        cut(Moment(0.0, None))
        loss = 0.5 * EveryExit(found, mean=True) + 0.5 * Imitation(found)
        yield Train(loss, epochs=self.epochs, lr=self.lr, extra_lr=10 * self.lr, name="exits", each_step=cut)
        found.cut = ()


class Imitation(Loss):
    """1 - cos between later layers' pooled states and the guesses of a layer; its mean, and of those over layers."""

    reads = Reads(student_hidden=True)

    def __init__(self, exits: Exits) -> None:
        super().__init__()
        self._exits = [exits]

    def forward(self, step: Step) -> Tensor:
        """states: of each layer, (B, T, d)."""
        exits = self._exits[0]
        head = exits.heads
        assert isinstance(head, Head)
        seen = [head.pooled(i, exits.around(i, x, texts)) for i, x, texts in step.student.states]
        found = list[Tensor]()
        for i, now in enumerate(seen[:-1]):
            later, guess = torch.stack(seen[i + 1 :]).detach(), torch.stack(head.guesses(i, now))
            found.append(1 - F.cosine_similarity(later, guess, -1).mean())
        return torch.stack(found).mean()
