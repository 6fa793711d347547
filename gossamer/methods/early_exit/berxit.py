"""BERxiT: Early Exiting for BERT with Better Fine-Tuning and Extension to Regression (Xin, Tang, Yu & Lin, EACL 2021).

Steps alternate between the last classifier's loss and the sum of all (section 3.1), exits and model learning in both.
One linear layer, the same for all exits, learns to tell from the pooled state whether the exit is wrong, with squared
error (learning to exit, section 3.2; of numbers, |tanh(answer - label)|); an example leaves where it says "hardly".
That layer learns from the exits below the end only, for of the last nobody asks it; new layers learn at ten times the
rate of the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gossamer.fields import Between
from gossamer.job import Job
from gossamer.loss import Alternating, EveryExit, Loss, Reads, Step, Task, every_exit
from gossamer.methods.early_exit.deebert import ramps
from gossamer.runtime.criteria import Learned
from gossamer.runtime.exits import Exits
from gossamer.train import Train


@dataclass(frozen=True)
class BERxiT:
    """Learning to exit.  threshold: the probability of being wrong under which an example leaves."""

    rows: ClassVar[tuple[str, ...]] = ("berxit",)
    kind: ClassVar[str] = "walk"
    serves: ClassVar[str] = "texts"

    threshold: Annotated[float, Between(0.0, 1.0)] = 0.1
    pool: Literal["first", "mean"] = "first"
    epochs: Annotated[float, Between(0.1, 100)] = 3.0
    lr: Annotated[float, Between(1e-6, 1e-3)] = 2e-5

    def __call__(self, job: Job) -> Iterator[Train]:
        """Alternate."""
        found = ramps(job, {"is": "Learned"}, self.threshold, self.pool)
        loss = Alternating(Task(), EveryExit(found, [1.0] * (len(found.places) + 1))) + Wrong(found)
        yield Train(loss, epochs=self.epochs, lr=self.lr, extra_lr=10 * self.lr, name="exits")


class Wrong(Loss):
    """Squared error between what the exits' judge says and whether they are wrong, summed over the exits."""

    reads = Reads(student_hidden=True)

    def __init__(self, exits: Exits) -> None:
        super().__init__()
        self._exits = [exits]

    def forward(self, step: Step) -> Tensor:
        """features: (b, d)."""
        exits, labels = self._exits[0], step.batch["labels"]
        assert isinstance(exits.rule, Learned)
        total = torch.zeros((), device=labels.device)
        for logits, features in every_exit(exits, step)[: len(exits.places)]:
            assert features is not None
            said = exits.rule.score(0, logits, features, {})
            total = total + F.mse_loss(said, wrong(logits.detach().float(), labels))
        return total


def wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """1 where the answer is wrong; of numbers how far off it is, up to 1; (b,)."""
    if logits.shape[-1] == 1:
        return (logits[:, 0] - labels.float()).tanh().abs()
    return (logits.argmax(-1) != labels).float()
