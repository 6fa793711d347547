"""Criteria of early exit: when the answer of an exit is certain enough.

A criterion is a fold over the exits: it looks at an exit's logits (and at the features that they were made of),
remembers a little for each example, and scores the answer.  So what it does can be replayed from stored logits, for
every threshold, without the model.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Memory = dict[str, Tensor]  # what is kept for each example, (b, ...)


class Criterion(nn.Module):
    """When an answer is certain enough.  rising: certain means above the threshold, not below it."""

    rising = True
    concludes = False  # does it change the answer of the last layer as well?

    def score(self, i: int, logits: Tensor, features: Tensor, memory: Memory) -> Tensor:
        """How certain the answer of exit i is, (b,); remembers what later exits need."""
        raise AssertionError(f"{type(self).__name__} says nothing")

    def certain(self, score: Tensor, threshold: Tensor | float) -> Tensor:
        """Whether an example leaves, (b,)."""
        return score >= threshold if self.rising else score < threshold

    def answer(self, logits: Tensor, memory: Memory) -> Tensor:
        """What it leaves with; (b, labels)."""
        return logits

    def earliest(self) -> int:
        """The first exit (0-based) at which anybody can leave, whatever the threshold."""
        return 0


def entropy(logits: Tensor) -> Tensor:
    """In nats, from logits (..., labels): -sum p log p, without the log of 0; differences are to be float32's."""
    log = logits.float().log_softmax(-1)
    return -(log.exp() * log).sum(-1)


class Entropy(Criterion):
    """H(p) < threshold, in nats (DeeBERT); if `share`, H(p) / ln C <= threshold (FastBERT's uncertainty)."""

    rising = False

    def __init__(self, share: bool = False) -> None:
        super().__init__()
        self.share = share

    def score(self, i: int, logits: Tensor, features: Tensor, memory: Memory) -> Tensor:
        """The entropy."""
        return entropy(logits) / (math.log(logits.shape[-1]) if self.share else 1.0)

    def certain(self, score: Tensor, threshold: Tensor | float) -> Tensor:
        """FastBERT leaves at the threshold itself too."""
        return score <= threshold if self.share else score < threshold


class Confidence(Criterion):
    """The largest probability at a temperature of each exit's own >= threshold (Schwartz et al., 2020; SkipBERT)."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self.register_buffer("heat", torch.ones(count))

    def score(self, i: int, logits: Tensor, features: Tensor, memory: Memory) -> Tensor:
        """The probability."""
        return (logits.float() / self.get_buffer("heat")[i]).softmax(-1).amax(-1)


class Agreement(Criterion):
    """As many consecutive exits as the threshold says have repeated the answer before them (PABEE).

    Two answers of a regression agree when they differ by less than `tolerance`.
    """

    def __init__(self, tolerance: float = 0.1) -> None:
        super().__init__()
        self.tolerance = tolerance

    def score(self, i: int, logits: Tensor, features: Tensor, memory: Memory) -> Tensor:
        """How many have."""
        one = logits.shape[-1] == 1
        guess = logits[:, 0].float() if one else logits.argmax(-1)
        if "last" not in memory:
            memory["agreed"] = torch.zeros_like(guess, dtype=torch.int64)
        else:
            last = memory["last"]
            same = (guess - last).abs() < self.tolerance if one else guess == last
            memory["agreed"] = torch.where(same, memory["agreed"] + 1, 0)
        memory["last"] = guess
        return memory["agreed"]

    def certain(self, score: Tensor, threshold: Tensor | float) -> Tensor:
        """One has, at least."""
        return (score >= threshold) & (score >= 1)

    def earliest(self) -> int:
        """The first exit repeats nothing."""
        return 1


class Calm(Criterion):
    """H(p) / ln C < threshold at `patience` consecutive exits (PCEE-BERT, Zhang et al., Findings of NAACL 2022).

    If `mean`, the answer is the mean probability of those exits, as logits.
    """

    rising = False

    def __init__(self, patience: int = 2, mean: bool = False) -> None:
        super().__init__()
        self.patience, self.mean = patience, mean

    def score(self, i: int, logits: Tensor, features: Tensor, memory: Memory) -> Tensor:
        """The largest of the last exits' entropies, infinite before there were so many."""
        now = (entropy(logits) / math.log(logits.shape[-1]))[:, None]
        for name, value in (("calm", now), *([("probs", logits.float().softmax(-1)[:, None])] if self.mean else [])):
            before = memory.get(name)
            memory[name] = value if before is None else torch.cat([before, value], 1)[:, -self.patience :]
        return memory["calm"].amax(1) if i + 1 >= self.patience else torch.full_like(now[:, 0], torch.inf)

    def answer(self, logits: Tensor, memory: Memory) -> Tensor:
        """The current exit's, or the mean."""
        return memory["probs"].mean(1).log().to(logits.dtype) if self.mean else logits

    def earliest(self) -> int:
        """There must have been so many."""
        return self.patience - 1


class Votes(Criterion):
    """As many exits as the threshold says have voted for one class (Sun et al., 2021); if `power`, votes / i^power.

    The answer is the class with most votes, of equals the one with more probability; so is the last layer's.
    """

    concludes = True

    def __init__(self, power: float = 0.0) -> None:
        super().__init__()
        self.power = power

    def score(self, i: int, logits: Tensor, features: Tensor, memory: Memory) -> Tensor:
        """The votes of the leading class."""
        vote = F.one_hot(logits.argmax(-1), logits.shape[-1]).float()
        probs = logits.float().softmax(-1)
        memory["votes"] = vote + memory["votes"] if "votes" in memory else vote
        memory["sums"] = probs + memory["sums"] if "sums" in memory else probs
        score: Tensor = memory["votes"].amax(-1) / (i + 1) ** self.power
        return score

    def answer(self, logits: Tensor, memory: Memory) -> Tensor:
        """As logits: votes, and the mean probability to tell equals apart."""
        total = memory["votes"].sum(-1, keepdim=True)
        return (memory["votes"] + memory["sums"] / (total + 1)).log().log_softmax(-1).to(logits.dtype)


class Learned(Criterion):
    """The probability of being wrong that one linear layer reads off the features < threshold (BERxiT, 3.2)."""

    rising = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.linear = nn.Linear(width, 1)

    def score(self, i: int, logits: Tensor, features: Tensor, memory: Memory) -> Tensor:
        """The probability."""
        return self.linear(features).squeeze(-1).sigmoid()  # type: ignore[no-any-return]


class Consistent(Criterion):
    """The probability of agreeing with the last layer, by a small network for each exit, > threshold (CAT, section 4).

    It reads which class was answered, the features, the largest probability and what it is ahead, what earlier exits
    gave that class, the latest first, and how deep the exit is; probabilities are at a temperature of each exit's own.
    size: of the features.
    """

    def __init__(self, count: int, labels: int, size: int, hidden: int = 32) -> None:
        super().__init__()
        self.count, self.labels, self.size, self.hidden = count, labels, size, hidden
        self.register_buffer("heat", torch.ones(count))
        given = labels + size + 2 + count + 1
        self.inner = nn.ModuleList(nn.Linear(given, hidden) for _ in range(count))
        self.outer = nn.ModuleList(nn.Linear(hidden, 2) for _ in range(count))

    def read(self, i: int, logits: Tensor, features: Tensor, memory: Memory) -> Tensor:
        """What the network is given; (b, labels + size + 3 + count)."""
        probs = (logits.float() / self.get_buffer("heat")[i]).softmax(-1)
        best = probs.topk(min(2, self.labels), -1)
        guess = best.indices[:, 0]
        past = memory.get("probs")  # (b, exits so far, labels), the latest first
        memory["probs"] = probs[:, None] if past is None else torch.cat([probs[:, None], past], 1)
        history = probs[:, :0]
        if past is not None:
            history = past.gather(2, guess[:, None, None].expand(-1, past.shape[1], 1)).squeeze(2)
        return torch.cat(
            [
                F.one_hot(guess, self.labels).float(),
                features.float(),
                best.values[:, :1],
                best.values[:, :1] - best.values[:, -1:],
                F.pad(history, (0, self.count - history.shape[1])),
                torch.full_like(best.values[:, :1], i / max(1, self.count - 1)),
            ],
            -1,
        )

    def meta(self, i: int, given: Tensor) -> Tensor:
        """Logits of disagreeing and agreeing, (b, 2)."""
        return self.outer[i](self.inner[i](given).tanh())  # type: ignore[no-any-return]

    def score(self, i: int, logits: Tensor, features: Tensor, memory: Memory) -> Tensor:
        """The probability of agreeing."""
        return self.meta(i, self.read(i, logits, features, memory)).softmax(-1)[:, 1]

    def certain(self, score: Tensor, threshold: Tensor | float) -> Tensor:
        """Strictly above."""
        return score > threshold


CRITERIA: dict[str, type[Criterion]] = {
    one.__name__: one for one in (Entropy, Confidence, Agreement, Calm, Votes, Learned, Consistent)
}
