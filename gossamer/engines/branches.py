"""One graph for one text where the way depends on the text: what it does not need is in branches that are not taken.

A batch goes through stages (gossamer.engines.course), for its texts part on the way.  A text alone does not: here each
stage after a place where it may have its answer is the else branch of an If, and tokens leave by Compress.  So one call
does what would be a call, and a look at its results, for each stage.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from gossamer.engines.course import NEXT

GRID = ("x", "segments", "position_ids", "lengths")  # what a stage has of each token, (R, T, ...)
Values = Mapping[str, ir.Value]


def alone(stages: Sequence[ir.Model], outputs: Sequence[str]) -> ir.Model:
    """The stages in one graph, for a text in a row of its own; they are used up.

    It reads what the first stage reads, and answers with the task's outputs, or the answer of an exit.
    """
    graphs = [_own(model.graph, f"{i}.") for i, model in enumerate(stages)]
    if any("keep" in graph.meta["said"] for graph in graphs):
        answers = {graph.meta["said"].get(name) for graph in graphs for name in ("logits", *outputs)}
        for value in [value for graph in graphs for node in graph for value in node.outputs]:
            if value not in answers:
                value.shape = None  # a width is not everywhere the same one
    first = graphs[0]
    known = {value.name or "": value for value in first.inputs}
    found = _onward(first, known, graphs[1:], outputs)
    first.outputs[:] = found
    for value, name in zip(found, outputs, strict=True):
        value.name = name
    for value in first.inputs:
        if value.shape is not None and len(value.shape):
            value.shape = ir.Shape([1, *value.shape[1:]])
    made = ir.Model(first, ir_version=stages[0].ir_version, producer_name=stages[0].producer_name)
    made.opset_imports.update(
        {d: max(one.opset_imports.get(d, 0) for one in stages) for one in stages for d in one.opset_imports}
    )
    return made


def _own(graph: ir.Graph, prefix: str) -> ir.Graph:
    """The graph, with names that no other has, but for what it reads and answers."""
    kept = set(graph.inputs)
    graph.meta["said"] = {value.name: value for value in graph.outputs}
    inner = [value for node in graph for value in node.outputs] + list(graph.initializers.values())
    for value in inner:
        if value not in kept:
            value.name = f"{prefix}{value.name}"
    for node in graph:
        node.name = f"{prefix}{node.name}"
    return graph


def _onward(graph: ir.Graph, known: Values, rest: Sequence[ir.Graph], outputs: Sequence[str]) -> list[ir.Value]:
    """From the end of a stage, at the end of `graph`, through the rest; the answers, as values of `graph`.

    known: what the stage was given.
    """
    said: Mapping[str, ir.Value] = graph.meta.pop("said")
    if not rest:
        return [said[name] for name in outputs]
    handed = {name.removeprefix(NEXT): value for name, value in said.items() if name.startswith(NEXT)}
    given = {**known, **handed}
    if "keep" in said:
        given |= _left(graph, said["keep"], {name: given[name] for name in GRID if name in given})
    following = rest[0]
    if "done" not in said:
        return _onward(_after(graph, following, given), given, rest[1:], outputs)
    _bind(following, given)
    following.outputs[:] = _onward(following, given, rest[1:], outputs)
    answered = _node("Identity", f"{said['logits'].name}.ready", said["logits"], [said["logits"]])
    ready = ir.Graph([], answered.outputs, nodes=[answered], name=f"{following.name}.ready")
    asked = _node(
        "If", f"{said['done'].name}.answer", said["logits"], [said["done"]], then_branch=ready, else_branch=following
    )
    graph.append(asked)
    return list(asked.outputs)


def _left(graph: ir.Graph, keep: ir.Value, grids: Values) -> dict[str, ir.Value]:
    """What is left of each grid (1, T, ...), if `keep` (1, T) says so: (1, T', ...)."""
    row = ir.Value(name=f"{keep.name}.row", const_value=ir.tensor(np.array([-1])))
    row.shape, row.dtype = ir.Shape([1]), ir.DataType.INT64
    graph.register_initializer(row)
    which = _node("Reshape", f"{keep.name}.which", keep, [keep, row])
    graph.append(which)
    found = {}
    for name, value in grids.items():
        made = _node("Compress", f"{keep.name}.{name}", value, [value, which.outputs[0]], axis=1)
        graph.append(made)
        found[name] = made.outputs[0]
    return found


def _node(op: str, name: str, like: ir.Value, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Node:
    """A node whose output is of a value's type, and of its shape where that is the value passed on."""
    made = ir.node(op, inputs, attributes=attributes, name=name)
    out = made.outputs[0]
    out.name, out.type = name, like.type  # unnamed, it would be called like one of another branch
    out.shape = like.shape if op in ("If", "Identity") else None
    return made


def _bind(graph: ir.Graph, given: Values) -> None:
    """Let a graph read what is around it, in place of its inputs."""
    for value in list(graph.inputs):
        value.replace_all_uses_with(given[value.name or ""])
    graph.inputs.clear()


def _after(graph: ir.Graph, following: ir.Graph, given: Values) -> ir.Graph:
    """`graph`, and behind it what follows."""
    said = following.meta["said"]
    _bind(following, given)
    for value in list(following.initializers.values()):
        following.initializers.pop(value.name or "")
        graph.register_initializer(value)
    nodes = list(following)
    following.outputs.clear()
    following.remove(nodes)
    graph.extend(nodes)
    graph.meta["said"] = said
    return graph
