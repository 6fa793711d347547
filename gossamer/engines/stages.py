"""Writing the graphs for texts laid end to end: one, or a stage after each place where texts or tokens may leave."""

import logging
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gossamer.engines.course import NEXT, Answer, lengths, through
from gossamer.engines.exporters import Graph, answers, as_it_was, by_torch, put, quietly
from gossamer.engines.graphs import ALONE, PACKED, STAGES, single
from gossamer.engines.packing import Layout, fill, layouts
from gossamer.engines.predictor import pad
from gossamer.engines.texts import Facts
from gossamer.task import Read

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor
    from transformers import PreTrainedModel

KEPT = ("segments", "position_ids", "firsts", "lengths", "threshold")  # what later stages are given as well
SOME, HUGE = 20, 10**6  # texts of the sample that is exported; all in one grid, as if a second one cost so much
OTHERWISE = 0.1  # of the texts may go another way: a score beside a threshold falls to either side of it

log = logging.getLogger(__name__)


def write(model: "PreTrainedModel", folder: Path, known: Facts, reads: list[Read], tolerance: float) -> Graph:
    """Write packed.onnx, or stage-00.onnx and so on, and alone.onnx for one text at a time.

    reads: texts on which graphs and model are compared.  tolerance: how far their answers may be apart, root mean
    square.

    Raises:
        ValueError: this model cannot be told the positions of tokens, or graphs and model differ.
        Exception: whatever the exporter raises.
    """
    from gossamer.engines import graph, narrowing
    from gossamer.engines.onnxruntime import program

    programs = _programs(model, known, reads)
    if known.task.per_text:
        narrowing.narrow_firsts(programs[-1], "firsts")
    for one in programs:
        graph.fuse_attention(one)
    names = [PACKED] if len(programs) == 1 else [STAGES.replace("*", f"{i:02}") for i in range(len(programs))]
    files, shared, own = list[Path](), 0, 0
    with ExitStack() as open_:
        for made, name in zip(programs, names, strict=True):
            partial, more, less = open_.enter_context(put(made, folder, name))
            files.append(partial)
            shared, own = shared + more, own + less
        ready = [program(file, 1) for file in files]
        wanted = [_one(answers(model, pad([read], known), list(known.task.outputs))) for read in reads]
        difference, agreement = _compare(through(ready, reads, known), wanted, tolerance, len(ready) > 1)
    packed = tuple(folder / name for name in names)
    if len(packed) > 1:
        try:
            own += _write_alone(packed, known, reads, wanted, tolerance)
        except Exception as error:  # stages answer a text alone as well, only slower
            log.warning("no graph for one text at a time: %s", str(error).strip()[:300])
    return Graph(packed[0], difference, tolerance, agreement, shared, own, packed)


def _write_alone(
    stages: Sequence[Path], known: Facts, reads: list[Read], wanted: Sequence[NDArray[Any]], tolerance: float
) -> int:
    """Write alone.onnx beside the stages that are in it; the bytes of its own weights.  wanted: see `_compare`."""
    import onnx_ir as ir

    from gossamer.engines import branches, graph
    from gossamer.engines.onnxruntime import program

    made = branches.alone([ir.load(file) for file in stages], known.task.outputs, known.task.per_text)
    graph.padded(made, known.first_position)
    with put(made, stages[0].parent, ALONE) as (partial, _, own):
        answering = program(partial, 1)
        found = ((i, single(answering, read, known)) for i, read in enumerate(reads))
        _compare(found, wanted, tolerance, True)
    return own


def padded(packed: Path, known: Facts) -> "ir.Model":
    """The graph for padded batches that a packed graph is as well."""
    import onnx_ir as ir

    from gossamer.engines import graph

    program = ir.load(packed)
    graph.padded(program, known.first_position)
    return program


def _programs(model: "PreTrainedModel", known: Facts, reads: list[Read]) -> list["ir.Model"]:
    """The way from the words to the answers, in one program or several."""
    import torch

    from gossamer.engines import graph
    from gossamer.engines.integers import SPELLED, forwards
    from gossamer.engines.laid import Way, of

    layout, some = _sample(reads)
    way = Way(model, known.task).eval()
    batch = {name: torch.from_numpy(value) for name, value in fill(layout, some, known).items()}
    if way.cuts:
        batch["lengths"] = torch.from_numpy(lengths(layout, some))
    with as_it_was(model, known):
        with torch.inference_mode():
            said = list(way(batch))
        with forwards(model, SPELLED), quietly():
            whole = _export(way, batch, said)
    if not way.cuts:
        return [whole]
    ends = [[name for name in said if name.startswith(of(i, ""))] for i in range(len(way.cuts))]
    begun, made = list(batch), []
    for i, end in enumerate([*ends, list(known.task.outputs)]):
        made.append(graph.stretch(whole, begun, end, of(i - 1, NEXT), of(i, "")))
        begun = [name for name in end if name.startswith(of(i, NEXT))] + [name for name in KEPT if name in batch]
    return made


def _sample(reads: list[Read]) -> tuple[Layout, list[Read]]:
    """Some texts in one grid, with other numbers of rows, tokens and texts: who exports takes equal ones for the same.

    Raises:
        ValueError: there are too few.
    """
    some = sorted(reads, key=lambda one: len(one.ids))[: 3 * len(reads) // 4][-SOME:]
    while len(some) > 2:
        lengths = [len(one.ids) for one in some]
        [layout] = layouts(lengths, widths=[2 * lengths[-1]], tokens=HUGE, call=HUGE)
        if len({1, *layout.shape, len(some)}) == 4:
            return layout, some
        some = some[1:]
    raise ValueError(f"found {len(reads)} texts to export by, expected more, of several lengths; give other probes")


def _export(way: Any, batch: dict[str, "Tensor"], said: list[str]) -> "ir.Model":
    grid = ("input_ids", "token_type_ids", "position_ids", "segments", "lengths")
    shapes: dict[str, Any] = {name: {0: "rows", 1: "width"} if name in grid else {0: "texts"} for name in batch}
    shapes |= {name: None for name, value in batch.items() if not value.dim()}
    return by_torch(way, {"given": batch}, {"given": shapes}, said, list(batch))


def _compare(
    said: Iterable[Answer], wanted: Sequence[NDArray[Any]], tolerance: float, walks: bool
) -> tuple[float, float]:
    """How far the answers of graphs and model are apart, and the share of equal ones.

    wanted: what the model says of each text.  walks: the way may part.

    Raises:
        ValueError: too far.
    """
    found: list[NDArray[Any]] = [np.empty(0)] * len(wanted)
    for i, outputs in said:
        found[i] = _one(outputs)
    apart = np.array([np.sqrt(np.mean(np.square(a - b))) for a, b in zip(found, wanted, strict=True)])
    if walks:
        widest = 2 * max(float(np.abs(one).max()) for one in wanted)  # another exit's answer is no further away
        if not apart.max() <= widest:
            raise ValueError(f"one of its answers differs from the model's by {apart.max():.1e}")
        apart = np.sort(apart)[: len(apart) - int(OTHERWISE * len(apart))]
    difference = float(np.sqrt(np.mean(np.square(apart))))
    log.info("answers of graph and model differ by %.1e (at most %.1e)", difference, tolerance)
    if not difference <= tolerance:
        raise ValueError(f"its answers differ from the model's by {difference:.1e}, expected at most {tolerance:.1e}")
    same = [bool((a.argmax(-1) == b.argmax(-1)).all()) for a, b in zip(found, wanted, strict=True)]
    return difference, float(np.mean(same))


def _one(outputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Outputs of a batch of one as one array: (classes,), or (T, ...) of each token."""
    return np.stack([one[0] for one in outputs], -1) if len(outputs) > 1 else outputs[0][0]
