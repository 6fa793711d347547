"""One graph for one text where the way depends on the text: what it does not need is in branches that are not taken.

A batch goes through stages (gossamer.engines.course), for its texts part on the way.  A text alone does not: here each
stage after a place where it may have its answer is the else branch of an If, and tokens leave by Compress.  So one call
does what would be a call, and a look at its results, for each stage.

Where each token is answered for, the head reads the state that each had when it left: those are kept aside, and
overwritten by ScatterND for as long as a token is there.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from gossamer.engines.course import NEXT

GRID = ("x", "segments", "position_ids", "lengths")  # what a stage has of each token, (R, T, ...)
LAST, PLACES = "last", "places"  # each token's last state so far, (1, T, d), and where in it the others are, (T', 2)
Values = Mapping[str, ir.Value]


class Part(NamedTuple):
    """A stage's graph, and what it ends in, by name."""

    graph: ir.Graph
    said: Values


def alone(stages: Sequence[ir.Model], outputs: Sequence[str], per_text: bool) -> ir.Model:
    """The stages in one graph, for a text in a row of its own; they are used up.

    It reads what the first stage reads, and answers with the task's outputs, or the answer of an exit.  per_text: not
    for each token; if for each, the last stage reads them all.
    """
    parts = [_part(model.graph, f"{i}.") for i, model in enumerate(stages)]
    if any("keep" in part.said for part in parts):
        answers = {part.said.get(name) for part in parts for name in ("logits", *outputs)}
        for value in [value for part in parts for node in part.graph for value in node.outputs]:
            if value not in answers:
                value.shape = None  # a width is not everywhere the same one
    first = parts[0].graph
    known = {value.name or "": value for value in first.inputs}
    found = _onward(*parts[0], known, parts[1:], outputs, None if per_text else known)
    first.outputs[:] = found
    for value, name in zip(found, outputs, strict=True):
        value.name = name
    for value in first.inputs:
        if value.shape is not None and len(value.shape):
            value.shape = ir.Shape([1, *value.shape[1:]])
    made = ir.Model(first, ir_version=stages[0].ir_version, producer_name=stages[0].producer_name)
    for domain in {domain for one in stages for domain in one.opset_imports}:
        made.opset_imports[domain] = max(one.opset_imports.get(domain, 0) for one in stages)
    return made


def _part(graph: ir.Graph, prefix: str) -> Part:
    """The stage, with names that no other has; what it reads and says is known by the old ones."""
    said = {value.name or "": value for value in graph.outputs}
    for value in [value for node in graph for value in node.outputs] + list(graph.initializers.values()):
        value.name = f"{prefix}{value.name}"
    for node in graph:
        node.name = f"{prefix}{node.name}"
    return Part(graph, said)


def _onward(
    graph: ir.Graph,
    said: Values,
    known: Values,
    rest: Sequence[Part],
    outputs: Sequence[str],
    begun: Values | None,
) -> list[ir.Value]:
    """From the end of a stage, at the end of `graph`, through the rest; the answers, as values of `graph`.

    said: what the stage ends in; known: what it was given; begun: what the first stage was given, if the last one is
    to have every token.
    """
    if not rest:
        return [said[name] for name in outputs]
    handed = {name.removeprefix(NEXT): value for name, value in said.items() if name.startswith(NEXT)}
    given = {**known, **handed}
    if begun is not None:
        given |= _noted(graph, given)
    if begun is not None and len(rest) == 1:
        given |= {name: begun[name] for name in GRID if name in begun} | {"x": given[LAST]}
    elif "keep" in said:
        given |= _left(graph, said["keep"], given)
    following, then = rest[0]
    for value in list(following.inputs):
        value.replace_all_uses_with(given[value.name or ""])
    following.inputs.clear()
    if "done" not in said:
        _append(graph, following)
        return _onward(graph, then, given, rest[1:], outputs, begun)
    following.outputs[:] = _onward(following, then, given, rest[1:], outputs, begun)
    answered = _node("Identity", f"{said['logits'].name}.ready", said["logits"], [said["logits"]])
    ready = ir.Graph([], answered.outputs, nodes=[answered], name=f"{following.name}.ready")
    asked = _node(
        "If", f"{said['done'].name}.answer", said["logits"], [said["done"]], then_branch=ready, else_branch=following
    )
    graph.append(asked)
    return list(asked.outputs)


def _left(graph: ir.Graph, keep: ir.Value, given: Values) -> dict[str, ir.Value]:
    """What is left of each grid (1, T, ...), if `keep` (1, T) says so: (1, T', ...); and of the places (T, 2)."""
    which = _node("Reshape", f"{keep.name}.which", keep, [keep, _numbers(graph, f"{keep.name}.row", -1)])
    graph.append(which)
    found = {}
    for name in (*GRID, PLACES):
        if name in given:
            value, axis = given[name], 0 if name == PLACES else 1
            made = _node("Compress", f"{keep.name}.{name}", value, [value, which.outputs[0]], axis=axis)
            graph.append(made)
            found[name] = made.outputs[0]
    return found


def _noted(graph: ir.Graph, given: Values) -> dict[str, ir.Value]:
    """The last states (1, T, d), now that tokens have others, x (1, T', d); and the places of these tokens (T', 2)."""
    x, segments = given["x"], given["segments"]
    if LAST not in given:
        found = _node("NonZero", f"{segments.name}.found", segments, [segments])  # a text alone has no padding
        places = _node("Transpose", f"{segments.name}.places", segments, found.outputs, perm=[1, 0])
        graph.extend([found, places])
        return {LAST: x, PLACES: places.outputs[0]}
    row = _node("Squeeze", f"{x.name}.row", x, [x, _numbers(graph, f"{x.name}.axis", 0)])
    last = _node("ScatterND", f"{x.name}.last", x, [given[LAST], given[PLACES], row.outputs[0]])
    graph.extend([row, last])
    return {LAST: last.outputs[0]}


def _numbers(graph: ir.Graph, name: str, *numbers: int) -> ir.Value:
    """Integers (n,), stored with the graph."""
    made = ir.Value(name=name, const_value=ir.tensor(np.array(numbers)))
    made.shape, made.dtype = ir.Shape([len(numbers)]), ir.DataType.INT64
    graph.register_initializer(made)
    return made


def _node(op: str, name: str, like: ir.Value, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Node:
    """A node whose output is of a value's type, and of its shape where that is the value passed on."""
    made = ir.node(op, inputs, attributes=attributes, name=name)
    out = made.outputs[0]
    out.name, out.type = name, like.type  # unnamed, it would be called like one of another branch
    out.shape = like.shape if op in ("If", "Identity") else None
    return made


def _append(graph: ir.Graph, following: ir.Graph) -> None:
    """Let `graph` go on with what follows."""
    for value in list(following.initializers.values()):
        following.initializers.pop(value.name or "")
        graph.register_initializer(value)
    nodes = list(following)
    following.outputs.clear()
    following.remove(nodes)
    graph.extend(nodes)
