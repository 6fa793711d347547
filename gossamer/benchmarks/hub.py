"""GLUE, SuperGLUE and SQuAD from the hub, where there is a network: the same examples as in the official files.

`--data nyu-mll/glue`, `--data aps/super_glue`, `--data rajpurkar/squad` and `--data rajpurkar/squad_v2`, or copies of
them with the same columns. The other benchmarks, and SuperGLUE's MultiRC and ReCoRD, whose rows the hub has in another
shape, are read from their official files alone.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.data import Split
from gossamer.sources import fetched

if TYPE_CHECKING:
    from .glue import Task
    from .squad import Question
    from .superglue import Row
    from .superglue import Task as SuperTask

ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
GLUE = {  # of each task its configuration, the columns of its texts and what follows the name of a split
    "CoLA": ("cola", ("sentence",), ""),
    "SST-2": ("sst2", ("sentence",), ""),
    "MRPC": ("mrpc", ("sentence1", "sentence2"), ""),
    "QQP": ("qqp", ("question1", "question2"), ""),
    "STS-B": ("stsb", ("sentence1", "sentence2"), ""),
    "MNLI-m": ("mnli", ("premise", "hypothesis"), "_matched"),
    "MNLI-mm": ("mnli", ("premise", "hypothesis"), "_mismatched"),
    "QNLI": ("qnli", ("question", "sentence"), ""),
    "RTE": ("rte", ("sentence1", "sentence2"), ""),
    "WNLI": ("wnli", ("sentence1", "sentence2"), ""),
    "AX": ("ax", ("premise", "hypothesis"), ""),
}
SUPERGLUE = {
    "BoolQ": "boolq", "CB": "cb", "COPA": "copa", "RTE": "rte", "WiC": "wic", "WSC": "wsc", "AX-b": "axb", "AX-g": "axg"
}  # fmt: skip
SPANS = ("span1_index", "span1_text", "span2_index", "span2_text")  # of WSC, an object of their own in the file
SPLITS = {"train": "train", "dev": "validation", "test": "test"}


def is_id(source: Path) -> bool:
    """Whether this may be a hub id: two names, owner/name, and nothing of that name on the disk."""
    return ID.fullmatch(str(source)) is not None and not source.exists()


def glue(task: "Task", source: str, part: str) -> Split:
    """One part of a task of GLUE.  Labels are None where they are -1, as in the tests.

    Raises ValueError: `datasets` is not installed, what the hub says, a split or column that is not there, a label that
    the task has not.
    """
    if task.name not in GLUE:
        raise ValueError(f"{task.name} is not read from the hub; give the folder of its official files")
    configuration, columns, ending = GLUE[task.name]
    split = SPLITS.get(part, part) + ("" if part == "train" else ending)
    rows = _table(source, configuration, split, (*columns, "label"))
    texts = [tuple(str(row[column]) for row in rows) for column in columns]
    cells = [row["label"] for row in rows]
    pairs = texts[1] if len(texts) > 1 else None
    if task.labels is None:
        told = None if part == "test" else tuple(float(cell) for cell in cells)
        return Split(texts[0], pairs, told)
    names = getattr(rows.features.get("label"), "names", None) or task.labels
    by_name = set(names) == set(task.labels)  # else by number, as in negative and positive for 0 and 1
    if all(cell == -1 for cell in cells):
        return Split(texts[0], pairs, None)
    if strange := [cell for cell in cells if cell not in range(len(task.labels))]:
        raise ValueError(f"{source} {split}: the label {strange[0]!r}, expected 0 to {len(task.labels) - 1}")
    return Split(texts[0], pairs, tuple(task.labels.index(names[cell]) if by_name else int(cell) for cell in cells))


def superglue(task: "SuperTask", source: str, part: str) -> "tuple[Row, ...]":
    """The rows of one part of a task of SuperGLUE: those of the hub are the objects of the official files, flattened.

    Raises ValueError as `glue` does.
    """
    if task.name not in SUPERGLUE:
        raise ValueError(f"{task.name} is not read from the hub; give the folder of its official files")
    split = "test" if task.diagnostic else SPLITS.get(part, part)
    table = _table(source, SUPERGLUE[task.name], split, ("idx", "label"))
    names = [str(name).lower() for name in getattr(table.features.get("label"), "names", None) or ()]
    by_name = set(names) == {name.lower() for name in task.labels}
    found: list[Row] = []
    for number, row in enumerate(table, 1):
        record = dict(row) | ({"target": {key: row[key] for key in SPANS}} if task.name == "WSC" else {})
        cell = record.pop("label")
        if cell not in (-1, None):
            record["label"] = names[cell] if by_name else task.labels[cell]
        found += task.rows(task, record, f"{source} {split}, row {number}")
    return tuple(found)


def squad(source: str) -> "tuple[Question, ...]":
    """The questions of the dev of SQuAD. Raises ValueError as `glue` does."""
    from .squad import Question

    found = []
    for row in _table(source, None, "validation", ("id", "question", "context", "answers")):
        answers = tuple(zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True))
        found.append(Question(row["id"], row["question"], row["context"], answers, impossible=not answers))
    return tuple(found)


def _table(source: str, configuration: str | None, split: str, columns: tuple[str, ...]) -> Any:
    found = fetched(source, configuration, source)
    if split not in found:
        raise ValueError(f"{source} has the splits {', '.join(found)}; expected {split}")
    if lacking := [column for column in columns if column not in found[split].column_names]:
        raise ValueError(
            f"{source} {split} has no column '{lacking[0]}'; it has: {', '.join(map(repr, found[split].column_names))}"
        )
    return found[split]
