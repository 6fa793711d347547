"""Attention on a CPU, a few heads at a time, so that scores are made, used and forgotten within the cache.

torch has a fused kernel for a CPU, but not with dropout, and not for who wants to know what was looked at: then each of
its steps writes all scores (B, heads, T, T) to memory, and keeps three of them for the backward pass.  Here a block of
scores goes through all steps at once; the backward pass makes it anew, and only what was dropped is kept, a byte each.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 2**18  # scores that are worked on at once: a megabyte, which a core's own cache holds
LEVELS = 2**16  # of the random numbers that decide what is dropped


class Told(NamedTuple):
    """What goes with the operands.  dropout: the share of probabilities that is dropped; mean: whether it is wanted."""

    scaling: float
    dropout: float
    mean: bool


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, weights: Tensor | None, told: Told) -> Any:
    """dropout(softmax(q k' * scaling + mask)) v, and the mean of the softmax over heads, (B, Tq, Tk), or None.

    query, key, value: (B, heads, T, head size).  mask: additive, broadcastable to the scores; it gets no gradient.
    weights: of the keys, (B, T) of at most 1; see gossamer.runtime.attention.weighing.  The share that is dropped is
    rounded to a multiple of 1 / 65536, and what stays is scaled by exactly what it lost.  There is no second gradient.
    """
    if mask is not None:
        mask = mask[(None,) * (4 - mask.ndim)]
    return Blockwise.apply(query, key, value, mask, weights, told)  # type: ignore[no-untyped-call]


class Blockwise(torch.autograd.Function):
    """The function and its gradient."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, weights: Tensor | None, told: Told
    ) -> tuple[Tensor, Tensor | None]:
        """Of each block the scores, the probabilities, what is left of them, and the product."""
        shape = (*query.shape[:3], key.shape[2])
        out = query.new_empty(*query.shape[:3], value.shape[3])
        mean = query.new_zeros(shape[0], *shape[2:]) if told.mean else None
        kept = torch.empty(shape, dtype=torch.bool) if told.dropout else None
        chance = None if kept is None else np.random.SFC64(int(torch.randint(2**62, ())))
        for at in blocks(shape):
            probs = seen = softmax(query[at], key[at], told.scaling, part(mask, at))
            if weights is not None:
                probs = weighed(seen, weights[at[0]])[0]
            if mean is not None:
                mean[at[0]] += probs.sum(1) / shape[1]
            if kept is not None:
                kept[at] = drawn(chance, probs.shape, told.dropout)
                probs = probs * kept[at]
            out[at] = probs @ value[at]
        ctx.save_for_backward(query, key, value, mask, weights, kept)
        ctx.told = told
        ctx.set_materialize_grads(False)
        return out if kept is None else out.div_(left(told.dropout)), mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_mean: Tensor | None) -> tuple[Tensor | None, ...]:
        """Each block's probabilities anew, then back through the steps."""
        query, key, value, mask, weights, kept = ctx.saved_tensors
        scaling, heads = ctx.told.scaling, query.shape[1]
        found = [torch.empty_like(one) for one in (query, key, value)]
        of_weights = None if weights is None else torch.zeros_like(weights)
        if grad is None:
            grad = query.new_zeros(*query.shape[:3], value.shape[3])
        if kept is not None:
            grad = grad / left(ctx.told.dropout)
        for at in blocks((*query.shape[:3], key.shape[2])):
            probs = seen = softmax(query[at], key[at], scaling, part(mask, at))
            if weights is not None:
                probs, sums, each = weighed(seen, weights[at[0]])
            d = grad[at] @ value[at].transpose(-1, -2)
            if kept is not None:
                d *= kept[at]
            found[2][at] = (probs if kept is None else probs * kept[at]).transpose(-1, -2) @ grad[at]
            if grad_mean is not None:
                d += grad_mean[at[0]][:, None] / heads
            if of_weights is not None:
                d = (d - (d * probs).sum(-1, keepdim=True)) / sums
                gone = d * seen
                of_weights[at[0]] += (gone.sum(2) - gone.diagonal(dim1=2, dim2=3)).sum(1)
                d *= each
            d = torch._softmax_backward_data(d, seen, -1, seen.dtype)
            found[0][at] = (d @ key[at]).mul_(scaling)
            found[1][at] = (d.transpose(-1, -2) @ query[at]).mul_(scaling)
        return (*found, None, of_weights, None)


def blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Rows and heads of each block of scores (B, heads, Tq, Tk): several rows, or of one row some heads."""
    rows, heads, each = shape[0], max(1, shape[1]), max(1, shape[2] * shape[3])
    some, many = max(1, BLOCK // (heads * each)), min(heads, max(1, BLOCK // each))
    for row in range(0, rows, some):
        for head in range(0, heads, many):
            yield slice(row, row + some), slice(head, head + many)


def part(mask: Tensor | None, at: tuple[slice, slice]) -> Tensor | None:
    """The mask of a block."""
    if mask is None:
        return None
    mask = mask if len(mask) == 1 else mask[at[0]]
    return mask if mask.shape[1] == 1 else mask[:, at[1]]


def softmax(query: Tensor, key: Tensor, scaling: float, mask: Tensor | None) -> Tensor:
    """Of the scores of a block."""
    scores = (query * scaling) @ key.transpose(-1, -2)
    if mask is not None:
        scores += mask
    return torch.softmax(scores, -1, out=scores)


def weighed(probs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities by the weight of the keys (b, t), what they summed up to, and the weights of each query's keys."""
    itself = torch.eye(weights.shape[1], dtype=torch.bool, device=weights.device)
    each = weights[:, None, None, :].to(probs.dtype).masked_fill(itself, 1.0)
    found = probs * each
    sums = found.sum(-1, keepdim=True)
    return found / sums, sums, each


def limit(dropout: float) -> int:
    """How many of all levels mean that something is dropped."""
    return round(dropout * LEVELS)


def left(dropout: float) -> float:
    """The share that is left, 1 where nothing is."""
    return 1 - limit(dropout) / LEVELS or 1.0


def drawn(chance: Any, shape: torch.Size, dropout: float) -> Tensor:
    """True where something stays.  A coin of torch's costs several times as much as one of these."""
    count, gone = shape.numel(), limit(dropout)
    if gone == LEVELS:
        return torch.zeros(shape, dtype=torch.bool)
    bits = torch.from_numpy(chance.random_raw(-(-count // 4)).view(np.int16))[:count].view(shape)
    return bits >= gone - LEVELS // 2
