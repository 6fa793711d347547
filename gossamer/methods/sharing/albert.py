"""ALBERT: A Lite BERT for Self-supervised Learning of Language Representations (Lan et al., ICLR 2020).

One stored layer plays at several positions: attention, feed-forward, norms and all.  ALBERT is trained so from the
start; here a trained model is made so: layers that are to share are averaged, and the whole learns again what it knew
from its former self.  The orders sequence, cycle and reversed are those of Takase & Kiyono (2021).  Files and memory
shrink by the number of layers that share; the computation does not.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import nn

from gossamer.anatomy import blocks, width
from gossamer.fields import Between
from gossamer.job import Job
from gossamer.loss import Hidden, Logits, Task
from gossamer.runtime.walks import Shared
from gossamer.train import Train
from gossamer.walking import own, twin, walk


@dataclass(frozen=True)
class Share:
    """Cross-layer sharing of a trained model.  groups: how many layers are stored; start: from what they begin."""

    rows: ClassVar[tuple[str, ...]] = ("albert_layer_sharing", "layer_assignment")
    kind: ClassVar[str] = "rearrange"

    groups: Annotated[int, Between(1, 48)] = 2
    order: Literal["sequence", "cycle", "reversed"] = "sequence"
    start: Literal["mean", "first"] = "mean"
    heat: Annotated[float, Between(0.5, 20)] = 2.0
    epochs: Annotated[float, Between(0.1, 100)] = 5.0
    lr: Annotated[float, Between(1e-6, 1e-3)] = 5e-5

    def __call__(self, job: Job) -> Iterator[Train]:
        """Average, install, and relearn."""
        own(job.model, "Share")
        former = deepcopy(job.model)
        old = [block.layer for block in blocks(job.model)]
        if self.groups >= len(old):
            raise ValueError(
                f"found {len(old)} layers and {self.groups} groups: nothing would be shared; type "
                f"Share(groups={max(1, len(old) // 2)})"
            )
        position = positions(len(old), self.groups, self.order)
        members = [[old[i] for i in range(len(old)) if position[i] == g] for g in range(self.groups)]
        kept = [mean(group if self.start == "mean" else group[:1], twin(group[0], job.model)) for group in members]
        walk(job.model, Shared(position), kept)
        likeness = Hidden(width(job.model), width(former))
        yield Train(
            Task() + Logits(self.heat) + likeness, epochs=self.epochs, lr=self.lr, teacher=former, name="relearn"
        )


def positions(layers: int, groups: int, order: str) -> list[int]:
    """Which stored layer plays at each position (Takase & Kiyono 2021, section 3.1; ALBERT is "sequence")."""
    if order == "sequence":
        return [i * groups // layers for i in range(layers)]
    cycle = [i % groups for i in range(layers)]
    return cycle if order == "cycle" else cycle[: layers - groups] + list(range(groups))[::-1]


@torch.no_grad()
def mean(layers: list[nn.Module], one: nn.Module) -> nn.Module:
    """`one`, given the mean of the layers' weights.

    Raises:
        ValueError: the layers differ in shape.
    """
    states = [layer.state_dict() for layer in layers]
    if len({tuple((k, v.shape) for k, v in state.items()) for state in states}) > 1:
        raise ValueError(
            "layers that are to share one set of weights differ in shape (they were cut unevenly); put Share first"
        )
    for name, tensor in one.state_dict().items():
        tensor.copy_(torch.stack([state[name].float() for state in states]).mean(0))
    return one
