"""TR-BERT: Dynamic Token Reduction for Accelerating BERT Inference (Ye, Lin, Huang & Sun, NAACL 2021).

Before the second layer and before the middle of the model a small network chooses the tokens that go on.  It is learned
by policy gradient: choices by chance, rewarded by -CE - alpha times the share of tokens kept, against the mean of
several choices of the same text (section 3.2).  First it alone, half of the time with one choice that keeps the tokens
which matter most to the deeper layers (imitation); then it and the model, which is taught by the whole one.  The tokens
of that one choice are those of the first selection, for the second too; the policy learns faster than in the paper
(1e-3 for 3e-5), which takes three epochs for each part.

In use there is no chance: a token goes on if its probability is at least a half.  A policy that learned for long says
nearly 0 or 1, and that is as many tokens as it was learned with.  Else it is not: where a quarter of the tokens went on
by chance, none may reach a half.  So we shift the policy's bias at the end, until by the rule as many go on as by
chance (`calibrate`); the paper does not, and TRBERT(calibrate=0) does not either.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from gossamer.anatomy import width
from gossamer.calibrate import even
from gossamer.fields import Between
from gossamer.job import Job
from gossamer.loss import Logits, Loss, Step
from gossamer.runtime.tokens import Policy
from gossamer.runtime.walks import in_full
from gossamer.task import Said
from gossamer.trace import tracing
from gossamer.train import Train
from gossamer.walking import depth, walk


@dataclass(frozen=True)
class TRBERT:
    """Token reduction by policy gradient.

    alpha: price of a token kept; choices: K, of each text.  calibrate: training texts by which the rule of use is made
    to keep as many tokens as chance does, 0: the rule is the paper's.
    """

    rows: ClassVar[tuple[str, ...]] = ("tr_bert",)
    kind: ClassVar[str] = "walk"

    alpha: Annotated[float, Between(0.0, 10.0)] = 1.0
    choices: Annotated[int, Between(2, 64)] = 8
    guided: Annotated[float, Between(0.0, 1.0)] = 0.5
    policy_epochs: Annotated[float, Between(0.1, 100)] = 1.0
    joint_epochs: Annotated[float, Between(0.1, 100)] = 2.0
    policy_lr: Annotated[float, Between(1e-6, 1.0)] = 1e-3
    lr: Annotated[float, Between(1e-6, 1e-3)] = 3e-5
    calibrate: Annotated[int, Between(0, 100_000)] = 64

    def __call__(self, job: Job) -> Iterator[Train]:
        """The policy, then both."""
        layers = depth(job.model)
        if layers < 2:
            raise ValueError("found 1 layer: no token could be saved anything; use TRBERT on 2 layers or more")
        policy = Policy(layers, width(job.model), sorted({1, layers // 2}))
        walk(job.model, policy)
        policy.mode = "sample"
        alone = Reinforce(job, policy, self.alpha, self.choices, self.guided)
        yield Train(alone, epochs=self.policy_epochs, extra_lr=self.policy_lr, only=[policy], name="policy")
        both = Logits() + Reinforce(job, policy, self.alpha, self.choices, 0.0)
        yield Train(both, epochs=self.joint_epochs, lr=self.lr, extra_lr=self.policy_lr, name="joint")
        policy.rest()
        if self.calibrate and not job.dry:
            some = job.train[:: max(1, len(job.train) // self.calibrate)][: self.calibrate]
            even(job.model, policy, lambda: job.asked(some))


class Reinforce(Loss):
    """(R - mean R) (-log p(choices)), the mean over the choices and texts; R = -CE - alpha * share of tokens kept."""

    def __init__(self, job: Job, policy: Policy, alpha: float, choices: int, guided: float) -> None:
        super().__init__()
        self._job, self._policy = [job], [policy]
        self.alpha, self.choices, self.guided = alpha, choices, guided

    def forward(self, step: Step) -> Tensor:
        """labels: (b,); the student's own run is one of the choices."""
        policy, batch = self._policy[0], step.batch
        logs, rewards, out = list[Tensor](), list[Tensor](), step.student.out
        for left in range(self.choices, 0, -1):
            lost, share = self._job[0].task.errors(out, batch).detach(), policy.share().detach()
            rewards.append(-lost - self.alpha * share.view(-1, len(lost)).mean(0))  # a pair may be two texts
            logs.append(policy.log_prob().view(-1, len(lost)).sum(0))
            if left == 2 and self.training and step.progress < self.guided:  # the last choice is a guided one
                policy.worth = self.worth(batch)
            out = self.run(batch) if left > 1 else out
            policy.worth = None
        all_ = torch.stack(rewards)
        return -((all_ - all_.mean(0)) * torch.stack(logs)).mean()

    @torch.no_grad()
    def run(self, batch: Any) -> Said:
        """Other choices."""
        task = self._job[0].task
        return task.said(self._job[0].model(**task.given(batch, labels=False)), batch)

    def worth(self, batch: Any) -> Tensor:
        """|<dCE / dh_deep, h_deep - h_early>|: what skipping what lies between changes, to first order; (b, t).

        Early is what enters the second layer, deep what leaves the third quarter of them.
        """
        job = self._job[0]
        model: Any = job.model
        modes = {m: m.training for m in model.modules()}
        policy = self._policy[0]
        model.eval()
        policy.mode = "all"
        try:
            with torch.enable_grad(), in_full(model), tracing(model) as seen:
                embedded = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
                given = job.task.given(batch)
                given.pop("input_ids")
                lost = job.task.said(model(inputs_embeds=embedded, **given), batch).loss
            deep, early = seen.hidden[max(2, 3 * (len(seen.hidden) - 1) // 4)], seen.hidden[1]
            assert lost is not None
            [grad] = torch.autograd.grad(lost, [deep])
            return (grad * (deep - early)).sum(-1).abs().detach()
        finally:
            policy.mode = "sample"
            for module, mode in modes.items():
                module.training = mode
