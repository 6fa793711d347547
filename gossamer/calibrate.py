"""Statistics of what layers really see, and what is set by them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.runtime.tokens import Policy
from gossamer.runtime.walks import in_full

Batches = Iterable[Mapping[str, Tensor]]


@torch.no_grad()
def grams(model: nn.Module, linears: Sequence[nn.Module], batches: Batches, homogeneous: bool = False) -> list[Tensor]:
    """Sum of x x' over the inputs of each linear, padding left out; (in, in) each, float64.

    homogeneous: a constant 1 is appended to x, so that biases can be treated as one more column; (in + 1, in + 1).
    """
    totals: dict[nn.Module, Tensor] = {}

    def take(linear: nn.Module, x: Tensor) -> None:
        x = x.double()
        if homogeneous:
            x = torch.cat([x, x.new_ones(len(x), 1)], 1)
        totals[linear] = totals.get(linear, torch.zeros((), dtype=torch.double, device=x.device)) + x.T @ x

    _listen(model, linears, batches, take)
    return [totals[linear] for linear in linears]


@dataclass
class Inputs:
    """What the linears of a group are given: the same x, of which some are kept.

    linears: by their place in what was asked.  low, high: (in,), of each feature over all tokens.  some: (n, in).
    """

    linears: list[int]
    low: Tensor
    high: Tensor
    some: list[Tensor] = field(default_factory=list)


@torch.no_grad()
def inputs(model: nn.Module, linears: Sequence[nn.Module], batches: Batches, kept: int = 64) -> list[Inputs]:
    """What the linears are given, padding left out, those with one and the same input together.

    kept: tokens of each batch that stay as they are, by chance, so that they are from anywhere in any text.  Linears
    that are given nothing are in no group.
    """
    chance = torch.Generator().manual_seed(0)
    places, found = {linear: i for i, linear in enumerate(linears)}, dict[nn.Module, Inputs]()
    now: list[tuple[Tensor, nn.Module]] = []  # what the linears were given last, held so that nothing takes its place

    def take(linear: nn.Module, x: Tensor) -> None:
        twin = next((other for given, other in now if given.shape == x.shape and torch.equal(given, x)), None)
        if linear not in found and twin is not None:
            found[linear] = found[twin]
            found[twin].linears.append(places[linear])
        now[:] = [*now[-3:], (x, linear)]
        if twin is not None and found[linear] is found[twin]:
            return
        low, high = x.amin(0), x.amax(0)
        seen = found.setdefault(linear, Inputs([places[linear]], low, high))
        seen.low, seen.high = seen.low.minimum(low), seen.high.maximum(high)
        seen.some.append(x[torch.randperm(len(x), generator=chance)[:kept].to(x.device)])

    _listen(model, linears, batches, take)
    return list({id(one): one for one in found.values()}.values())


def _listen(
    model: nn.Module, linears: Sequence[nn.Module], batches: Batches, take: Callable[[nn.Module, Tensor], None]
) -> None:
    """Hand `take` each linear's inputs, (tokens, in) without padding, batch by batch."""
    mask: Tensor | None = None

    def listen(module: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0]
        if mask is not None and x.ndim == 3 and x.shape[:2] == mask.shape:
            x = x[mask]
        take(module, x.reshape(-1, x.shape[-1]))

    model.eval()
    with in_full(model), ExitStack() as hooks:
        for linear in dict.fromkeys(linears):
            hooks.callback(linear.register_forward_pre_hook(listen).remove)
        for batch in batches:
            mask = batch["attention_mask"].bool()
            model(**{k: v for k, v in batch.items() if k != "labels"})


@torch.no_grad()
def even(model: nn.Module, policy: Policy, batches: Callable[[], Batches]) -> None:
    """Have a policy that was learned by chance keep as many tokens by its rule, place after place.

    Of the tokens that are asked at a place, the share with a probability of at least a half becomes the mean
    probability: the bias of leaving is moved to where those end that are to go on.  Of two places the later one asks
    those that go on from the earlier one by the rule.  The model is put into evaluation mode.
    """
    model.eval()
    for place, net in enumerate(policy.nets):
        last: Any = net[-1]  # type: ignore[index]
        last.bias[0] += boundary(odds(model, policy, batches())[place])


@torch.no_grad()
def odds(model: nn.Module, policy: Policy, batches: Batches) -> list[Tensor]:
    """Of each place the logits of going on, less those of leaving, of the tokens that are asked there; (n,) each."""
    found = [[torch.empty(0, device=next(policy.parameters()).device)] for _ in policy.nets]
    policy.watch = lambda place, z: found[place].append((z[:, 1] - z[:, 0]).float())
    try:
        with in_full(model):  # exits let nobody go meanwhile
            for batch in batches:
                model(**batch)
    finally:
        policy.watch = None
    return [torch.cat(parts) for parts in found]


def boundary(values: Tensor) -> Tensor:
    """Above it are as many odds as are expected to go on, and it is midway to the rest; (n,) -> ().

    Where all are to go on, or none, it is 0, or as far from it as it takes.
    """
    every = values.sort(descending=True).values
    going, nought = int(every.sigmoid().sum().round()), values.new_zeros(())
    if not len(every):
        return nought
    if going == len(every):
        return every[-1].minimum(nought)
    return (every[going - 1] + every[going]) / 2 if going else every[0].maximum(nought)
