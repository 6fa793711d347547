"""What is done to a graph once it is exported: cut into stages, no weight stored twice, one for padded batches."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

SMALL = 128  # bytes: less is not worth a reference
DTYPES = {"F32": ir.DataType.FLOAT, "I8": ir.DataType.INT8, "U8": ir.DataType.UINT8, "I64": ir.DataType.INT64}


def padded(model: ir.Model, first_position: int) -> None:
    """Turn a graph for texts laid end to end into one for padded batches, a text a row.

    It then reads input_ids and attention_mask (B, T), as everybody's graphs do: the mask tells the one text of a row
    from its padding as segment numbers would, positions are counted, and a text begins where its row does.
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
    for name, value in (("position_ids", positions), ("firsts", firsts)):
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
    part = ir.convenience.extract(model.graph, begin, end)
    found = ir.Model(part, ir_version=model.ir_version, producer_name=model.producer_name)
    common.OutputFixPass()(found)  # what is handed on as it came
    for value, name in zip(part.inputs, begin, strict=True):
        value.name = name.removeprefix(before)
    for value, name in zip(part.outputs, end, strict=True):
        value.name = name.removeprefix(after)
    return found


def _one_shape(graph: ir.Graph) -> None:
    """Let who asks for the grid's size ask the segments, which every stretch of the way is given."""
    segments = next(value for value in graph.inputs if value.name == "segments")
    for other in graph.inputs:
        for use in other.uses():
            if use.node.op_type == "Shape" and other.shape == segments.shape and other is not segments:
                use.node.replace_input_with(0, segments)


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
