"""What is measured: a model, the predictor that runs it, and the folder it lives in."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import nn


class Answers(Protocol):
    """What can be asked."""

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None, batch_size: int = 32) -> Any:
        """(n, classes) numpy array, in the order of the texts."""


class Predictor(Answers, Protocol):
    """What an engine offers (gossamer.engines)."""

    name: str
    labels: tuple[str, ...] | None


@dataclass(frozen=True)
class Subject:
    """One side of a report.

    name: what the user called it.  predictor: answers, and is timed.  model: its torch form, whose weights are counted.
    counted: a predictor that runs that form in torch, for the multiply-accumulates (the predictor itself, where it
    does).  folder: whose bytes are counted.  A part that is None leaves its figures out of the report.
    """

    name: str
    predictor: Predictor
    model: "nn.Module | None" = None
    counted: Predictor | None = None
    folder: Path | None = None


def is_artefact(source: str | Path) -> bool:
    """Whether this is a folder that `gossamer compress` wrote."""
    return (Path(source) / "manifest.json").is_file()


def reference(
    source: str | Path, threads: int | None = None, kind: str | None = None, longest: int | None = None
) -> Subject:
    """A baseline: a plain folder or hub id as transformers runs it, eager and in fp32; an artefact by its best engine.

    kind: the task to load it for, text-classification unless told otherwise.  longest: tokens it reads at most.
    Raises ValueError when there is no trained head for it, FileNotFoundError when a folder holds no model
    or a path leads nowhere.
    """
    from gossamer.task import Classification

    from .eager import eager

    if is_artefact(source):
        return candidate(source, threads=threads)
    _there(source)
    plain = eager(source, kind or Classification.kind)
    plain.max_length = min(plain.max_length, longest or plain.max_length)
    return Subject(str(source), plain, plain.model, plain, _folder(source))


def candidate(source: str | Path, engine: str = "auto", threads: int | None = None) -> Subject:
    """An artefact, or a plain folder, by the best engine there is for it.

    Raises what the engine raises when the folder is broken.
    """
    from gossamer.engines import load

    predictor: Predictor = load(source, engine=engine, threads=threads)
    counted: Predictor | None = predictor
    model = getattr(predictor, "model", None)
    if model is None:  # it runs a graph; the torch form of the same artefact tells weights and products
        try:
            counted = load(source, engine="torch", threads=threads)
            model = getattr(counted, "model", None)
        except ImportError:  # an installation that only predicts
            counted = None
    return Subject(str(source), predictor, model, counted, _folder(source))


def teacher_of(artefact: str | Path) -> str | None:
    """The baseline that the artefact's report names, if it is still there; None otherwise."""
    try:
        report = json.loads((Path(artefact) / "report.json").read_text(encoding="utf-8"))
        name = report["baseline"]["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) and Path(name).is_dir() else None


def _there(source: str | Path) -> None:
    """Refuse, before a hub is asked, a folder without a model and a path that can be no hub id."""
    place, expected = Path(source), "expected a folder that transformers or gossamer compress wrote, or a hub id"
    if place.is_dir() and not (place / "config.json").is_file():
        raise FileNotFoundError(f"'{source}' holds no model (no config.json); {expected}")
    if not place.exists() and (isinstance(source, Path) or place.is_absolute() or str(source).count("/") > 1):
        raise FileNotFoundError(f"no folder '{source}'; {expected}")


def _folder(source: str | Path) -> Path | None:
    """The local folder of a path, or of a hub id that has been downloaded."""
    if Path(source).is_dir():
        return Path(source)
    from transformers.utils.hub import cached_file

    config = cached_file(str(source), "config.json", local_files_only=True, _raise_exceptions_for_missing_entries=False)
    return Path(config).parent if config else None
