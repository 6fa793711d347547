"""The same artefact on several engines: ONNX Runtime where it carries a graph, torch for everything.

An engine is a module with `load(folder, threads) -> Predictor`; it imports what it needs when it is called.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gossamer.engines.predictor import Predictor
from gossamer.environment import install

ENGINES = ("onnxruntime", "torch")
GRAPH = "model.onnx"  # the file that makes an artefact run without torch
PACKED = "packed.onnx"  # the same for texts laid end to end

__all__ = ["ENGINES", "GRAPH", "PACKED", "Predictor", "load", "predict"]


def load(folder: str | Path, engine: str = "auto", threads: int | None = None) -> Predictor:
    """An artefact, or a plain classifier's folder, ready to answer.

    engine: "onnxruntime" (imports neither torch nor transformers), "torch", or "auto": onnxruntime if the folder
    carries a graph and onnxruntime is installed, else torch.  threads: how many the engine may use; None: all cores
    this process may use.

    Raises:
        ValueError: unknown engine, fewer than one thread, or a folder that is damaged or incomplete.
        FileNotFoundError: there is no such folder, or it holds no model.
        ImportError: the engine is not installed; the message says what to type.
    """
    folder = Path(folder)
    if engine not in ("auto", *ENGINES):
        raise ValueError(f"unknown engine '{engine}', expected one of: auto, {', '.join(ENGINES)}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}, expected 1 or more (or None for all cores)")
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder '{folder}'; expected one that gossamer compress wrote")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"'{folder}' holds no model (no config.json); expected what gossamer compress wrote")
    graph = (folder / GRAPH).is_file()
    if engine == "auto":
        engine = "onnxruntime" if graph and (_has("onnxruntime") or not _has("torch")) else "torch"
    if engine == "onnxruntime" and not graph:
        raise FileNotFoundError(f"'{folder}' carries no graph ({GRAPH}); load it with engine=\"torch\"")
    if not _has(engine) or (engine == "torch" and not _has("transformers")):
        raise ImportError(f"engine '{engine}' is not installed; type: {install(engine)}")
    if engine == "onnxruntime":
        from gossamer.engines import onnxruntime

        return onnxruntime.load(folder, threads)
    from gossamer.engines import torch

    return torch.load(folder, threads)


def predict(
    folder: str | Path, texts: Sequence[str], pairs: Sequence[str] | None = None, batch_size: int = 32
) -> list[dict[str, Any]]:
    """The answers of an artefact to texts, in order: {"label", "score"} each, or {"value"}; see `load` to ask again."""
    return load(folder)(texts, pairs, batch_size)


def _has(package: str) -> bool:
    return find_spec(package) is not None
