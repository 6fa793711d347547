"""What is done to a graph once it is exported: cut into stages, attention as one operator, no weight stored twice."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

PAIR = (2**15 - 1) // 255  # two weights of one sign by the largest byte
INTEGERS = ("integer", "quant", "qlinear", "qgemm", "qattention")  # in names of operators
UNPACKED = ("Cast", "Sub", "Reshape", "Flatten", "Slice", "Transpose")
SMALL = 128  # bytes: less is not worth a reference
ATTENTION = 23  # the first opset that has it
HEADS, TURNED = (0, 2, 1, 3), (0, 2, 3, 1)  # (R, T, heads, size) -> (R, heads, T, size), (R, heads, size, T)
DTYPES = {"F32": ir.DataType.FLOAT, "I8": ir.DataType.INT8, "U8": ir.DataType.UINT8, "I64": ir.DataType.INT64}


def padded(model: ir.Model, first_position: int) -> None:
    """Turn a graph for texts laid end to end into one for padded batches, a text a row.

    It then reads input_ids and attention_mask (B, T), as everybody's graphs do: the mask tells the one text of a row
    from its padding as segment numbers would, positions are counted, and a text begins where its row does.  Where it
    asks how long the texts are, there is no padding (gossamer.engines.branches).
    """
    graph = model.graph
    given = {value.name: value for value in graph.inputs}
    given["segments"].name = "attention_mask"
    head = next(iter(graph))

    def put(op: str, *inputs: ir.Value, rank: int, **attributes: int) -> ir.Value:
        node = ir.node(op, inputs, attributes=attributes)
        out = node.outputs[0]
        out.type, out.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([None] * rank)
        graph.insert_before(head, node)
        return out

    def number(value: int) -> ir.Value:
        name = f"the_number_{value}"
        if name not in graph.initializers:
            made = ir.Value(name=name, const_value=ir.tensor(np.array(value), name=name))
            made.shape, made.dtype = ir.Shape([]), ir.DataType.INT64
            graph.register_initializer(made)
        return graph.initializers[name]

    size = put("Shape", given["input_ids"], rank=1)
    rows, width = (put("Gather", size, number(i), rank=0, axis=0) for i in (0, 1))
    end = put("Add", width, number(first_position), rank=0)
    positions = put("Expand", put("Range", number(first_position), end, number(1), rank=1), size, rank=2)
    firsts = put("Range", number(0), put("Mul", rows, width, rank=0), width, rank=1)
    told = {"position_ids": positions, "firsts": firsts}
    if "lengths" in given:
        told["lengths"] = put("Expand", width, size, rank=2)
    for name, value in told.items():
        given[name].replace_all_uses_with(value)
        graph.inputs.remove(given[name])


def stretch(model: ir.Model, begin: Sequence[str], end: Sequence[str], before: str, after: str) -> ir.Model:
    """A part of a model: what leads from values of it to others, by name; the model says what it said.

    before: what the names in `begin` lose, where they begin so, as inputs of the part; after: those in `end`, as its
    outputs.

    Raises:
        ValueError: more is needed than `begin`.
    """
    _one_shape(model.graph)
    part = ir.convenience.extract(model.graph, [_source(model.graph, name) for name in begin], end)
    found = ir.Model(part, ir_version=model.ir_version, producer_name=model.producer_name)
    common.OutputFixPass()(found)  # what is handed on as it came
    for value, name in zip(part.inputs, begin, strict=True):
        value.name = name.removeprefix(before)
    for value, name in zip(part.outputs, end, strict=True):
        value.name = name.removeprefix(after)
    return found


def _source(graph: ir.Graph, name: str) -> str:
    """What a value of this name is an Identity of: who comes later may read either."""
    value = next((one for node in graph for one in node.outputs if one.name == name), None)
    while value is not None and (node := value.producer()) is not None and node.op_type == "Identity":
        value = node.inputs[0]
    return name if value is None or value.name is None else value.name


def _one_shape(graph: ir.Graph) -> None:
    """Let who asks for the grid's size ask the segments, which every stretch of the way is given."""
    segments = next(value for value in graph.inputs if value.name == "segments")
    for other in graph.inputs:
        for use in other.uses():
            if use.node.op_type == "Shape" and other.shape == segments.shape and other is not segments:
                use.node.replace_input_with(0, segments)


def fuse_attention(model: ir.Model) -> int:
    """Let attention be one operator, where it is spelled out and nobody looks at the probabilities; operators made.

    A whole int8 encoder is 1.09 to 1.15 times as quick by it on ONNX Runtime, 0.92 to 1.00 times on OpenVINO
    (benchmarks/graphs.py).  A token that may look at none must be masked by a finite number, as ours is: the lowest of
    all numbers gives another answer.
    """
    made = 0
    for softmax in [node for node in model.graph if node.op_type == "Softmax"]:
        given = _spelled(softmax)
        if given is None:
            continue
        inputs, attributes, last = given
        one = ir.node("Attention", inputs, attributes=attributes)
        one.outputs[0].shape, one.outputs[0].type = last.outputs[0].shape, last.outputs[0].type
        model.graph.insert_before(last, one)
        last.outputs[0].replace_all_uses_with(one.outputs[0])
        made += 1
    if made:
        common.RemoveUnusedNodesPass()(model)
        model.opset_imports[""] = max(ATTENTION, model.opset_imports[""])
    return made


Attending = tuple[list[ir.Value], dict[str, Any], ir.Node]


def _spelled(softmax: ir.Node) -> Attending | None:
    """Queries, keys, values (R, T, heads * size) and the mask; how they are used; the last node.  None: not spelled so.

    Which is softmax(q k^T * scale + mask) v, heads first, and after it tokens first again.
    """
    added = _made(softmax.inputs[0], "Add")
    mask = added.inputs[1] if added else None
    scores = added.inputs[0] if added else softmax.inputs[0]
    scaled = _made(scores, "Mul")
    scale = _number(scaled.inputs[1]) if scaled else 1.0
    product = _made(scaled.inputs[0] if scaled else scores, "MatMul")
    summed = _used(softmax, "MatMul")
    turned = _used(summed, "Transpose")
    last = _used(turned, "Reshape")
    axis = softmax.attributes["axis"].as_int() if "axis" in softmax.attributes else -1
    if product is None or summed is None or turned is None or last is None or axis not in (-1, 3) or not scale > 0:
        return None
    if last.outputs[0].is_graph_output() or (added is not None and not _over(mask, product.outputs[0])):
        return None
    query, key = (_heads(value, perm) for value, perm in zip(product.inputs, (HEADS, TURNED), strict=True))
    value = _heads(summed.inputs[1], HEADS)
    if query is None or key is None or value is None or tuple(turned.attributes["perm"].as_ints()) != HEADS:
        return None
    (q, heads, size), (k, others, alike), (v, too, wide) = query, key, value
    out = last.outputs[0].shape
    if not heads == others == too or size != alike or out is None or q.shape is None:
        return None
    if tuple(out) != (*q.shape[:2], heads * wide):
        return None
    given = [q, k, v] if mask is None else [q, k, v, mask]
    return given, {"q_num_heads": heads, "kv_num_heads": heads, "scale": scale}, last


def _number(value: ir.Value | None) -> float:
    """A constant of one number; 0 for everything else."""
    found = None if value is None or value.const_value is None else value.const_value.numpy()
    return 0.0 if found is None or found.size != 1 else float(found.item())


def _over(mask: ir.Value | None, scores: ir.Value) -> bool:
    """Whether a mask has a number for each query and key."""
    sizes = [None if value is None or value.shape is None else tuple(value.shape)[-2:] for value in (mask, scores)]
    return sizes[0] is not None and len(sizes[0]) == 2 and sizes[0] == sizes[1]


def _made(value: ir.Value | None, op: str) -> ir.Node | None:
    """The node of this kind that made a value, for nobody else than who asks."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type != op or value.is_graph_output():
        return None
    return node if len(tuple(value.uses())) == 1 else None


def _used(node: ir.Node | None, op: str) -> ir.Node | None:
    """The only node that reads what a node made, if it is of this kind."""
    uses = [] if node is None or node.outputs[0].is_graph_output() else [use.node for use in node.outputs[0].uses()]
    return uses[0] if len(uses) == 1 and uses[0].op_type == op else None


def _heads(value: ir.Value | None, perm: tuple[int, ...]) -> tuple[ir.Value, int, int] | None:
    """What a value was, (R, T, heads * size), before it was (R, T, heads, size) and then turned; heads and size."""
    turned = _made(value, "Transpose")
    apart = _made(turned.inputs[0], "Reshape") if turned else None
    if turned is None or apart is None or tuple(turned.attributes["perm"].as_ints()) != perm:
        return None
    state, split = apart.inputs[0], apart.outputs[0].shape
    if state is None or state.shape is None or split is None or len(state.shape) != 3 or len(split) != 4:
        return None
    heads, size = split[2:]
    whole = tuple(state.shape[:2]) == tuple(split[:2]) and isinstance(heads, int) and isinstance(size, int)
    return (state, heads, size) if whole and state.shape[2] == heads * size else None  # type: ignore[return-value]


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
    for graph, value in _weights(model):
        uses = [use for use in value.uses() if use.node.op_type == "MatMulIntegerToFloat" and use.idx == 1]
        for use in uses[1:]:
            added += 1
            name = f"{value.name}.again_{added}"
            again = ir.Value(name=name, shape=value.shape, type=value.type, const_value=value.const_value)
            graph.register_initializer(again)
            use.node.replace_input_with(use.idx, again)
    return added


def fits(model: ir.Model) -> bool:
    """Whether products of two neighbours, unsigned bytes by weights, fit sixteen bits; see gossamer.forms.Rounded.

    Only where every product of integers can be seen to; False where there is none.
    """
    nodes = [node for graph in model.graphs() for node in graph]
    products = [node for node in nodes if node.op_type == "MatMulIntegerToFloat"]
    others = [node for node in nodes if node not in products and node.op_type != "QuantizeLinear"]
    seen = not model.functions and not any(part in node.op_type.lower() for node in others for part in INTEGERS)
    return seen and bool(products) and all(_fits(node.inputs[1]) for node in products)


def _fits(weight: ir.Value | None) -> bool:
    """Of an integer weight (in, out): whether codes of one sign of each pair of inputs add up to so much at most."""
    node = None if weight is None else weight.producer()
    turned = node is not None and node.op_type == "Transpose" and tuple(node.attributes["perm"].as_ints()) == (1, 0)
    value = node.inputs[0] if node is not None and turned else weight
    if value is None or value.const_value is None:
        return _two_bits(value)
    codes = value.const_value.numpy().T if turned else value.const_value.numpy()
    two = np.pad(codes, ((0, len(codes) % 2), (0, 0))).reshape(-1, 2, codes.shape[1]).astype(np.int16)
    return bool(two.clip(min=0).sum(1).max(initial=0) <= PAIR and two.clip(max=0).sum(1).min(initial=0) >= -PAIR)


def _two_bits(value: ir.Value | None) -> bool:
    """Whether a graph unpacks this from two bits (gossamer.engines.integers.unpacked)."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "BitwiseAnd":
            return True
        value = node.inputs[0] if node.op_type in UNPACKED else None
    return False


def share(model: ir.Model, folder: Path) -> tuple[int, int]:
    """Let the graph's weights be the bytes of the folder's model.safetensors; bytes shared, bytes of the graph's own.

    A weight that the graph has transposed is shared too: ONNX Runtime turns it around once, when it loads.
    """
    places: dict[tuple[ir.DataType | None, bytes], Stored] = {}
    weights = list(_weights(model))
    lengths = {value.const_value.nbytes for _, value in weights if value.const_value is not None}
    for place in stored(folder):
        if place.length in lengths and place.length >= SMALL:
            places.setdefault((place.dtype, place.digest()), place)
    shared = own = 0
    for graph, value in weights:
        tensor = value.const_value
        assert tensor is not None
        if not _refer(graph, value, tensor, places):
            own += tensor.nbytes
        else:
            shared += tensor.nbytes
    return shared, own


def _weights(model: ir.Model) -> list[tuple[ir.Graph, ir.Value]]:
    """All that are stored with a model's graphs."""
    graphs = [graph for graph in model.graphs() if isinstance(graph, ir.Graph)]
    return [(graph, value) for graph in graphs for value in graph.initializers.values()]


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
