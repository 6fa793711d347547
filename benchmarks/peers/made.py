"""The files that the peers run: each made by the peer's own tools from the same plain model, as its users would."""

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossamer.environment import installed
from gossamer.task import Read

from .shapes import Folders, once, say

ONNX, ONNX_INT8 = "model.onnx", "int8.onnx"
OPENVINO, OPENVINO_INT8, OPENVINO_UNEVEN = "openvino.xml", "openvino-int8.xml", "openvino-uneven.xml"
CTRANSLATE2 = "ctranslate2"
FAILED = "failed.json"
CALIBRATION = 192  # texts
TOOLS = ("torch", "transformers", "onnx", "onnxruntime", "openvino", "nncf", "ctranslate2")


def arrays(reads: Sequence[Read]) -> dict[str, NDArray[np.int64]]:
    """What a BERT is given for these texts: (B, T), padded on the right to the longest."""
    if len(reads) == 1:
        ids = np.array([reads[0].ids], np.int64)
        return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    lengths = np.array([len(one.ids) for one in reads])
    seen = np.arange(lengths.max()) < lengths[:, None]
    ids = np.zeros(seen.shape, np.int64)
    ids[seen] = np.concatenate([one.ids for one in reads])
    return {"input_ids": ids, "attention_mask": seen.astype(np.int64), "token_type_ids": np.zeros_like(ids)}


def write(folders: Folders, calibration: Sequence[Read]) -> None:
    """Make all that can be made; what fails is noted in failed.json."""
    stamp = " ".join(f"{tool} {installed(tool)}" for tool in TOOLS)
    once(folders.peers, stamp, lambda part: _all(folders.plain, part, calibration[:CALIBRATION]))


def _all(plain: Path, part: Path, calibration: Sequence[Read]) -> None:
    part.mkdir()
    steps: dict[str, Callable[[], None]] = {
        ONNX: lambda: _onnx(plain, part / ONNX, calibration),
        ONNX_INT8: lambda: _onnx_int8(part / ONNX, part / ONNX_INT8),
        OPENVINO: lambda: _openvino(plain, part / OPENVINO, calibration),
        OPENVINO_INT8: lambda: _openvino_int8(part / OPENVINO, part / OPENVINO_INT8, calibration),
        OPENVINO_UNEVEN: lambda: _openvino_int8(part / OPENVINO, part / OPENVINO_UNEVEN, calibration, alpha=-1.0),
        CTRANSLATE2: lambda: _ctranslate2(plain, part / CTRANSLATE2),
    }
    failed = {}
    for name, step in steps.items():
        say(f"    {name}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                step()
        except Exception as error:  # one peer's trouble is not another's
            failed[name] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
            say(f"      {failed[name]}")
    (part / FAILED).write_text(json.dumps(failed))


def _model(plain: Path, attention: str) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(
        plain, attn_implementation=attention, dtype=torch.float32
    ).eval()


def _sample(calibration: Sequence[Read]) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(value) for name, value in arrays(calibration[:4]).items()}


def _onnx(plain: Path, file: Path, calibration: Sequence[Read]) -> None:
    """By the older exporter, whose graph ONNX Runtime fuses further than the newer one's."""
    import torch

    sample = _sample(calibration)
    free = {0: "batch", 1: "length"}
    model = _model(plain, "eager")
    model.config.return_dict = False
    torch.onnx.export(
        model,
        tuple(sample.values()),
        str(file),
        input_names=list(sample),
        output_names=["logits"],
        dynamic_axes={**dict.fromkeys(sample, free), "logits": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )


def _onnx_int8(source: Path, file: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, file, weight_type=QuantType.QInt8)


def _openvino(plain: Path, file: Path, calibration: Sequence[Read]) -> None:
    import openvino as ov

    sample = _sample(calibration)
    model = ov.convert_model(_model(plain, "sdpa"), example_input=sample)
    for one in model.inputs:
        one.get_node().set_partial_shape(ov.PartialShape([-1, -1]))
    model.validate_nodes_and_infer_types()
    ov.save_model(model, file, compress_to_fp16=False)


def _openvino_int8(source: Path, file: Path, calibration: Sequence[Read], alpha: float | None = None) -> None:
    """By NNCF, which evens features out as SmoothQuant does, at 0.95; alpha: otherwise, -1 for never."""
    import nncf
    import openvino as ov

    model = ov.Core().read_model(source)
    names = {one.get_any_name() for one in model.inputs}
    given = [{k: v for k, v in arrays([one]).items() if k in names} for one in calibration]
    more = nncf.AdvancedQuantizationParameters(smooth_quant_alpha=alpha)
    kind = nncf.ModelType.TRANSFORMER
    rounded = nncf.quantize(
        model, nncf.Dataset(given), model_type=kind, subset_size=len(given), advanced_parameters=more
    )
    ov.save_model(rounded, file, compress_to_fp16=False)


def _ctranslate2(plain: Path, folder: Path) -> None:
    """Its converter asks for a field that transformers 5 has taken away; given that, it converts.

    The classifier on top of the pooler, of which it knows nothing, is two rows, and stands beside it.
    """
    import ctranslate2
    import transformers

    transformers.BertConfig.position_embedding_type = "absolute"
    try:
        ctranslate2.converters.TransformersConverter(str(plain)).convert(str(folder), quantization="int8")
    finally:
        del transformers.BertConfig.position_embedding_type
    head = _model(plain, "eager").classifier
    np.savez(folder / "head.npz", weight=head.weight.detach().numpy(), bias=head.bias.detach().numpy())
