"""DeeBERT: Dynamic Early Exiting for Accelerating BERT Inference (Xin, Tang, Lee, Yu & Lin, ACL 2020).

After every layer a pooler and a classifier of its own.  The fine-tuned model and its last classifier stay as they are;
the exits alone learn, all with the same weight (section 3.2).  An example leaves where the entropy of the answer, in
nats, is under the threshold.  The official code asks an untrained exit after the last layer as well and keeps dropout
on in the frozen model; neither is done here.  Its rate is 2e-5; new layers alone learn ten times as fast here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from gossamer.fields import Between
from gossamer.job import Job
from gossamer.loss import EveryExit
from gossamer.runtime.exits import Exits
from gossamer.train import Train
from gossamer.walking import exits, pooler


@dataclass(frozen=True)
class DeeBERT:
    """Entropy-based early exit of a frozen model."""

    rows: ClassVar[tuple[str, ...]] = ("deebert",)
    kind: ClassVar[str] = "walk"
    serves: ClassVar[str] = "classes"

    threshold: Annotated[float, Between(0.0, 10.0)] = 0.1
    pool: Literal["first", "mean"] = "first"
    epochs: Annotated[float, Between(0.1, 100)] = 3.0
    lr: Annotated[float, Between(1e-6, 1e-2)] = 2e-4

    def __call__(self, job: Job) -> Iterator[Train]:
        """Exits on a model that stands."""
        found = ramps(job, {"is": "Entropy"}, self.threshold, self.pool)
        weights = [*[1.0] * len(found.places), 0.0]
        yield Train(EveryExit(found, weights), epochs=self.epochs, extra_lr=self.lr, only=[found], name="exits")


def ramps(job: Job, criterion: dict[str, object], threshold: float, pool: str) -> Exits:
    """Exits with poolers of their own, which begin as the model's."""
    found = exits(job.model, {"is": "OwnPooler"}, criterion, threshold, pool=pool)
    own = pooler(job.model)
    for linear in found.heads.readers() if own is not None else ():
        if own is not None and linear.weight.shape == own.weight.shape:
            linear.load_state_dict(own.state_dict())
    return found
