"""Where the head reads one token of a text, computing that token only, back to where others are needed.

In the last layer only keys and values need all tokens: the rest of it costs 1/T.
"""

from collections.abc import Callable
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

Slices = dict[int, int]  # input of a node -> the axis along which one row of it is enough


def narrow(model: ir.Model) -> int:
    """In a graph for padded batches, whose head reads the token of one place; nodes narrowed."""
    graph = model.graph
    for seed in list(graph):
        axis = seed.attributes["axis"].as_int() if seed.op_type == "Gather" and "axis" in seed.attributes else 0
        index = _constant(seed.inputs[1]) if axis == 1 else None
        if index is not None and index.ndim == 0 and _rank(seed.inputs[0]) == 3:
            cone = _cone(list(graph)[: list(graph).index(seed)], seed, lambda node, slices: True)
            if any(node.op_type in PRODUCTS for node, _ in cone):
                at = _initializer(graph, "the_token", np.array([int(index)]))

                def row(value: ir.Value, axis: int, at: ir.Value = at, seed: ir.Node = seed) -> ir.Value:
                    return _put(graph, seed, ir.node("Gather", [value, at], attributes={"axis": axis}), value, axis)

                seed.replace_input_with(0, _rebuild(graph, seed, cone, row))
                seed.replace_input_with(1, _initializer(graph, "the_only", np.array(0)))
                common.RemoveUnusedNodesPass()(model)
                return len(cone)
    return 0


def narrow_firsts(model: ir.Model, firsts: str) -> int:
    """In a graph for texts laid end to end, whose head reads the tokens at the places `firsts` (n,); nodes narrowed.

    Only what treats each token for itself: (R, T, d) become (n, 1, d), from the output of the last attention on.
    """
    graph = model.graph
    places = next((one for one in graph.inputs if one.name == firsts), None)
    for seed in _readers(places) if places is not None else []:
        first = seed.inputs[0] if seed.op_type == "Gather" else None
        flat = first.producer() if first is not None else None
        if flat is None or flat.op_type != "Reshape" or _rank(flat.inputs[0]) != 3 or _rank(flat.outputs[0]) != 2:
            continue
        start = _input(flat, 0)
        assert start.shape is not None
        grid = tuple(start.shape[:2])

        def each(node: ir.Node, slices: Slices, grid: tuple[Any, ...] = grid) -> bool:
            shapes = [_input(node, i).shape for i in slices]
            known = all(shape is not None and len(shape) == 3 and tuple(shape[:2]) == grid for shape in shapes)
            return known and node.op_type not in ("Transpose", "Reshape")

        cone = _cone(list(graph)[: list(graph).index(flat)], flat, each)
        if not any(node.op_type in PRODUCTS for node, _ in cone):
            continue
        one, before = _initializer(graph, "the_axis", np.array([1])), set(graph)

        def taken(value: ir.Value, axis: int, seed: ir.Node = seed, one: ir.Value = one) -> ir.Value:
            assert value.shape is not None
            size = _initializer(graph, f"{value.name}.flat", np.array([-1, value.shape[-1]]))
            rows = _put(graph, seed, ir.node("Reshape", [value, size]), value, axis)
            mine = _put(graph, seed, ir.node("Gather", [rows, places], attributes={"axis": 0}), value, axis)
            return _put(graph, seed, ir.node("Unsqueeze", [mine, one]), value, axis)

        narrowed = _rebuild(graph, seed, cone, taken)
        whole = _put(graph, seed, ir.node("Squeeze", [narrowed, one]), start, 1)
        for node in set(graph) - before:
            node.outputs[0].shape = None  # (R, ...) no more
        whole.shape = seed.outputs[0].shape
        seed.outputs[0].replace_all_uses_with(whole)
        common.RemoveUnusedNodesPass()(model)
        return len(cone)
    return 0


def _readers(value: ir.Value) -> list[ir.Node]:
    """Who reads a value, also through a Reshape of it."""
    found = [use.node for use in value.uses()]
    through = [node for one in found if one.op_type == "Reshape" for node in _readers(one.outputs[0])]
    return [*found, *through]


def _cone(
    before: list[ir.Node], seed: ir.Node, fits: Callable[[ir.Node, Slices], bool]
) -> list[tuple[ir.Node, Slices]]:
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
        if slices is None or not fits(node, slices):
            continue
        if any(wanted.get(_input(node, i), axis) != axis for i, axis in slices.items()):
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


def _rebuild(
    graph: ir.Graph, seed: ir.Node, cone: list[tuple[ir.Node, Slices]], taken: Callable[[ir.Value, int], ir.Value]
) -> ir.Value:
    """Put narrow copies of the cone's nodes before the seed; what takes the place of the first one's result.

    taken: one row of a value along an axis, for what the cone reads from outside.
    """
    narrowed: dict[ir.Value, ir.Value] = {}

    def row(value: ir.Value, axis: int) -> ir.Value:
        if value not in narrowed:
            narrowed[value] = taken(value, axis)
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
    return narrowed[cone[0][0].outputs[0]]


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
