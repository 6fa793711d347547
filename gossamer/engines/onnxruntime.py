"""The artefact's graph on ONNX Runtime, on the CPU; imports neither torch nor transformers."""

import os
import platform
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gossamer.engines.packing import Packed
from gossamer.engines.predictor import Batch, Predictor
from gossamer.engines.texts import decoder, facts, reader
from gossamer.environment import hardware
from gossamer.task import Task

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

GRAPH, PACKED = "model.onnx", "packed.onnx"
# Fused by ONNX Runtime itself, these are slower than the plain operators that they replace: measured on 1.32, 1.1 to
# 1.2 times over a whole int8 encoder.
SLOWER_FUSED = ["SkipLayerNormFusion", "BiasGeluFusion"]


def load(folder: Path, threads: int | None = None) -> Predictor:
    """The artefact in `folder`, answered for by its graph.

    Raises:
        ValueError: the folder's files are damaged, or this onnxruntime cannot read the graph.
    """
    from gossamer.runtime.manifest import check

    check(folder)
    known = facts(folder)
    graph = session(folder / GRAPH, threads)
    given = {one.name for one in graph.get_inputs()}

    wanted = list(known.task.outputs)

    def run(batch: Batch) -> list[NDArray[np.float32]]:
        answers: list[NDArray[np.float32]] = graph.run(wanted, {key: batch[key] for key in batch if key in given})
        return answers

    laid = cache(lambda: session(folder / PACKED, threads))  # read when it is needed first

    def pack(one: Packed) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
        return unpacked(laid(), one, known.task)

    read, decode = reader(folder, known, alone=threads == 1), decoder(folder)
    packs = pack if (folder / PACKED).is_file() else None
    return Predictor("onnxruntime", known, read, run, decode=decode, pack=packs)


def unpacked(graph: "InferenceSession", one: Packed, task: Task) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
    """What a graph for packed texts says of each: which text, and its outputs as of a batch of one."""
    given = {value.name for value in graph.get_inputs()}
    outputs = graph.run(list(task.outputs), {key: one.batch[key] for key in one.batch if key in given})
    segments = one.batch["segments"]
    for at, (i, (y, x)) in enumerate(zip(one.texts, one.spans, strict=True)):
        if task.per_text:
            yield i, [output[at : at + 1] for output in outputs]
        else:
            end = x + int((segments[y] == segments[y, x]).sum())
            yield i, [output[y : y + 1, x:end] for output in outputs]


def session(graph: Path, threads: int | None = None) -> "InferenceSession":
    """ONNX Runtime, ready to run a graph of ours.

    Raises:
        ValueError: it cannot.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or _cores()
    options.log_severity_level = 3  # errors
    if _saturates():
        options.add_session_config_entry("session.x64quantprecision", "1")  # exact kernels, half as fast
    try:
        return onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOWER_FUSED
        )
    except Exception as error:  # onnxruntime has a class of exception for every status, with no common parent
        raise ValueError(
            f"onnxruntime {onnxruntime.__version__} cannot run {graph} ({str(error).strip()}); "
            'copy the artefact again from its source, or load it with engine="torch"'
        ) from error


def _saturates() -> bool:
    """Whether products of unsigned and signed bytes may overflow here: on x86 without VNNI, as far as can be told."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return not {"avx_vnni", "avx512_vnni"} & set(hardware()["instructions"])


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
