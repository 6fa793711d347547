"""Lower layers that see three tokens at a time, and the table that takes their place (SkipBERT, Wang et al., ACL 2022).

The module stands where a model has its table of words: the family adds positions and token types, and norms, as ever.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import unheard
from .modules import IntEmbedding

BITS = 11  # of the factors of the hash: small enough for 32-bit arithmetic with words of 19 bits
LOAD = 0.4  # of the slots are taken: two choices of a slot then nearly always suffice
TRIES = 50


_texts: ContextVar[Tensor | None] = ContextVar("gossamer_texts", default=None)


@contextmanager
def end_to_end(texts: Tensor) -> Iterator[None]:
    """Inside the block, rows hold several texts: which one each token belongs to, (b, t)."""
    token = _texts.set(texts)
    try:
        yield
    finally:
        _texts.reset(token)


class Trigrams(nn.Module):
    """From words to what the lower layers make of each beside its neighbours; (b, t) ids -> (b, t, d).

    Three vectors come of each trigram (left, middle, right), and a token's state is the sum of three: the middle one of
    its own trigram, the left one of the next, the right one of the one before.  Who has no neighbour has a none there,
    written as padding; texts end before padding, and where several share a row (see `end_to_end`) each with itself.

    layers: how many lower layers there still are, of the kind that `layer` is the path of from the base model (0: the
    table alone answers, and what it does not hold is looked up as the pair with the right neighbour, as the word alone,
    and is nought at last).  entries: of the table; slots: of its index.  factors: of the two hashes of it, three each.
    The table's vectors are of eight-bit integers with a scale each (the authors': of half precision, twice as large).
    """

    keys: Tensor
    where: Tensor

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding: int,
        layers: int,
        layer: str,
        entries: int = 0,
        slots: int = 1,
        factors: Sequence[int] = (1,) * 6,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.padding = num_embeddings, embedding_dim, padding
        self.layers, self.layer, self.eps = layers, layer, eps
        self.masking = 0.0  # in training, how many trigrams pass for unknown
        if layers:
            self.word = nn.Embedding(num_embeddings, embedding_dim)
            self.place = nn.Parameter(torch.zeros(3, embedding_dim))
            self.norm = nn.LayerNorm(embedding_dim, eps=eps)
            self.gate = nn.Linear(embedding_dim, 1)
            self.lower = nn.ModuleList()
        self._room(entries, slots, factors)

    def _room(self, entries: int, slots: int, factors: Sequence[int]) -> None:
        self.entries, self.slots, self.factors = entries, slots, [int(f) for f in factors]
        self.register_buffer("keys", torch.full((slots, 3), -1, dtype=torch.int32))
        self.register_buffer("where", torch.zeros(slots, 1, dtype=torch.int32))
        self.states = IntEmbedding(3 * (entries + 1), self.embedding_dim)

    def grow(self, model: nn.Module, path: str) -> None:
        """Give the lower layers room, of the kind that `model` has; path: of this module in the model."""
        if not self.layers:
            return
        words = path.split(".")
        for n in range(len(words)):
            whole = ".".join([*words[:n], self.layer])
            try:
                template = model.get_submodule(whole)
            except AttributeError:
                continue
            config: Any = model.config
            self.lower = nn.ModuleList(deepcopy(template, {id(config): config}) for _ in range(self.layers))
            return
        raise AssertionError(f"no layer at {self.layer} in {type(model).__name__}")

    def train(self, mode: bool = True) -> "Trigrams":
        """What stands in a table is not dropped, and what is computed beside it is not either."""
        super().train(mode)
        if self.entries:
            for module in self.children():
                module.eval()
        return self

    def trigrams(self, ids: Tensor) -> Tensor:
        """Each token between its neighbours, (b, t) -> (b, t, 3)."""
        none = torch.full_like(ids[:, :1], self.padding)
        left, right = torch.cat([none, ids[:, :-1]], 1), torch.cat([ids[:, 1:], none], 1)
        if (texts := _texts.get()) is not None:
            nobody = torch.full_like(texts[:, :1], -1)
            left = torch.where(torch.cat([nobody, texts[:, :-1]], 1) == texts, left, self.padding)
            right = torch.where(torch.cat([texts[:, 1:], nobody], 1) == texts, right, self.padding)
        return torch.stack([left, ids, right], -1)

    def compute(self, trigrams: Tensor) -> Tensor:
        """What the lower layers make of trigrams, (m, 3) -> (m, 3, d); noughts where there is none."""
        there = trigrams != self.padding
        there[:, 1] = True
        x = self.norm(self.word(trigrams) + self.place)
        mask = (~there)[:, None, None, :].to(x.dtype) * torch.finfo(x.dtype).min
        with unheard():
            for layer in self.lower:
                out = layer(x, mask)
                x = out[0] if isinstance(out, tuple) else out
        gated: Tensor = x * torch.sigmoid(self.gate(x)) * there[..., None]
        return gated

    def slot(self, trigrams: Tensor, which: int) -> Tensor:
        """The first or the second slot where a trigram can stand, (..., 3) -> (...)."""
        a, b, c = self.factors[3 * which : 3 * which + 3]
        left, middle, right = trigrams.unbind(-1)
        return ((left * a) % self.slots + (middle * b) % self.slots + (right * c) % self.slots) % self.slots

    def find(self, trigrams: Tensor) -> Tensor:
        """Which entry of the table a trigram is, the last one (of noughts) if it is not there; (..., 3) -> (...)."""
        found = torch.full_like(trigrams[..., 0], self.entries)
        for which in (0, 1):
            slot = self.slot(trigrams, which)
            same = (F.embedding(slot, self.keys) == trigrams).all(-1)
            found = torch.where(same, F.embedding(slot, self.where)[..., 0].to(found.dtype), found)
        return found

    def known(self, trigrams: Tensor) -> Tensor:
        """The entry of a trigram, or of its middle and right, or of its middle; (..., 3) -> (...)."""
        left, middle, right = trigrams.unbind(-1)
        none = torch.full_like(left, self.padding)
        found = self.find(trigrams)
        if self.training and self.masking:
            found = torch.where(torch.rand(found.shape, device=found.device) < self.masking, self.entries, found)
        for less in (torch.stack([none, middle, right], -1), torch.stack([none, middle, none], -1)):
            found = torch.where(found == self.entries, self.find(less), found)
        return found

    def stored(self, entries: Tensor) -> Tensor:
        """(...) -> (..., 3, d)."""
        states: Tensor = self.states(3 * entries[..., None] + torch.arange(3, device=entries.device))
        return states

    def looked_up(self, trigrams: Tensor) -> Tensor:
        """(b, t, 3) -> (b, t, 3, d)."""
        if not self.layers:
            return self.stored(self.known(trigrams))
        flat = trigrams.flatten(0, 1)
        if not self.entries:
            some, back = flat.unique(dim=0, return_inverse=True)
            return self.compute(some)[back].view(*trigrams.shape, -1)
        at = self.find(flat)
        states = self.stored(at).to(self.place.dtype)
        missing = (at == self.entries) & (flat[:, 1] != self.padding)
        if bool(missing.any()):
            some, back = flat[missing].unique(dim=0, return_inverse=True)
            with torch.no_grad():  # what stands in the table does not learn either
                states[missing] = self.compute(some)[back].to(states.dtype)
        return states.view(*trigrams.shape, -1)

    def forward(self, ids: Tensor) -> Tensor:
        """(b, t) -> (b, t, d)."""
        trigrams = self.trigrams(ids)
        left, middle, right = self.looked_up(trigrams).unbind(2)
        nothing = torch.zeros_like(middle[:, :1])
        after, before = (trigrams[..., i, None] != self.padding for i in (2, 0))
        above = torch.cat([left[:, 1:], nothing], 1) * after
        below = torch.cat([nothing, right[:, :-1]], 1) * before
        return middle + above + below

    @torch.no_grad()
    def fill(self, trigrams: Tensor, size: int = 4096) -> None:
        """Make a table of these trigrams, each once, (m, 3)."""
        slots, factors, keys, where = index(trigrams.cpu().numpy())
        device, training = trigrams.device, self.training
        self.eval()
        self._room(len(trigrams), slots, factors)
        self.to(device)
        self.keys.copy_(torch.from_numpy(keys))
        self.where.copy_(torch.from_numpy(where)[:, None])
        for at in range(0, len(trigrams), size):
            states = self.compute(trigrams[at : at + size]).flatten(0, 1)  # (3 m, d)
            scale = states.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
            self.states.codes[3 * at : 3 * at + len(states)] = (states / scale).round().to(torch.int8)
            self.states.scale[3 * at : 3 * at + len(states)] = scale
        self.train(training)

    def settle(self) -> None:
        """From now on the table alone answers."""
        assert self.entries, "there is no table yet"
        for name in ("word", "norm", "gate", "lower"):
            delattr(self, name)
        del self.place
        self.layers = 0


def index(trigrams: NDArray[np.int64]) -> tuple[int, list[int], NDArray[np.int32], NDArray[np.int32]]:
    """Cuckoo hashing (Pagh & Rodler, 2004): slots, the factors of the two hashes, keys (slots, 3), where (slots,).

    Raises:
        ValueError: words of more than 19 bits.
    """
    if len(trigrams) and int(trigrams.max()) >= 1 << (30 - BITS):
        raise ValueError(f"found a word of number {trigrams.max()}, expected less than {1 << (30 - BITS)}")
    chance, slots = np.random.default_rng(0), _prime(int(len(trigrams) / LOAD) + 3)
    for _ in range(TRIES):
        factors = chance.integers(1, 1 << BITS, 6)
        both = [(trigrams * factors[i : i + 3] % slots).sum(1) % slots for i in (0, 3)]
        taken = _place(np.stack(both, 1), slots, 500)
        if taken is not None:
            keys, where = np.full((slots, 3), -1, np.int32), np.zeros(slots, np.int32)
            at = np.flatnonzero(taken >= 0)
            keys[at], where[at] = trigrams[taken[at]], taken[at]
            return slots, factors.tolist(), keys, where
    raise AssertionError(f"{len(trigrams)} trigrams found no room in {slots} slots")


def _place(both: NDArray[np.int64], slots: int, most: int) -> NDArray[np.int64] | None:
    """Which entry stands in each slot (-1: none), of the two that each may stand in (m, 2); None: it does not work."""
    taken, first, second = [-1] * slots, both[:, 0].tolist(), both[:, 1].tolist()
    for entry in range(len(first)):
        going, at = entry, first[entry]
        for _ in range(most):
            going, taken[at] = taken[at], going
            if going < 0:
                break
            at = second[going] if at == first[going] else first[going]
        else:
            return None
    return np.array(taken)


def _prime(least: int) -> int:
    """The first prime from `least` on."""
    n = max(2, least)
    while any(n % d == 0 for d in range(2, int(n**0.5) + 1)):
        n += 1
    return n


def chosen(texts: Sequence[Sequence[int]], padding: int, most: int, words: int) -> NDArray[np.int64]:
    """Trigrams worth a place in a table, (m, 3), m <= most.

    All words that the texts hold, alone, then others up to half of the room (of `words` in all): what is not there is
    nought; then whole trigrams, the most frequent first, up to three quarters of what is left, then pairs of a word and
    the next for the other trigrams, and more of these if there is room still.
    """
    rows = [_between(np.asarray(text, np.int64), padding) for text in texts if len(text)]
    every, counts = _often(np.concatenate(rows) if rows else np.zeros((0, 3), np.int64))
    seen = np.unique(every[:, 1])
    others = np.setdiff1d(np.arange(words), [*seen, padding])[: max(0, most // 2 - len(seen))]
    alone = np.full((len(seen) + len(others), 3), padding, np.int64)
    alone[:, 1] = np.concatenate([seen, others])
    room = max(0, most - len(alone))
    first, later = every[: room * 3 // 4], every[room * 3 // 4 :]
    pairs = later.copy()
    pairs[:, 0] = padding
    pairs, _ = _often(pairs, counts[len(first) :])
    joined = np.concatenate([alone, first, pairs[: room - len(first)], later])
    _, at = np.unique(_packed(joined), return_index=True)
    return joined[np.sort(at)][:most]


def _between(ids: NDArray[np.int64], padding: int) -> NDArray[np.int64]:
    """The trigrams of one text, (t, 3); as `Trigrams.trigrams` has them."""
    return np.stack([np.r_[padding, ids[:-1]], ids, np.r_[ids[1:], padding]], 1)


def _packed(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of three words as one number each."""
    bits = 30 - BITS
    return (rows[:, 0] << 2 * bits) | (rows[:, 1] << bits) | rows[:, 2]


def _often(
    rows: NDArray[np.int64], counts: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Different rows, the most frequent first, and how often each is there; counts: of each row, else once."""
    _, first, which = np.unique(_packed(rows), return_index=True, return_inverse=True)
    total = np.bincount(which, counts, len(first)).astype(np.int64)
    order = np.argsort(-total, kind="stable")
    return rows[first][order], total[order]


def trigrams_of(model: nn.Module) -> Trigrams | None:
    """The module, where a model has one."""
    return next((module for module in model.modules() if isinstance(module, Trigrams)), None)
