"""CoFi: Structured Pruning Learns Compact and Accurate Models (Xia, Zhong & Chen, ACL 2022).

Gates at two grains, whole sublayers and the heads and neurons inside them, and one for each hidden dimension, trained
together; a Lagrangian holds the expected sparsity to a rising target (section 3.1); some of the teacher's layers each
pull on the nearest student layer (section 3.2).  Then the zeros are cut out and the small model is trained a while
longer.  A feed-forward part none of whose neurons is left still adds its bias, in training as in the sliced model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn

from gossamer.anatomy import blocks, width
from gossamer.fields import Between
from gossamer.forms import settle
from gossamer.gates import (
    HardConcrete,
    compact,
    gate_heads,
    gate_hidden,
    gate_neurons,
    gate_sublayer,
    hidden_tables,
    separable,
)
from gossamer.job import Job
from gossamer.loss import Logits, Loss, NearestHidden, Step
from gossamer.train import Moment, Train


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
        yield Train(
            objective() + budget, epochs=self.prune_epochs, lr=self.lr, extra_lr=self.gate_lr, each_step=draw,
            without=tables, name="prune",
        )  # fmt: skip
        settle(model)
        layerwise.weight = 1.0
        cut = compact(model)
        layerwise.narrow(cut.hidden)
        if self.tune_epochs:
            yield Train(
                objective(), epochs=self.tune_epochs, lr=self.lr, extra_lr=self.lr, without=tables,
                name="tune the small one",
            )  # fmt: skip


class Budget(Loss):
    """max over multipliers of l1 (s - t) + l2 (s - t)^2, with s the expected sparsity and t the rising target."""

    def __init__(self, sparsity: float, warmup: float) -> None:
        super().__init__()
        self.sparsity, self.warmup, self.total = sparsity, warmup, 0
        self._lines: list[tuple[HardConcrete | None, HardConcrete, float]] = []
        self._hidden: list[HardConcrete] = []
        self.multipliers = nn.Parameter(torch.zeros(2))
        self.multipliers.register_hook(torch.neg)  # the multipliers climb

    def install(self, model: nn.Module, hidden: bool) -> list[HardConcrete]:
        """Put gates on everything that may go, and count what it weighs."""
        device = next(model.parameters()).device
        start = {"neurons": 0.0}

        def gate(size: int, what: str = "") -> HardConcrete:
            made = HardConcrete(size, start.get(what, 10.0)).to(device)
            found.append(made)
            return made

        found, d = list[HardConcrete](), width(model)
        for block in blocks(model):
            o, down, heads = block.part("o"), block.part("down"), None
            if isinstance(o, nn.Linear):
                if separable(model, block):
                    heads = gate(block.heads)
                    gate_heads(block, heads)
                whole = gate(1)
                gate_sublayer(o, whole)
                self.spend(heads, whole, 4 * block.head_dim * d * (1 if heads else block.heads))
            if isinstance(down, nn.Linear):
                neurons, whole = gate(down.in_features, "neurons"), gate(1)
                gate_neurons(block, neurons)
                gate_sublayer(down, whole)
                self.spend(neurons, whole, (3 if "gate" in block.parts else 2) * d)
        if not found:
            raise ValueError("CoFi finds no sublayer left to prune in this model; leave it out")
        if hidden:
            self._hidden = [gate(d)]
            gate_hidden(model, self._hidden[0])
        return found

    def spend(self, units: HardConcrete | None, whole: HardConcrete, each: float) -> None:
        """Units of `each` weights, inside a sublayer that may go as a whole."""
        self._lines.append((units, whole, each))
        self.total += int(each * (len(units.log_alpha) if units is not None else 1))

    def expected(self) -> Tensor:
        """The expected sparsity, a scalar."""
        alive = sum(
            each * whole.alive().sum() * (units.alive().sum() if units is not None else 1)
            for units, whole, each in self._lines
        )
        thin = self._hidden[0].alive().mean() if self._hidden else 1.0
        return torch.as_tensor(1 - thin * alive / self.total)

    def forward(self, step: Step) -> Tensor:
        """The price of being off target."""
        over = self.expected() - self.sparsity * min(1.0, step.progress / self.warmup)
        return self.multipliers[0] * over + self.multipliers[1] * over.square()
