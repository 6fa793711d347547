"""PABEE: BERT Loses Patience: Fast and Robust Inference with Early Exit (Zhou et al., NeurIPS 2020).

A classifier after every layer, trained jointly with weights that grow with depth (eq. 3); an example stops once
`patience` consecutive classifiers have repeated the answer before them.  As in the official code the classifiers share
the model's pooler and the last of them is the model's own; unlike there, every example of a batch counts for itself,
and the new classifiers learn at ten times the rate of the model, which has been fine-tuned already.
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
class PABEE:
    """Patience-based early exit.

    tolerance: how close two answers of a regression are when they agree.  equilibrium: exits weigh alike, and a layer's
    gradient is the mean over the answers above it (as ElasticBERT is fine-tuned, Liu et al., NAACL 2022).
    """

    rows: ClassVar[tuple[str, ...]] = ("pabee",)
    kind: ClassVar[str] = "walk"
    serves: ClassVar[str] = "texts"

    patience: Annotated[int, Between(1, 24)] = 3
    tolerance: Annotated[float, Between(0.0, 10.0)] = 0.1
    equilibrium: bool = False
    pool: Literal["first", "mean"] = "first"
    epochs: Annotated[float, Between(0.1, 100)] = 5.0
    lr: Annotated[float, Between(1e-6, 1e-3)] = 2e-5

    def __call__(self, job: Job) -> Iterator[Train]:
        """Install the exits and train them together with the model."""
        able_to_stop(job.model, "PABEE", "patience", self.patience, 2)
        criterion = {"is": "Agreement", "tolerance": self.tolerance}
        found = exits(job.model, {"is": "SharedPooler"}, criterion, float(self.patience), pool=self.pool)
        found.balanced = self.equilibrium
        answers = len({*found.places, found.depth})
        loss = EveryExit(found, [1.0] * answers) if self.equilibrium else EveryExit(found, mean=True)
        yield Train(loss, epochs=self.epochs, lr=self.lr, extra_lr=10 * self.lr, name="exits")
        found.balanced = False
