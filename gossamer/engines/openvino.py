"""Graphs on OpenVINO, on the CPU; imports neither torch nor transformers."""

from functools import cache
from pathlib import Path
from threading import local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossamer.engines.course import Arrays, Program
from gossamer.environment import cores, recent, saturates
from gossamer.runtime.manifest import MANIFEST

HINTS = {"saved": "f32", "bf16": "bf16"}  # unasked, OpenVINO computes in bfloat16 wherever the processor can
PRECISIONS = tuple(HINTS)


def program(graph: Path, threads: int | None = None, precision: str = "saved") -> Program:
    """A graph (.onnx, or OpenVINO's own .xml), ready to run.

    Raises:
        ValueError: this openvino cannot.
        ImportError: it is too old.
    """
    import openvino

    recent("openvino", openvino.__version__)
    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads or cores(),
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # the cores are others' as well
    }
    if saturates():
        settings["LP_TRANSFORMS_MODE"] = (
            "NO"  # whole numbers, but multiplied as floats: exact, and no faster than those
        )
    try:
        model = _core().read_model(graph)
        if (graph.parent / MANIFEST).is_file():  # a graph of ours
            model = _attending(model)
        compiled = _core().compile_model(model, "CPU", settings)
    except Exception as error:  # RuntimeError and openvino's own, with no common parent
        raise ValueError(
            f"openvino {openvino.__version__} cannot run {graph} ({str(error).strip()[:300]}); "
            'copy the artefact again from its source, or load it with engine="torch"'
        ) from error
    inputs = [(one.get_any_name(), one.element_type.to_dtype()) for one in compiled.inputs]
    outputs = [one.get_names() for one in compiled.outputs]  # what goes out may have been something on the way as well
    own = local()  # a request belongs to one thread at a time

    def run(batch: Arrays) -> dict[str, NDArray[Any]]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        given = {name: np.asarray(batch[name], dtype, order="C") for name, dtype in inputs}
        own.request.infer(given, share_inputs=True)
        said = [own.request.get_output_tensor(i).data.copy() for i in range(len(outputs))]
        return {name: value for names, value in zip(outputs, said, strict=True) for name in names}

    return run


def _attending(model: Any) -> Any:
    """The model without OpenVINO's care for tokens that may look at none: in graphs of ours none is masked by -inf.

    It costs a pass over what every layer attended to, some per cent at most (benchmarks/graphs.py).
    """
    for node in model.get_ops():
        if node.get_type_name() == "If":
            for branch in (0, 1):
                _attending(node.get_function(branch))
        if node.get_type_name() == "Select":
            asked, attended = node.input_value(0).get_node(), node.input_value(2)
            kinds = [one.get_type_name() for one in (asked, attended.get_node())]
            if kinds == ["IsNaN", "ScaledDotProductAttention"] and asked.input_value(0) == attended:
                node.output(0).replace(attended)
    return model


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()
