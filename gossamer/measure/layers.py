"""How many layers a text really passes, and with how many of its tokens.

Counted by hooks on the layers of gossamer.anatomy while the predictor answers, not read off a configuration: a layer
that plays twice counts twice, an example that has left counts no more.  Papers on early exit give the layer ratio, the
layers of the full model over those that ran (PABEE, Zhou et al., NeurIPS 2020; ElasticBERT, Liu et al., NAACL 2022).
It takes every layer for equal and whatever stands outside of the layers, exit heads too, for nothing.  Where tokens are
dropped on the way it sees no difference; token-layers do, the tokens that enter each layer summed over the layers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from torch import Tensor, nn

from gossamer.anatomy import blocks
from gossamer.runtime.walks import Walk, in_full

from .sample import chosen, spread
from .subject import Answers


@dataclass(frozen=True)
class Ran:
    """layers: each as often as it ran, times the rows that were in it.  token_layers: times rows and tokens."""

    layers: int
    token_layers: int


@dataclass(frozen=True)
class Layers:
    """Means over texts: what ran, and what would have run had nothing left on the way."""

    executed: float
    full: float
    token_layers: float
    token_layers_full: float


@contextmanager
def watching(model: nn.Module) -> Iterator[list[tuple[int, int]]]:
    """(rows, tokens) of each call of a layer, in the order of the calls, of either tower; no hook stays behind.

    Raises:
        ValueError: nobody has written down where this family keeps its layers.
    """
    seen: list[tuple[int, int]] = []

    def note(layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        x = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))  # (b, t, d)
        seen.append((x.shape[0], x.shape[1]))

    layers = dict.fromkeys(block.layer for block in blocks(model))  # a shared one once
    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def count(model: nn.Module, call: Callable[[], object]) -> Ran:
    """What ran of the model's layers during one call; padding that was computed counts among the tokens.

    Raises ValueError when none did: the call runs something else.
    """
    with watching(model) as seen:
        call()
    if not seen:
        raise ValueError("none of the model's layers ran; expected a predictor that runs this very model in torch")
    return Ran(sum(rows for rows, _ in seen), sum(rows * tokens for rows, tokens in seen))


def per_example(
    model: nn.Module,
    predictor: Answers,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    examples: int | None = None,
) -> list[tuple[Ran, Ran]]:
    """What ran for each text on its own, at its true length, and what runs where nothing may leave.

    predictor: runs the model in torch.  examples: how many, evenly spread over the texts, as gossamer.measure.macs
    chooses them; None: all.
    """
    leaves = any(isinstance(module, Walk) and module.dynamic for module in model.modules())
    found = []
    for row in spread(len(texts), len(texts) if examples is None else min(examples, len(texts))):
        text, pair = chosen(texts, pairs, [row])

        def ask(text: list[str] = text, pair: list[str] | None = pair) -> object:
            return predictor.logits(text, pair, batch_size=1)

        ran = whole = count(model, ask)
        if leaves:
            with in_full(model):
                whole = count(model, ask)
        found.append((ran, whole))
    return found


def average(
    model: nn.Module,
    predictor: Answers,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    examples: int | None = 200,
) -> Layers:
    """The means of `per_example`."""
    found = per_example(model, predictor, texts, pairs, examples)
    return Layers(
        fmean(ran.layers for ran, _ in found),
        fmean(whole.layers for _, whole in found),
        fmean(ran.token_layers for ran, _ in found),
        fmean(whole.token_layers for _, whole in found),
    )
