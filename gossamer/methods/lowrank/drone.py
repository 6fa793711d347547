"""DRONE: Data-aware Low-rank Compression for Large NLP Models (Chen, Yu, Dhillon & Hsieh, NeurIPS 2021).

Not the weight but its action on real inputs is approximated: min |W X - W M X|, rank of M at most k (Theorem 1), which
is the projection of the outputs on their k principal directions.  Queries and keys are narrowed head by head so that
their products change least (section 3.3).  Matrices are treated from the bottom up, so that each sees what the
compressed layers below it really produce, and each gets the smallest rank of a grid with which the training loss on a
sample grows by at most `loss_ratio` (Algorithm 2); `keep` is the floor and the alternative.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import nn

from gossamer.anatomy import Block, blocks
from gossamer.calibrate import grams
from gossamer.factor import even_rank, output_basis, project_outputs, score_factors
from gossamer.fields import Between
from gossamer.job import Job
from gossamer.loss import Task
from gossamer.runtime.modules import ScoreAttention
from gossamer.train import Train

KIN = ("bert", "roberta", "xlm-roberta", "electra")  # self-attention is q, k, v and nothing else


@dataclass(frozen=True)
class DRONE:
    """Data-aware low rank.  keep: share of each matrix's numbers, used where `loss_ratio` is 0; samples: texts seen."""

    rows: ClassVar[tuple[str, ...]] = ("drone",)
    kind: ClassVar[str] = "factor"

    keep: Annotated[float, Between(0.05, 0.95)] = 0.5
    loss_ratio: Annotated[float, Between(0.0, 1.0)] = 0.0
    scores: bool = True
    samples: Annotated[int, Between(8, 100_000)] = 512
    tune_epochs: Annotated[float, Between(0.0, 100)] = 1.0
    lr: Annotated[float, Between(1e-8, 1e-3)] = 1e-5

    def __call__(self, job: Job) -> Iterator[Train]:
        """Attention, output, feed-forward, layer by layer; then a light fine-tuning."""
        found = 0
        for block in blocks(job.model):
            if self.scores and job.model.config.model_type in KIN and narrowable(block):
                self.narrow(job, block)
                found += 1
            for part in block.parts if not block.fused else ():
                if part not in ("q", "k") or not isinstance(block.part("attend"), ScoreAttention):
                    found += self.factor(job, block, part)
        if not found:
            raise ValueError("no Linear of this model is plain any more, so DRONE finds nothing to do; leave it out")
        if self.tune_epochs:
            yield Train(Task(), epochs=self.tune_epochs, lr=self.lr, name="fine-tune")

    def grid(self, highest: int) -> list[int]:
        """Ranks to try, smallest first."""
        if not self.loss_ratio:
            return [max(1, int(self.keep * highest))]
        shares = (s / 10 for s in range(1, 10) if s / 10 >= min(self.keep, 0.9))
        return sorted({max(1, int(s * highest)) for s in (*shares, 0.9)})

    def factor(self, job: Job, block: Block, part: str) -> int:
        """One matrix; 1 if it was factored."""
        linear = block.part(part)
        if type(linear) is not nn.Linear or even_rank(*linear.weight.shape) < 2:
            return 0
        [gram] = grams(job.model, [linear], job.batches(self.samples))
        basis, _ = output_basis(linear.weight, gram)
        before = loss(job, self.samples) if self.loss_ratio else 0.0
        for rank in self.grid(even_rank(*linear.weight.shape)):
            block.put(part, project_outputs(linear, basis, rank))
            if not self.loss_ratio or loss(job, self.samples) <= (1 + self.loss_ratio) * before:
                return 1
        block.put(part, linear)  # no rank that saves anything is good enough
        return 0

    def narrow(self, job: Job, block: Block) -> None:
        """Queries and keys of one layer, to the smallest rank that the scores allow."""
        old: Any = block.part("attend")
        q, k, v = (block.part(p) for p in "qkv")
        assert isinstance(q, nn.Linear) and isinstance(k, nn.Linear) and isinstance(v, nn.Linear)
        [gram] = grams(job.model, [q], job.batches(self.samples), homogeneous=True)
        before = loss(job, self.samples) if self.loss_ratio else 0.0
        for rank in self.grid(block.head_dim):
            new = narrowed(block, gram, rank, old)
            block.put("attend", new)
            if not self.loss_ratio or loss(job, self.samples) <= (1 + self.loss_ratio) * before:
                return
        block.put("attend", old)


def narrowable(block: Block) -> bool:
    """Whether this is a self-attention that has not been touched, with the output projection outside."""
    plain = all(type(block.part(p)) is nn.Linear for p in "qkv")
    outside = all(m is not block.part("o") for m in (block.part("attend") or nn.Identity()).modules())
    return plain and outside and not block.fused and type(block.part("attend")) is not ScoreAttention


@torch.no_grad()
def narrowed(block: Block, gram: torch.Tensor, rank: int, old: Any) -> ScoreAttention:
    """The attention with queries and keys of size `rank`; scaled as before."""
    paths = [str(block.path(p)).rpartition(".")[2] for p in "qkv"]
    q, k, v = (block.part(p) for p in "qkv")
    assert isinstance(q, nn.Linear) and isinstance(k, nn.Linear) and isinstance(v, nn.Linear)
    size, heads = block.head_dim, block.heads
    new = ScoreAttention(paths, q.in_features, heads, rank, size, float(old.scaling), float(old.dropout.p))
    both = [torch.cat([w.weight, w.bias[:, None]], 1).view(heads, size, -1) for w in (q, k)]  # (heads, d, n + 1)
    for head in range(heads):
        new_q, new_k, _ = score_factors(both[0][head], both[1][head], gram, rank)
        for name, w in ((paths[0], new_q), (paths[1], new_k)):
            linear: Any = new.get_submodule(name)
            linear.weight[head * rank : (head + 1) * rank] = w[:, :-1]
            linear.bias[head * rank : (head + 1) * rank] = w[:, -1]
    new.add_module(paths[2], v)
    return new.to(q.weight.device).train(block.layer.training)


@torch.no_grad()
def loss(job: Job, samples: int) -> float:
    """The task's mean loss on the calibration texts."""
    job.model.eval()
    found = [(len(b["input_ids"]), float(said.loss)) for b, said in job.said(samples) if said.loss is not None]
    return sum(n * value for n, value in found) / sum(n for n, _ in found)
