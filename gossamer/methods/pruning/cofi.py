"""CoFi: Structured Pruning Learns Compact and Accurate Models (Xia, Zhong & Chen, ACL 2022).

Gates at two grains, whole sublayers and the heads and neurons inside them, and one for each hidden dimension, trained
together; a Lagrangian holds the expected sparsity to a rising target (section 3.1); some of the teacher's layers each
pull on the nearest student layer (section 3.2).  Then the zeros are cut out and the small model is trained a while
longer.  Rates as in the authors' code: constant for gates and multipliers, without warm-up or decay for weights.  For
short trainings: a gate, which Adam moves by about its rate a step, is given a rate at which it can close in half of
them, and before the cut the decisions are shifted so that slicing meets the target.  A feed-forward part none of whose
neurons is left still adds its bias, in training as when sliced.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from torch import nn

from gossamer.anatomy import blocks, width
from gossamer.budget import Budget
from gossamer.fields import Between
from gossamer.forms import settle
from gossamer.gates import compact, hidden_tables, living
from gossamer.job import Job
from gossamer.loss import Logits, Loss, NearestHidden
from gossamer.train import Moment, Train, length
from gossamer.walking import order


@dataclass(frozen=True)
class CoFi:
    """Coarse and fine structured pruning.  sparsity: share of the layers' weights that goes, embeddings not counted."""

    rows: ClassVar[tuple[str, ...]] = ("cofi",)
    kind: ClassVar[str] = "cut"

    sparsity: Annotated[float, Between(0.05, 0.98)] = 0.6
    hidden: bool = True
    warmup: Annotated[float, Between(0.01, 1.0)] = 0.1
    heat: Annotated[float, Between(0.5, 20)] = 2.0
    layers: Annotated[int, Between(1, 48)] = 4
    alignment: Literal["nearest", "monotone"] = "nearest"
    likeness: Annotated[float, Between(0.0, 10)] = 0.9
    prune_epochs: Annotated[float, Between(0.1, 200)] = 20.0
    tune_epochs: Annotated[float, Between(0.0, 200)] = 20.0
    lr: Annotated[float, Between(1e-6, 1e-3)] = 2e-5
    gate_lr: Annotated[float, Between(1e-4, 1.0)] = 0.01

    def __call__(self, job: Job) -> Iterator[Train]:
        """Prune, cut, tune."""
        model = job.model
        budget = Budget(self.sparsity, self.warmup)
        gates = budget.install(model, self.hidden)
        layerwise = NearestHidden(width(model), width(job.teacher), self.layers, self.alignment)

        def objective() -> Loss:
            return (1 - self.likeness if self.likeness < 1 else 0.1) * Logits(self.heat) + self.likeness * layerwise

        def draw(moment: Moment) -> None:
            for gate in gates:
                gate.draw()

        tables = hidden_tables(model)
        layerwise.living = lambda: played(model, budget.living())
        prune = Train(
            objective() + budget, epochs=self.prune_epochs, lr=self.lr, warmup=0.0, decay=0.0,
            extra_schedule="constant", each_step=draw, without=tables, name="prune",
        )  # fmt: skip
        yield replace(prune, extra_lr=max(self.gate_lr, 12 / length(prune, job)))
        budget.meet()
        settle(model)
        layerwise.weight = 1.0
        cut = compact(model)
        layerwise.narrow(cut.hidden)
        left = played(model, [living(block) for block in blocks(model)])
        layerwise.living = lambda: left
        if self.tune_epochs:
            yield Train(
                objective(), epochs=self.tune_epochs, lr=self.lr, warmup=0.0, decay=0.0, without=tables,
                name="tune the small one",
            )  # fmt: skip


def played(model: nn.Module, alive: list[bool]) -> list[bool]:
    """What is said of the stored layers of the first tower, said of each that an example passes."""
    return [alive[i] for i in order(model)]
