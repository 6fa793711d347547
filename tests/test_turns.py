"""Several runs in one step: what a plain sum teaches, with the memory of one."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gossamer.turns import in_turn


def world(count: int) -> tuple[nn.ModuleList, list[Callable[[], Tensor]]]:
    """Layers, of which the last is in no run, and runs of different rows through them; one that teaches nothing."""
    torch.manual_seed(0)
    layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
    rows = [torch.randn(16, 8) for _ in range(count)]

    def run(i: int) -> Tensor:
        x = rows[i]
        for layer in [layers[0], *([layers[1]] if i % 2 else []), layers[2]]:
            x = layer(x).tanh()
        return x.square().mean()

    return layers, [*(lambda i=i: run(i) for i in range(count)), lambda: torch.tensor(0.5)]  # type: ignore[misc]


def kept(pieces: list[Callable[[], Tensor]], learning: list[nn.Parameter]) -> int:
    """Bytes kept for the gradient at once, at most."""
    now, top = [0], [0]

    class Kept:
        def __init__(self, value: Tensor) -> None:
            self.value, self.size = value, value.nelement() * value.element_size()
            now[0] += self.size
            top[0] = max(top[0], now[0])

        def __del__(self) -> None:
            now[0] -= self.size

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda one: one.value):
        in_turn(pieces, learning).backward()  # type: ignore[no-untyped-call]
    return top[0]


def test_it_is_the_sum_and_its_gradient() -> None:
    layers, pieces = world(5)
    learning = [p for p in layers.parameters() if p.requires_grad]
    wanted = torch.stack([piece() for piece in pieces]).sum()
    grads = torch.autograd.grad(3 * wanted, learning, allow_unused=True)
    for _ in range(2):  # gradients add up
        found = in_turn(pieces, learning)
        (3 * found).backward()
    assert torch.allclose(found, wanted)
    for parameter, grad in zip(learning, grads, strict=True):
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or torch.allclose(parameter.grad, 2 * grad, atol=1e-6)  # type: ignore[arg-type]


def test_frozen_and_unasked_there_is_nothing_to_teach() -> None:
    layers, pieces = world(2)
    layers.requires_grad_(False)
    assert not in_turn(pieces, []).requires_grad
    layers.requires_grad_(True)
    with torch.no_grad():
        assert not in_turn(pieces, list(layers.parameters())).requires_grad


def test_more_runs_keep_no_more() -> None:
    layers, pieces = world(7)
    learning = list(layers.parameters())
    assert 0 < kept(pieces, learning) <= kept(pieces[:2], learning)
