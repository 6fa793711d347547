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

from gossamer.runtime.modules import InputRounding, IntLinear, TernaryEmbedding, TernaryLinear

Forward = Callable[[Any, Tensor], Tensor]

ZERO = 128  # of unsigned bytes that stand for signed ones
SMALLEST = 1e-12  # largest activation of a token of zeros, as IntLinear has it


def _byte(value: int) -> Tensor:
    return torch.tensor(value, dtype=torch.uint8)


def _quantize(x: Tensor, step: Tensor, zero: Tensor) -> Tensor:
    """round(x / step) + zero as unsigned bytes; a step for all of x."""
    given = (x, step, zero)
    rounded: Tensor = torch.onnx.ops.symbolic("QuantizeLinear", given, dtype=torch.uint8, shape=x.shape, version=20)
    return rounded


def _product(
    codes: Tensor, step: Tensor, weight: Tensor, scale: Tensor, zero: Tensor, bias: Tensor | None = None
) -> Tensor:
    """((codes - zero) @ weight) * step * scale + bias; codes (..., in), weight (in, out), scale (out,) or (1,)."""
    given = (codes, weight, step, scale, zero)
    y: Tensor = torch.onnx.ops.symbolic(
        "com.microsoft::MatMulIntegerToFloat",
        given if bias is None else (*given, None, bias),  # weights have no zero but 0
        dtype=torch.float32,
        shape=(*codes.shape[:-1], weight.shape[1]),
        version=1,
    )
    return y


def int_linear(self: Any, x: Tensor) -> Tensor:
    """IntLinear, (..., in) -> (..., out): y = (round(127 x / largest) @ codes) * scale * largest / 127 + bias.

    Between fixed bounds y = (round(x / step) @ codes) * scale * step + bias.
    """
    x = x * self.share if self.smooth else x
    if self.fixed:
        low = self.rounding.low
        step = self.rounding.step(low, self.rounding.high)
        zero = (-low / step).round().to(torch.uint8)
        return _product(_quantize(x, step, zero), step, self.codes, self.scale, zero, self.bias)
    largest = x.abs().amax(-1, keepdim=True).clamp_min(SMALLEST)  # (..., 1)
    step = torch.tensor(1 / 127)
    zero = _byte(ZERO)
    y: Tensor = _product(_quantize(x / largest, step, zero), step, self.codes, self.scale, zero) * largest
    return y if self.bias is None else y + self.bias


def unpacked(packed: Tensor, n: int) -> Tensor:
    """(..., ceil(n / 4)) bytes of four codes -> (..., n) codes in {-1, 0, 1}, as int32; see runtime.modules.unpack."""

    def bits(op: str, given: Tensor, by: Tensor, **attributes: str) -> Tensor:
        shape = torch.broadcast_shapes(given.shape, by.shape)
        found: Tensor = torch.onnx.ops.symbolic(
            op, (given, by), {**attributes}, dtype=torch.uint32, shape=shape, version=18
        )
        return found

    shifts, two = torch.tensor([0, 2, 4, 6], dtype=torch.uint32), torch.tensor(3, dtype=torch.uint32)
    wide = packed[..., None].to(torch.uint32)  # OpenVINO takes bytes for signed ones here
    codes = bits("BitwiseAnd", bits("BitShift", wide, shifts, direction="RIGHT"), two)
    return codes.flatten(-2)[..., :n].to(torch.int32) - 1


def ternary_linear(self: Any, x: Tensor) -> Tensor:
    """TernaryLinear, (..., in) -> (..., out); by integers if the inputs have eight bits, x = low + level * step.

    Then y = (level @ codes) * step * scale + (low * sum of codes) * scale + bias; all but the first term is constant.
    """
    codes = unpacked(self.packed, self.in_features).t()  # (in, out)
    if self.rounding is None or self.bits != 8:
        x = x if self.rounding is None else input_rounding(self.rounding, x)
        y: Tensor = x @ (codes.float() * self.scale)
        return y if self.bias is None else y + self.bias
    low, none = self.rounding.low, _byte(0)
    step = self.rounding.step(low, self.rounding.high)
    constant: Tensor = codes.float().sum(0) * low * self.scale
    if self.bias is not None:
        constant = constant + self.bias
    return _product(_quantize(x - low, step, none), step, codes.to(torch.int8), self.scale, none, constant)


def ternary_embedding(self: Any, ids: Tensor) -> Tensor:
    """TernaryEmbedding, (...) -> (..., dim)."""
    codes = unpacked(functional.embedding(ids, self.packed), self.embedding_dim)
    found: Tensor = codes.float() * functional.embedding(ids, self.scale)
    return found


def input_rounding(self: Any, x: Tensor) -> Tensor:
    """InputRounding, any shape -> the same, between the remembered bounds."""
    step = self.step(self.low, self.high)
    rounded: Tensor = self.levels(x, self.low, step) * step + self.low
    return rounded


def smooth_linear(self: Any, x: Tensor) -> Tensor:
    """IntLinear as if its input were not rounded."""
    x = x * self.share if self.smooth else x
    if self.rounding is not None:
        x = self.rounding(x)
    return functional.linear(x, (self.codes.float() * self.scale).t(), self.bias)


def smooth_rounding(self: Any, x: Tensor) -> Tensor:
    """InputRounding as if it only kept its bounds."""
    bounded: Tensor = x.clamp(self.low, self.high)
    return bounded


SPELLED: dict[type[nn.Module], Forward] = {
    IntLinear: int_linear,
    TernaryLinear: ternary_linear,
    TernaryEmbedding: ternary_embedding,
    InputRounding: input_rounding,
}
SMOOTH: dict[type[nn.Module], Forward] = {IntLinear: smooth_linear, InputRounding: smooth_rounding}


def rounds(model: nn.Module) -> bool:
    """Whether some activation of the model becomes an integer on the way."""
    return any(type(module) in SMOOTH for module in model.modules())


@contextmanager
def forwards(model: nn.Module, table: dict[type[nn.Module], Forward]) -> Iterator[None]:
    """Inside the block, modules of the table's types compute by its forwards: SPELLED for an exporter, or SMOOTH."""
    changed: list[Any] = []
    try:
        for module in model.modules():
            if type(module) in table:
                module.forward = partial(table[type(module)], module)
                changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward
