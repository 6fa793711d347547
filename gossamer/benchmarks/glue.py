"""GLUE: nine tasks of one sentence or two, and the diagnostic set; HANS beside it.

"GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding" (Wang, Singh, Michael, Hill,
Levy and Bowman, ICLR 2019).  The leaderboard averages over nine tasks without weights; of a task with two metrics it
takes their mean first, and MNLI matched and mismatched are one task.  Scores are in [-1, 1]; it prints them times 100.
HANS: "Right for the Wrong Reasons" (McCoy, Pavlick and Linzen, ACL 2019), which a model of MNLI's three classes
answers with two.

A class is called what the official files call it, so what is written for the leaderboard is its name.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gossamer.data import Data, Split

from . import scores
from .files import Table, classes, complete, found, table, write_all

Metric = Callable[[Any, Any], float]

CLASSES = ("entailment", "neutral", "contradiction")
COLA_COLUMNS = ("source", "label", "mark", "sentence")  # of train and dev, which have no header
DEV_IDS = "dev_ids.tsv", "mrpc_dev_ids.tsv"  # which rows of Microsoft's training file are GLUE's dev

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """One task: its files, the columns that matter, its classes and metrics.

    name: the leaderboard's, also of the file it takes.  labels: as the files spell the classes, in the field's order;
    None: numbers.  text, pair, label: columns.  train, dev, test: places of the file under the folder of the task, the
    first that is there counts.  columns: of train and dev where those have no header.  size: examples in the official
    test.  torn: whether rows of train and dev that were cut off are known and left out, as everyone does.
    """

    name: str
    labels: tuple[str, ...] | None
    metrics: tuple[Metric, ...]
    text: str
    pair: str | None
    label: str
    size: int
    folder: str = ""
    train: tuple[str, ...] = ("train.tsv",)
    dev: tuple[str, ...] = ("dev.tsv",)
    test: tuple[str, ...] = ("test.tsv",)
    columns: tuple[str, ...] = ()
    torn: bool = False

    def places(self, part: str) -> tuple[str, ...]:
        """Where the file of train, dev or test may be, under GLUE's folder or the task's own.

        ValueError: another part, or one that the task has not.
        """
        files = {"train": self.train, "dev": self.dev, "test": self.test}.get(part, ())
        if not files:
            parts = [name for name, some in (("train", self.train), ("dev", self.dev), ("test", self.test)) if some]
            raise ValueError(f"{self.name} has no part '{part}'; expected {' or '.join(map(repr, parts))}")
        return (*(f"{self.folder or self.name}/{file}" for file in files), *files)


COLA = Task(
    "CoLA", ("0", "1"), (scores.matthews,), "sentence", None, "label", 1063, columns=COLA_COLUMNS,
    train=("train.tsv", "in_domain_train.tsv"), dev=("dev.tsv", "in_domain_dev.tsv"),
)  # fmt: skip
SST2 = Task("SST-2", ("0", "1"), (scores.accuracy,), "sentence", None, "label", 1821)
MRPC = Task(
    "MRPC", ("0", "1"), (scores.accuracy, scores.f1), "#1 String", "#2 String", "Quality", 1725,
    train=("train.tsv", "msr_paraphrase_train.txt"), dev=("dev.tsv", "msr_paraphrase_train.txt"),
    test=("test.tsv", "msr_paraphrase_test.txt"),
)  # fmt: skip
QQP = Task(
    "QQP", ("0", "1"), (scores.accuracy, scores.f1), "question1", "question2", "is_duplicate", 390965, torn=True
)  # fmt: skip
STSB = Task("STS-B", None, (scores.pearson, scores.spearman), "sentence1", "sentence2", "score", 1379)
MNLI_M = Task(
    "MNLI-m", CLASSES, (scores.accuracy,), "sentence1", "sentence2", "gold_label", 9796, "MNLI",
    dev=("dev_matched.tsv",), test=("test_matched.tsv",),
)  # fmt: skip
MNLI_MM = replace(MNLI_M, name="MNLI-mm", size=9847, dev=("dev_mismatched.tsv",), test=("test_mismatched.tsv",))
QNLI = Task(
    "QNLI", ("entailment", "not_entailment"), (scores.accuracy,), "question", "sentence", "label", 5463
)  # fmt: skip
RTE = replace(QNLI, name="RTE", text="sentence1", pair="sentence2", size=3000)
WNLI = replace(RTE, name="WNLI", labels=("0", "1"), size=146)
AX = Task(
    "AX", CLASSES, (scores.matthews,), "sentence1", "sentence2", "label", 1104,
    train=(), dev=(), test=("AX.tsv", "diagnostic.tsv", "diagnostic/diagnostic.tsv"),
)  # fmt: skip
AX_LABELLED = replace(
    AX, text="Premise", pair="Hypothesis", label="Label", test=("diagnostic-full.tsv", "diagnostic/diagnostic-full.tsv")
)
HANS = Task(
    "HANS", ("entailment", "non-entailment"), (scores.accuracy,), "sentence1", "sentence2", "gold_label", 30000,
    train=("heuristics_train_set.txt",), dev=(), test=("heuristics_evaluation_set.txt",),
)  # fmt: skip

TASKS = (COLA, SST2, MRPC, QQP, STSB, MNLI_M, MNLI_MM, QNLI, RTE, WNLI, AX)  # the files of a submission
AVERAGED = {
    **{task.name: (task.name,) for task in (COLA, SST2, MRPC, QQP, STSB)},
    "MNLI": (MNLI_M.name, MNLI_MM.name),
    **{task.name: (task.name,) for task in (QNLI, RTE, WNLI)},
}


def split(task: Task, folder: str | Path, part: str) -> Split:
    """One part ("train", "dev" or "test") of a task, in the order of its official file.

    folder: the one that holds all tasks, or the task's own.  Labels are class indices or numbers, None where the file
    has no such column.  MRPC may be Microsoft's own two files; its dev is then cut from them by GLUE's dev_ids.tsv, and
    without that file all of them is train.
    Raises FileNotFoundError: the file is missing.  ValueError: a column that is not there, a row that is cut off, a
    label that the task has not, a part that the task has not.
    """
    path = found(folder, task.places(part), f"{part} of {task.name}")
    rows = table(path, task.columns if part != "test" else ())
    if rows.torn and not (task.torn and part != "test"):
        raise ValueError(
            f"{path}, line {rows.torn[0]}: fewer cells than {len(rows.header)}, expected "
            f"{', '.join(map(repr, rows.header))}; {len(rows.torn)} such lines in all: download the file again"
        )
    if rows.torn:
        logger.warning("%s: %d rows are cut off and left out, the first on line %d", path, len(rows.torn), rows.torn[0])
    if path.suffix == ".txt" and part != "test" and task.name == MRPC.name:
        rows = _of_ids(rows, part)
    texts = tuple(rows.cells(task.text))
    pairs = tuple(rows.cells(task.pair)) if task.pair else None
    if part != "test":
        rows.column(task.label)  # must be there
    return Split(texts, pairs, _labels(task, rows) if task.label in rows.header else None)


def load(task: Task, folder: str | Path, need: Sequence[str] | None = None) -> Data:
    """The parts of a task that are needed: train and dev unless told otherwise (of the diagnostic set, test).

    Raises as `split` does.
    """
    if need is None:
        need = ("train", "dev") if task.dev else ("test",)
    parts = {part: split(task, folder, part) for part in need}
    return Data(task.name, parts.get("train"), parts.get("dev"), parts.get("test"), task.labels)


def score(task: Task, predictions: Any, labels: Any) -> dict[str, float]:
    """Every metric of the task by its name.

    predictions, labels: (n,) class indices or class names each, or numbers for STS-B.
    Raises ValueError: a class that the task has not; what the metric refuses.
    """
    if task.labels is None:
        return {metric.__name__: metric(predictions, labels) for metric in task.metrics}
    said = classes(task.name, task.labels, predictions)
    right = classes(task.name, task.labels, labels, lambda number: f"{task.name}, label {number + 1}")
    return {metric.__name__: metric(said, right) for metric in task.metrics}


def standing(results: Mapping[str, Mapping[str, float]], without: Iterable[str] = ()) -> scores.Standing:
    """GLUE's average of what `score` gave, by the names of the tasks; AX and HANS never count.

    without: tasks to leave out, such as the WNLI that many papers drop.  A task that is missing leaves no average.
    Raises ValueError: a name that is no task of GLUE.
    """
    return scores.standing(results, AVERAGED, without, (AX.name, HANS.name))


def submission(task: Task, predictions: Any) -> str:
    """What the leaderboard takes for a task: `index`, tab, `prediction`; names of classes, or numbers for STS-B.

    predictions: (n,) in the order of the official test.
    Raises ValueError: another number of them than the test has examples, a class that the task has not, no number.
    """
    answers = predictions.tolist() if hasattr(predictions, "tolist") else list(predictions)
    if len(answers) != task.size:
        raise ValueError(f"{task.name}: {len(answers)} predictions, expected {task.size}, one for each row of its test")
    if task.labels is None:
        numbers = [float(one) for one in np.asarray(answers, dtype=np.float64).reshape(-1)]
        broken = [number for number in numbers if not math.isfinite(number)]
        if broken:
            raise ValueError(f"{task.name}: {len(broken)} of {task.size} predictions are not numbers (nan or inf)")
        said = [repr(number) for number in numbers]
    else:
        said = [task.labels[index] for index in classes(task.name, task.labels, answers)]
    return "".join(["index\tprediction\n", *(f"{i}\t{one}\n" for i, one in enumerate(said))])


def submit(predictions: Mapping[str, Any], folder: str | Path, *, replace: bool = False) -> list[Path]:
    """Write all eleven files of a submission, NAME.tsv each; the leaderboard takes no fewer.

    predictions: by the name of the task.
    Raises ValueError before anything is written: a task that is missing or unknown, a file that exists without
    `replace`, what `submission` refuses.
    """
    complete([task.name for task in TASKS], predictions)
    place = Path(folder)
    texts = {place / f"{task.name}.tsv": submission(task, predictions[task.name]) for task in TASKS}
    return write_all(texts, replace)


def two_classes(predictions: Any, labels: tuple[str, ...] = CLASSES) -> list[str]:
    """HANS's rule: entailment stays, neutral and contradiction are non-entailment.

    predictions: (n,) classes of MNLI, names or their places in `labels`, the model's order.
    Raises ValueError: a class that is none of them.
    """
    said = classes("HANS", labels, predictions)
    return [labels[one] if labels[one] == "entailment" else "non-entailment" for one in said]


def _labels(task: Task, rows: Table) -> tuple[int | float, ...]:
    cells = rows.cells(task.label)

    def where(number: int) -> str:
        return f"{rows.path}, line {rows.rows[number][0]}, '{task.label}'"

    if task.labels is not None:
        return tuple(classes(task.name, task.labels, cells, where))
    return tuple(_number(cell, where(number)) for number, cell in enumerate(cells))


def _number(cell: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: {cell!r}, expected a number")
    return value


def _of_ids(rows: Table, part: str) -> Table:
    """The rows of Microsoft's training file that are GLUE's train, or its dev."""
    beside = [rows.path.with_name(name) for name in DEV_IDS]
    ids = next((path for path in beside if path.is_file()), None)
    if ids is None and part == "train":
        logger.warning("%s: no %s beside it, so all of it is train", rows.path, DEV_IDS[0])
        return rows
    if ids is None:
        raise FileNotFoundError(
            f"'{rows.path.parent}' has no dev of MRPC; expected dev.tsv, or GLUE's {' or '.join(DEV_IDS)} beside "
            f"{rows.path.name}"
        )
    chosen = {cells for _, cells in table(ids, ("#1 ID", "#2 ID")).rows}
    first, second = rows.column("#1 ID"), rows.column("#2 ID")
    keep = tuple(row for row in rows.rows if ((row[1][first], row[1][second]) in chosen) == (part == "dev"))
    return replace(rows, rows=keep)
