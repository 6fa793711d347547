"""A model asked what a benchmark asks: classes by the benchmark's names, numbers, passages of a context."""

import copy
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gossamer.labels import translation
from gossamer.task import QuestionAnswering

from .squad import Question

if TYPE_CHECKING:
    from gossamer.data import Split

Progress = Callable[[str, float], None]
PORTION = 1024  # questions between two words of progress

logger = logging.getLogger(__name__)


def predictor(artefact: Any) -> Any:
    """A folder loaded by its best engine; a predictor as it is."""
    if not isinstance(artefact, (str, Path)):
        return artefact
    from gossamer.engines import load

    return load(artefact)


def answers(
    model: Any, split: "Split", wanted: tuple[str, ...] | None, named: Sequence[str] | None, batch_size: int
) -> Any:
    """(n,) class indices of the task, or numbers where `wanted` is None, as the model sees the texts.

    named: what the model calls the classes, in the task's order.
    Raises ValueError: the model answers with something else, or with other classes and `named` does not say which is
    which.
    """
    said = _logits(model, split, batch_size)
    if wanted is None:
        if said.shape[1] != 1:
            raise ValueError(f"the task asks for a number and the model answers with {said.shape[1]} classes")
        return said[:, 0]
    if said.shape[1] == 1:
        raise ValueError(f"the task has the classes {', '.join(wanted)}, but the model answers with a number")
    return said[:, _order(model, wanted, named)].argmax(1)


def right(
    model: Any, split: "Split", wanted: tuple[str, str], named: Sequence[str] | None, batch_size: int
) -> NDArray[np.float64]:
    """(n,): how right each pair is, by a model of two classes (wrong, right) or of one number, the more the higher.

    Raises ValueError as `answers` does.
    """
    said = np.asarray(_logits(model, split, batch_size), dtype=np.float64)
    if said.shape[1] == 1:
        return said[:, 0]
    wrong, good = _order(model, wanted, named)
    return said[:, good] - said[:, wrong]


def passages(
    model: Any, questions: Sequence[Question], batch_size: int, progress: Progress | None = None
) -> dict[str, str]:
    """The answer of a question answering model to each question, by its id; "" for none.

    Raises ValueError: the model was made for something else.
    """
    if not isinstance(getattr(model, "task", None), QuestionAnswering):
        kind = getattr(getattr(model, "task", None), "kind", "something else")
        raise ValueError(f"the model was made for {kind}, expected {QuestionAnswering.kind}, or a file of predictions")
    silent = sum(one.impossible for one in questions)
    if silent and not model.task.nothing:
        logger.warning("%d of %d questions have no answer, and the model always gives one", silent, len(questions))
    said = dict[str, str]()
    for start in range(0, len(questions), PORTION):
        some = questions[start : start + PORTION]
        texts, contexts = [one.question for one in some], [one.context for one in some]
        found = model.logits(texts, contexts, batch_size=batch_size)
        said |= {one.id: str(answer["answer"]) for one, answer in zip(some, found, strict=True)}
        if progress is not None:
            progress(f"squad: {len(questions)} questions", len(said) / len(questions))
    return said


def allowing_none(model: Any, folder: Path) -> Any:
    """The same model, which may also answer nothing where its folder does not say whether it may.

    Folders of other tools do not say; there the data decide, as in the usual scripts.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    task = getattr(model, "task", None)
    if "handle_impossible_answer" in config or not isinstance(task, QuestionAnswering):
        return model
    model = copy.copy(model)
    model.task = replace(task, nothing=True)
    return model


def _logits(model: Any, split: "Split", batch_size: int) -> NDArray[Any]:
    said = model.logits(split.texts, split.pairs, batch_size=batch_size)
    if not isinstance(said, np.ndarray) or said.ndim != 2:
        kind = getattr(getattr(model, "task", None), "kind", "something else")
        raise ValueError(f"the benchmark asks for a class or a number for each text, and the model was made for {kind}")
    return said


def _order(model: Any, wanted: tuple[str, ...], named: Sequence[str] | None) -> list[int]:
    """For each class of the task, where the model has it."""
    known: tuple[str, ...] | None = model.labels
    if known is None:
        raise ValueError(f"the task has the classes {', '.join(wanted)}, but the model answers with numbers")
    told = f"the task has the classes {', '.join(wanted)} and the model answers with {', '.join(sorted(known))}"
    if named is not None:
        if len(named) != len(wanted):
            raise ValueError(f"{len(named)} labels, expected one for each of the classes {', '.join(wanted)}")
        if not set(named) <= set(known) or len(set(named)) < len(named):
            raise ValueError(f"{told}: found --labels {','.join(named)}, expected different ones of the model's")
        return [known.index(name) for name in named]
    generic = known == tuple(f"LABEL_{i}" for i in range(len(wanted)))
    if not generic and not set(wanted) <= set(known):  # numbers could be taken for the wrong names
        places = ",".join(f"<its name for {name}>" for name in wanted)
        raise ValueError(
            f"{told} (by alphabet, which tells nothing of which is which); look up what each means and say it as "
            f'--labels "{places}"'
        )
    return [int(i) for i in translation(wanted, known, "the benchmark")]
