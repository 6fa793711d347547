"""Statistics of what layers really see."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from gossamer.runtime.walks import in_full


@torch.no_grad()
def grams(
    model: nn.Module, linears: Sequence[nn.Module], batches: Iterable[Mapping[str, Tensor]], homogeneous: bool = False
) -> list[Tensor]:
    """Sum of x x' over the inputs of each linear, padding left out; (in, in) each, float64.

    homogeneous: a constant 1 is appended to x, so that biases can be treated as one more column; (in + 1, in + 1).
    """
    totals: dict[nn.Module, Tensor] = {}
    mask: Tensor | None = None

    def listen(module: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0]
        if mask is not None and x.ndim == 3 and x.shape[:2] == mask.shape:
            x = x[mask]
        x = x.reshape(-1, x.shape[-1]).double()
        if homogeneous:
            x = torch.cat([x, x.new_ones(len(x), 1)], 1)
        totals[module] = totals.get(module, torch.zeros((), dtype=torch.double, device=x.device)) + x.T @ x

    model.eval()
    with in_full(model), ExitStack() as hooks:
        for linear in dict.fromkeys(linears):
            hooks.callback(linear.register_forward_pre_hook(listen).remove)
        for batch in batches:
            mask = batch["attention_mask"].bool()
            model(**{k: v for k, v in batch.items() if k != "labels"})
    return [totals[linear] for linear in linears]
