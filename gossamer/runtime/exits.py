"""Early exit: a classifier after some of the layers, and a criterion by which an example has its answer.

The two are independent.  A head turns the hidden states after a layer into logits; a criterion is a fold over the
exits: it looks at an exit's logits (and at the features that they were made of), remembers a little for each example,
and scores the answer.  An example leaves once its score passes the threshold.  So what a criterion does can be replayed
from stored logits, for every threshold, without the model.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .passage import Passage
from .walks import Walk, summary

Memory = dict[str, Tensor]  # what is kept for each example, (b, ...)


class Head(nn.Module):
    """The classifiers of all exits.  width: of the hidden states; labels: answers; count: of exits."""

    across = False  # does it look at all tokens, or at the first one only?

    def __init__(self, width: int, labels: int, count: int) -> None:
        super().__init__()
        self.width, self.labels, self.count = width, labels, count

    def readers(self) -> list[Any]:
        """The linear layers that read hidden states."""
        return []

    def around(self, i: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """What the first token is to know of the others; x (b, t, d), mask additive or None -> (b, t, ...)."""
        return x

    def look(self, i: int, first: Tensor, memory: Memory) -> None:
        """Keep what later exits need, of every layer that has a place in `memory`; first: (b, d)."""

    def forward(self, i: int, first: Tensor, memory: Memory, model: nn.Module, drop: float) -> tuple[Tensor, Tensor]:
        """Logits (b, labels) of exit i, and the features (b, ...) that they were made of; first: (b, ...)."""
        raise AssertionError(f"{type(self).__name__} says nothing")


class SharedPooler(Head):
    """The model's own pooler, and a linear layer for each exit (as in the code of PABEE)."""

    def __init__(self, width: int, labels: int, count: int, features: list[str]) -> None:
        super().__init__(width, labels, count)
        self.features = list(features)
        self.linear = nn.ModuleList(nn.Linear(width, labels) for _ in range(count))

    def forward(self, i: int, first: Tensor, memory: Memory, model: nn.Module, drop: float) -> tuple[Tensor, Tensor]:
        """The features are what the model's own last linear reads."""
        seen = summary(model, self.features, first[:, None])
        return self.linear[i](F.dropout(seen, drop, self.training)), seen


class OwnPooler(Head):
    """A pooler and a linear layer for each exit (DeeBERT, Xin et al., ACL 2020).  size: of what is pooled, 0: width."""

    def __init__(self, width: int, labels: int, count: int, size: int = 0) -> None:
        super().__init__(width, labels, count)
        self.size = size or width
        self.pooler = nn.ModuleList(nn.Linear(width, self.size) for _ in range(count))
        self.linear = nn.ModuleList(nn.Linear(self.size, labels) for _ in range(count))

    def readers(self) -> list[Any]:
        """The poolers."""
        return list(self.pooler)

    def forward(self, i: int, first: Tensor, memory: Memory, model: nn.Module, drop: float) -> tuple[Tensor, Tensor]:
        """The features are what was pooled."""
        seen = self.pooler[i](first).tanh()
        return self.linear[i](F.dropout(seen, drop, self.training)), seen


class Branch(Head):
    """A narrow self-attention over all tokens, then a linear layer twice (FastBERT, Liu et al., ACL 2020, 3.1).

    size: its width; heads: of its attention.
    """

    across = True

    def __init__(self, width: int, labels: int, count: int, size: int = 128, heads: int = 2) -> None:
        super().__init__(width, labels, count)
        self.size, self.heads = size, heads
        for name, given, found in (
            ("narrow", width, size), ("q", size, size), ("k", size, size), ("v", size, size), ("o", size, size),
            ("dense", size, size), ("linear", size, labels),
        ):  # fmt: skip
            self.add_module(name, nn.ModuleList(nn.Linear(given, found) for _ in range(count)))

    def readers(self) -> list[Any]:
        """Those that narrow."""
        return list(self.get_submodule("narrow").children())

    def at(self, name: str, i: int, x: Tensor) -> Tensor:
        """One of the linear layers of exit i."""
        return self.get_submodule(f"{name}.{i}")(x)  # type: ignore[no-any-return]

    def around(self, i: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """(b, t, size)."""
        x = self.at("narrow", i, x).tanh()
        q, k, v = (self.at(name, i, x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in "qkv")
        scores = q @ k.transpose(-1, -2) * (self.size // self.heads) ** -0.5
        probs = (scores if mask is None else scores + mask).softmax(-1)
        return self.at("o", i, (probs @ v).transpose(1, 2).flatten(-2))

    def forward(self, i: int, first: Tensor, memory: Memory, model: nn.Module, drop: float) -> tuple[Tensor, Tensor]:
        """The features are the first token's."""
        seen = self.at("dense", i, first).tanh()
        return self.at("linear", i, seen), seen


class Mixed(Head):
    """A learned mix of the first token's states after every layer so far (Schwartz et al., ACL 2020).

    places: after which layers the exits are.  The weights of a mix have the length 1.
    """

    def __init__(self, width: int, labels: int, count: int, places: list[int]) -> None:
        super().__init__(width, labels, count)
        self.places = list(places)
        self.mix = nn.ParameterList(nn.Parameter(torch.randn(place)) for place in places)
        self.linear = nn.ModuleList(nn.Linear(width, labels) for _ in range(count))

    def readers(self) -> list[Any]:
        """All of them."""
        return list(self.linear)

    def look(self, i: int, first: Tensor, memory: Memory) -> None:
        """(b, layers so far, d)."""
        past = memory.get("past")
        memory["past"] = first[:, None] if past is None else torch.cat([past, first[:, None]], 1)

    def forward(self, i: int, first: Tensor, memory: Memory, model: nn.Module, drop: float) -> tuple[Tensor, Tensor]:
        """The features are the mix."""
        seen = (memory["past"] * F.normalize(self.mix[i], dim=0)[:, None]).sum(1)
        return self.linear[i](F.dropout(seen, drop, self.training)), seen


class PastFuture(Head):
    """All layers so far, and guesses of those to come (Liao et al., NAACL 2021).

    A pooler for each layer; a guess of layer j from layer i is tanh(c_i W_j + b_j), the same W_j for every i.  Each
    vector is projected to logits u and gates v; z_i = 2 g past + 2 (1 - g) future, g = sigmoid(W tanh(mean v) + b).
    size: of what is pooled, 0: width.
    """

    def __init__(self, width: int, labels: int, count: int, size: int = 0) -> None:
        super().__init__(width, labels, count)
        self.size = size or width
        self.pooler = nn.ModuleList(nn.Linear(width, self.size) for _ in range(count))
        self.guess = nn.ModuleList(nn.Linear(self.size, self.size) for _ in range(count))
        self.project = nn.ModuleList(nn.Linear(self.size, 2 * labels, bias=False) for _ in range(count))
        self.gate = nn.Linear(labels, labels)

    def readers(self) -> list[Any]:
        """The poolers."""
        return list(self.pooler)

    def look(self, i: int, first: Tensor, memory: Memory) -> None:
        """past: (b, layers so far, 2 labels), what was projected of each layer."""
        seen = self.pooler[i](first).tanh()
        memory["seen"] = seen
        now = self.project[i](seen)[:, None]
        past = memory.get("past")
        memory["past"] = now if past is None else torch.cat([past.detach(), now], 1)

    def guesses(self, i: int, seen: Tensor) -> list[Tensor]:
        """Of every later layer's pooled state; seen: (b, d), this layer's."""
        return [self.guess[j](seen).tanh() for j in range(i + 1, self.count)]

    def forward(self, i: int, first: Tensor, memory: Memory, model: nn.Module, drop: float) -> tuple[Tensor, Tensor]:
        """The features are the pooled state."""
        seen, (u, v) = memory.pop("seen"), memory["past"].chunk(2, -1)  # no later exit asks for it
        future = torch.zeros_like(u[:, 0])
        for j, guess in enumerate(self.guesses(i, seen), i + 1):
            future = future + self.project[j](guess)[:, : self.labels]
        gate = self.gate(v.mean(1).tanh()).sigmoid()
        return 2 * gate * u.sum(1) + 2 * (1 - gate) * future, seen


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
    """In nats, from logits (..., labels): logsumexp(z) - sum p z, which neither overflows nor takes the log of 0."""
    z = logits.float()
    p = z.softmax(-1)
    return z.logsumexp(-1) - (p * z).sum(-1)


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
    gave that class, the latest first, and how deep the exit is.  size: of the features.
    """

    def __init__(self, count: int, labels: int, size: int, hidden: int = 32) -> None:
        super().__init__()
        self.count, self.labels, self.size, self.hidden = count, labels, size, hidden
        given = labels + size + 2 + count + 1
        self.inner = nn.ModuleList(nn.Linear(given, hidden) for _ in range(count))
        self.outer = nn.ModuleList(nn.Linear(hidden, 2) for _ in range(count))

    def read(self, i: int, logits: Tensor, features: Tensor, memory: Memory) -> Tensor:
        """What the network is given; (b, labels + size + 3 + count)."""
        probs = logits.float().softmax(-1)
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


HEADS: dict[str, type[Head]] = {one.__name__: one for one in (SharedPooler, OwnPooler, Branch, Mixed, PastFuture)}
CRITERIA: dict[str, type[Criterion]] = {
    one.__name__: one for one in (Entropy, Confidence, Agreement, Calm, Votes, Learned, Consistent)
}


class Exits(Walk):
    """Lets examples leave with the answer of an exit.

    places: after which layers the exits are, from 1 on; the last layer's answer is the model's own, or an exit's if
    `depth` is among them.  head, criterion: the names and arguments of a Head and a Criterion.  answer: the path of the
    model's last linear layer, features: how it reads hidden states (see anatomy.Head.steps).
    """

    optional, dynamic = True, True

    def __init__(
        self,
        depth: int,
        places: list[int],
        head: dict[str, Any],
        criterion: dict[str, Any],
        threshold: float,
        features: list[str],
        answer: str,
    ) -> None:
        super().__init__()
        self.depth, self.places, self.features, self.answer = depth, list(places), list(features), answer
        self.criterion, self.threshold = dict(criterion), threshold
        self.heads: Head = HEADS[head["is"]](**{k: v for k, v in head.items() if k != "is"})
        self._head = dict(head)
        self.rule: Criterion = CRITERIA[criterion["is"]](**{k: v for k, v in criterion.items() if k != "is"})
        self._model: list[nn.Module] = []  # a list, so that the model does not become its own descendant

    def bind(self, model: nn.Module) -> None:
        """Remember the model, whose pooler exits may share."""
        self._model = [model]

    @property
    def head(self) -> dict[str, Any]:
        """What the head is by now: hidden states may have become narrower."""
        readers = self.heads.readers()
        now = {"width": readers[0].in_features} if readers else {}
        sizes = {"size": self.heads.size} if hasattr(self.heads, "size") else {}
        return self._head | now | sizes

    @property
    def drop(self) -> float:
        """The dropout of the model's own head."""
        config: Any = getattr(self._model[0], "config", None)
        rates = (getattr(config, name, None) for name in ("classifier_dropout", "seq_classif_dropout"))
        return float(next((r for r in rates if r is not None), getattr(config, "hidden_dropout_prob", 0.0)))

    def around(self, step: int, x: Tensor, mask: Tensor | None) -> Tensor:
        """What the exit after this layer (0-based) makes of all tokens, where it looks at them; x (b, t, d)."""
        if step + 1 in self.places and self.heads.across:
            return self.heads.around(self.places.index(step + 1), x, mask)
        return x

    def at(self, step: int, first: Tensor, memory: Memory) -> tuple[Tensor, Tensor] | None:
        """Logits and features of the exit after a layer, None where there is none, from the first token's (b, ...)."""
        self.heads.look(step, first, memory)
        if step + 1 not in self.places:
            return None
        found: tuple[Tensor, Tensor] = self.heads(self.places.index(step + 1), first, memory, self._model[0], self.drop)
        return found

    def every(self, hidden: list[Tensor], mask: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        """Logits and features of every exit, from the states after each layer, (b, t, d); mask: (b, t) or None."""
        memory, found = Memory(), list[tuple[Tensor, Tensor]]()
        shown = None
        if mask is not None and self.heads.across:
            shown = (~mask.bool())[:, None, None, :].to(hidden[0].dtype) * torch.finfo(hidden[0].dtype).min
        for step, x in enumerate(hidden):
            said = self.at(step, self.around(step, x, shown)[:, 0], memory)
            found += [said] if said is not None else []
        return found

    def depart(self, passage: Passage) -> None:
        """Let those go who are certain enough; after the last layer everybody, if that is for the exits to say."""
        if self.training or self.whole:
            return
        step, memory = passage.step, passage.memory
        said = self.at(step, passage.firsts(self.around(step, passage.x, passage.shown)), memory)
        last = step == self.depth - 1
        if said is None and not (last and self.rule.concludes):
            return
        logits, features = said or self._own(passage.firsts(passage.x))
        i = self.places.index(step + 1) if said else len(self.places)
        score = self.rule.score(i, logits, features, memory)
        who = torch.ones_like(passage.finished) if last else self.rule.certain(score, self.threshold)
        passage.answer(self.rule.answer(logits, memory), who)

    def summary(self, x: Tensor) -> Tensor:
        """What the model's own last linear reads of hidden states, (b, t, d)."""
        return summary(self._model[0], self.features, x)

    def _own(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """The model's own answer."""
        seen = self.summary(first[:, None])
        return self._model[0].get_submodule(self.answer)(seen), seen

    def stops(self, step: int) -> bool:
        """After those of the places where somebody can leave."""
        return step + 1 in self.places[self.rule.earliest() :] and step < self.depth - 1
