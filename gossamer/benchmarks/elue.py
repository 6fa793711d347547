"""ELUE: a model is not a point but a curve of quality over FLOPs.

"Towards Efficient NLP: A Standard Evaluation and A Strong Baseline" (Liu et al., NAACL 2022): six data sets, four
tracks by the number of parameters, and a score: the mean of what the submitted points have over the baseline's curve at
the same FLOPs (`gossamer.measure.curves.elue`), averaged over the data sets.

The official baseline, ElasticBERT-base with an exit after each of its twelve layers, was shown on the leaderboard alone
and cannot be had any more.  `curve` builds such a baseline from any model that answers after each of its layers; a
score says nothing without the curve that it was taken against, so keep them together.

Metrics are shares, as everywhere here; the leaderboard prints them, and with them the score, times 100.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gossamer.data import Data, Split
from gossamer.measure.curves import Elue, Point

from . import scores
from .files import classes, document, found, table, write, write_all
from .glue import Metric

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = NDArray[np.float64]

TRACKS = (40_000_000, 55_000_000, 70_000_000, 110_000_000)  # parameters, inclusive


@dataclass(frozen=True)
class Task:
    """One of the six.

    name: the leaderboard's, and the folder's.  labels: the classes by the number that the files give them, None where
    the labels are numbers; words where a model could have them in another order.  columns: of the text and its pair.
    size: examples in the official test, None where it could not be checked.
    """

    name: str
    labels: tuple[str, ...] | None
    metrics: tuple[Metric, ...]
    columns: tuple[str, ...]
    size: int | None


SST2 = Task("SST-2", ("0", "1"), (scores.accuracy,), ("sentence",), 2210)
IMDB = Task("IMDb", ("0", "1"), (scores.accuracy,), ("sentence",), None)  # the column after the authors' reader
SNLI = Task("SNLI", ("entailment", "neutral", "contradiction"), (scores.accuracy,), ("premise", "hypothesis"), 9824)
SCITAIL = Task("SciTail", ("neutral", "entails"), (scores.accuracy,), ("premise", "hypothesis"), 2126)
MRPC = Task("MRPC", ("0", "1"), (scores.accuracy, scores.f1), ("#1 String", "#2 String"), 1725)
STSB = Task("STS-B", None, (scores.pearson, scores.spearman), ("sentence1", "sentence2"), 1379)
TASKS = (SST2, IMDB, SNLI, SCITAIL, MRPC, STSB)

FILES = {"train": ("train.tsv",), "dev": ("dev.tsv",), "test": ("test_full.tsv", "test.tsv")}  # the first that is there
LABELS = ("label", "Quality")
QUOTED = re.compile(r'"(?:[^"]|"")*"')  # a cell as csv writes it


def load(task: Task, folder: str | Path, need: Sequence[str] | None = None) -> Data:
    """A task from its official folder: train.tsv, dev.tsv and test_full.tsv (with labels) or test.tsv (without).

    folder: the task's own, or the one that holds all of them.  need: the parts to read; by default all that are there,
    and those that are not are None.  Some of the files have csv's quotes, some have none, and one has them twice; all
    are read as what was meant.
    Raises FileNotFoundError: none of them is there, or not one that is needed.  ValueError: a missing column, a label
    that the task has not.
    """
    if need is None:
        need = [part for part in FILES if any((Path(folder) / place).is_file() for place in _places(task, part))]
        if not need:
            found(folder, [name for names in FILES.values() for name in names], f"{task.name} of ELUE")  # raises
    parts = {part: split(task, folder, part) for part in need}
    return Data(f"ELUE {task.name}", parts.get("train"), parts.get("dev"), parts.get("test"), task.labels)


def split(task: Task, folder: str | Path, part: str) -> Split:
    """One part ("train", "dev" or "test") of a task; the files of the others are not looked at.

    Raises FileNotFoundError: the file is missing.  ValueError: another part, and as `load` does.
    """
    if part not in FILES:
        raise ValueError(f"{task.name} has no part '{part}'; expected {', '.join(map(repr, FILES))}")
    return _split(task, found(folder, _places(task, part), f"{part} of {task.name} of ELUE"), part)


def _places(task: Task, part: str) -> tuple[str, ...]:
    return (*(f"{task.name}/{name}" for name in FILES[part]), *FILES[part])


def _split(task: Task, path: Path, part: str) -> Split:
    rows = table(path)
    if rows.torn:
        raise ValueError(f"{path}, line {rows.torn[0]}: fewer cells than the header; download the file again")
    cells, n = _unquoted([cell for name in task.columns for cell in rows.cells(name)]), len(rows.rows)
    texts, pairs = tuple(cells[:n]), tuple(cells[n:]) or None
    label = next((name for name in LABELS if name in rows.header), None)
    if label is None and part != "test":
        raise ValueError(f"{path} has no column {' or '.join(LABELS)}; it has: {', '.join(rows.header)}")
    labels: tuple[int | float, ...] | None = None
    if label is not None:
        lines = [f"{path}, line {line}" for line, _ in rows.rows]
        labels = tuple(_label(task, cell, where) for cell, where in zip(rows.cells(label), lines, strict=True))
    return Split(texts, pairs, labels)


def _unquoted(cells: list[str]) -> list[str]:
    """All texts of a file without csv's quotes, where all that have quotes have those; twice where it was done twice.

    MRPC's files have bare quotes, STS-B's csv's, and STS-B's test_full.tsv csv's around csv's.  A line alone cannot
    tell: a sentence may be a quotation from its beginning to its end.
    """
    quoted = [cell for cell in cells if '"' in cell]
    if not quoted or not all(QUOTED.fullmatch(cell) for cell in quoted):
        return cells
    return _unquoted([cell[1:-1].replace('""', '"') if '"' in cell else cell for cell in cells])


def _label(task: Task, cell: str, where: str) -> int | float:
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if task.labels is None and isfinite(value):
        return value
    if task.labels is not None and value in range(len(task.labels)):
        return int(value)
    wanted = "a number" if task.labels is None else f"0 to {len(task.labels) - 1} ({', '.join(task.labels)})"
    raise ValueError(f"{where}: the label {cell!r}, expected {wanted}")


def score(task: Task, predictions: Any, labels: Any) -> dict[str, float]:
    """Every metric of the task by its name, and their mean, by which the leaderboard goes, as "mean".

    predictions, labels: (n,) class numbers or names each, or numbers for STS-B.
    Raises ValueError: a class that the task has not; what the metric refuses.
    """
    if task.labels is not None:
        predictions, labels = (classes(task.name, task.labels, column) for column in (predictions, labels))
    each = {metric.__name__: metric(predictions, labels) for metric in task.metrics}
    return each | {"mean": float(np.mean(list(each.values())))}


def track(parameters: int) -> int | None:
    """The tightest of the limits that a model of so many weights (shared ones once) keeps, None if it keeps none."""
    if parameters < 1:
        raise ValueError(f"a model of {parameters} parameters: expected 1 or more; gossamer.measure.size counts them")
    return next((limit for limit in TRACKS if parameters <= limit), None)


def overall(results: Mapping[str, Elue]) -> float:
    """The mean ELUE score over the six data sets, by the names of the tasks. ValueError: one is missing or unknown."""
    names = [task.name for task in TASKS]
    if set(results) != set(names):
        raise ValueError(f"scores of {', '.join(results) or 'nothing'}: expected one of each of {', '.join(names)}")
    return float(np.mean([results[name].score for name in names]))


@dataclass(frozen=True)
class Encoder:
    """The measures of a BERT-like encoder; BERT-base unless told otherwise.

    size: of one head; heads * size is less than width once heads are cut.  classes: of the answer.
    """

    layers: int = 12
    width: int = 768
    inner: int = 3072
    heads: int = 12
    size: int = 64
    classes: int = 2


def layer_flops(encoder: Encoder, tokens: Any) -> Any:
    """FLOPs of one layer by ELUE's counter: twice its multiply-accumulates and what it counts as such; as `tokens`.

    With n tokens: 4 n H A d + 2 n^2 A d + 2 n H I, one n^2 each per head for scaling and softmax, 2 n H for each of the
    two norms.  Biases, activations and sums count as nothing.  BERT-base at n = 128: 12 layers are 22,366 MFLOPs.
    """
    h, a = encoder.width, encoder.heads * encoder.size
    products = 4 * tokens * h * a + 2 * tokens**2 * a + 2 * tokens * h * encoder.inner
    return 2 * (products + 2 * encoder.heads * tokens**2 + 4 * tokens * h)


def costs(encoder: Encoder, tokens: Any, every_exit: bool = False) -> NDArray[np.int64]:
    """FLOPs up to an answer after each layer, its embeddings' norm and its head (pooler and classifier) included.

    tokens: a number, or (n,) one for each example -> (layers,) or (layers, n).  every_exit: the heads on the way are
    asked as well, as an early exit asks them; else the model ends with the layer, as in ElasticBERT's twelve points.
    """
    n = np.asarray(tokens, dtype=np.int64)
    if not n.size or n.min() < 1:
        raise ValueError(f"texts of {tokens} tokens: expected 1 or more")
    depth = np.arange(1, encoder.layers + 1).reshape(-1, *[1] * n.ndim)
    head = 2 * (encoder.width**2 + encoder.width * encoder.classes)
    return np.asarray(4 * n * encoder.width + depth * layer_flops(encoder, n) + head * (depth if every_exit else 1))


def curve(task: Task, logits: Any, labels: Any, cost: Any, name: str = "layer") -> list[Point]:
    """A baseline's curve: what the model is worth that ends after its first layer, its second, to its last.

    logits: (layers, n, classes) of every layer's head, (layers, n, 1) for STS-B.  labels: (n,).  cost: (layers,) or
    (layers, n) FLOPs, as `costs` gives them.
    Raises ValueError: shapes that do not fit, logits that are not numbers, what `score` refuses.
    """
    logits, spent = _fitting(logits, labels, cost)
    metrics = [score(task, _answers(task, one), labels)["mean"] for one in logits]
    return [Point(float(spent[i].mean()), metric, f"{name} {i + 1}") for i, metric in enumerate(metrics)]


def point(task: Task, logits: Any, labels: Any, cost: Any, left: Any, name: str = "") -> Point:
    """One setting of a model whose examples leave early.  left: (n,) the layer that each leaves after, from 1.

    The rest as in `curve`; the cost is the mean over the examples.
    """
    logits, spent = _fitting(logits, labels, cost)
    exits = np.asarray(left)
    if exits.shape != (logits.shape[1],) or exits.min() < 1 or exits.max() > len(logits):
        raise ValueError(f"exit layers {exits}: expected {logits.shape[1]} numbers from 1 to {len(logits)}")
    rows = np.arange(len(exits))
    return Point(
        float(spent[exits - 1, rows].mean()), score(task, _answers(task, logits[exits - 1, rows]), labels)["mean"], name
    )


def patience(logits: Any, times: int, tolerance: float = 0.1) -> NDArray[np.int64]:
    """The layer, from 1, after which PABEE lets each example go: its answer has come back `times` times in a row.

    logits: (layers, n, classes), or (layers, n, 1), where answers agree within the tolerance -> (n,).
    ValueError: other shapes, fewer than one time.
    """
    z = np.asarray(logits)
    if z.ndim != 3 or times < 1:
        raise ValueError(f"logits of shape {z.shape}, {times} times: expected (layers, n, classes), and 1 or more")
    guess = z[..., 0] if z.shape[-1] == 1 else z.argmax(-1)  # (layers, n)
    near = np.abs(np.diff(guess, axis=0)) < (tolerance if z.shape[-1] == 1 else 0.5)
    left = np.full(z.shape[1], len(z), dtype=np.int64)
    agreed = np.zeros(z.shape[1], dtype=np.int64)
    for layer, same in enumerate(near[: len(z) - 2], 2):  # where the model ends, patience has nothing to say
        agreed = np.where(same, agreed + 1, 0)
        left[(agreed >= times) & (left == len(z))] = layer
    return left


def layer_logits(model: "nn.Module", batches: "Iterable[Mapping[str, Tensor]]") -> Array:
    """What a model with exits answers at each of them, its own head the last -> (exits, n, classes).

    batches: what the model is called with, as `Task.collate` of gossamer.task makes them; labels and index are left
    out.  Nobody leaves on the way.  The model is put into evaluation mode.
    Raises ValueError: a model without such exits, or no batches.
    """
    from gossamer.replay import exits_of, record

    if exits_of(model) is None:
        raise ValueError(
            f"{type(model).__name__} has no exits: expected a model with early exit (gossamer.methods.early_exit); the "
            "answers of any other model after each layer go into `curve` as an array"
        )
    given = [{key: value for key, value in batch.items() if key not in ("labels", "index")} for batch in batches]
    if not given:
        raise ValueError("no batches; expected at least one")
    return np.asarray(record(model, given).logits.double().numpy())


def _fitting(logits: Any, labels: Any, cost: Any) -> tuple[Array, Array]:
    """Logits (layers, n, classes) and costs (layers, n)."""
    logits, spent = np.asarray(logits, dtype=np.float64), np.asarray(cost, dtype=np.float64)
    spent = spent[:, None] if spent.ndim == 1 else spent
    if logits.ndim != 3 or len(labels) != logits.shape[1] or spent.shape not in (logits.shape[:2], (len(logits), 1)):
        raise ValueError(
            f"logits of shape {logits.shape}, {len(labels)} labels and costs of shape {np.shape(cost)}: expected "
            "(layers, n, classes), n, and (layers,) or (layers, n)"
        )
    if not np.isfinite(logits).all():
        raise ValueError("some logits are not numbers (nan or inf); the model is broken")
    return logits, np.broadcast_to(spent, logits.shape[:2])


def _answers(task: Task, logits: Array) -> Any:
    width = 1 if task.labels is None else len(task.labels)
    if logits.shape[-1] != width:
        raise ValueError(f"{task.name}: logits for {logits.shape[-1]} classes, expected {width}")
    return logits[:, 0] if task.labels is None else logits.argmax(-1)


@dataclass(frozen=True)
class Run:
    """One setting of a model on the test of one task.

    predictions: (n,) class numbers or names, or numbers for STS-B, in the order of the test.  mflops, mparams: in
    millions, for submissions of type 1, which declare them.  exit_layers: (n,) of a dynamic model.  setting: its name
    among several, such as the patience.
    """

    task: Task
    predictions: Sequence[int | float | str]
    mflops: float | None = None
    mparams: float | None = None
    exit_layers: Sequence[int] | None = None
    setting: str = ""


def submit(
    runs: Sequence[Run], folder: str | Path, model: str | Path | None = None, *, replace: bool = False
) -> list[Path]:
    """Write the files of a submission: TASK.tsv, or TASK_SETTING.tsv, of `index`, tab, `prediction`.

    Type 1 declares its costs: they stand in declared.json (the web page asked for them by hand).  Type 2, with `model`,
    comes with a Python file from which the server counts them; what a folder's declared.json says of other tasks stays.
    Exit layers go to TASK_infer_exit_layer[_SETTING].tsv.
    Raises ValueError before anything is written: no runs, a run twice, another number of predictions than the test has
    examples, a class that the task has not, type 1 without costs, a model that is no Python file; files that exist.
    """
    place, texts, declared = Path(folder), dict[Path, str](), list[dict[str, Any]]()
    for run in runs:
        ending = f"_{run.setting}" if run.setting else ""
        name, exits = f"{run.task.name.lower()}{ending}.tsv", f"{run.task.name.lower()}_infer_exit_layer{ending}.tsv"
        if {place / name, place / exits} & set(texts) or Path(name).name != name:
            raise ValueError(f"a run twice, or a setting that no file can have in its name: {name}; give each its own")
        texts[place / name] = _table("prediction", _spelled(run))
        if run.exit_layers is not None:
            layers = _counted(run, [str(int(layer)) for layer in run.exit_layers], "exit layers")
            texts[place / exits] = _table("exit_layer", layers)
        if model is None and not all(
            cost is not None and 0 < cost < float("inf") for cost in (run.mflops, run.mparams)
        ):
            raise ValueError(
                f"{name} costs {run.mflops} MFLOPs and {run.mparams} MParams: a submission of type 1 declares "
                "both, above 0; give them, or the model's Python file for type 2"
            )
        declared.append({"file": name, "task": run.task.name, "mflops": run.mflops, "mparams": run.mparams})
    if not declared:
        raise ValueError("no runs to submit; expected at least one")
    if model is None:
        note = place.expanduser() / "declared.json"
        others = [one for one in _declared(note) if one["file"] not in {one["file"] for one in declared}]
        written = write_all(texts, replace)
        return [*written, write(note, json.dumps([*others, *declared], indent=2) + "\n", replace=True)]
    source = Path(model)
    if source.suffix != ".py" or not source.is_file():
        raise ValueError(f"{source} is no Python file; a submission of type 2 comes with the one that builds the model")
    return write_all(texts | {place / source.name: source.read_text(encoding="utf-8")}, replace)


def _declared(note: Path) -> list[dict[str, Any]]:
    """What a folder's declared.json says already, of other tasks.  ValueError: something else."""
    found = document(note) if note.is_file() else []
    if not isinstance(found, list) or not all(isinstance(one, dict) and "file" in one for one in found):
        raise ValueError(f"{note} holds something else than the costs of runs; write into another folder")
    return found


def read_predictions(task: Task, file: str | Path) -> tuple[int | float, ...]:
    """The predictions of a submission's file: class numbers, or numbers for STS-B.

    Raises ValueError: no such column, indices that are not 0, 1, 2 and so on, a class that the task has not.
    """
    cells = enumerate(_column(file, "prediction"))
    return tuple(_label(task, cell, f"{file}, index {i}") for i, cell in cells)


def read_exit_layers(file: str | Path) -> tuple[int, ...]:
    """The layer, from 1, that each example left after. ValueError: no such file of a submission."""
    cells = _column(file, "exit_layer")
    if not all(cell.isdecimal() and int(cell) for cell in cells):
        raise ValueError(f"{file}: expected layers from 1 on in the column 'exit_layer'")
    return tuple(map(int, cells))


def _column(file: str | Path, name: str) -> list[str]:
    rows = table(Path(file))
    if rows.cells("index") != [str(i) for i in range(len(rows.rows))] or rows.torn:
        raise ValueError(f"{file}: expected each index from 0 to {len(rows.rows) - 1}, in order")
    return rows.cells(name)


def _table(column: str, cells: Sequence[str]) -> str:
    return "".join([f"index\t{column}\n", *(f"{i}\t{cell}\n" for i, cell in enumerate(cells))])


def _spelled(run: Run) -> list[str]:
    said: Any = run.predictions.tolist() if hasattr(run.predictions, "tolist") else list(run.predictions)
    if run.task.labels is not None:
        return _counted(run, [str(i) for i in classes(run.task.name, run.task.labels, said)], "predictions")
    broken = sum(not isfinite(float(one)) for one in said)
    if broken:
        raise ValueError(f"{run.task.name}: {broken} predictions are not numbers (nan or inf)")
    return _counted(run, [repr(float(one)) for one in said], "predictions")


def _counted(run: Run, cells: list[str], what: str) -> list[str]:
    if len(cells) != (run.task.size or len(cells)) or not cells:
        raise ValueError(
            f"{run.task.name}: {len(cells)} {what}, expected {run.task.size or 'some'}, one for each row of its test"
        )
    return cells
