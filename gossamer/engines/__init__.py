"""The same artefact on several engines: OpenVINO or ONNX Runtime where it carries graphs, torch for everything.

An engine of graphs is a module with PRECISIONS and `program(graph, threads, precision)`: a graph as a function of
arrays by name.  It imports what it needs when it is called.  What is fastest differs from model to model and from
machine to machine, so "auto" measures (gossamer.engines.choice).
"""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.engines.graphs import GRAPH, PACKED, STAGES, carried
from gossamer.engines.predictor import Predictor
from gossamer.environment import install

ENGINES = ("openvino", "onnxruntime", "torch")
PRECISIONS = ("saved", "bf16")

__all__ = ["ENGINES", "GRAPH", "PACKED", "PRECISIONS", "STAGES", "Predictor", "load", "predict"]


def load(
    folder: str | Path,
    engine: str = "auto",
    threads: int | None = None,
    *,
    precision: str = "saved",
    compiled: bool = False,
    device: str = "cpu",
    threshold: float | None = None,
    batch_size: int | None = None,
    lengths: Sequence[int] | None = None,
) -> Predictor:
    """An artefact, or a plain classifier's folder, ready to answer.

    engine: "openvino" or "onnxruntime" (these import neither torch nor transformers), "torch", or "auto": the fastest
    of those that are installed and can run it, as measured once on this machine.  threads: how many the engine may use;
    None: all cores this process may use.  precision: "saved" (as it was saved; what "auto" chooses among), or "bf16"
    (openvino or torch).  compiled: torch only, through torch.compile: slow to start.  device: torch only, as in "cuda".
    threshold: at which texts leave with an exit's answer, where the model has exits; None: the artefact's own (see
    `gossamer exits`).  batch_size, lengths: what "auto" goes by, how many texts will be asked together and how many
    tokens they have; None: one text alone and batches of 32 alike, as long as sentences.

    Raises:
        ValueError: unknown engine or precision, something asked of an engine that it does not do, fewer than one
            thread, or a folder that is damaged or incomplete.
        FileNotFoundError: there is no such folder, or it holds no model.
        ImportError: the engine is not installed, or too old; the message says what to type.
    """
    folder = Path(folder)
    _check(folder, engine, threads, precision)
    if batch_size is not None and not _counts(batch_size):
        raise ValueError(f"batch_size is {batch_size!r}, expected 1 or more (or None for 1 and 32 alike)")
    if engine == "auto" and precision != "saved":
        raise ValueError(f'precision \'{precision}\' is asked of an engine; type engine="openvino" or engine="torch"')
    if engine != "torch" and (compiled or device != "cpu"):
        raise ValueError(f"compiled and device are for torch, found engine '{engine}'; type engine=\"torch\"")
    if engine == "auto":
        from gossamer.engines.choice import fastest

        known = None if lengths is None or not len(lengths) else [int(length) for length in lengths]
        engine = fastest(folder, threads, known, batch_size)
    if engine != "torch" and not carried(folder):
        raise FileNotFoundError(f"'{folder}' carries no graph ({GRAPH}); load it with engine=\"torch\"")
    if why := lacks(engine):
        raise ImportError(f"engine '{engine}' is {why}")
    if engine == "torch":
        from gossamer.engines import torch

        return torch.load(folder, threads, precision=precision, compiled=compiled, device=device, threshold=threshold)
    return _by_graphs(engine, folder, threads, precision, threshold)


def _check(folder: Path, engine: str, threads: int | None, precision: str) -> None:
    """Raise what `load` raises for words that name nothing, and for a folder that holds no model."""
    if engine not in ("auto", *ENGINES):
        raise ValueError(f"unknown engine '{engine}', expected one of: auto, {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision '{precision}', expected one of: {', '.join(PRECISIONS)}")
    if threads is not None and not _counts(threads):
        raise ValueError(f"threads is {threads!r}, expected 1 or more (or None for all cores); type threads=2")
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        name = os.fsencode(folder)
        raise ValueError(f"the folder's name {name!r} is not UTF-8, which engines cannot open; rename it") from error
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder '{folder}'; expected one that gossamer compress wrote")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"'{folder}' holds no model (no config.json); expected what gossamer compress wrote")


def _counts(value: object) -> bool:
    """Whether it is a whole number from 1 on, Python's or numpy's."""
    return isinstance(value, int | np.integer) and bool(value >= 1)


def _by_graphs(engine: str, folder: Path, threads: int | None, precision: str, threshold: float | None) -> Predictor:
    from gossamer.engines import graphs, onnxruntime, openvino

    chosen = {"onnxruntime": onnxruntime, "openvino": openvino}[engine]
    if precision not in chosen.PRECISIONS:
        raise ValueError(f"{engine} has no precision '{precision}', expected one of: {', '.join(chosen.PRECISIONS)}")
    return graphs.load(engine, folder, lambda file: chosen.program(file, threads, precision), threads == 1, threshold)


def lacks(engine: str) -> str:
    """Why an engine cannot be used here, and what to type; "" where it can, if its version is none that is too old."""
    needs = ("torch", "transformers") if engine == "torch" else (engine,)
    return next((f"not installed; type: {install(package)}" for package in needs if find_spec(package) is None), "")


def predict(
    folder: str | Path, texts: Sequence[str], pairs: Sequence[str] | None = None, batch_size: int = 32
) -> list[dict[str, Any]]:
    """The answers of an artefact to texts, in order: {"label", "score"} each, or {"value"}; see `load` to ask again."""
    return load(folder)(texts, pairs, batch_size)
