"""LAT: Length-Adaptive Transformer: Train Once with Length Drop, Use Anytime with Search (Kim & Cho, ACL 2021).

One model for every budget.  In training lengths are drawn at random, layer by layer (LengthDrop, section 3.1), and
whole layers are left out (LayerDrop); each step sees the whole model, the shortest one and some in between; these learn
from the first (sandwich rule, in-place distillation).  Then lengths are searched by evolution: mutations and crossovers
of the best ones so far, by multiply-accumulates and accuracy on development texts (section 3.3).  What is dropped keeps
its state to the end (drop and restore).  Lengths are shares of the text's own here; the KL divergence runs backwards,
as in the authors' code.  The search is smaller than the paper's (30 rounds of 30 mutations and 30 crossovers), and as
the texts by which it chooses are the development texts, what it finds is a little better on these than on others.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from operator import mul
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from gossamer.fields import Between
from gossamer.job import Job, score
from gossamer.lengths import Cost, Lengths, search
from gossamer.loss import Loss, Step, Task
from gossamer.runtime.tokens import Ranked
from gossamer.train import Train
from gossamer.turns import in_turn
from gossamer.walking import depth, walk


@dataclass(frozen=True)
class LAT:
    """Length drop, then search.

    keep: work left, of all; drop: p, what may leave in a layer; layer_drop: how often a layer is left out; samples:
    lengths between, in a step.  rounds, children: of the search, which scores on so many `texts` of the development
    split.  backwards: KL(short || whole), as the code has it, not KL(whole || short).
    """

    rows: ClassVar[tuple[str, ...]] = ("lat",)
    kind: ClassVar[str] = "walk"

    keep: Annotated[float, Between(0.1, 0.99)] = 0.6
    drop: Annotated[float, Between(0.01, 0.9)] = 0.2
    layer_drop: Annotated[float, Between(0.0, 0.9)] = 0.2
    samples: Annotated[int, Between(0, 8)] = 2
    rounds: Annotated[int, Between(0, 1000)] = 10
    children: Annotated[int, Between(1, 1000)] = 10
    texts: Annotated[int, Between(8, 100_000)] = 256
    backwards: bool = True
    epochs: Annotated[float, Between(0.1, 100)] = 3.0
    lr: Annotated[float, Between(1e-6, 1e-3)] = 2e-5

    def __call__(self, job: Job) -> Iterator[Train]:
        """Train for all lengths, then find good ones."""
        layers, examples = depth(job.model), (job.dev or job.train)[: self.texts]
        ranked = Ranked(layers, [1.0] * layers, own=True)
        walk(job.model, ranked)
        cost = Cost(job.model, [len(e[key]) for e in examples for key in ("input_ids", "pair_ids") if key in e])
        shortest = cost.constant(self.drop)
        if (least := cost.of(shortest)) > self.keep:
            raise ValueError(
                f"found keep={self.keep:g}, and with drop={self.drop:g} these texts cost {least:.2f} of all at "
                f"least; type LAT(keep={math.ceil(least * 100) / 100:g}), or a larger drop"
            )
        loss = 1 / (2 + self.samples) * (Task() + Sandwich(job, ranked, self))
        yield Train(loss, epochs=self.epochs, lr=self.lr, name="length drop")
        ranked.shares = [*shortest]
        if job.dry:
            return

        def ask(lengths: Lengths) -> float:
            ranked.shares = [*lengths]
            return quality(job, examples)

        def rounds() -> Iterator[int]:
            for turn in range(self.rounds):
                job.tell("searching lengths", turn / self.rounds)
                yield turn

        found = search(cost, ask, self.keep, self.drop, self.children, random.Random(job.seed), rounds())
        ranked.shares = [*found]


@torch.no_grad()
def quality(job: Job, examples: list[dict[str, Any]]) -> float:
    """The task's metric; where a text has more answers than one, the mean loss below nought."""
    if job.task.per_text and not job.task.bare:
        return score(job.model, job, examples)
    job.model.eval()
    batches = [job.collate(examples[at : at + 64]) for at in range(0, len(examples), 64)]
    batches = [{k: v.to(job.device) for k, v in batch.items()} for batch in batches]
    found = [job.task.errors(job.task.said(job.model(**job.task.given(batch)), batch), batch) for batch in batches]
    return -float(torch.cat(found).mean())


class Sandwich(Loss):
    """KL of the shortest and of some random lengths from the whole model's answer, the sum over the lengths."""

    def __init__(self, job: Job, ranked: Ranked, told: LAT) -> None:
        super().__init__()
        self._job, self._ranked, self.told = [job], [ranked], told

    def forward(self, step: Step) -> Tensor:
        """logits: (b, labels)."""
        learning = [p for p in self._job[0].model.parameters() if p.requires_grad]
        return in_turn((partial(self._short, step, i) for i in range(1 + self.told.samples)), learning)

    def _short(self, step: Step, i: int) -> Tensor:
        """By the shortest lengths (i = 0), or by random ones."""
        job, ranked, told = self._job[0], self._ranked[0], self.told
        teacher, whole = step.student.out.logits.detach().float(), ranked.shares
        plays = (torch.rand(ranked.depth) >= told.layer_drop).tolist()
        ranked.playing = plays if any(plays) else [True] * ranked.depth
        stays = [1 - told.drop * (1.0 if not i else float(torch.rand(()))) for _ in whole]
        ranked.shares = list(accumulate((s if p else 1.0 for s, p in zip(stays, ranked.playing, strict=True)), mul))
        try:
            out = job.model(**job.task.given(step.batch, labels=False))
        finally:
            ranked.shares, ranked.playing = whole, None
        return apart(job.task.said(out, step.batch).logits.float(), teacher, told.backwards)


def apart(student: Tensor, teacher: Tensor, backwards: bool) -> Tensor:
    """KL(student || teacher) if backwards, else KL(teacher || student); of numbers the squared error."""
    if student.shape[-1] == 1:
        return F.mse_loss(student, teacher)
    s, t = student.log_softmax(-1), teacher.log_softmax(-1)
    given, wanted = (t, s) if backwards else (s, t)
    return F.kl_div(given, wanted, reduction="batchmean", log_target=True)
