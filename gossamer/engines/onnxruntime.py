"""Graphs on ONNX Runtime, on the CPU; imports neither torch nor transformers."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from gossamer.engines.course import Arrays, Program
from gossamer.engines.graphs import fits
from gossamer.environment import cores, recent, released, saturates

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

PRECISIONS = ("saved",)
WAIT = "200"  # microseconds that a thread turns before it sleeps
# Fused by ONNX Runtime itself, these are slower than the plain operators that they replace: measured on 1.32, 1.1 to
# 1.2 times over a whole int8 encoder.
SLOWER_FUSED = ["SkipLayerNormFusion", "BiasGeluFusion"]


def program(graph: Path, threads: int | None = None, precision: str = "saved") -> Program:
    """A graph, ready to run.  ValueError: this onnxruntime cannot."""
    opened = session(graph, threads)
    inputs = [one.name for one in opened.get_inputs()]
    outputs = [one.name for one in opened.get_outputs()]

    def run(batch: Arrays) -> dict[str, NDArray[Any]]:
        return dict(zip(outputs, opened.run(outputs, {name: batch[name] for name in inputs}), strict=True))

    return run


def session(graph: Path, threads: int | None = None) -> "InferenceSession":
    """ONNX Runtime, ready to run a graph of ours.

    Raises:
        ValueError: it cannot.
        ImportError: it is too old.
    """
    import onnxruntime

    recent("onnxruntime", onnxruntime.__version__)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or cores()
    options.log_severity_level = 3  # errors
    # Threads that wait for the next call by turning round and round take the cores from the next stage, which has its
    # own: left as it is, early exit in batches took two to four times as long.  Those that sleep at once are slow to
    # wake.  So they turn for as long as it takes to ask for the next text.
    if released(onnxruntime.__version__) >= (1, 32):  # earlier ones were not seen to know it
        options.add_session_config_entry("session.intra_op.spin_duration_us", WAIT)
    else:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        if saturates() and not fits(graph):
            # Exact kernels: as fast on some processors, half as fast on others, and slow to load.
            options.add_session_config_entry("session.x64quantprecision", "1")
        return onnxruntime.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOWER_FUSED
        )
    except Exception as error:  # onnxruntime has a class of exception for every status, with no common parent
        raise ValueError(
            f"onnxruntime {onnxruntime.__version__} cannot run {graph} ({str(error).strip()}); "
            'copy the artefact again from its source, or load it with engine="torch"'
        ) from error
