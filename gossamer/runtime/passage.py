"""A batch on its way through the layers: who is still in it, and which tokens each still has."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .attention import Heard, additive

# What a family hands to each layer beside the hidden states, and how it follows when rows or tokens leave:
# (dimension of the batch, dimensions of the tokens).  Anything else that is a tensor is refused aloud.
CARRIED: dict[str, tuple[int, tuple[int, ...]]] = {
    "attention_mask": (0, (-1, -2)),
    "attn_mask": (0, (-1, -2)),
    "position_bias": (0, (-1, -2)),
    "position_embeddings": (0, (1,)),
    "position_ids": (0, (1,)),
}


class Texts(ABC):
    """Texts that are each in a row of their own: what stands for one, of what its tokens have."""

    @property
    @abstractmethod
    def shown(self) -> Tensor | None:
        """What each token may see, as numbers to add to scores, (b, 1, t or 1, t); None: everything."""

    @property
    def shown_first(self) -> Tensor | None:
        """The same of each text's first token, (b, 1, t)."""
        mask = self.shown
        return None if mask is None else mask[:, 0, :1]

    def firsts(self, x: Tensor) -> Tensor:
        """Of what stands for each token, (b, t, ...), that of each text's first one, (n, ...)."""
        return x[:, 0]

    def mean(self, x: Tensor) -> Tensor:
        """The mean over each text's tokens; x (b, t, d) -> (n, d)."""
        weights = self.weights()
        return x.mean(1) if weights is None else (weights.to(x.dtype) @ x)[:, 0]

    def weights(self) -> Tensor | None:
        """What each token weighs in the mean over its text, alike for all that are seen; (b, 1, t), None: all alike."""
        mask = self.shown_first
        return None if mask is None else mask.float().softmax(-1)

    def found(self, query: Tensor, x: Tensor) -> Tensor:
        """The mean over each text's tokens, weighed by softmax(query x^T); query (n, heads, d), x (b, t, d)."""
        scores, mask = query @ x.transpose(-1, -2), self.shown_first
        return (scores if mask is None else scores + mask).softmax(-1) @ x


class Padded(Texts):
    """As many texts as rows.  mask: (b, t) True or 1 on tokens, or None; like: of what type the numbers are."""

    def __init__(self, mask: Tensor | None, like: Tensor) -> None:
        self._shown = None if mask is None else additive(mask.bool()[:, None, None, :], like)

    @property
    def shown(self) -> Tensor | None:
        """The mask, (b, 1, 1, t)."""
        return self._shown


@dataclass
class Passage(Texts):
    """The state of one run through the layers.

    x: (b, t, d) hidden states of the rows and tokens still travelling.  rows: (b,) their places in the batch.
    tokens: (b, t) their positions in the text.  valid: (b, t) False on padding and filler.  lengths: (b,) true lengths.
    memory: what the walks keep per row, (b, ...); marks: per token, (b, t, ...).  heard: the current layer's attention.
    going: (b, t) tokens that are to stay, None: all; leave: whether the others leave the batch.  gone: how many rows
    have finished and not left yet.  answers: (B, classes) of rows that have finished.
    """

    x: Tensor
    carried: dict[str, Any]
    rows: Tensor
    tokens: Tensor
    valid: Tensor
    lengths: Tensor
    finished: Tensor
    final: Tensor | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)
    marks: dict[str, Tensor] = field(default_factory=dict)
    going: Tensor | None = None
    leave: bool = False
    answers: Tensor | None = None
    answered: Tensor | None = None
    step: int = 0
    heard: list[Heard] = field(default_factory=list)
    gone: int = 0
    _seen: Tensor | None = None  # what each token weighs in the mean, until tokens or rows leave

    @classmethod
    def start(cls, x: Tensor, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "Passage":
        """Bind the layer's own arguments by name.  x: (B, T, d)."""
        bound = inspect.signature(layer.forward).bind(x, *args, **kwargs)
        named = dict(bound.arguments)
        named.pop(next(iter(named)))  # the hidden states themselves, whatever the family calls them
        named.update(named.pop("kwargs", {}))
        batch, length = x.shape[:2]
        valid = visible(named.get("attention_mask", named.get("attn_mask")), batch, length, x.device)
        return cls(
            x=x,
            carried=named,
            rows=torch.arange(batch, device=x.device),
            tokens=torch.arange(length, device=x.device).expand(batch, length),
            valid=valid,
            lengths=valid.sum(1),
            finished=torch.zeros(batch, dtype=torch.bool, device=x.device),
        )

    def check(self, walk: str) -> None:
        """Refuse before anything leaves, rather than answer wrongly.

        Raises:
            ValueError: the family carries a tensor that is not known to follow rows and tokens.
        """
        unknown = [k for k, v in self.carried.items() if isinstance(v, Tensor) and k not in CARRIED]
        if unknown:
            raise ValueError(
                f"{walk} lets rows or tokens leave, but this model hands {', '.join(unknown)} to its layers and "
                "gossamer does not know how those follow; name them in gossamer.runtime.passage.CARRIED"
            )

    def weights(self) -> Tensor | None:
        """The same for every exit, until tokens or rows leave."""
        if self._seen is None:
            self._seen = super().weights()
        return self._seen

    def _carry(self, change: Callable[[Tensor, int, tuple[int, ...]], Tensor]) -> None:
        self._seen = None
        for name, (batch, tokens) in CARRIED.items():
            value = self.carried.get(name)
            if isinstance(value, Tensor):
                self.carried[name] = change(value, batch, tokens)
            elif isinstance(value, tuple):
                self.carried[name] = tuple(change(v, batch, tokens) for v in value)

    @property
    def shown(self) -> Tensor | None:
        """What each token may see, as numbers to add to scores, (b, 1, t or 1, t); None: everything."""
        mask = self._mask()
        return None if mask is None else additive(mask, self.x)

    @property
    def shown_first(self) -> Tensor | None:
        """The same of each text's first token, (b, 1, t)."""
        mask = self._mask()
        return None if mask is None else additive(mask[:, 0, :1], self.x)

    def _mask(self) -> Tensor | None:
        mask = self.carried.get("attn_mask", self.carried.get("attention_mask"))
        return mask[:, None, None, :].bool() if mask is not None and mask.ndim == 2 else mask

    def keep_rows(self, keep: Tensor) -> None:
        """Only the rows `keep` (b,) True travel on; what the others have so far is laid aside, in order."""
        self._lay_aside(~keep)
        chosen = keep.nonzero().squeeze(1)

        def select(value: Tensor, batch: int, tokens: tuple[int, ...]) -> Tensor:
            return value if value.shape[batch] == 1 else value.index_select(batch, chosen)

        self._carry(select)
        self.x, self.rows, self.tokens, self.valid, self.lengths, self.finished = (
            v.index_select(0, chosen) for v in (self.x, self.rows, self.tokens, self.valid, self.lengths, self.finished)
        )
        self.memory, self.marks = (
            {k: v.index_select(0, chosen) for k, v in kept.items()} for kept in (self.memory, self.marks)
        )
        self.gone = int(self.finished.sum())
        if len(chosen):
            self.keep_tokens(self.valid)  # columns that are padding for all who are left

    def keep_tokens(self, keep: Tensor) -> None:
        """Only the tokens `keep` (b, t) True travel on, gathered to the left; the state of the others is laid aside."""
        keep = keep & self.valid
        longest = max(1, int(keep.sum(1).max()))
        if longest == self.x.shape[1] and bool(keep.eq(self.valid).all()):
            return
        self._lay_aside(torch.zeros_like(self.finished), self.valid & ~keep)
        order = (~keep).to(torch.int8).argsort(dim=1, stable=True)[:, :longest]  # (b, longest)
        full = self.x.shape[1]

        def gather(value: Tensor, batch: int, tokens: tuple[int, ...]) -> Tensor:
            for dim in tokens:
                if value.shape[dim] != full:
                    continue  # broadcast over the tokens
                if value.shape[batch] == 1 and len(order) > 1:
                    value = value.expand(len(order), *value.shape[1:])
                index = order.view(len(order), *(longest if d == dim % value.ndim else 1 for d in range(1, value.ndim)))
                shape = list(value.shape)
                shape[dim] = longest
                value = value.gather(dim, index.expand(shape))
            return value

        self._carry(gather)
        self.x = self.x.gather(1, order[..., None].expand(*order.shape, self.x.shape[-1]))
        self.tokens, self.valid = self.tokens.gather(1, order), keep.gather(1, order)
        self.marks = {
            k: v.take_along_dim(order.view(*order.shape, *[1] * (v.ndim - 2)), 1) for k, v in self.marks.items()
        }
        self.hide(~self.valid)

    @property
    def living(self) -> Tensor:
        """Which tokens are real and have not been dropped; (b, t)."""
        dropped, keys = self.marks.get("dropped"), self.marks.get("keys")
        found = self.valid if dropped is None else self.valid & ~dropped
        return found if keys is None else found & (keys.detach() > 0.5)

    @property
    def entire(self) -> Tensor:
        """How long each token's text was in the beginning; (b, t or 1)."""
        return self.lengths[:, None]

    @property
    def peers(self) -> Tensor:
        """Which tokens live in the text of each; (b, t or 1, t)."""
        return self.living[:, None, :]

    def drop(self, keep: Tensor, leave: bool) -> None:
        """Only the tokens `keep` (b, t) True are to travel on; it is done when all walks have been asked.

        leave: the others leave the batch; else they are hidden, and frozen by `freeze`, which comes to the same.
        """
        self.going = keep if self.going is None else self.going & keep
        self.leave = leave

    def let_go(self) -> None:
        """Do what `drop` was told."""
        keep, self.going = self.going, None
        if keep is None:
            return
        if self.leave:
            self.keep_tokens(keep)
            return
        fresh = self.living & ~keep
        held = self.marks.get("held", self.x)
        self.marks["held"] = torch.where(fresh[..., None], self.x, held)
        self.marks["dropped"] = ~self.living & self.valid | fresh
        self.hide(self.marks["dropped"])

    def freeze(self) -> None:
        """Put the states back that hidden tokens had when they were dropped."""
        if "held" in self.marks:
            self.x = torch.where(self.marks["dropped"][..., None], self.marks["held"], self.x)

    def hide(self, hidden: Tensor) -> None:
        """No token sees the tokens `hidden` (b, t) True any more, as if they had left."""
        self._seen = None
        name = "attn_mask" if "attn_mask" in self.carried else "attention_mask"
        mask = self.carried.get(name)
        if mask is None:
            if bool(hidden.any()):
                self.carried[name] = (~hidden)[:, None, None, :].expand(-1, 1, hidden.shape[1], -1)
        else:
            keys = hidden if mask.ndim == 2 else hidden[:, None, None, :]
            lowest = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min if mask.ndim == 4 else 0
            self.carried[name] = mask.masked_fill(keys, lowest)

    def _lay_aside(self, rows: Tensor, tokens: Tensor | None = None) -> None:
        """Write the current state of `rows` (b,), or of single `tokens` (b, t), to their places in the full batch."""
        if self.final is None:
            length = int(self.tokens.max()) + 1
            self.final = self.x.new_zeros(len(self.rows), length, self.x.shape[-1])
        where = self.valid & rows[:, None] if tokens is None else tokens
        batch = self.rows[:, None].expand_as(self.tokens)
        self.final[batch[where], self.tokens[where]] = self.x[where].to(self.final.dtype)

    def arrive(self) -> Tensor:
        """The hidden states of the whole batch, every row and token in its old place; (B, T, d)."""
        if self.final is None:
            return self.x
        self._lay_aside(torch.ones_like(self.finished))
        return self.final

    def answer(self, logits: Tensor, who: Tensor) -> None:
        """Rows `who` (b,) True have their answer; logits: (b, classes)."""
        chosen = (who & ~self.finished if self.gone else who).nonzero().squeeze(1)
        if not len(chosen):
            return
        if self.answers is None or self.answered is None:
            everyone = len(self.rows) if self.final is None else len(self.final)
            self.answers = logits.new_zeros(everyone, logits.shape[-1])
            self.answered = torch.zeros(everyone, dtype=torch.bool, device=logits.device)
        rows = self.rows[chosen]
        self.answers[rows] = logits[chosen]
        self.answered[rows] = True
        self.finished = self.finished | who
        self.gone += len(chosen)


def visible(mask: Tensor | None, batch: int, length: int, device: torch.device) -> Tensor:
    """Which tokens are real, read off an attention mask in any of transformers' forms; (B, T) bool."""
    if mask is None:
        return torch.ones(batch, length, dtype=torch.bool, device=device)
    seen = mask if mask.dtype == torch.bool else mask > (torch.finfo(mask.dtype).min / 2 if mask.ndim == 4 else 0.5)
    if mask.ndim == 4:
        seen = seen.any(1).any(1)  # somebody may look at it
    return seen.expand(batch, length)
