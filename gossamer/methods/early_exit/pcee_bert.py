"""PCEE-BERT: Accelerating BERT via Patient and Confident Early Exiting (Zhang et al., Findings of NAACL 2022).

PABEE's exits and loss; an example leaves once `patience` exits in a row are confident, their entropies over ln C under
the threshold, whether they agree or not.  It leaves at exit number `patience` at the earliest, one before PABEE.  The
paper trains for 15 to 20 epochs, where `epochs` here are 5.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from gossamer.fields import Between
from gossamer.job import Job
from gossamer.loss import EveryExit
from gossamer.train import Train
from gossamer.walking import able_to_stop, exits


@dataclass(frozen=True)
class PCEEBERT:
    """Patient and confident.  mean: the answer is the mean of those exits, not the last one's."""

    rows: ClassVar[tuple[str, ...]] = ("pcee_bert",)
    kind: ClassVar[str] = "walk"
    serves: ClassVar[str] = "classes"

    patience: Annotated[int, Between(1, 24)] = 2
    threshold: Annotated[float, Between(0.0, 1.0)] = 0.3
    mean: bool = False
    pool: Literal["first", "mean"] = "first"
    epochs: Annotated[float, Between(0.1, 100)] = 5.0
    lr: Annotated[float, Between(1e-6, 1e-3)] = 2e-5

    def __call__(self, job: Job) -> Iterator[Train]:
        """As PABEE."""
        able_to_stop(job.model, "PCEEBERT", "patience", self.patience, 1)
        criterion = {"is": "Calm", "patience": self.patience, "mean": self.mean}
        found = exits(job.model, {"is": "SharedPooler"}, criterion, self.threshold, pool=self.pool)
        loss = EveryExit(found, mean=True)
        yield Train(loss, epochs=self.epochs, lr=self.lr, extra_lr=10 * self.lr, name="exits")
