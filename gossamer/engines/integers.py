"""What integer modules compute, said in ONNX Runtime's operators: the forwards they take on while a graph is made.

An activation is rounded per token, so no answer depends on batch mates.  The integers travel as unsigned bytes, 128
more than the signed ones of torch: ONNX Runtime's product of two signed matrices is a plain loop, six to ten times
slower on x86.  The results are the same integers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gossamer.runtime.modules import InputRounding, IntLinear, TernaryLinear, unpack

Forward = Callable[[Any, Tensor], Tensor]

ZERO = 128  # of unsigned bytes that stand for signed ones
SMALLEST = 1e-12  # largest activation of a token of zeros, as IntLinear has it


def _quantize(x: Tensor, step: Tensor, zero: int) -> Tensor:
    """round(x / step) + zero as unsigned bytes; a step for all of x."""
    given = (x, step, torch.tensor(zero, dtype=torch.uint8))
    rounded: Tensor = torch.onnx.ops.symbolic("QuantizeLinear", given, dtype=torch.uint8, shape=x.shape, version=20)
    return rounded


def _product(codes: Tensor, step: Tensor, weight: Tensor, scale: Tensor, zero: int) -> Tensor:
    """((codes - zero) @ weight) * step * scale; codes (..., in), weight (in, out), scale (out,) or (1,)."""
    y: Tensor = torch.onnx.ops.symbolic(
        "com.microsoft::MatMulIntegerToFloat",
        (codes, weight, step, scale, torch.tensor(zero, dtype=torch.uint8)),
        dtype=torch.float32,
        shape=(*codes.shape[:-1], weight.shape[1]),
        version=1,
    )
    return y


def int_linear(self: Any, x: Tensor) -> Tensor:
    """IntLinear, (..., in) -> (..., out): y = (round(127 x / largest) @ codes) * scale * largest / 127 + bias."""
    largest = x.abs().amax(-1, keepdim=True).clamp_min(SMALLEST)  # (..., 1)
    step = torch.tensor(1 / 127)
    y: Tensor = _product(_quantize(x / largest, step, ZERO), step, self.codes, self.scale, ZERO) * largest
    return y if self.bias is None else y + self.bias


def ternary_linear(self: Any, x: Tensor) -> Tensor:
    """TernaryLinear, (..., in) -> (..., out), inputs rounded between fixed bounds: x = low + level * step.

    y = (level @ codes) * step * scale + (low * sum of codes) * scale + bias; all but the first term is constant.
    """
    low, high = self.rounding.low.clone(), self.rounding.high.clone()
    step = ((high - low) / (2**self.bits - 1)).clamp_min(1e-8)
    codes: Tensor = unpack(self.packed, self.in_features).t().contiguous()  # (in, out)
    constant: Tensor = codes.float().sum(0) * low * self.scale
    if self.bias is not None:
        constant = constant + self.bias
    return _product(_quantize(x - low, step, 0), step, codes, self.scale, 0) + constant


def input_rounding(self: Any, x: Tensor) -> Tensor:
    """InputRounding, any shape -> the same, between the remembered bounds."""
    step = ((self.high - self.low) / (2**self.bits - 1)).clamp_min(1e-8)
    rounded: Tensor = ((x - self.low) / step).round().clamp(0, 2**self.bits - 1) * step + self.low
    return rounded


def smooth_linear(self: Any, x: Tensor) -> Tensor:
    """IntLinear as if its input were not rounded."""
    return functional.linear(x, (self.codes.float() * self.scale).t(), self.bias)


def smooth_rounding(self: Any, x: Tensor) -> Tensor:
    """InputRounding as if it only kept its bounds."""
    bounded: Tensor = x.clamp(self.low, self.high)
    return bounded


def spell(module: nn.Module) -> Forward | None:
    """The forward that an exporter understands, for a module that rounds its input; None for others."""
    if isinstance(module, IntLinear):
        return int_linear
    if isinstance(module, TernaryLinear) and module.rounding is not None and module.bits == 8:
        return ternary_linear
    return input_rounding if isinstance(module, InputRounding) else None


def smooth(module: nn.Module) -> Forward | None:
    """The forward that computes with numbers where the module's own computes with integers; None for others."""
    if isinstance(module, IntLinear):
        return smooth_linear
    return smooth_rounding if isinstance(module, InputRounding) else None


def rounds(model: nn.Module) -> bool:
    """Whether some activation of the model becomes an integer on the way."""
    return any(smooth(module) is not None for module in model.modules())


@contextmanager
def forwards(model: nn.Module, chosen: Callable[[nn.Module], Forward | None]) -> Iterator[None]:
    """Inside the block, modules compute by the forward that is chosen for them, if there is one."""
    changed: list[Any] = []
    try:
        for module in model.modules():
            forward = chosen(module)
            if forward is not None:
                module.forward = partial(forward, module)
                changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward
