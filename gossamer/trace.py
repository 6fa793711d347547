"""What a model thought on one batch: hidden states, and attention from queries to probabilities, by executed layer."""

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

from .anatomy import blocks, family, towers
from .block import find
from .runtime.attention import Heard, attention, listening, using
from .runtime.exits import Exits, State


@dataclass
class Trace:
    """What one tower thought on the latest batch; of an encoder-decoder the encoder, with `decoder` beside it.

    out: what the model returned.
    hidden: (B, T, d) what enters the first layer, then what each executed layer made of it.  Where the norms come last
        (bert, bart) the last of them is the model's last hidden state; where they come first (gpt2, llama, modernbert,
        t5, pegasus) it is what the model's final norm reads.  A walk may have let rows and tokens go on the way.
    heard: each executed self-attention.  crossed: each executed cross-attention.
    states: what exits, if the model has any, read after each layer; where none may leave (in training, `in_full`) only.
    mask: (B, T) True where there is a token, False on padding; all True if the model was given no such mask.
    running: is the model being called right now?
    """

    out: Any = None
    hidden: list[Tensor] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    crossed: list[Heard] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    mask: Tensor | None = None
    decoder: "Trace | None" = None
    running: bool = False

    def every(self, n: int, below: int = 0) -> list[Tensor]:
        """The outputs of n evenly spaced layers, the last included; layer i * L / n, halves rounded up.

        below: how many of the first layers are left out.

        Raises:
            ValueError: fewer than n layers ran, or n is not positive.
        """
        ran = len(self.hidden) - 1 - below
        if not 1 <= n <= ran:
            raise ValueError(f"asked for {n} evenly spaced layers where {max(ran, 0)} ran; ask for 1 to {max(ran, 1)}")
        return [self.hidden[below + (2 * i * ran + n) // (2 * n)] for i in range(1, n + 1)]

    @property
    def scores(self) -> list[Tensor]:
        """(B, heads, T, T) by executed self-attention: what goes into the softmax, 0 wherever the model does not look.

        That is: for padding, as query and as key, and where the family's mask hides a real token (a later one, or one
        outside of the window).
        """
        return [visible(heard) for heard in self.heard]

    def restart(self) -> None:
        """Forget the batch before."""
        self.out, self.hidden, self.heard, self.crossed, self.mask, self.running = None, [], [], [], None, True
        self.states = []


def visible(heard: Heard) -> Tensor:
    """The scores of one attention with 0 wherever its mask hides the key, or hides the query's own token from all."""
    if heard.mask is None:
        return heard.scores
    seen = (heard.mask > torch.finfo(heard.mask.dtype).min / 2).expand(-1, -1, *heard.scores.shape[-2:])
    if seen.shape[-2] == seen.shape[-1]:  # of a self-attention every query is a key too
        seen = seen & seen.any(-2)[..., None]
    return heard.scores.masked_fill(~seen, 0)


@contextmanager
def tracing(model: nn.Module, hidden: bool = True, attention: bool = False) -> Iterator[Trace]:
    """Write down what `model` thinks while the block lasts; each call of the model starts the trace anew.

    With `attention` the model runs on gossamer's attention function for the duration, which gives the same output up
    to rounding.  No hook and no changed setting outlives the block, also when it is left by an exception.

    Raises:
        ValueError: no anatomy for this model's family.
    """
    found = towers(model)
    seen = [Trace() for _ in found]
    seen[0].decoder = seen[1] if len(seen) == 2 else None
    with ExitStack() as undo:
        _follow_calls(model, seen, undo)
        for i in range(len(found)):
            _follow_layers(model, i, seen[i], hidden, undo)
        if hidden:
            _follow_exits(model, seen[0], undo)
        if attention:
            _follow_attention(model, seen, undo)
        yield seen[0]


def _follow_calls(model: nn.Module, seen: list[Trace], undo: ExitStack) -> None:
    """Start anew with each call of the model; keep its masks and its output."""
    signature = inspect.signature(model.forward)

    def enter(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = signature.bind_partial(*args, **kwargs).arguments
        for trace, name in zip(seen, ("attention_mask", "decoder_attention_mask"), strict=False):
            mask = given.get(name, given.get("kwargs", {}).get(name))
            trace.restart()
            trace.mask = mask.bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None

    def leave(model: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        for trace in seen:
            trace.out, trace.running = out, False  # a checkpointed layer runs once more in the backward pass

    undo.callback(model.register_forward_pre_hook(enter, with_kwargs=True).remove)
    undo.callback(model.register_forward_hook(leave).remove)


def _follow_layers(model: nn.Module, tower: int, trace: Trace, keep: bool, undo: ExitStack) -> None:
    """Keep, if asked to, what enters the first layer that runs and what each leaves behind."""

    def enter(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        if trace.running and keep and not trace.hidden:
            trace.hidden.append(x)
        if trace.running and trace.mask is None:
            trace.mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)

    def leave(layer: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        if trace.running and keep:
            trace.hidden.append(out[0] if isinstance(out, tuple) else out)

    def amend(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
        if trace.running and keep:
            trace.hidden[-1] = out

    for layer in dict.fromkeys(block.layer for block in blocks(model, tower)):
        undo.callback(layer.register_forward_pre_hook(enter, with_kwargs=True).remove)
        undo.callback(layer.register_forward_hook(leave).remove)
    amending = find(model.get_submodule(towers(model)[tower]), family(model).amended)
    if amending is not None:
        undo.callback(amending.register_forward_hook(amend).remove)


def _follow_exits(model: nn.Module, trace: Trace, undo: ExitStack) -> None:
    """Keep what exits read: where tokens are gone, not what layers made of them."""
    for exits in (module for module in model.modules() if isinstance(module, Exits)):
        undo.callback(setattr, exits, "watch", exits.watch)
        exits.watch = lambda state: trace.states.append(state)


def _follow_attention(model: nn.Module, seen: list[Trace], undo: ExitStack) -> None:
    """Let the model run on our attention function and keep what it says of this model's attentions."""
    mine: dict[nn.Module, tuple[Trace, bool]] = {}
    for block in blocks(model):
        for view in (block, block.cross):
            attend = view.part("attend") if view is not None else None
            if attend is not None:
                mine[attend] = (seen[block.tower], view is not block)
                _route(attend, undo)
    undo.enter_context(using(model))

    def hear(heard: Heard) -> None:
        trace, crossed = mine.get(heard.module, (None, False))
        if trace is not None and trace.running:
            (trace.crossed if crossed else trace.heard).append(heard)

    undo.enter_context(listening(hear))


def _route(attend: nn.Module, undo: ExitStack) -> None:
    """Two families compute their attention by themselves: have them ask ours for as long as we listen."""
    for kind, forward in ((MPNetSelfAttention, _mpnet), (DisentangledSelfAttention, _deberta)):
        if isinstance(attend, kind):
            if "forward" in attend.__dict__:
                undo.callback(attend.__dict__.__setitem__, "forward", attend.__dict__["forward"])
            else:
                undo.callback(attend.__dict__.pop, "forward")
            attend.__dict__["forward"] = partial(forward, attend)


def _mpnet(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    position_bias: Tensor | None = None,
    output_attentions: bool = False,
    **kwargs: Any,
) -> tuple[Tensor | None, ...]:
    """MPNetSelfAttention.forward, its bias of relative positions (B, heads, T, T) part of the scores."""
    q, k, v = (
        project(hidden_states).unflatten(-1, (-1, self.attention_head_size)).transpose(1, 2)
        for project in (self.q, self.k, self.v)
    )
    context, probs = attention(
        self, q, k, v, attention_mask, scaling=self.attention_head_size**-0.5, dropout=_dropout(self),
        position_bias=position_bias,
    )  # fmt: skip
    out = self.o(context.flatten(-2))
    return (out, probs) if output_attentions else (out,)


def _deberta(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor,
    output_attentions: bool = False,
    query_states: Tensor | None = None,
    relative_pos: Tensor | None = None,
    rel_embeddings: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """DisentangledSelfAttention.forward, its content-to-position and position-to-content terms part of the scores."""
    heads, asking = self.num_attention_heads, hidden_states if query_states is None else query_states
    q = self.transpose_for_scores(self.query_proj(asking), heads)  # (B * heads, T, d)
    k = self.transpose_for_scores(self.key_proj(hidden_states), heads)
    v = self.transpose_for_scores(self.value_proj(hidden_states), heads)
    terms = 1 + ("c2p" in self.pos_att_type) + ("p2c" in self.pos_att_type)
    bias = None
    if self.relative_attention and terms > 1:
        table = self.pos_dropout(rel_embeddings)
        bias = self.disentangled_attention_bias(q, k, relative_pos, table, terms).unflatten(0, (-1, heads))
    q, k, v = (t.unflatten(0, (-1, heads)) for t in (q, k, v))  # (B, heads, T, d)
    context, probs = attention(
        self, q, k, v, attention_mask.bool(), scaling=(q.shape[-1] * terms) ** -0.5, dropout=_dropout(self),
        position_bias=bias,
    )  # fmt: skip
    return context.flatten(-2), probs if output_attentions else None


def _dropout(attend: Any) -> float:
    return float(attend.dropout.p) if attend.training else 0.0
