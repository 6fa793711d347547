"""Token skipping: what a token is worth, which tokens stay, and how that is learned."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Heard
from .modules import straight_through
from .passage import Passage
from .walks import Walk, received

NEVER = 1e9


def ranks(passage: Passage, score: Tensor) -> Tensor:
    """How many living tokens of its text are worth more than each; (b, t).

    Of equals the earlier one is worth more; the first token is worth most.
    """
    score = score.masked_fill(passage.tokens == 0, NEVER)
    peers, place = passage.peers, torch.arange(score.shape[1], device=score.device)
    mine, other = score[:, :, None], score[:, None, :]
    more = (other > mine) | ((other == mine) & (place[None, None, :] < place[None, :, None]))
    found: Tensor = (peers & more).sum(-1)
    return found


class Ranked(Walk):
    """After each attention only a share of the tokens stays: those that receive most attention.

    shares: of the text's own length, for each layer; the number is rounded up, and the first token stays.  own: a
    token's attention to itself counts (LAT's code), or not (PoWER-BERT).  bins: while the shares are being learned,
    tokens are weighed by their rank, in so many classes of rank (PoWER-BERT's soft-extract layer).
    """

    dynamic, listens = True, True
    needs_attention = True

    def __init__(self, depth: int, shares: list[float], own: bool = False, bins: int = 0) -> None:
        super().__init__()
        self.depth, self.shares, self.own, self.bins = depth, list(shares), own, bins
        self.kept = nn.Parameter(torch.ones(depth, bins)) if bins else None
        self.playing: list[bool] | None = None  # in training, which layers are not left out (LayerDrop)

    def plays(self, step: int) -> bool:
        """Whether a layer is not left out."""
        return self.playing is None or self.playing[step]

    def between(self, passage: Passage, heard: Heard | None) -> None:
        """Rank, and weigh or let go."""
        share = self.shares[passage.step]
        if heard is None or (share >= 1 and self.kept is None):
            return
        place, length = ranks(passage, received(passage, heard, self.own)), passage.entire
        if self.kept is not None:
            weights = self.kept[passage.step].clamp(0, 1)
            which = (place * self.bins // length.clamp_min(1)).clamp_max(self.bins - 1)
            passage.x = passage.x * weights[which].unsqueeze(-1).to(passage.x.dtype)
            return
        keep = place < (share * length - 1e-4).ceil().clamp_min(1)
        passage.drop(keep, leave=not self.training and not self.whole)

    def depart(self, passage: Passage) -> None:
        """What was hidden is as it was."""
        passage.freeze()

    def drops(self, step: int) -> bool:
        """Where fewer than all stay."""
        return self.shares[step] < 1


class Policy(Walk):
    """A small network before some layers says which tokens go on (TR-BERT, Transkimmer).

    places: before which layers, from 0 on.  hidden: its width; deep: with two norms, as in Transkimmer.  A token goes
    on if its probability is at least a half; the first one always does.  While it is learned, `mode` says how: "" as in
    use, "sample": by chance, the choices being kept in `acts`; "soft": by chance too, in a way that has a gradient
    (straight-through Gumbel-softmax); "all": everybody goes on.  watch: told of each place and the logits (n, 2) of the
    tokens that are asked there.
    """

    dynamic = True
    needs_attention = True

    def __init__(self, depth: int, width: int, places: list[int], hidden: int = 32, deep: bool = False) -> None:
        super().__init__()
        self.depth, self.places, self.deep = depth, list(places), deep
        self.nets = nn.ModuleList(self._net(width, hidden) for _ in places)
        self.mode = ""
        self.acts: list[tuple[int, Tensor, Tensor, Tensor]] = []  # place, states, who was there, who goes on
        self.counts: list[tuple[Tensor, Tensor]] = []  # of the tokens that go on, and of all: (b,) each
        self.worth: Tensor | None = None  # (b, t): if given, as many tokens go on, but those of most worth
        self.watch: Callable[[int, Tensor], None] | None = None

    def readers(self) -> list[Any]:
        """The linear layers that read hidden states."""
        return [net[int(self.deep)] for net in self.nets]  # type: ignore[index]

    def norms(self) -> list[Any]:
        """The norms over hidden states."""
        return [net[0] for net in self.nets] if self.deep else []  # type: ignore[index]

    @property
    def width(self) -> int:
        """Of hidden states, by now."""
        return int(self.readers()[0].in_features)

    @property
    def hidden(self) -> int:
        """Of the networks."""
        return int(self.readers()[0].out_features)

    def rest(self) -> None:
        """Nothing is learned any more."""
        self.mode, self.acts, self.counts = "", [], []

    def _net(self, width: int, hidden: int) -> nn.Sequential:
        if self.deep:
            net = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, 2)
            )
        else:
            net = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, 2))
        for module in net:
            if isinstance(module, nn.Linear):
                module.weight.data.normal_(std=0.02)
                module.bias.data.zero_()
        last = net[-1]
        assert isinstance(last, nn.Linear)
        if self.deep:
            last.bias.data.copy_(torch.tensor([-5.0, 5.0]))  # all go on, in the beginning
        return net

    def scores(self, at: int, x: Tensor) -> Tensor:
        """Logits of dropping and of keeping, (b, t, 2)."""
        return self.nets[at](x)  # type: ignore[no-any-return]

    def enter(self, passage: Passage) -> None:
        """Ask, before the layers that are named."""
        if passage.step == 0:
            self.acts, self.counts = [], []
        if passage.step not in self.places or self.mode == "all":
            return
        at, first = self.places.index(passage.step), passage.tokens == 0
        if self.training and self.mode == "soft":
            self._weigh(at, passage, first)
            return
        x = passage.x.detach() if self.training else passage.x
        z = self.scores(at, x)
        if self.watch is not None:
            self.watch(at, z[passage.living & ~first])
        keep = z[..., 1] >= z[..., 0]
        if self.training and self.mode == "sample":
            keep = torch.bernoulli(z.softmax(-1)[..., 1].float()).bool()
            if self.worth is not None:
                keep = self._best(passage, z)
            self.acts.append((at, x, passage.living & ~first, keep))
        keep = keep | first
        if self.training and self.mode:
            self.counts.append(((keep & passage.living).sum(1).float(), passage.lengths.float()))
        passage.drop(keep, leave=not self.training and not self.whole)

    def _best(self, passage: Passage, z: Tensor) -> Tensor:
        """As many tokens as are expected to stay, those of most worth."""
        assert self.worth is not None
        count = (z.softmax(-1)[..., 1] * passage.living).sum(1, keepdim=True).round().clamp_min(1)
        return ranks(passage, self.worth) < count

    def _weigh(self, at: int, passage: Passage, first: Tensor) -> None:
        soft = F.gumbel_softmax(self.scores(at, passage.x).float(), tau=1.0, hard=False)
        hard = (soft.argmax(-1) == 1).float()
        mask = straight_through(hard, soft[..., 1])
        mask = torch.where(first, torch.ones_like(mask), mask) * passage.valid
        if "keys" in passage.marks:
            mask = mask * passage.marks["keys"]
        passage.marks["keys"], passage.marks["before"] = mask, passage.x
        self.counts.append((mask.sum(1), passage.lengths.float()))

    def log_prob(self) -> Tensor:
        """Of the choices of the last run: the mean over the tokens of each choice, summed over the choices; (b,)."""
        total: Tensor | None = None
        for at, x, there, keep in self.acts:
            log = self.scores(at, x).float().log_softmax(-1)
            each = torch.where(keep, log[..., 1], log[..., 0]) * there
            one = each.sum(1) / there.sum(1).clamp_min(1)
            total = one if total is None else total + one
        assert total is not None, "nothing was chosen"
        return total

    def share(self) -> Tensor:
        """Of the tokens that went on, the mean over the places; (b,)."""
        return torch.stack([kept / all_ for kept, all_ in self.counts]).mean(0)

    def depart(self, passage: Passage) -> None:
        """What does not go on keeps its state."""
        if "before" in passage.marks:
            mask = passage.marks["keys"][..., None].to(passage.x.dtype)
            passage.x = passage.x * mask + passage.marks["before"] * (1 - mask)
        else:
            passage.freeze()

    def skips(self, step: int) -> bool:
        """Where there is a network."""
        return step in self.places
