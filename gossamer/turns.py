"""Several runs of a model in one step of training, no more than one of them in memory."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def in_turn(pieces: Iterable[Callable[[], Tensor]], learning: list[nn.Parameter]) -> Tensor:
    """The sum of scalars, as a plain sum is, but each one's gradient is taken before the next is computed.

    So one at most has its activations in memory; the gradients, twice as much as what learns, are there instead, which
    is more than a plain sum takes where a batch has few tokens.  Second derivatives are left out.

    learning: all that the scalars are to teach.
    """
    if not (torch.is_grad_enabled() and learning):
        return torch.stack([piece() for piece in pieces]).sum()
    total, grads = torch.zeros((), device=learning[0].device), list[Tensor | None]([None] * len(learning))
    for piece in pieces:
        value = piece()
        total = total + value.detach()
        if not value.requires_grad:  # by chance, nothing that learns ran
            continue
        with torch.autocast(value.device.type, enabled=False):
            found = list[Tensor | None](torch.autograd.grad(value, learning, allow_unused=True))
        for i, old in enumerate(grads):
            new, found[i] = found[i], None
            grads[i] = new if old is None else old if new is None else old + new  # not in place: two may be one tensor
    known: Tensor = Known.apply(total, grads, *learning)  # type: ignore[no-untyped-call]
    return known


class Known(torch.autograd.Function):
    """A scalar whose gradients are known beforehand."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, grads: list[Tensor | None], *learning: Tensor) -> Tensor:
        """The scalar itself; grads: of it by each that learns."""
        ctx.grads = grads
        return value.clone()

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        """Times what comes from above."""
        return (None, None, *(None if grad is None else grad * above for grad in ctx.grads))
