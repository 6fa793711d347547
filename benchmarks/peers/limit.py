"""What the machine could do: matrix products of a model's own shapes, by whoever multiplies fastest here.

ROWS tokens, the six linear layers of one layer of the encoder, one after the other: inputs and outputs in memory, as
they are between the operators of a graph.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from .contestants import has_bf16
from .shapes import say

ROWS = 780
REPEATS = 3
FAR = 5.0  # times slower than the fastest: who has no kernel for this processor sets no limit

Shape = tuple[int, int]  # in, out


@dataclass(frozen=True, eq=False)
class Gemm:
    """One way to multiply.  once: all products of a layer; macs: how many that are."""

    name: str
    precision: str
    once: Callable[[], object]
    macs: int

    def rate(self, repeats: int) -> float:
        """Multiply-accumulates a second: the best of a few, for this is a limit."""
        self.once()
        laps = []
        for _ in range(repeats):
            began = time.perf_counter()
            self.once()
            laps.append(time.perf_counter() - began)
        return self.macs / min(laps)


def gemms(layer: Sequence[Shape], threads: int) -> list[Gemm]:
    """All ways that work here."""
    makers: dict[tuple[str, str], Callable[[Sequence[Shape], int], Callable[[], object]]] = {
        ("torch matmul", "fp32"): lambda s, n: _torch(s, "float32"),
        ("torch matmul", "bf16"): lambda s, n: _torch(s, "bfloat16"),
        ("torch._int_mm", "int8"): lambda s, n: _int_mm(s),
        ("ONNX Runtime MatMul", "fp32"): lambda s, n: _ort(s, n, "float32"),
        ("ONNX Runtime MatMulInteger", "int8"): lambda s, n: _ort(s, n, "uint8"),
        ("OpenVINO MatMul", "fp32"): lambda s, n: _openvino(s, n, "f32"),
        ("OpenVINO MatMul", "bf16"): lambda s, n: _openvino(s, n, "bf16"),
        ("OpenVINO MatMul", "int8"): lambda s, n: _openvino_int8(s, n),
    }
    macs = ROWS * sum(a * b for a, b in layer)
    found = []
    for (name, precision), make in makers.items():
        if precision == "bf16" and not has_bf16():
            continue
        try:
            once = make(layer, threads)
            once()
        except Exception as error:  # the limit is what those reach that are here
            say(f"    no {precision} products by {name}: {str(error).strip()[:120]}")
            continue
        found.append(Gemm(name, precision, once, macs))
    rates = {one: one.rate(1) for one in found}
    top = {one.precision: max(rates[other] for other in found if other.precision == one.precision) for one in found}
    return [one for one in found if FAR * rates[one] >= top[one.precision]]


def _torch(layer: Sequence[Shape], kind: str) -> Callable[[], object]:
    import torch

    dtype = getattr(torch, kind)
    given = [(torch.randn(ROWS, a, dtype=dtype), torch.randn(b, a, dtype=dtype)) for a, b in layer]

    def once() -> object:
        with torch.inference_mode():
            return [torch.nn.functional.linear(x, weight) for x, weight in given]

    return once


def _int_mm(layer: Sequence[Shape]) -> Callable[[], object]:
    import torch

    given = [(_bytes(ROWS, a), _bytes(a, b)) for a, b in layer]
    tensors = [(torch.from_numpy(x), torch.from_numpy(weight)) for x, weight in given]
    return lambda: [torch._int_mm(x, weight) for x, weight in tensors]


def _bytes(*shape: int) -> Any:
    return np.random.default_rng(0).integers(-100, 100, shape, np.int8)


def _ort(layer: Sequence[Shape], threads: int, kind: str) -> Callable[[], object]:
    """All products in one graph: MatMul, or MatMulInteger of unsigned bytes with signed ones."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    exact = kind == "float32"
    given = TensorProto.FLOAT if exact else TensorProto.UINT8
    said = TensorProto.FLOAT if exact else TensorProto.INT32
    nodes, inputs, outputs, weights = [], [], [], []
    feed: dict[str, Any] = {}
    for i, (a, b) in enumerate(layer):
        weight = _bytes(a, b)
        weights.append(numpy_helper.from_array(weight.astype(np.float32) if exact else weight, f"w{i}"))
        nodes.append(helper.make_node("MatMul" if exact else "MatMulInteger", [f"x{i}", f"w{i}"], [f"y{i}"]))
        inputs.append(helper.make_tensor_value_info(f"x{i}", given, [ROWS, a]))
        outputs.append(helper.make_tensor_value_info(f"y{i}", said, [ROWS, b]))
        feed[f"x{i}"] = (_bytes(ROWS, a).astype(np.int16) + 100).astype(kind)
    model = helper.make_model(
        helper.make_graph(nodes, "products", inputs, outputs, weights),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with TemporaryDirectory() as folder:
        file = Path(folder) / "products.onnx"
        onnx.save(model, file)
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feed)


def _openvino(layer: Sequence[Shape], threads: int, precision: str) -> Callable[[], object]:
    import openvino as ov
    from openvino import opset13 as ops

    inputs = [ops.parameter([ROWS, a], np.float32) for a, _ in layer]
    weights = [ops.constant(_bytes(b, a).astype(np.float32)) for a, b in layer]
    said = [ops.matmul(x, weight, False, True) for x, weight in zip(inputs, weights, strict=True)]
    return _compiled(ov.Model(said, inputs), threads, precision, [_bytes(ROWS, a).astype(np.float32) for a, _ in layer])


def _openvino_int8(layer: Sequence[Shape], threads: int) -> Callable[[], object]:
    """As in a graph of NNCF's: what comes in is rounded to bytes, then multiplied with bytes."""
    import openvino as ov
    from openvino import opset13 as ops

    inputs, said = [], []
    for a, b in layer:
        x = ops.parameter([ROWS, a], np.float32)
        low, high = np.float32(0), np.float32(2.55)
        rounded = ops.fake_quantize(x, low, high, low, high, 256)
        weight = ops.convert(ops.constant(_bytes(b, a)), "f32")
        scaled = ops.multiply(weight, ops.constant(np.full((b, 1), 0.01, np.float32)))
        inputs.append(x)
        said.append(ops.matmul(rounded, scaled, False, True))
    feed = [0.01 * np.abs(_bytes(ROWS, a).astype(np.float32)) for a, _ in layer]
    return _compiled(ov.Model(said, inputs), threads, "f32", feed)


def _compiled(model: Any, threads: int, precision: str, feed: list[Any]) -> Callable[[], object]:
    import openvino as ov

    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer(feed, share_inputs=True, share_outputs=True)
