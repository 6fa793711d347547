"""One attention function that lets others see the queries, keys, values and scores of every family.

It is registered with transformers under the name ``gossamer``.  While nobody listens it hands over to the fused
kernel; while somebody does, it spells the softmax out and tells what it computed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "gossamer"


@dataclass
class Heard:
    """What one call of one attention module computed.

    query, key, value: (B, heads, T, head size), keys and values repeated to the number of query heads.
    scores: (B, heads, Tq, Tk), scaled, position bias included, before the mask.
    mask: additive, broadcastable to the scores, or None.  probs: the softmax of scores + mask.
    """

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    scores: Tensor
    mask: Tensor | None
    probs: Tensor


Listener = Callable[[Heard], None]
_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("gossamer_listeners", default=())


_weights: ContextVar[Tensor | None] = ContextVar("gossamer_weights", default=None)


@contextmanager
def weighing(weights: Tensor | None) -> Iterator[None]:
    """Keys count as much as their weight says, (b, t), in the attention inside the block; a token to itself fully.

    A_ij = w_j exp(s_ij) / sum_k w_k exp(s_ik): with weights of 0 and 1 the same as if the keys were not there, and
    differentiable.
    """
    token = _weights.set(weights)
    try:
        yield
    finally:
        _weights.reset(token)


@contextmanager
def unheard() -> Iterator[None]:
    """Tell nobody of what is computed inside the block."""
    token = _listeners.set(())
    try:
        yield
    finally:
        _listeners.reset(token)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell `listener` of every attention computed inside the block, in this thread only."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)


def additive(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """A boolean mask (True: may be seen) as numbers to add to the scores; others as they are."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(~mask, torch.finfo(like.dtype).min)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """softmax(q k' * scaling + position_bias + mask) v, told to whoever listens.

    query, key, value: (B, heads, T, head size).  position_bias: one that belongs to the scores.
    A module that carries a child `rounding` has its four operands rounded on the way (TernaryBERT, section 3.1).
    """
    rounding = getattr(module, "rounding", None)
    listeners = _listeners.get()
    if not listeners and rounding is None and _weights.get() is None:
        mask = attention_mask
        if position_bias is not None:
            added = additive(mask, query)
            mask = position_bias if added is None else position_bias + added
        return sdpa_attention_forward(module, query, key, value, mask, dropout=dropout, scaling=scaling, **kwargs)
    if key.shape[1] != query.shape[1]:  # grouped queries share keys and values
        key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], dim=1) for t in (key, value))
    if rounding is not None:
        query, key, value = rounding.query(query), rounding.key(key), rounding.value(value)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if position_bias is not None:
        scores = scores + position_bias
    mask = additive(attention_mask, scores)
    probs = (scores if mask is None else scores + mask).softmax(-1, dtype=torch.float32)
    if (keys := _weights.get()) is not None:
        itself = torch.eye(keys.shape[1], dtype=keys.dtype, device=keys.device)
        probs = probs * torch.maximum(keys[:, None, None, :], itself)
        probs = probs / probs.sum(-1, keepdim=True)
    probs = probs.to(value.dtype)
    for listener in listeners:
        listener(Heard(module, query, key, value, scores, mask, probs))
    weights = rounding.probs(probs) if rounding is not None else probs
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), probs


def use(model: nn.Module) -> None:
    """Let a model run on this attention function for good, layers that were copied with their own config included."""
    for config in {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}.values():
        if hasattr(config, "_attn_implementation"):
            config._attn_implementation = NAME


ALL_ATTENTION_FUNCTIONS.register(NAME, attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, eager_mask)
