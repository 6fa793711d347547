"""The artefact's graph on ONNX Runtime, on the CPU; imports neither torch nor transformers."""

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gossamer.engines.predictor import Batch, Predictor
from gossamer.engines.texts import decoder, facts, reader
from gossamer.environment import hardware

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

GRAPH = "model.onnx"
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

    return Predictor("onnxruntime", known, reader(folder, known, alone=threads == 1), run, decode=decoder(folder))


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
