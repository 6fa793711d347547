"""What is done to a graph once it is exported: less work for the first token, no weight stored twice."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

# Operators that treat each element, or with LAST each row of the last axis, for itself.
ELEMENTWISE = {
    *("Abs", "Add", "Cast", "Clip", "Div", "Erf", "Gelu", "Max", "Min", "Mul", "Neg", "Pow", "QuantizeLinear"),
    *("Relu", "Round", "Sigmoid", "Sqrt", "Sub", "Tanh", "Where", "And", "Or", "Not"),
}
LAST = {"LayerNormalization", "Softmax", "ReduceMax", "ReduceMean", "ReduceSum"}
PRODUCTS = {"MatMul", "MatMulIntegerToFloat"}

SMALL = 128  # bytes: less is not worth a reference
DTYPES = {"F32": ir.DataType.FLOAT, "I8": ir.DataType.INT8, "U8": ir.DataType.UINT8, "I64": ir.DataType.INT64}

Slices = dict[int, int]  # input of a node -> the axis along which one row of it is enough


def narrow(model: ir.Model) -> int:
    """Where the head reads one token, compute that token only, back to where others are needed; nodes narrowed.

    In the last layer only keys and values need all tokens: the rest of it costs 1/T.
    """
    graph = model.graph
    for seed in list(graph):
        axis = seed.attributes["axis"].as_int() if seed.op_type == "Gather" and "axis" in seed.attributes else 0
        index = _constant(seed.inputs[1]) if axis == 1 else None
        if index is not None and index.ndim == 0 and _rank(seed.inputs[0]) == 3:
            cone = _cone(list(graph)[: list(graph).index(seed)], seed)
            if any(node.op_type in PRODUCTS for node, _ in cone):
                _rebuild(graph, seed, cone, int(index))
                common.RemoveUnusedNodesPass()(model)
                return len(cone)
    return 0


def _cone(before: list[ir.Node], seed: ir.Node) -> list[tuple[ir.Node, Slices]]:
    """The nodes, last first, of whose result nothing but one row is ever used, with what they need of their inputs."""
    start = seed.inputs[0]
    assert start is not None
    wanted: dict[ir.Value, int] = {start: 1}
    served = {(seed, 0)}  # uses of values for which one row is enough
    cone: list[tuple[ir.Node, Slices]] = []
    for node in reversed(before):
        value = node.outputs[0]
        if value not in wanted or len(node.outputs) != 1 or value.is_graph_output():
            continue
        if any((use.node, use.idx) not in served for use in value.uses()):
            continue
        slices = _slices(node, wanted[value])
        if slices is None or any(wanted.get(_input(node, i), axis) != axis for i, axis in slices.items()):
            continue
        cone.append((node, slices))
        served |= {(node, i) for i in slices}
        wanted |= {_input(node, i): axis for i, axis in slices.items()}
    return cone


def _input(node: ir.Node, i: int) -> ir.Value:
    value = node.inputs[i]
    assert value is not None
    return value


def _slices(node: ir.Node, axis: int) -> Slices | None:
    """Which inputs of `node` may be one row, along which axis, if its output may be along `axis`; None: cannot tell."""
    out = node.outputs[0]
    rank = _rank(out)
    if rank is None or any(value is not None and _rank(value) is None for value in node.inputs):
        return None
    if node.op_type in ELEMENTWISE:
        return _broadcast(node, axis)
    if node.op_type in LAST:
        return {0: axis} if axis < rank - 1 and _rank(node.inputs[0]) == rank and _last(node) else None
    if node.op_type in PRODUCTS:
        whole = _rank(node.inputs[1]) == 2 or axis == rank - 2
        return {0: axis} if axis < rank - 1 and whole and _rank(node.inputs[0]) == rank else None
    if node.op_type == "Transpose":
        return {0: node.attributes["perm"].as_ints()[axis]}
    if node.op_type == "Reshape" and axis == 1:
        inner, outer = _input(node, 0).shape, out.shape
        assert inner is not None and outer is not None
        static = all(isinstance(size, int) for size in outer[2:])
        return {0: 1} if static and len(inner) > 2 and len(outer) > 2 and inner[:2] == outer[:2] else None
    return None


def _broadcast(node: ir.Node, axis: int) -> Slices | None:
    out = node.outputs[0].shape
    assert out is not None
    slices: Slices = {}
    for i, value in enumerate(node.inputs):
        if value is None or value.shape is None:
            continue
        here = axis - (len(out) - len(value.shape))
        if here < 0 or value.shape[here] == 1:
            continue
        if value.shape[here] != out[axis]:
            return None
        slices[i] = here
    return slices or None


def _last(node: ir.Node) -> bool:
    """Whether a normalising or reducing node works along the last axis and keeps it."""
    if not node.op_type.startswith("Reduce"):
        return "axis" not in node.attributes or node.attributes["axis"].as_int() == -1
    axes = _constant(node.inputs[1]) if len(node.inputs) > 1 else None
    kept = "keepdims" not in node.attributes or node.attributes["keepdims"].as_int() == 1
    return kept and axes is not None and axes.tolist() == [-1]


def _rebuild(graph: ir.Graph, seed: ir.Node, cone: list[tuple[ir.Node, Slices]], index: int) -> None:
    """Put narrow copies of the cone's nodes before the seed, which then reads row 0 of 1."""
    at = _initializer(graph, "the_token", np.array([index]))
    narrowed: dict[ir.Value, ir.Value] = {}

    def row(value: ir.Value, axis: int) -> ir.Value:
        if value not in narrowed:
            taken = ir.node("Gather", [value, at], attributes={"axis": axis})
            narrowed[value] = _put(graph, seed, taken, value, axis)
        return narrowed[value]

    for n, (node, slices) in enumerate(reversed(cone)):
        inputs = [row(_input(node, i), slices[i]) if i in slices else value for i, value in enumerate(node.inputs)]
        attributes = dict(node.attributes)
        out = node.outputs[0]
        axis = 1
        if node.op_type == "Reshape":
            assert out.shape is not None
            inputs[1] = _initializer(graph, f"the_shape_{n}", np.array([0, 0, *out.shape[2:]]))
            attributes["allowzero"] = ir.AttrInt64("allowzero", 0)  # 0: as it comes
        elif node.op_type == "Transpose":
            axis = node.attributes["perm"].as_ints().index(slices[0])
        else:
            first = min(slices)
            axis = slices[first] + (_rank(out) or 0) - (_rank(node.inputs[first]) or 0)
        copy = ir.Node(node.domain, node.op_type, inputs, list(attributes.values()), version=node.version)
        narrowed[out] = _put(graph, seed, copy, out, axis)
    seed.replace_input_with(0, narrowed[_input(seed, 0)])
    seed.replace_input_with(1, _initializer(graph, "the_only", np.array(0)))


def _put(graph: ir.Graph, before: ir.Node, node: ir.Node, wide: ir.Value, axis: int) -> ir.Value:
    out = node.outputs[0]
    assert wide.shape is not None
    out.shape = ir.Shape([1 if i == axis else size for i, size in enumerate(wide.shape)])
    out.type = wide.type
    graph.insert_before(before, node)
    return out


def _initializer(graph: ir.Graph, name: str, array: "np.ndarray[Any, Any]") -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    graph.register_initializer(value)
    return value


def _constant(value: ir.Value | None) -> "np.ndarray[Any, Any] | None":
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


@dataclass(frozen=True)
class Stored:
    """Where a safetensors file keeps a tensor's bytes."""

    file: Path
    dtype: ir.DataType | None
    offset: int
    length: int

    def digest(self) -> bytes:
        """The sha256 of the bytes."""
        with self.file.open("rb") as stream:
            stream.seek(self.offset)
            return hashlib.sha256(stream.read(self.length)).digest()


def stored(folder: Path) -> list[Stored]:
    """Every tensor of a folder's model*.safetensors."""
    found = []
    for file in sorted(folder.glob("model*.safetensors")):
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size))
        for name, facts in header.items():
            if name != "__metadata__":
                start, stop = facts["data_offsets"]
                found.append(Stored(file, DTYPES.get(facts["dtype"]), 8 + size + start, stop - start))
    return found


def apart(model: ir.Model) -> int:
    """Let each product of integers name its weight for itself, where layers share one; names added.

    The bytes stay shared (see `share`).  Without VNNI, ONNX Runtime rewrites such weights product by product, and fails
    on a name that it has rewritten already.
    """
    added = 0
    for value in list(model.graph.initializers.values()):
        uses = [use for use in value.uses() if use.node.op_type == "MatMulIntegerToFloat" and use.idx == 1]
        for use in uses[1:]:
            added += 1
            name = f"{value.name}.again_{added}"
            again = ir.Value(name=name, shape=value.shape, type=value.type, const_value=value.const_value)
            model.graph.register_initializer(again)
            use.node.replace_input_with(use.idx, again)
    return added


def share(model: ir.Model, folder: Path) -> tuple[int, int]:
    """Let the graph's weights be the bytes of the folder's model.safetensors; bytes shared, bytes of the graph's own.

    A weight that the graph has transposed is shared too: ONNX Runtime turns it around once, when it loads.
    """
    places: dict[tuple[ir.DataType | None, bytes], Stored] = {}
    lengths = {value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None}
    for place in stored(folder):
        if place.length in lengths and place.length >= SMALL:
            places.setdefault((place.dtype, place.digest()), place)
    shared = own = 0
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        assert tensor is not None
        if not _refer(model.graph, value, tensor, places):
            own += tensor.nbytes
        else:
            shared += tensor.nbytes
    return shared, own


def _refer(
    graph: ir.Graph, value: ir.Value, tensor: ir.TensorProtocol, places: dict[tuple[ir.DataType | None, bytes], Stored]
) -> bool:
    """Replace a weight by a reference to its bytes, if they are there."""
    if tensor.nbytes < SMALL:
        return False
    array = tensor.numpy()
    forms: list[tuple[Callable[[Any], Any], bool]] = [(lambda a: a, False)]
    if array.ndim == 2:
        forms.append((lambda a: a.T, True))
    for form, turned in forms:
        place = places.get((tensor.dtype, hashlib.sha256(np.ascontiguousarray(form(array)).tobytes()).digest()))
        if place is None:
            continue
        name, shape = value.name or "", ir.Shape(form(array).shape)
        if turned:
            name, wide = f"{name}.stored", value
            value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype))
            first = next(iter(graph))
            turn = ir.node("Transpose", [value], attributes={"perm": [1, 0]})
            turn.outputs[0].shape, turn.outputs[0].type = wide.shape, wide.type
            graph.insert_before(first, turn)
            wide.replace_all_uses_with(turn.outputs[0])
            graph.initializers.pop(wide.name or "")
        value.const_value = ir.ExternalTensor(
            place.file.name,
            place.offset,
            place.length,
            tensor.dtype,
            shape=shape,
            name=name,
            base_dir=place.file.parent,
        )
        if turned:
            graph.register_initializer(value)
        return True
    return False
