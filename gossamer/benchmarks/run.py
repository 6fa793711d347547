"""A model held against a benchmark: the official files in, the official scores and submission files out.

    gossamer benchmark glue/SST-2 runs/small --data ~/glue --submission runs/glue
    gossamer benchmark glue runs/of-each-task --data ~/glue --without WNLI

Names: glue/TASK, superglue/TASK, elue/TASK, clinc150, banking77, sms-spam for a classifier or regressor of texts or of
pairs; squad for a model of question answering, or the predictions of one; efficientqa for a system or its predictions;
retrieval and sts for embeddings; glue and superglue for the average over tasks; sustainlp for entries and their energy.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import efficientqa, elue, files, glue, hub, intents, scores, squad, superglue, sustainlp
from .asked import Progress, allowing_none, answers, passages, predictor, right
from .average import average

if TYPE_CHECKING:
    from gossamer.data import Data, Split

FAMILIES: dict[str, Any] = {"glue": glue, "superglue": superglue, "elue": elue}
INTENTS: dict[str, Callable[[Path], "Data"]] = {
    "clinc150": intents.clinc150,
    "banking77": intents.banking77,
    "sms-spam": intents.sms_spam,
}
USES: dict[str, tuple[str, ...]] = {  # of the options that not all have a use for
    **dict.fromkeys(INTENTS, ("part", "labels")),
    "squad": ("submission",),
    "efficientqa": (),
    "retrieval": ("part",),
    "sts": ("part",),
    "glue": ("part", "submission", "without"),
    "superglue": ("part", "submission", "without"),
    "sustainlp": (),
}


@dataclass(frozen=True)
class Request:
    """What `benchmark` was asked. data: None where none was given; the rest as there."""

    name: str
    artefact: Any
    data: Path | None
    part: str | None
    labels: Sequence[str] | None
    submission: Path | None
    without: tuple[str, ...]
    replace: bool
    batch_size: int
    progress: Progress | None

    @property
    def files(self) -> Path:
        """Where the official files are. ValueError: nobody said it."""
        if self.data is None:
            raise ValueError(f"{self.name} is scored on its official files; say where they are with --data")
        return self.data


def names() -> list[str]:
    """Every name that `benchmark` takes."""
    return [*(f"{family}/{task.name}" for family, module in FAMILIES.items() for task in module.TASKS), *USES]


def benchmark(
    name: str,
    artefact: str | Path | Any,
    *,
    data: str | Path | None = None,
    part: str | None = None,
    labels: Sequence[str] | None = None,
    submission: str | Path | None = None,
    without: Sequence[str] | None = None,
    replace: bool = False,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score an artefact on a benchmark's official files.

    name: see `names`, in any case.  artefact: a folder or a predictor; for squad also a file of predictions, for
    efficientqa a system's folder or its predictions; for glue and superglue a folder with one artefact or result per
    task (`gossamer.benchmarks.average`); for sustainlp a file of entries.  data: the downloaded folder or file, which
    sustainlp needs none of; for GLUE, SuperGLUE and SQuAD also a hub id (`gossamer.benchmarks.hub`).  part: dev or
    test; by default what has labels.  labels: the model's names for the task's classes, in the task's order, where the
    two call them otherwise.  submission: a folder for the official file of the test, written only if it is not there or
    with `replace`.  without: tasks to leave out of an average.

    Returns {"benchmark", "part", "examples", "scores", "submission"}; scores is None where the part has no labels;
    "how" stands there where a model is asked in a way that the benchmark does not prescribe.

    Raises:
        ValueError: an unknown name, files that are not the official ones, classes that do not fit.
        FileNotFoundError: a file is missing.
    """
    known = {one.lower(): one for one in names()}
    if name.lower() not in known:
        raise ValueError(f"no benchmark {name!r}; expected one of {', '.join(known.values())}")
    name = known[name.lower()]
    options = {"part": part, "labels": labels, "submission": submission, "without": without or None}
    used = USES.get(name, ("part", "labels", "submission"))
    if given := [option for option, value in options.items() if value is not None and option not in used]:
        raise ValueError(f"{name} has no use for --{given[0]}; leave it out")
    where, target = (None if path is None else Path(path).expanduser() for path in (data, submission))
    asked = Request(name, artefact, where, part, labels, target, tuple(without or ()), replace, batch_size, progress)
    family = name.partition("/")[0]
    return HANDLERS[name if name in HANDLERS else family + "/"](asked)


def _task(asked: Request) -> dict[str, Any]:
    """A task of GLUE or ELUE."""
    family, _, title = asked.name.partition("/")
    module = FAMILIES[family]
    task = next(task for task in module.TASKS if task.name == title)
    chosen = asked.part or ("dev" if getattr(task, "dev", True) else "test")
    online = module is glue and hub.is_id(asked.files)

    def read(part: str) -> "Split":
        return hub.glue(task, str(asked.files), part) if online else module.split(task, asked.files, part)

    split = read(chosen)
    if asked.progress is not None:
        asked.progress(f"{asked.name}: {len(split.texts)} examples of {chosen}", 0.0)
    target = asked.submission
    if target is not None:  # what would stop it is known before anything is asked
        files.free([target / f"{task.name if module is glue else task.name.lower()}.tsv"], asked.replace)
        test = split if chosen == "test" else read("test")
    model = predictor(asked.artefact)
    said = answers(model, split, task.labels, asked.labels, asked.batch_size)
    found = None if split.labels is None else module.score(task, said, split.labels)
    written = None
    if target is not None:
        theirs = said if chosen == "test" else answers(model, test, task.labels, asked.labels, asked.batch_size)
        costs = _costs(asked.artefact, test) if module is elue else None
        written = _submit(module, task, theirs, target, asked.replace, costs)
    return _report(asked.name, chosen, len(split.texts), found) | {"submission": written}


def _report(name: str, part: str, examples: int, found: Mapping[str, Any] | None) -> dict[str, Any]:
    plain = None if found is None else dict(found)
    return {"benchmark": name, "part": part, "examples": examples, "scores": plain, "submission": None}


def _costs(artefact: Any, split: "Split") -> tuple[float, float]:
    """What a submission to ELUE declares: mean MFLOPs of 100 texts by its own counter, as in `elue.costs`, and MParams.

    Raises:
        ValueError: the artefact has no torch form here, which both are counted on.
    """
    from gossamer.measure.subject import Subject, candidate

    subject = candidate(artefact) if isinstance(artefact, (str, Path)) else Subject("model", artefact, artefact.model)
    counted, model = subject.counted or subject.predictor, subject.model
    if model is None:
        raise ValueError("a submission to ELUE declares costs, counted on the torch model; install gossamer[compress]")
    from gossamer.measure import size

    from . import flops

    return 1e-6 * flops.average(counted, split.texts, split.pairs, 100), 1e-6 * size.parameters(model)


def _submit(module: Any, task: Any, said: Any, folder: Path, replace: bool, costs: tuple[float, float] | None) -> str:
    if module is elue:
        return str(elue.submit([elue.Run(task, said.tolist(), *(costs or ()))], folder, replace=replace)[0])
    return str(files.write(folder / f"{task.name}.tsv", glue.submission(task, said), replace))


def _superglue(asked: Request) -> dict[str, Any]:
    """A task of SuperGLUE, by a classifier of pairs of texts; `superglue.pairs` says what becomes of each row."""
    task = next(task for task in superglue.TASKS if task.name == asked.name.partition("/")[2])
    chosen = asked.part or ("test" if task.diagnostic else "dev")
    rows, target = _rows(task, asked.files, chosen), asked.submission
    if target is not None:
        files.free([target / f"{task.name}.jsonl"], asked.replace)
        test = rows if chosen == "test" else _rows(task, asked.files, "test")
    model = predictor(asked.artefact)

    def say(rows: Sequence[Any]) -> list[Any]:
        split = superglue.split(rows)
        if task in superglue.CHOSEN:
            return superglue.chosen(rows, right(model, split, superglue.RIGHT, asked.labels, asked.batch_size))
        return [task.labels[i] for i in answers(model, split, task.labels, asked.labels, asked.batch_size)]

    said = say(rows)
    found = superglue.score(task, rows, said) if all(row.label is not None for row in rows) else None
    written = None
    if target is not None:
        text = superglue.submission(task, test, said if chosen == "test" else say(test))
        written = str(files.write(target / f"{task.name}.jsonl", text, asked.replace))
    how = {"how": superglue.HOW[task.name]} if task.name in superglue.HOW else {}
    return _report(asked.name, chosen, len(rows), found) | {"submission": written} | how


def _rows(task: Any, place: Path, part: str) -> "Sequence[superglue.Row]":
    return hub.superglue(task, str(place), part) if hub.is_id(place) else superglue.read(task, place, part)


def _average(asked: Request) -> dict[str, Any]:
    """All tasks of GLUE or SuperGLUE that there is an artefact or a result for."""

    def ask(task: str, artefact: Path) -> dict[str, Any]:
        part = asked.part if any(task in parts for parts in module.AVERAGED.values()) else None  # the others have one
        one = dataclasses.replace(asked, name=f"{asked.name}/{task}", artefact=artefact, part=part, without=())
        return HANDLERS[asked.name + "/"](one)

    module = FAMILIES[asked.name]
    return average(asked.name, module, Path(asked.artefact), ask, asked.part, asked.without, asked.submission)


def _intents(asked: Request) -> dict[str, Any]:
    data, part = INTENTS[asked.name](asked.files), asked.part or "test"
    split: Split | None = data.splits.get(part)
    if split is None or split.labels is None:
        raise ValueError(f"{data.name} has no labelled {part}; choose another --part")
    said = answers(predictor(asked.artefact), split, data.labels, asked.labels, asked.batch_size)
    found: dict[str, Any] = {
        "accuracy": scores.accuracy(said, split.labels), "macro_f1": scores.macro_f1(said, split.labels)
    }  # fmt: skip
    if data.labels is not None and "oos" in data.labels:
        found |= asdict(intents.scope(said, split.labels, data.labels.index("oos")))
    return _report(asked.name, part, len(split.texts), found)


def _squad(asked: Request) -> dict[str, Any]:
    """A model of question answering, or the official json of id: text, against the official file of questions."""
    online = hub.is_id(asked.files)
    file = asked.files if online else _questions(asked.files)
    questions = hub.squad(str(file)) if online else squad.read(file)
    silent: dict[str, float] | None = None
    system, target = asked.artefact, None
    if isinstance(system, (str, Path)) and Path(system).is_file():
        if asked.submission is not None:
            raise ValueError(f"{system} is already what the leaderboard takes; leave --submission out")
        said = squad.read_predictions(system)
        doubts = Path(system).with_name(Path(system).stem + "_na_probs.json")
        silent = squad.read_no_answer(doubts) if doubts.is_file() else None
    else:
        if asked.submission is not None:
            target = asked.submission / "predictions.json"
            files.free([target], asked.replace)
        said = passages(_reader(system, questions), questions, asked.batch_size, asked.progress)
    told = any(one.answers or one.impossible for one in questions)  # the hidden test has neither
    found = asdict(squad.score(questions, said, silent)) if told else None
    written = None if target is None else str(squad.submission(questions, said, target, replace=asked.replace)[0])
    return _report("squad", str(file) if online else file.stem, len(questions), found) | {"submission": written}


def _reader(system: Any, questions: Sequence[squad.Question]) -> Any:
    if not isinstance(system, (str, Path)):
        return system
    if not Path(system).exists():
        raise FileNotFoundError(f"no '{system}'; expected the folder of a model, or a JSON file of predictions")
    model = predictor(system)
    return allowing_none(model, Path(system)) if any(one.impossible for one in questions) else model


def _questions(data: Path) -> Path:
    """The file of questions, or the one dev in a folder."""
    if not data.is_dir():
        return data
    there = sorted(data.glob("dev-v*.json"))
    if not there:
        raise FileNotFoundError(f"'{data}' has no dev of SQuAD; expected dev-v1.1.json or dev-v2.0.json in it")
    if len(there) > 1:
        raise ValueError(f"'{data}' has {' and '.join(one.name for one in there)}; say which with --data {there[0]}")
    return there[0]


def _efficientqa(asked: Request) -> dict[str, Any]:
    """A self-contained folder with submission.sh, or the predictions of one."""
    system, references = Path(asked.artefact), asked.files
    known = efficientqa.read_references(references)
    if system.is_dir():
        result = efficientqa.evaluate(system, references)
    else:
        result = efficientqa.score(efficientqa.read_predictions(system), known)
    return _report("efficientqa", references.stem, len(known), asdict(result))


def _vectors(asked: Request) -> dict[str, Any]:
    """Embeddings of texts: retrieval or similarity."""
    from . import vectors

    ask = vectors.retrieval if asked.name == "retrieval" else vectors.sts
    return _report(asked.name, *ask(predictor(asked.artefact), asked.files, asked.part, asked.batch_size))


def _sustainlp(asked: Request) -> dict[str, Any]:
    """A file of entries, ranked on its track."""
    track, entries, reference = sustainlp.read(asked.artefact)
    ranking = asdict(sustainlp.rank(track, entries, reference))
    return _report("sustainlp", ranking.pop("track")["name"], len(entries), ranking)


HANDLERS: dict[str, Callable[[Request], dict[str, Any]]] = {
    "glue/": _task,
    "elue/": _task,
    "superglue/": _superglue,
    "glue": _average,
    "superglue": _average,
    **dict.fromkeys(INTENTS, _intents),
    "squad": _squad,
    "efficientqa": _efficientqa,
    "retrieval": _vectors,
    "sts": _vectors,
    "sustainlp": _sustainlp,
}
