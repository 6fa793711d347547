"""Heads of early exit: from the hidden states after a layer to an answer, for all exits of a model."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .criteria import Memory
from .passage import Texts
from .walks import summary


class Head(nn.Module):
    """The classifiers of all exits.  width: of the hidden states; labels: answers; count: of exits."""

    across = False  # does it look at all tokens, or at what stands for a text only?

    def __init__(self, width: int, labels: int, count: int) -> None:
        super().__init__()
        self.width, self.labels, self.count = width, labels, count

    def readers(self) -> list[Any]:
        """The linear layers that read hidden states."""
        return []

    def around(self, i: int, x: Tensor, texts: Texts) -> Tensor:
        """What exit i is to know of each text, (n, ...), where it looks at all tokens; x (b, t, d)."""
        raise AssertionError(f"{type(self).__name__} looks at one vector for each text")

    def look(self, i: int, first: Tensor, memory: Memory) -> None:
        """Keep what later exits need, of every layer that has a place in `memory`; first: (n, d)."""

    def forward(self, i: int, first: Tensor, memory: Memory, model: nn.Module, drop: float) -> tuple[Tensor, Tensor]:
        """Logits (n, labels) of exit i, and the features (n, ...) that they were made of; first: (n, ...)."""
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

    size: its width; heads: of its attention.  What FastBERT made before there was QueryBranch.
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

    def around(self, i: int, x: Tensor, texts: Texts) -> Tensor:
        """(n, size)."""
        x, mask = self.at("narrow", i, x).tanh(), texts.shown
        q, k, v = (self.at(name, i, x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in "qkv")
        scores = q @ k.transpose(-1, -2) * (self.size // self.heads) ** -0.5
        probs = (scores if mask is None else scores + mask).softmax(-1)
        return texts.firsts(self.at("o", i, (probs @ v).transpose(1, 2).flatten(-2)))

    def forward(self, i: int, first: Tensor, memory: Memory, model: nn.Module, drop: float) -> tuple[Tensor, Tensor]:
        """The features are the first token's."""
        seen = self.at("dense", i, first).tanh()
        return self.at("linear", i, seen), seen


class QueryBranch(Branch):
    """The same answers at the price of the narrowing, for of all tokens' attention only the first one's is read.

    One query per text needs no key or value per token: with K = x W, q K^T = (q W^T) x^T, and the mean of values is the
    value of the mean.  So a token costs width * size, and two products of `size` for each head.  Keys have no bias: it
    would add the same to every score.
    """

    def __init__(self, width: int, labels: int, count: int, size: int = 128, heads: int = 2) -> None:
        super().__init__(width, labels, count, size, heads)
        del self.k
        self.keys = nn.ParameterList(nn.Parameter(torch.randn(heads, size // heads, size) * 0.02) for _ in range(count))

    def around(self, i: int, x: Tensor, texts: Texts) -> Tensor:
        """(n, size)."""
        x = self.at("narrow", i, x).tanh()
        q = self.at("q", i, texts.firsts(x)).unflatten(-1, (self.heads, 1, -1)) * (self.size // self.heads) ** -0.5
        seen = texts.found((q @ self.keys[i]).squeeze(-2), x)  # (n, heads, size)
        values = self.at("v", i, seen).unflatten(-1, (self.heads, -1))  # of each head's mean, for every head
        return self.at("o", i, torch.cat([values[:, head, head] for head in range(self.heads)], -1))


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
    No exit moves the pooled states of the layers before its own, but every exit moves W.  size: of what is pooled, 0:
    width; biased: whether projections have a bias, as in the authors' code.
    """

    def __init__(self, width: int, labels: int, count: int, size: int = 0, biased: bool = False) -> None:
        super().__init__(width, labels, count)
        self.size = size or width
        self.pooler = nn.ModuleList(nn.Linear(width, self.size) for _ in range(count))
        self.guess = nn.ModuleList(nn.Linear(self.size, self.size) for _ in range(count))
        self.project = nn.ModuleList(nn.Linear(self.size, 2 * labels, bias=biased) for _ in range(count))
        self.gate = nn.Linear(labels, labels)

    def readers(self) -> list[Any]:
        """The poolers."""
        return list(self.pooler)

    def pooled(self, i: int, first: Tensor) -> Tensor:
        """What stands for layer i, (n, size); first: (n, d)."""
        return self.pooler[i](first).tanh()  # type: ignore[no-any-return]

    def guesses(self, i: int, seen: Tensor) -> list[Tensor]:
        """Of every later layer's pooled state; seen: (b, d), this layer's."""
        return [self.guess[j](seen).tanh() for j in range(i + 1, self.count)]

    def forward(self, i: int, first: Tensor, memory: Memory, model: nn.Module, drop: float) -> tuple[Tensor, Tensor]:
        """The features are the pooled state.

        past: (n, layers so far, 2 labels), what was projected of each layer; while learning (n, layers so far, size),
        the pooled states themselves, of which each exit drops others.
        """
        seen, past = self.pooled(i, first), memory.get("past")
        kept = seen.detach() if self.training else self.project[i](seen)
        memory["past"] = kept[:, None] if past is None else torch.cat([past, kept[:, None]], 1)
        if self.training:
            states = [*(() if past is None else past.unbind(1)), seen]
            every = torch.stack([self.project[j](F.dropout(one, drop)) for j, one in enumerate(states)], 1)
        else:
            every = memory["past"]
        u, v = every.chunk(2, -1)
        future = torch.zeros_like(u[:, 0])
        for j, guess in enumerate(self.guesses(i, seen), i + 1):
            future = future + self.project[j](F.dropout(guess, drop, self.training))[:, : self.labels]
        gate = self.gate(v.mean(1).tanh()).sigmoid()
        return 2 * gate * u.sum(1) + 2 * (1 - gate) * future, seen


HEADS: dict[str, type[Head]] = {
    one.__name__: one for one in (SharedPooler, OwnPooler, Branch, QueryBranch, Mixed, PastFuture)
}
