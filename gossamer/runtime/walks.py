"""Which layers run, on which tokens, for which examples, and when to stop.

The plain walk is: all, all, all, never.  A `Stack` owns the loop over the layers; walks are what it asks on the way.
"""

import inspect
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from .attention import NAME, Heard, listening, use, weighing
from .passage import Passage

_answered: ContextVar["tuple[Stack, Tensor, Tensor] | None"] = ContextVar("gossamer_answered", default=None)


class Walk(nn.Module):
    """The plain walk: all layers, all tokens, never an early stop."""

    optional = False  # may a plain model, without this walk, answer in its place?
    dynamic = False  # does the way depend on the example?
    listens = False  # does it need the attention's probabilities?
    whole = False  # for the moment, may nothing leave? (see `in_full`)

    def bind(self, model: nn.Module) -> None:
        """Called once the model is whole."""

    def order(self, layers: Iterable[int]) -> Iterable[int]:
        """Which stored layer plays at each step."""
        return layers

    def plays(self, step: int) -> bool:
        """Whether the layer of a step plays at all: in training some may be left out."""
        return True

    def enter(self, passage: Passage) -> None:
        """Before a layer: let tokens go."""

    def between(self, passage: Passage, heard: Heard | None) -> None:
        """Between the attention and the feed-forward sublayer of a step: let tokens go.  For classes to override."""

    def depart(self, passage: Passage) -> None:
        """After a layer: mark answers."""

    def stops(self, step: int) -> bool:
        """Whether an example can have its answer after this step (0-based), before the last."""
        return False

    def skips(self, step: int) -> bool:
        """Whether tokens can leave before this step."""
        return False

    def drops(self, step: int) -> bool:
        """Whether tokens can leave between the attention and the feed-forward sublayer of this step."""
        return False


class Shared(Walk):
    """One stored layer plays at several positions (Lan et al., ICLR 2020; Takase & Kiyono, 2021)."""

    def __init__(self, positions: list[int]) -> None:
        super().__init__()
        self.positions = list(positions)

    def order(self, layers: Iterable[int]) -> Iterable[int]:
        """The i-th step plays layer positions[i]."""
        stored = list(layers)
        return [stored[i] for i in self.positions]


ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "gelu": nn.functional.gelu}


def summary(model: nn.Module, steps: list[str], x: Tensor) -> Tensor:
    """What the last linear layer of the head reads, from hidden states x (b, t, d); see anatomy.Head.steps."""
    for step in steps:
        if step == "first":
            x = x[:, 0]  # (b, d)
        elif step in ACTIVATIONS:
            x = ACTIVATIONS[step](x)
        else:
            x = model.get_submodule(step)(x)
    return x


class TokenThreshold(Walk):
    """Drop a token once the attention it receives falls under the layer's threshold (LTP, Kim et al., KDD 2022).

    importance of token j = mean over heads of the sum over the text's present tokens q of A[q, j], divided by `length`;
    threshold of layer i = final * i / depth + delta_i.  `length` is one number for all texts, as in the authors' code,
    which pads to it: the mean importance is 1 / length for short texts and for long ones.  None: each text's own, as in
    the first artefacts; then no threshold fits both.  The first token is never dropped.  While training, `soft` weighs
    the layer's output by sigmoid((importance - threshold) / heat); hard, dropped tokens are hidden and frozen, which
    equals their leaving.
    """

    dynamic, listens = True, True
    needs_attention = True
    floor = 1e-5  # what a hidden key can receive by rounding

    def __init__(self, depth: int, final: float = 0.01, heat: float = 1e-3, length: int | None = None) -> None:
        super().__init__()
        self.depth, self.final, self.heat, self.length = depth, final, heat, length
        self.soft, self.gathers = False, True
        self.delta = nn.Parameter(torch.zeros(depth))
        self.weights: list[Tensor] = []  # of the last soft run, layer by layer: (B,) mean weight of the text's tokens

    def threshold(self, i: int) -> Tensor:
        """The threshold after the attention of layer i (0-based)."""
        return self.final * (i + 1) / self.depth + self.delta[i]

    def drops(self, step: int) -> bool:
        """After every attention."""
        return True

    def importance(self, passage: Passage, heard: Heard) -> Tensor:
        """(b, t): the attention that each token receives, per head, over `length`."""
        return received(passage, heard) / (passage.lengths[:, None] if self.length is None else self.length)

    def between(self, passage: Passage, heard: Heard | None) -> None:
        """Let go of the tokens that receive too little."""
        if passage.step == 0:
            self.weights = []
        if heard is None:
            return
        importance, cut = self.importance(passage, heard), self.threshold(passage.step)
        if self.soft:
            weight = torch.sigmoid((importance - cut) / self.heat)
            passage.marks["weight"] = weight.masked_fill(passage.tokens == 0, 1.0)
            return
        keep = (importance >= cut.clamp_min(self.floor)) | (passage.tokens == 0)
        passage.drop(keep, leave=self.gathers and not self.training and not self.whole)

    def depart(self, passage: Passage) -> None:
        """Soft: weigh the layer's output.  Hidden: put the frozen states back."""
        if (weight := passage.marks.pop("weight", None)) is not None:
            passage.x = passage.x * weight[..., None].to(passage.x.dtype)
            self.weights.append((weight * passage.valid).sum(1) / passage.lengths)
        else:
            passage.freeze()


def received(passage: Passage, heard: Heard, own: bool = True) -> Tensor:
    """The attention that each token receives from the living ones, per head, (b, t); own: its own counts too."""
    probs = heard.mean
    total = (probs * passage.living[:, :, None]).sum(1)
    return total if own else total - probs.diagonal(dim1=1, dim2=2)


class Stack(nn.ModuleList):
    """The layer loop, owned once.

    It keeps the family's own list of layers, names and all, but when the family's forward iterates over it there is a
    single item: the walk through the layers.  Several walks compose: orders chain, each may let tokens or rows go.
    `midpoint` is the path, inside a layer, of the module whose output leaves the attention sublayer ("" if the family
    adds the residual outside of any module; tokens then leave after the layer).
    """

    patience_of_batch = 8  # rows leave once an eighth of the batch has finished: copying costs too

    def __init__(self, layers: Iterable[nn.Module], walks: Iterable[Walk] = (), midpoint: str = "") -> None:
        super().__init__(layers)
        self.midpoint = midpoint
        self.add_module("walks", nn.ModuleList(walks))

    @property
    def layers(self) -> list[nn.Module]:
        """The stored layers."""
        return [m for name, m in self._modules.items() if name != "walks" and m is not None]

    @property
    def walking(self) -> list[Walk]:
        """The walks, in the order in which they were installed."""
        walks: Any = self._modules["walks"]
        return list(walks)

    @property
    def order(self) -> list[int]:
        """Which stored layer plays at each step."""
        order: Iterable[int] = range(len(self))
        for walk in self.walking:
            order = walk.order(order)
        return list(order)

    def __len__(self) -> int:
        return len(self._modules) - ("walks" in self._modules)

    def __iter__(self) -> Iterator[Any]:
        yield self.run

    def __repr__(self) -> str:
        return nn.Module.__repr__(self)  # a list's would ask for its items, and the walk's for the list

    def __getitem__(self, i: Any) -> Any:
        return [self.run] if isinstance(i, slice) else self.layers[i]

    def run(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the family's loop calls once.  x: (B, T, d)."""
        layers, walks, order = self.layers, self.walking, self.order
        if not any(walk.dynamic for walk in walks):
            for i in order:
                out = layers[i](x, *args, **kwargs)
                x = out[0] if isinstance(out, tuple) else out
            return (x, *out[1:]) if isinstance(out, tuple) else x
        _answered.set(None)
        passage = Passage.start(x, layers[0], args, kwargs)
        for walk in walks:
            if walk.dynamic:
                passage.check(type(walk).__name__)
        out = self._walk(passage, layers, walks, order)
        if passage.answers is not None and passage.answered is not None:
            _answered.set((self, passage.answered, passage.answers))
        x = passage.arrive()
        return (x, *out[1:]) if isinstance(out, tuple) else x

    def _walk(self, passage: Passage, layers: list[nn.Module], walks: list[Walk], order: Iterable[int]) -> Any:
        out, listens, heard = None, any(walk.listens for walk in walks), False
        asks = any(type(walk).between is not Walk.between for walk in walks)
        with ExitStack() as open_:
            if listens:
                open_.enter_context(listening(passage.heard.append))
            for passage.step, i in enumerate(order):
                if not all(walk.plays(passage.step) for walk in walks):
                    continue
                passage.heard.clear()
                for walk in walks:
                    walk.enter(passage)
                passage.let_go()
                with self._halfway(layers[i], passage) if asks else nullcontext(), weighing(passage.marks.get("keys")):
                    out = layers[i](passage.x, **passage.carried)
                passage.x = out[0] if isinstance(out, tuple) else out
                heard = heard or bool(passage.heard)
                for walk in walks:
                    walk.depart(passage)
                gone = passage.gone
                if gone == len(passage.rows):
                    break
                if gone and gone * self.patience_of_batch >= len(passage.rows):
                    passage.keep_rows(~passage.finished)
        if listens and not heard:
            raise ValueError(
                f"{' and '.join(type(walk).__name__ for walk in walks if walk.listens)} heard no attention: this model "
                f"must run with the attention it was made with; type model.set_attn_implementation({NAME!r})"
            )
        return out

    @contextmanager
    def _halfway(self, layer: nn.Module, passage: Passage) -> Iterator[None]:
        """Ask the walks once the attention sublayer of `layer` is done, or after the layer if it has no midpoint."""

        def ask(sublayer: nn.Module, args: Any, out: Any) -> Any:
            passage.x = out[0] if isinstance(out, tuple) else out
            for walk in self.walking:
                walk.between(passage, passage.heard[-1] if passage.heard else None)
            passage.let_go()
            return (passage.x, *out[1:]) if isinstance(out, tuple) else passage.x

        hook = (layer.get_submodule(self.midpoint) if self.midpoint else layer).register_forward_hook(ask)
        try:
            yield
        finally:
            hook.remove()


def _answer_early(model: nn.Module, args: Any, kwargs: dict[str, Any], out: Any) -> Any:
    """Forward hook of the whole model: rows that stopped early keep the answer they stopped with."""
    answered = _answered.get()
    plain = isinstance(out, tuple)  # return_dict=False: the loss, if there are labels, and the logits
    if answered is None or not (plain or "logits" in out) or not any(m is answered[0] for m in model.modules()):
        return None
    _answered.set(None)
    given = kwargs if not args else inspect.signature(model.forward).bind_partial(*args, **kwargs).arguments
    labels = given.get("labels")
    _, who, logits = answered
    fields: Any = list(out) if plain else out
    loss, place = (0, int(labels is not None)) if plain else ("loss", "logits")
    fields[place] = torch.where(who[:, None], logits.to(fields[place].dtype), fields[place])
    if labels is not None:
        price = nn.functional.mse_loss if logits.shape[-1] == 1 else nn.functional.cross_entropy
        fields[loss] = price(fields[place].squeeze(-1) if logits.shape[-1] == 1 else fields[place], labels)
    return tuple(fields) if plain else fields


@contextmanager
def in_full(model: nn.Module) -> Iterator[None]:
    """As in training, every layer sees every example and every place of it: for teachers, and for calibration."""
    walks = [m for m in model.modules() if isinstance(m, Walk)]
    for walk in walks:
        walk.whole = True
    try:
        yield
    finally:
        for walk in walks:
            walk.whole = False


def stack_of(model: nn.Module) -> Stack | None:
    """The model's stack, if its layer loop is owned by one."""
    return next((m for m in model.modules() if isinstance(m, Stack)), None)


def install(model: nn.Module, path: str, walk: Walk, layers: list[nn.Module] | None = None, midpoint: str = "") -> None:
    """Let `walk` walk the layers at `path`; `layers`, when given, takes the place of the stored ones.

    Raises:
        ValueError: the walk rearranges layers that another walk already walks, or walks them for a second time.
    """
    old = model.get_submodule(path)
    walk.train(model.training)
    if isinstance(old, Stack):
        names = [type(w).__name__ for w in old.walking]
        if layers is not None:
            raise ValueError(
                f"{type(walk).__name__} rearranges the layers, but {', '.join(names)} already walks them; "
                f"put the method that brings {type(walk).__name__} first"
            )
        if type(walk).__name__ in names:
            kind = type(walk).__name__
            raise ValueError(
                f"{kind} already walks the layers of this model; use it once (of methods that bring it, take one)"
            )
        old._modules["walks"].append(walk)  # type: ignore[operator]
    else:
        stored = list(old.children()) if layers is None else layers
        model.set_submodule(path, Stack(stored, [walk], midpoint))
    if getattr(walk, "needs_attention", False):
        use(model)
    if walk.dynamic and _answer_early not in model._forward_hooks.values():
        model.register_forward_hook(_answer_early, with_kwargs=True)
    walk.bind(model)
