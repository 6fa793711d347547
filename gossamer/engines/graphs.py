"""An artefact by its graphs, whichever engine runs them: plain, packed, or in stages.

Needs neither torch nor transformers.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from gossamer.engines.course import Answer, Program, through
from gossamer.engines.predictor import Batch, Pack, Predictor, pad
from gossamer.engines.texts import Facts, decoder, facts, reader
from gossamer.runtime.manifest import checked
from gossamer.task import Read

GRAPH = "model.onnx"  # for padded batches
PACKED = "packed.onnx"  # for texts laid end to end
STAGES = "stage-*.onnx"  # the same in pieces, where the way depends on the text
ALONE = "alone.onnx"  # these in one, for one text at a time
FIT = "gossamer.products_fit_sixteen_bits"  # said in a graph's metadata, "yes", where it is so

Open = Callable[[Path], Program]
Opened = TypeVar("Opened")


def carried(folder: Path) -> list[Path]:
    """The graphs that a folder carries, [] where it has to be run by torch."""
    plain = [folder / name for name in (GRAPH, PACKED, ALONE) if (folder / name).is_file()]
    return plain + sorted(folder.glob(STAGES))


def fits(graph: Path) -> bool:
    """Whether sums of two products of bytes fit sixteen bits in a graph: then quick kernels are exact everywhere."""
    return FIT.encode() + b"\x12\x03yes" in graph.read_bytes()  # as protobuf has it: the second field, three bytes


def load(name: str, folder: Path, opened: Open, alone: bool = False, threshold: float | None = None) -> Predictor:
    """The artefact in `folder`, answered for by its graphs.

    name: the engine.  opened: how it opens a graph.  alone: tokenize on one thread.  threshold: of exits, None for the
    artefact's own.

    Raises:
        ValueError: the folder's files are damaged, it has no exits, or the engine cannot read a graph.
    """
    with checked(folder):
        return _predictor(name, folder, opened, alone, threshold)


def _predictor(name: str, folder: Path, opened: Open, alone: bool, threshold: float | None) -> Predictor:
    """See `load`; the files are taken to be whole."""
    known = facts(folder, threshold)
    read, decode = reader(folder, known, alone=alone), decoder(folder)
    stages = sorted(folder.glob(STAGES))
    if stages:
        return Predictor(name, known, read, None, decode=decode, pack=_staged(folder, stages, opened, known))
    plain, wanted = opened(folder / GRAPH), known.task.outputs

    def run(batch: Batch) -> list[NDArray[Any]]:
        said = plain(batch)
        return [said[one] for one in wanted]

    if not (folder / PACKED).is_file():
        return Predictor(name, known, read, run, decode=decode)
    packed = Late(lambda: [opened(folder / PACKED)])

    def pack(reads: Sequence[Read]) -> Iterator[Answer]:
        return through(packed(), reads, known)

    return Predictor(name, known, read, run, decode=decode, pack=pack)


def _staged(folder: Path, stages: Sequence[Path], opened: Open, known: Facts) -> Pack:
    """A text alone goes through one graph, if there is one; others through the stages.  Both are opened when needed."""
    programs = Late(lambda: [opened(file) for file in stages])
    alone = Late(lambda: opened(folder / ALONE)) if (folder / ALONE).is_file() else None

    def pack(reads: Sequence[Read]) -> Iterator[Answer]:
        if alone is None or len(reads) != 1:
            return through(programs(), reads, known)
        return iter([(0, single(alone(), reads[0], known))])

    return pack


def single(alone: Program, read: Read, known: Facts) -> list[NDArray[Any]]:
    """The outputs for one text, by the graph for texts alone."""
    batch: dict[str, NDArray[Any]] = {**pad([read], known)}
    if known.threshold is not None:
        batch["threshold"] = np.array(known.threshold, np.float32)
    said = alone(batch)
    return [said[name] for name in known.task.outputs]


class Late(Generic[Opened]):
    """Something that is opened when it is first asked for: a graph for batches costs who asks one by one nothing."""

    def __init__(self, opened: Callable[[], Opened]) -> None:
        self.opened, self.turn = opened, Lock()
        self.found: Opened | None = None

    def __call__(self) -> Opened:
        """What was opened."""
        with self.turn:
            if self.found is None:
                self.found = self.opened()
        return self.found
