"""Everybody who runs: token ids in, logits out.  Padding, and sorting where many texts come at once, are inside."""

import importlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossamer.environment import hardware, install, installed
from gossamer.task import Read

from . import made
from .shapes import Folders

Logits = NDArray[np.float32]
Ask = Callable[[Sequence[Read], int], Logits]  # the texts, and how many at once at most -> (n, classes), in order
Run = Callable[[Sequence[Read]], Logits]  # one batch

EAGER = "transformers eager fp32"
ORT_INT8, OV_INT8, OV_BF16, CT2_INT8 = "ONNX Runtime int8", "OpenVINO int8", "OpenVINO bf16", "CTranslate2 int8"
REST_BF16 = ", rest bf16"  # what an int8 model computes in floats, in bfloat16
BF16 = ("avx512_bf16", "amx_bf16", "bf16")  # as gossamer.environment spells the instructions
INT8 = ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


@dataclass(frozen=True, eq=False)
class Contestant:
    """One who answers.  precision: fp32, bf16 or int8.  predictor: gossamer's, None for a peer."""

    name: str
    precision: str
    ask: Ask
    predictor: Any = None


def has_bf16() -> bool:
    """Whether this processor multiplies bfloat16."""
    return bool(set(BF16) & set(hardware()["instructions"]))


def overflows() -> bool:
    """Whether the quick products of bytes add up in sixteen bits here."""
    return not set(INT8) & set(hardware()["instructions"])


class Absent(Exception):
    """Why one does not run here."""


Opened = Iterator[tuple[str, str, Callable[[], tuple[Ask, Any]]]]  # name, precision, what opens it


def opened(
    folders: Folders, threads: int, compiled: bool, among: Sequence[str]
) -> tuple[list[Contestant], dict[str, str]]:
    """All who can run here, the yardstick first, and why the others cannot.

    compiled: torch.compile too.  among: words, one of which a name has to contain; () for all.
    """
    found, absent = [], {}
    for name, precision, open_ in (*peers(folders, threads, compiled), *ours(folders, threads, compiled)):
        if among and name != EAGER and not any(word.lower() in name.lower() for word in among):
            continue
        try:
            if precision == "bf16" and not has_bf16():
                raise Absent("no bf16 here")
            ask, predictor = open_()
        except Exception as error:  # whoever cannot be opened is told of, and costs the others nothing
            words = (str(error).strip().splitlines() or [""])[0][:200]
            absent[name] = words if isinstance(error, Absent) else f"{type(error).__name__}: {words}"
            continue
        found.append(Contestant(name, precision, ask, predictor))
    return found, absent


def peers(folders: Folders, threads: int, compiled: bool) -> Opened:
    """Everybody else's engines."""
    plain, files = folders.plain, folders.peers

    def simple(run: Callable[[], Run], *needs: str) -> Callable[[], tuple[Ask, Any]]:
        def open_() -> tuple[Ask, Any]:
            for package in needs:
                if installed(package) is None:
                    raise Absent(f"{package} is not installed; type: {install(package)}")
            return sorting(run()), None

        return open_

    yield EAGER, "fp32", simple(lambda: transformers(plain, "eager", "float32"))
    yield "transformers sdpa fp32", "fp32", simple(lambda: transformers(plain, "sdpa", "float32"))
    yield "transformers sdpa bf16", "bf16", simple(lambda: transformers(plain, "sdpa", "bfloat16"))
    if compiled:
        for kind, precision in (("float32", "fp32"), ("bfloat16", "bf16")):
            yield (
                f"torch.compile {precision}",
                precision,
                simple(lambda kind=kind: transformers(plain, "sdpa", kind, compiled=True)),  # type: ignore[misc]
            )
    yield "torch.ao dynamic int8", "int8", simple(lambda: dynamic(plain))
    yield "ONNX Runtime fp32", "fp32", simple(lambda: ort(file(files, made.ONNX), threads), "onnxruntime")
    yield ORT_INT8, "int8", simple(lambda: ort(file(files, made.ONNX_INT8), threads), "onnxruntime")
    if overflows():
        open_ = simple(lambda: ort(file(files, made.ONNX_INT8), threads, exact=True), "onnxruntime")
        yield f"{ORT_INT8}, exact kernels", "int8", open_
    yield "OpenVINO fp32", "fp32", simple(lambda: ov(file(files, made.OPENVINO), threads), "openvino")
    yield OV_BF16, "bf16", simple(lambda: ov(file(files, made.OPENVINO), threads, "bf16"), "openvino")
    yield OV_INT8, "int8", simple(lambda: ov(file(files, made.OPENVINO_INT8), threads), "openvino")
    if has_bf16():
        open_ = simple(lambda: ov(file(files, made.OPENVINO_INT8), threads, "bf16"), "openvino")
        yield f"{OV_INT8}{REST_BF16}", "int8", open_
    yield CT2_INT8, "int8", simple(lambda: ct2(file(files, made.CTRANSLATE2), threads), "ctranslate2")


def ours(folders: Folders, threads: int, compiled: bool) -> Opened:
    """Gossamer's engines, each in every precision that it has."""
    from gossamer.engines import ENGINES

    for engine in ENGINES:
        has = getattr(importlib.import_module(f"gossamer.engines.{engine}"), "PRECISIONS", ("saved", "bf16"))
        yield f"gossamer {engine} fp32", "fp32", lambda e=engine: gossamer(folders.fp32, e, threads, "saved")
        if "bf16" in has:
            yield f"gossamer {engine} bf16", "bf16", lambda e=engine: gossamer(folders.fp32, e, threads, "bf16")
        yield f"gossamer {engine} int8", "int8", lambda e=engine: gossamer(folders.int8, e, threads, "saved")
        if engine != "torch":
            yield f"gossamer {engine} int8, static", "int8", lambda e=engine: gossamer(folders.static, e, threads)
        if "bf16" in has and engine != "torch" and has_bf16():
            for kind, at in (("", folders.int8), (", static", folders.static)):
                yield (
                    f"gossamer {engine} int8{kind}{REST_BF16}",
                    "int8",
                    lambda e=engine, at=at: gossamer(at, e, threads, "bf16"),
                )
    if compiled:
        yield "gossamer torch fp32, compiled", "fp32", lambda: gossamer(folders.fp32, "torch", threads, compiled=True)


def file(files: Path, name: str) -> Path:
    """A peer's file.  Absent: it could not be made."""
    failed = json.loads((files / made.FAILED).read_text())
    if name in failed:
        raise Absent(failed[name])
    return files / name


def gossamer(folder: Path, engine: str, threads: int, precision: str = "saved", **more: Any) -> tuple[Ask, Any]:
    """What `gossamer.load` gives."""
    import gossamer as package

    predictor = package.load(folder, engine=engine, threads=threads, precision=precision, **more)

    def ask(reads: Sequence[Read], size: int) -> Logits:
        return np.array(predictor.answers(reads, [""] * len(reads), None, size))

    return ask, predictor


def sorting(run: Run) -> Ask:
    """Texts in batches of like length, as a careful user of a peer would have it."""

    def ask(reads: Sequence[Read], size: int) -> Logits:
        if len(reads) == 1:
            return run(reads)
        order = sorted(range(len(reads)), key=lambda i: -len(reads[i].ids))
        said = np.concatenate([run([reads[i] for i in order[at : at + size]]) for at in range(0, len(order), size)])
        found = np.empty_like(said)
        found[order] = said
        return found

    return ask


def transformers(plain: Path, attention: str, kind: str, compiled: bool = False) -> Run:
    """The model as transformers has it."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model: Any = AutoModelForSequenceClassification.from_pretrained(
        plain, attn_implementation=attention, dtype=getattr(torch, kind)
    ).eval()
    return asked(torch.compile(model, dynamic=True) if compiled else model)


def dynamic(plain: Path) -> Run:
    """Torch's own eight-bit linear layers."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(plain, attn_implementation="sdpa", dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        return asked(torch.ao.quantization.quantize_dynamic(model.eval(), {torch.nn.Linear}, torch.qint8))


def asked(model: Any) -> Run:
    """A torch model asked for logits."""
    import torch

    def run(reads: Sequence[Read]) -> Logits:
        given = {name: torch.from_numpy(value) for name, value in made.arrays(reads).items()}
        with torch.inference_mode():
            said: Logits = model(**given).logits.float().numpy()
            return said

    return run


def ort(graph: Path, threads: int, exact: bool = False) -> Run:
    """ONNX Runtime as it comes, but for the number of threads.  exact: with the kernels that do not overflow."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(reads: Sequence[Read]) -> Logits:
        given = made.arrays(reads)
        said: Logits = session.run(["logits"], {name: given[name] for name in names})[0]
        return said

    return run


def ov(graph: Path, threads: int, precision: str = "f32") -> Run:
    """OpenVINO, set for latency, one request."""
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": precision,  # unset, it is bf16 wherever the processor has that
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    compiled = core.compile_model(core.read_model(graph), "CPU", settings)
    request = compiled.create_infer_request()
    names = [one.get_any_name() for one in compiled.inputs]

    def run(reads: Sequence[Read]) -> Logits:
        given = made.arrays(reads)
        said: Logits = request.infer({name: given[name] for name in names}, share_inputs=True)[0]
        return said

    return run


def ct2(folder: Path, threads: int) -> Run:
    """CTranslate2, which lays tokens out by itself; the classifier, two rows, by numpy."""
    import ctranslate2

    encoder = ctranslate2.Encoder(
        str(folder), device="cpu", compute_type="int8", inter_threads=1, intra_threads=threads
    )
    head = np.load(folder / "head.npz")
    weight, bias = head["weight"].T, head["bias"]

    def run(reads: Sequence[Read]) -> Logits:
        said = encoder.forward_batch([one.ids for one in reads], token_type_ids=[one.types for one in reads])
        scores: Logits = np.array(said.pooler_output) @ weight + bias
        return scores

    return run
