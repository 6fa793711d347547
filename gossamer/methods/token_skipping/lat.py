"""LAT: Length-Adaptive Transformer: Train Once with Length Drop, Use Anytime with Search (Kim & Cho, ACL 2021).

One model for every budget.  In training lengths are drawn at random, layer by layer (LengthDrop, section 3.1), and
whole layers are left out (LayerDrop); each step sees the whole model, the shortest one and some in between; these learn
from the first (sandwich rule, in-place distillation).  Then lengths are searched by evolution: mutations and crossovers
of the best ones so far, by multiply-accumulates and accuracy on development texts (section 3.3).  What is dropped keeps
its state to the end (drop and restore).  Lengths are shares of the text's own here; the KL divergence runs backwards,
as in the authors' code.
"""

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from gossamer.anatomy import blocks
from gossamer.fields import Between
from gossamer.formula import layer
from gossamer.job import Job, score
from gossamer.loss import Loss, Step, Task, errors
from gossamer.runtime.tokens import Ranked
from gossamer.train import Train
from gossamer.walking import depth, order, walk

Lengths = tuple[float, ...]  # of a text's length, what is left after each layer's attention


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
        layers = depth(job.model)
        ranked = Ranked(layers, [1.0] * layers, own=True)
        walk(job.model, ranked)
        cheapest = Cost(job, self.examples(job)).of(shortest(layers, self.drop))
        if cheapest > self.keep:
            raise ValueError(
                f"found keep={self.keep:g}, and with drop={self.drop:g} these texts cost {cheapest:.2f} of all at "
                f"least; type LAT(keep={math.ceil(cheapest * 100) / 100:g}), or a larger drop"
            )
        loss = 1 / (2 + self.samples) * (Task() + Sandwich(job, ranked, self))
        yield Train(loss, epochs=self.epochs, lr=self.lr, name="length drop")
        ranked.shares = [*shortest(layers, self.drop)]
        if not job.dry:
            ranked.shares = [*self.search(job, ranked)]

    def examples(self, job: Job) -> list[dict[str, Any]]:
        """On which costs and scores are compared."""
        return (job.dev or job.train)[: self.texts]

    def search(self, job: Job, ranked: Ranked) -> Lengths:
        """The lengths of best score among those found that cost at most `keep` of the whole."""
        chance, examples = random.Random(job.seed), self.examples(job)
        cost = Cost(job, examples)
        known: dict[Lengths, tuple[float, float]] = {}

        def ask(lengths: Lengths) -> None:
            if lengths not in known:
                ranked.shares = [*lengths]
                known[lengths] = (cost.of(lengths), quality(job, examples))

        evenly = [constant(ranked.depth, self.drop * i / 10) for i in range(11)]
        for lengths in [*evenly, constant(ranked.depth, fitting(cost, ranked.depth, self.keep, self.drop))]:
            ask(lengths)
        for turn in range(self.rounds):
            job.tell("searching lengths", turn / self.rounds)
            front = pareto(known)
            for child in children(front, self.children, chance, shortest(ranked.depth, self.drop)):
                ask(child)
        fits = {one: found for one, found in known.items() if found[0] <= self.keep}
        return max(fits, key=lambda one: (fits[one][1], -fits[one][0]))


@torch.no_grad()
def quality(job: Job, examples: list[dict[str, Any]]) -> float:
    """The task's metric; where a text has more answers than one, the mean loss below nought."""
    if job.task.per_text and not job.task.bare:
        return score(job.model, job, examples)
    job.model.eval()
    batches = [job.collate(examples[at : at + 64]) for at in range(0, len(examples), 64)]
    batches = [{k: v.to(job.device) for k, v in batch.items()} for batch in batches]
    found = [errors(job.task.said(job.model(**job.task.given(batch)), batch), batch) for batch in batches]
    return -float(torch.cat(found).mean())


def constant(layers: int, drop: float) -> Lengths:
    """The same share leaves in every layer."""
    return tuple((1 - drop) ** (i + 1) for i in range(layers))


def shortest(layers: int, drop: float) -> Lengths:
    """The least that training knows."""
    return constant(layers, drop)


def fitting(cost: "Cost", layers: int, keep: float, most: float) -> float:
    """The constant share that costs just `keep`, by bisection; `most` of what may leave in a layer does fit."""
    low, high = 0.0, most
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if cost.of(constant(layers, middle)) > keep else (low, middle)
    return high


def pareto(known: dict[Lengths, tuple[float, float]]) -> list[Lengths]:
    """Those that no other beats in both, from the cheapest to the dearest."""
    found, best = list[Lengths](), float("-inf")
    for one in sorted(known, key=lambda one: (known[one][0], -known[one][1])):
        if known[one][1] > best:
            found.append(one)
            best = known[one][1]
    return found


def children(front: Sequence[Lengths], count: int, chance: random.Random, least: Lengths) -> Iterator[Lengths]:
    """As many mutations and as many crossovers of what is best."""
    for _ in range(count):
        parent = list(chance.choice(front))
        for i in range(len(parent)):
            if chance.random() < 0.5:
                below = parent[i + 1] if i + 1 < len(parent) else least[i]
                above = parent[i - 1] if i else 1.0
                parent[i] = round(chance.uniform(max(least[i], below), above), 4)
        yield tuple(parent)
    for _ in range(count):
        one, two = chance.choice(front), chance.choice(front)
        yield tuple(round((a + b) / 2, 4) for a, b in zip(one, two, strict=True))


class Cost:
    """Multiply-accumulates of the layers for some texts, as a share of the whole model's."""

    def __init__(self, job: Job, examples: Sequence[dict[str, Any]]) -> None:
        stored = blocks(job.model)
        self.layers = [stored[i] for i in order(job.model)]
        self.texts = Counter(len(e[key]) for e in examples for key in ("input_ids", "pair_ids") if key in e)
        self.whole = self.sum([1.0] * len(self.layers))

    def sum(self, lengths: Sequence[float]) -> int:
        """Of all texts."""
        total = 0
        for n, times in self.texts.items():
            left = [n, *(math.ceil(share * n - 1e-4) for share in lengths)]
            total += times * sum(map(layer, self.layers, left[:-1], left[1:]))
        return total

    def of(self, lengths: Sequence[float]) -> float:
        """The share."""
        return self.sum(lengths) / self.whole


class Sandwich(Loss):
    """KL of the shortest and of some random lengths from the whole model's answer, the sum over the lengths."""

    def __init__(self, job: Job, ranked: Ranked, told: LAT) -> None:
        super().__init__()
        self._job, self._ranked, self.told = [job], [ranked], told

    def forward(self, step: Step) -> Tensor:
        """logits: (b, labels)."""
        job, ranked, told = self._job[0], self._ranked[0], self.told
        teacher, whole = step.student.out.logits.detach().float(), ranked.shares
        found = []
        for i in range(1 + told.samples):
            plays = (torch.rand(ranked.depth) >= told.layer_drop).tolist()
            ranked.playing = plays if any(plays) else [True] * ranked.depth
            stays = [1 - told.drop * (1.0 if not i else float(torch.rand(()))) for _ in whole]
            ranked.shares = list(accumulate((s if p else 1.0 for s, p in zip(stays, ranked.playing, strict=True)), mul))
            try:
                out = job.model(**job.task.given(step.batch, labels=False))
            finally:
                ranked.shares, ranked.playing = whole, None
            found.append(apart(job.task.said(out, step.batch).logits.float(), teacher, told.backwards))
        return torch.stack(found).sum()


def apart(student: Tensor, teacher: Tensor, backwards: bool) -> Tensor:
    """KL(student || teacher) if backwards, else KL(teacher || student); of numbers the squared error."""
    if student.shape[-1] == 1:
        return F.mse_loss(student, teacher)
    s, t = student.log_softmax(-1), teacher.log_softmax(-1)
    given, wanted = (t, s) if backwards else (s, t)
    return F.kl_div(given, wanted, reduction="batchmean", log_target=True)
