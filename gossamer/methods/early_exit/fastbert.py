"""FastBERT: a Self-distilling BERT with Adaptive Inference Time (Liu et al., ACL 2020).

After every layer a branch: a narrow self-attention over the tokens and a small classifier (section 3.1).  The
fine-tuned model stands still, and the branches learn what it answers, KL(p_L || p_i) summed over the branches (eq. 6,
7): no labels are needed.  An example leaves where its uncertainty, the entropy over ln C, is at most `speed` (eq. 8).
The last classifier is the model's own, where the authors give it a branch's shape.  A branch computes what its first
token sees, where the authors' code computes that for all tokens and reads the first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from gossamer.fields import Between
from gossamer.job import Job
from gossamer.loss import EveryExit
from gossamer.train import Train
from gossamer.walking import exits


@dataclass(frozen=True)
class FastBERT:
    """Self-distilled branches.  speed: the uncertainty at which an example leaves; size: a branch's width."""

    rows: ClassVar[tuple[str, ...]] = ("fastbert",)
    kind: ClassVar[str] = "walk"
    serves: ClassVar[str] = "classes"

    speed: Annotated[float, Between(0.0, 1.0)] = 0.5
    size: Annotated[int, Between(2, 1024)] = 128
    epochs: Annotated[float, Between(0.1, 100)] = 5.0
    lr: Annotated[float, Between(1e-6, 1e-2)] = 2e-4

    def __call__(self, job: Job) -> Iterator[Train]:
        """Branches learn from the end."""
        found = exits(job.model, {"is": "QueryBranch", "size": self.size}, {"is": "Entropy", "share": True}, self.speed)
        count = len(found.places)
        pulls = torch.zeros(count + 1, count + 1)
        pulls[:count, count] = 1.0
        loss = EveryExit(found, [0.0] * (count + 1), pulls)
        yield Train(loss, epochs=self.epochs, extra_lr=self.lr, only=[found], name="branches")
