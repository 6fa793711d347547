"""CAT: Consistent Accelerated Inference via Confident Adaptive Transformers (Schuster et al., EMNLP 2021).

Small heads on a fine-tuned model that stands still; for each a meta classifier tells whether its answer is the whole
model's.  The threshold is conformal (section 4.3, shared): the 1 - epsilon quantile over calibration texts of the most
certain exit that answers otherwise than the model, -inf where none does.  Then an answer is the whole model's with a
probability of at least 1 - epsilon, whatever the model, for texts like those it was calibrated on.  In the authors'
code, and with `conditional`, only texts count that some exit answers otherwise: safer than promised, and slower.  The
development texts are divided: a fifth sets temperatures, two teach the meta classifiers, two calibrate.  Classes only;
the meta classifiers learn by full batches, and what earlier exits said counts from the first exit on.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gossamer.fields import Between
from gossamer.job import Job
from gossamer.loss import EveryExit
from gossamer.methods.early_exit.right_tool import heat
from gossamer.replay import BEYOND, Record, conformal, record
from gossamer.runtime.criteria import Consistent
from gossamer.runtime.exits import Exits
from gossamer.train import Train
from gossamer.walking import exits

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CAT:
    """Exits that agree with the whole model, guaranteed.  epsilon: how often they may not; size: of the heads."""

    rows: ClassVar[tuple[str, ...]] = ("cat",)
    kind: ClassVar[str] = "walk"
    serves: ClassVar[str] = "classes"

    epsilon: Annotated[float, Between(0.0, 0.5)] = 0.1
    size: Annotated[int, Between(2, 1024)] = 32
    pool: Literal["first", "mean"] = "first"
    epochs: Annotated[float, Between(0.1, 100)] = 3.0
    lr: Annotated[float, Between(1e-6, 1e-2)] = 1e-3
    conditional: bool = False
    meta_steps: Annotated[int, Between(1, 10_000)] = 200

    def __call__(self, job: Job) -> Iterator[Train]:
        """Heads, then who is to be believed, then from when on."""
        if len(job.dev) < 5:
            raise ValueError(f"found {len(job.dev)} development texts, CAT needs 5 at least; give data with a dev file")
        count = len(parts(job)[-1])
        if (1 - self.epsilon) * (count + 1) > count:
            logger.warning(
                "%d texts to calibrate by, two fifths of the development texts, are too few for a promise at epsilon "
                "%g: no text will leave early; give more (1 / epsilon of them calibrate), or a larger epsilon",
                *(count, self.epsilon),
            )
        found = exits(job.model, {"is": "OwnPooler", "size": self.size}, {"is": "Consistent"}, 1.0, pool=self.pool)
        weights = [*[1.0 / len(found.places)] * len(found.places), 0.0]
        yield Train(EveryExit(found, weights), epochs=self.epochs, extra_lr=self.lr, only=[found], name="heads")
        if not job.dry:
            warm, fit, calibrate = (job.asked(part) for part in parts(job))
            labels = torch.tensor([e["labels"] for e in parts(job)[0]])
            heats = [heat(z, labels) for z in record(job.model, warm).logits[:-1]]
            found.rule.get_buffer("heat").copy_(torch.tensor(heats))
            learn(found, record(job.model, fit), self.meta_steps)
            found.threshold = conformal(record(job.model, calibrate), self.epsilon, self.conditional)
            if self.conditional and found.threshold >= BEYOND:
                logger.warning(
                    "exits answer too few of the texts to calibrate by otherwise than the model to promise "
                    "anything under that condition: no text will leave early; take conditional=False"
                )


def parts(job: Job) -> list[list[dict[str, Any]]]:
    """The development texts in three: of five one, two and two."""
    return [[e for i, e in enumerate(job.dev) if i % 5 in places] for places in ((0,), (1, 2), (3, 4))]


@torch.enable_grad()
def learn(found: Exits, said: Record, steps: int) -> None:
    """Teach each exit's meta classifier whether the exit answers as the last layer does, both cases equally often."""
    rule = found.rule
    assert isinstance(rule, Consistent)
    wanted, memory = said.logits[-1].argmax(-1), dict[str, Tensor]()
    for i in range(len(found.places)):
        given = rule.read(i, said.logits[i], said.features[i], memory)
        same = (said.logits[i].argmax(-1) == wanted).long()
        share = torch.stack([(same == kind).float().mean() for kind in (0, 1)])
        weights = torch.where(share > 0, 0.5 / share.clamp_min(1e-6), torch.zeros_like(share))
        params = [*rule.inner[i].parameters(), *rule.outer[i].parameters()]
        search = torch.optim.Adam(params, lr=1e-2, weight_decay=1e-4)
        for _ in range(steps):
            search.zero_grad()
            F.cross_entropy(rule.meta(i, given), same, weight=weights).backward()
            search.step()
        search.zero_grad()
