"""A model held against a benchmark: the official files in, the official scores and submission files out.

    gossamer benchmark glue/SST-2 runs/small --data ~/glue --submission runs/glue

Names: glue/TASK, superglue/TASK, elue/TASK, clinc150, banking77, sms-spam for a classifier or regressor of texts or of
pairs; squad and efficientqa for the predictions that a question answering system wrote.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gossamer.labels import translation

from . import efficientqa, elue, files, glue, intents, scores, squad, superglue

if TYPE_CHECKING:
    from gossamer.data import Data, Split

Progress = Callable[[str, float], None]

FAMILIES: dict[str, Any] = {"glue": glue, "superglue": superglue, "elue": elue}
APART = (superglue.COPA, superglue.RECORD, superglue.WIC, superglue.WSC)  # more than two texts and a class
INTENTS: dict[str, Callable[[Path], "Data"]] = {
    "clinc150": intents.clinc150,
    "banking77": intents.banking77,
    "sms-spam": intents.sms_spam,
}


def names() -> list[str]:
    """Every name that `benchmark` takes."""
    tasks = [
        f"{family}/{task.name}" for family, module in FAMILIES.items() for task in module.TASKS if task not in APART
    ]
    return [*tasks, *INTENTS, "squad", "efficientqa"]


def benchmark(
    name: str,
    artefact: str | Path | Any,
    *,
    data: str | Path,
    part: str | None = None,
    labels: Sequence[str] | None = None,
    submission: str | Path | None = None,
    replace: bool = False,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score an artefact on a benchmark's official files.

    name: see `names`, in any case.  artefact: a folder, a predictor, or for squad and efficientqa a file of
    predictions.  data: the downloaded folder or file.  part: dev or test; by default what has labels.  labels: the
    model's names for the task's classes, in the task's order, where the two call them otherwise.  submission: a folder
    for the official file of the test, written only if it is not there or with `replace`.

    Returns {"benchmark", "part", "examples", "scores", "submission"}; scores is None where the part has no labels.

    Raises:
        ValueError: an unknown name, files that are not the official ones, classes that do not fit.
        FileNotFoundError: a file is missing.
    """
    known = {one.lower(): one for one in names()}
    if name.lower() not in known:
        raise ValueError(f"no benchmark {name!r}; expected one of {', '.join(known.values())}")
    name = known[name.lower()]
    unused: dict[str, Any] = {"submission": submission} if "/" not in name else {}
    unused |= {"part": part, "labels": labels} if name in ("squad", "efficientqa") else {}
    if given := [option for option, value in unused.items() if value is not None]:
        raise ValueError(f"{name} has no use for --{given[0]}; leave it out")
    if name == "squad":
        return _squad(Path(artefact), Path(data))
    if name == "efficientqa":
        return _efficientqa(Path(artefact), Path(data))
    predictor = _predictor(artefact)
    family, _, title = name.partition("/")
    if family in INTENTS:
        found = INTENTS[family](Path(data))
        chosen = part or "test"
        return _report(name, chosen, *_intents(predictor, found, chosen, labels, batch_size))
    module = FAMILIES[family]
    task = next(task for task in module.TASKS if task.name == title)
    if module is superglue:
        return _superglue(name, task, predictor, Path(data), part, labels, submission, replace, batch_size)
    chosen = part or ("dev" if getattr(task, "dev", True) else "test")
    split = _part(module, task, Path(data), chosen)
    if progress is not None:
        progress(f"{name}: {len(split.texts)} examples of {chosen}", 0.0)
    if submission is not None:  # what would stop it is known before anything is asked
        files.free([Path(submission) / f"{task.name if module is glue else task.name.lower()}.tsv"], replace)
        test = split if chosen == "test" else _part(module, task, Path(data), "test")
    answers = _answers(predictor, split, task.labels, labels, batch_size)
    found_scores = None if split.labels is None else module.score(task, answers, split.labels)
    written = None
    if submission is not None:
        said = answers if chosen == "test" else _answers(predictor, test, task.labels, labels, batch_size)
        written = _submit(
            module, task, said, Path(submission), replace, _costs(artefact, test) if module is elue else None
        )
    return _report(name, chosen, len(split.texts), found_scores) | {"submission": written}


def _report(name: str, part: str, examples: int, found: Mapping[str, Any] | None) -> dict[str, Any]:
    plain = None if found is None else dict(found)
    return {"benchmark": name, "part": part, "examples": examples, "scores": plain, "submission": None}


def _predictor(artefact: Any) -> Any:
    if not isinstance(artefact, (str, Path)):
        return artefact
    from gossamer.engines import load

    return load(artefact)


def _part(module: Any, task: Any, folder: Path, part: str) -> "Split":
    """One part of a task of GLUE or ELUE."""
    if module is glue:
        return glue.split(task, folder, part)
    found: Split | None = getattr(elue.load(task, folder), part)
    if found is None:
        raise ValueError(f"{folder} has no {part} of {task.name}; choose another --part")
    return found


def _answers(
    predictor: Any, split: "Split", wanted: tuple[str, ...] | None, named: Sequence[str] | None, batch_size: int
) -> Any:
    """(n,) class indices of the task, or numbers, as the model sees the texts.

    Raises:
        ValueError: the model answers with other classes, and `named` does not say which is which.
    """
    logits = np.asarray(predictor.logits(split.texts, split.pairs, batch_size=batch_size))
    if wanted is None:
        if logits.shape[1] != 1:
            raise ValueError(f"the task asks for a number and the model answers with {logits.shape[1]} classes")
        return logits[:, 0]
    if logits.shape[1] == 1:
        raise ValueError(f"the task has the classes {', '.join(wanted)}, but the model answers with a number")
    asked = wanted if named is None else tuple(named)
    if len(asked) != len(wanted):
        raise ValueError(f"{len(asked)} labels, expected one for each of the classes {', '.join(wanted)}")
    generic = predictor.labels == tuple(f"LABEL_{i}" for i in range(len(wanted)))
    if not generic and not set(asked) <= set(predictor.labels):  # numbers could be taken for the wrong names
        raise ValueError(
            f"the task has the classes {', '.join(wanted)} and the model answers with {', '.join(predictor.labels)}; "
            f"say in the task's order what the model calls them, as in --labels {','.join(predictor.labels)}"
        )
    order = [int(i) for i in translation(asked, predictor.labels, "the benchmark")]
    return logits[:, order].argmax(1)


def _costs(artefact: Any, split: "Split") -> tuple[float, float]:
    """What a submission to ELUE declares: mean MFLOPs, two for a multiply-accumulate, of 100 texts, and MParams.

    Raises:
        ValueError: the artefact has no torch form here, which both are counted on.
    """
    from gossamer.measure import macs, size
    from gossamer.measure.subject import Subject, candidate

    subject = candidate(artefact) if isinstance(artefact, (str, Path)) else Subject("model", artefact, artefact.model)
    counted, model = subject.counted or subject.predictor, subject.model
    if model is None:
        raise ValueError("a submission to ELUE declares costs, counted on the torch model; install gossamer[compress]")
    return 2e-6 * macs.average(counted, split.texts, split.pairs, 100), 1e-6 * size.parameters(model)


def _submit(
    module: Any, task: Any, answers: Any, folder: Path, replace: bool, costs: tuple[float, float] | None
) -> str:
    if module is elue:
        return str(elue.submit([elue.Run(task, answers.tolist(), *(costs or ()))], folder, replace=replace)[0])
    return str(files.write(folder / f"{task.name}.tsv", glue.submission(task, answers), replace))


def _superglue(
    name: str, task: Any, predictor: Any, folder: Path, part: str | None, labels: Sequence[str] | None,
    submission: str | Path | None, replace: bool, batch_size: int,
) -> dict[str, Any]:  # fmt: skip
    """A task of SuperGLUE whose rows are two texts and a class."""

    def read(chosen: str) -> tuple[Any, Any]:
        rows = superglue.read(task, folder, chosen)
        return rows, _answers(predictor, superglue.split(rows), task.labels, labels, batch_size)

    chosen = part or ("test" if task.diagnostic else "dev")
    if submission is not None:
        files.free([Path(submission) / f"{task.name}.jsonl"], replace)
    rows, answers = read(chosen)
    said = [task.labels[i] for i in answers]
    found = superglue.score(task, rows, said) if all(row.label is not None for row in rows) else None
    written = None
    if submission is not None:
        test, theirs = (rows, answers) if chosen == "test" else read("test")
        text = superglue.submission(task, test, [task.labels[i] for i in theirs])
        written = str(files.write(Path(submission) / f"{task.name}.jsonl", text, replace))
    return _report(name, chosen, len(rows), found) | {"submission": written}


def _intents(
    predictor: Any, data: "Data", part: str, labels: Sequence[str] | None, batch_size: int
) -> tuple[int, dict[str, Any]]:
    split: Split | None = getattr(data, part)
    if split is None or split.labels is None:
        raise ValueError(f"{data.name} has no labelled {part}; choose another --part")
    answers = _answers(predictor, split, data.labels, labels, batch_size)
    found: dict[str, Any] = {
        "accuracy": scores.accuracy(answers, split.labels), "macro_f1": scores.macro_f1(answers, split.labels)
    }  # fmt: skip
    if data.labels is not None and "oos" in data.labels:
        found |= asdict(intents.scope(answers, split.labels, data.labels.index("oos")))
    return len(split.texts), found


def _squad(predictions: Path, data: Path) -> dict[str, Any]:
    """The official json of id: text, against the official file of questions."""
    questions = squad.read(data)
    said = json.loads(predictions.read_text(encoding="utf-8"))
    doubts = predictions.with_name(predictions.stem + "_na_probs.json")
    silent = json.loads(doubts.read_text(encoding="utf-8")) if doubts.is_file() else None
    return _report("squad", data.stem, len(questions), asdict(squad.score(questions, said, silent)))


def _efficientqa(system: Path, references: Path) -> dict[str, Any]:
    """A self-contained folder with submission.sh, or the predictions of one."""
    known = efficientqa.read_references(references)
    if system.is_dir():
        result = efficientqa.evaluate(system, references)
    else:
        result = efficientqa.score(efficientqa.read_predictions(system), known)
    return _report("efficientqa", references.stem, len(known), asdict(result))
