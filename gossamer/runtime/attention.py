"""One attention function that lets others see the queries, keys, values and scores of every family.

It is registered with transformers under the name ``gossamer``.  It hands over to the fused kernel, unless somebody
listens, there is none for what was asked, or blocks are quicker; then it goes through the scores in blocks, or spells
the softmax out, and tells what it computed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .blockwise import Told, attend, weighed

NAME = "gossamer"
LONG = 2**21  # scores of a head, of a text, from which torch's own kernel is the quickest whatever else is so
fused = True  # whether it is for shorter ones: see gossamer.kernels


@dataclass
class Heard:
    """What one call of one attention module computed; what was not made on the way is made when somebody asks.

    query, key, value: (B, heads, T, head size), keys and values repeated to the number of query heads.  scaling: of the
    scores.  bias: of the position, added to the scores.  mask: additive, broadcastable to the scores, or None.
    weights: of the keys, (B, T), or None; see `weighing`.
    """

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    scaling: float
    bias: Tensor | None
    mask: Tensor | None
    weights: Tensor | None
    average: Tensor | None = None

    @cached_property
    def scores(self) -> Tensor:
        """(B, heads, Tq, Tk), scaled, position bias included, before the mask."""
        scores = self.query @ self.key.transpose(-1, -2) * self.scaling
        return scores if self.bias is None else scores + self.bias

    @cached_property
    def probs(self) -> Tensor:
        """(B, heads, Tq, Tk), the softmax of scores + mask."""
        scores, mask = self.scores, self.mask
        probs = (scores if mask is None else scores + mask).softmax(-1, dtype=torch.float32)
        if self.weights is not None:
            probs = weighed(probs, self.weights)[0]
        return probs.to(self.value.dtype)

    @property
    def mean(self) -> Tensor:
        """(B, Tq, Tk), the mean of the probabilities over heads."""
        return self.probs.float().mean(1) if self.average is None else self.average


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
    listeners, weights = _listeners.get(), _weights.get()
    plain = not listeners and rounding is None and weights is None
    rate = dropout if module.training else 0.0
    odd = any(kwargs.get(name) is not None for name in ("is_causal", "s_aux", "softcap", "cache"))
    blocks = bool(rate) or not (odd or fused or query.shape[2] * key.shape[2] > LONG)
    if plain and blocks and not rate:
        attention_mask = seen(module, query, key, attention_mask)
    in_blocks = rounding is None and slow((query, key, value), attention_mask, position_bias, module)
    if plain and (odd or not (in_blocks and blocks)):
        mask = attention_mask
        if position_bias is not None:
            added = additive(mask, query)
            mask = position_bias if added is None else position_bias + added
        return sdpa_attention_forward(module, query, key, value, mask, dropout=dropout, scaling=scaling, **kwargs)
    if key.shape[1] != query.shape[1]:  # grouped queries share keys and values
        key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], dim=1) for t in (key, value))
    if rounding is not None:
        query, key, value = rounding.query(query), rounding.key(key), rounding.value(value)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    heard = Heard(module, query, key, value, scaling, position_bias, additive(attention_mask, query), weights)
    if in_blocks:
        told = Told(scaling, rate, bool(listeners))
        out, heard.average = attend(query, key, value, heard.mask, weights, told)
    else:
        probs = heard.probs if rounding is None else rounding.probs(heard.probs)
        out = F.dropout(probs, p=rate) @ value
    for listener in listeners:
        listener(heard)
    return out.transpose(1, 2).contiguous(), None if in_blocks else heard.probs


def seen(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor | None:
    """A mask that says all that torch's kernel would see to: what comes later, and rows with nothing to see (-inf)."""
    if query.device.type != "cpu" or query.dtype != torch.float32:
        return mask
    if mask is not None:
        return mask.clamp_min(torch.finfo(mask.dtype).min) if mask.is_floating_point() else mask
    count = query.shape[2]
    causal = getattr(module, "is_causal", True) and 1 < count == key.shape[2]
    return torch.ones(count, count, dtype=torch.bool, device=query.device).tril() if causal else None


def slow(operands: Sequence[Tensor], mask: Tensor | None, bias: Tensor | None, module: nn.Module) -> bool:
    """Whether torch would write all scores to memory, where blocks of them do.

    On a CPU, in single precision, outside of graphs that are being recorded, with no gradient for mask or bias, and as
    many texts on either side.
    """
    if torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch._C._get_tracing_state():
        return False
    single = all(one.device.type == "cpu" and one.dtype == torch.float32 for one in operands)
    if not single or bias is not None or torch.is_autocast_enabled("cpu"):
        return False
    if mask is None:
        causal = operands[0].shape[2] > 1 and getattr(module, "is_causal", True)
        return not causal and len({len(one) for one in operands}) == 1
    numbers = mask.dtype == torch.bool or mask.is_floating_point()
    return numbers and not mask.requires_grad and len({len(one) for one in operands}) == 1


def use(model: nn.Module) -> None:
    """Let a model run on this attention function for good."""
    for config in _configs(model):
        config._attn_implementation = NAME


@contextmanager
def using(model: nn.Module, instead_of: str | None = None) -> Iterator[None]:
    """Let a model run on this attention function inside the block.  instead_of: only where it ran on that one."""
    before = [(config, config._attn_implementation) for config in _configs(model)]
    for config, name in before:
        config._attn_implementation = NAME if instead_of in (None, name) else name
    try:
        yield
    finally:
        for config, name in before:
            config._attn_implementation = name


def _configs(model: nn.Module) -> list[Any]:
    """Its own and those of its parts: layers that were copied have one each."""
    every = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}.values()
    return [config for config in every if hasattr(config, "_attn_implementation")]


ALL_ATTENTION_FUNCTIONS.register(NAME, attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, eager_mask)
