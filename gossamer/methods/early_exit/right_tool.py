"""The Right Tool for the Job: Matching Model and Instance Complexities (Schwartz et al., ACL 2020).

Classifiers at a few places read a learned mix of the first token's states after all layers so far; all are trained
together with the model, with the same weight.  Afterwards a temperature for each exit makes its confidence mean what it
says (section 3.2), and an example leaves where that reaches the threshold.  The mix has the length 1 whenever it is
used; the authors' code normalises the parameter itself, which cuts it off from its optimizer.  The last classifier is
the model's own; new layers learn at ten times the rate of the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gossamer.fields import Between
from gossamer.job import Job
from gossamer.loss import EveryExit
from gossamer.replay import record
from gossamer.train import Train
from gossamer.walking import depth, exits


@dataclass(frozen=True)
class RightTool:
    """Calibrated confidence at a few exits.  places: after which layers, (): 1, a third and a half of the way."""

    rows: ClassVar[tuple[str, ...]] = ("right_tool",)
    kind: ClassVar[str] = "walk"
    serves: ClassVar[str] = "classes"

    threshold: Annotated[float, Between(0.0, 1.0)] = 0.9
    places: Annotated[tuple[int, ...], Between(1, 96)] = ()
    pool: Literal["first", "mean"] = "first"
    epochs: Annotated[float, Between(0.1, 100)] = 2.0
    lr: Annotated[float, Between(1e-6, 1e-3)] = 3e-5

    def __call__(self, job: Job) -> Iterator[Train]:
        """Train all together, then calibrate."""
        if not job.dev:
            raise ValueError("found no development texts, by which RightTool calibrates; give data with a dev file")
        layers = depth(job.model)
        places = list(self.places) or sorted({1, max(1, layers // 3), max(1, layers // 2)} - {layers})
        if not places or min(places) < 1 or max(places) >= layers:
            raise ValueError(
                f"exits after layers {places} of a model of {layers}: expected some from 1 to {layers - 1}; "
                f"type RightTool(places=({max(1, layers // 2)},))"
            )
        found = exits(job.model, {"is": "Mixed"}, {"is": "Confidence"}, self.threshold, places, pool=self.pool)
        loss = EveryExit(found, [1.0] * (len(places) + 1))
        yield Train(loss, epochs=self.epochs, lr=self.lr, extra_lr=10 * self.lr, name="exits")
        if not job.dry:
            said = record(job.model, job.asked(job.dev))
            labels = torch.tensor([one["labels"] for one in job.dev])
            found.rule.get_buffer("heat").copy_(torch.tensor([heat(z, labels) for z in said.logits[: len(places)]]))


def heat(logits: Tensor, labels: Tensor) -> float:
    """The temperature with the least negative log-likelihood (Guo et al., ICML 2017); (n, classes), (n,)."""
    log = torch.zeros(1, requires_grad=True)
    search = torch.optim.LBFGS([log], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        loss = F.cross_entropy(logits / log.exp(), labels)
        loss.backward()
        return loss

    with torch.enable_grad():
        search.step(closure)
    found = float(log.detach().exp().clamp(0.05, 20))
    plain, warm = (float(F.cross_entropy(logits / t, labels)) for t in (1.0, found))
    return found if warm <= plain else 1.0
