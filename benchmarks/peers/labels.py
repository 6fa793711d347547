"""What rounding changes on a real task: MiniLM fine-tuned on Rotten Tomatoes, its test texts, everybody's int8."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import made, shapes
from .contestants import REST_BF16, Ask, file, gossamer, has_bf16, ort, ov, overflows, sorting
from .shapes import Folders, say

SHAPES = ("minilm",)
CALIBRATION = 256  # training texts, for whoever needs them


def measure(shape: str, folders: Folders, options: Any) -> dict[str, Any]:
    """Accuracy, and share of labels as in fp32, by name; {} for a shape that reads no English, or untuned."""
    if shape not in SHAPES:
        return {}
    tuned: Path = options.tuned
    if not (tuned / "model.safetensors").is_file():
        say(f"    {tuned} holds no fine-tuned model; type: make demo")
        return {}
    from gossamer.data import read
    from gossamer.engines.texts import facts, reader

    data = read("rotten-tomatoes")
    assert data.test is not None
    own = Folders(folders.root / "tuned")
    read_ = reader(tuned, facts(tuned))
    calibration = read_(list(data.train.texts)[:: len(data.train.texts) // CALIBRATION][:CALIBRATION], None)
    own.root.mkdir(parents=True, exist_ok=True)
    made.write(Folders(own.root, tuned), calibration)
    sides = _sides(own, tuned, calibration, options.threads)
    reads, labels = read_(list(data.test.texts), None), np.array(data.test.labels)
    found: dict[str, Any] = {}
    wanted: Any = None
    for name, open_ in sides.items():
        try:
            said = open_()(reads, 32)
        except Exception as error:  # whoever cannot be opened is told of
            found[name] = {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
            continue
        wanted = said if wanted is None else wanted
        found[name] = {
            "accuracy": round(float(np.mean(said.argmax(1) == labels)), 5),
            "same": round(float(np.mean(said.argmax(1) == wanted.argmax(1))), 5),
            "mean": round(float(np.abs(said - wanted).mean()), 5),
        }
        say(f"    {name}: {found[name]}")
    return {"texts": len(reads), "sides": found}


def _sides(own: Folders, tuned: Path, calibration: Any, threads: int) -> dict[str, Callable[[], Ask]]:
    def ours(folder: Path, engine: str, change: Callable[[Any], None], precision: str = "saved") -> Callable[[], Ask]:
        def open_() -> Ask:
            shapes.once(folder, shapes.stamp(), partial(shapes.artefact_of, tuned, change=change))
            return gossamer(folder, engine, threads, precision)[0]

        return open_

    rounded = shapes.rounded
    kinds: dict[str, tuple[Path, Callable[[Any], None]]] = {
        "int8": (own.int8, rounded),
        "int8, static": (own.static, lambda model: rounded(model, True, calibration)),
        "int8, static, not evened out": (
            own.root / "uneven",
            lambda model: rounded(model, True, calibration, migration=0.0),
        ),
    }
    found: dict[str, Callable[[], Ask]] = {
        "gossamer onnxruntime fp32": ours(own.fp32, "onnxruntime", lambda model: None)
    }
    for name, (folder, change) in kinds.items():
        for engine in ("onnxruntime", "openvino"):
            found[f"gossamer {engine} {name}"] = ours(folder, engine, change)
        if has_bf16():
            found[f"gossamer openvino {name}{REST_BF16}"] = ours(folder, "openvino", change, "bf16")
    files = own.peers
    found["ONNX Runtime int8"] = lambda: sorting(ort(file(files, made.ONNX_INT8), threads))
    if overflows():
        exact = {"threads": threads, "exact": True}
        found["ONNX Runtime int8, exact kernels"] = lambda: sorting(ort(file(files, made.ONNX_INT8), **exact))
    found["OpenVINO int8 (NNCF)"] = lambda: sorting(ov(file(files, made.OPENVINO_INT8), threads))
    if has_bf16():
        found[f"OpenVINO int8 (NNCF){REST_BF16}"] = lambda: sorting(
            ov(file(files, made.OPENVINO_INT8), threads, "bf16")
        )
    found["OpenVINO int8 (NNCF without SmoothQuant)"] = lambda: sorting(ov(file(files, made.OPENVINO_UNEVEN), threads))
    return found
