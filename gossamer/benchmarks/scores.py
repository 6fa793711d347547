"""The numbers that the benchmarks are scored by, over whole arrays of answers and labels.

F1 after van Rijsbergen (Information Retrieval, 1979); the correlation of classes after Matthews (Biochimica et
Biophysica Acta, 1975), for more than two classes in the form of Gorodkin (Computational Biology and Chemistry, 2004);
correlations of numbers after Pearson (1895) and Spearman (1904), equal numbers sharing their mean rank.

Where a score is not defined, accuracy, F1 and Matthews answer as scikit-learn does (0 for F1 without any positive, 0
for Matthews where all is one class); a correlation of numbers that are all the same does not exist and is refused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossamer.metrics.correlation import correlation, ranks

Array = NDArray[np.float64]


def accuracy(predictions: Any, labels: Any) -> float:
    """The share of predictions that are their label; (n,) classes each, numbers or strings -> [0, 1].

    Raises ValueError when there is nothing to compare, or lengths or kinds differ.
    """
    predictions, labels = _classes(predictions, labels)
    return float((predictions == labels).mean())


def f1(predictions: Any, labels: Any, positive: int | str = 1) -> float:
    """2 TP / (2 TP + FP + FN) of the class `positive`; (n,) classes each -> [0, 1].

    0 where neither predictions nor labels have the class.  Raises ValueError as `accuracy` does.
    """
    predictions, labels = _classes(predictions, labels)
    return _f1(predictions == positive, labels == positive)


def macro_f1(predictions: Any, labels: Any) -> float:
    """The unweighted mean of the F1 of every class among predictions or labels; (n,) classes each -> [0, 1].

    Raises ValueError as `accuracy` does.
    """
    predictions, labels = _classes(predictions, labels)
    classes = np.unique(np.concatenate([predictions, labels]))
    return float(np.mean([_f1(predictions == one, labels == one) for one in classes]))


def matthews(predictions: Any, labels: Any) -> float:
    """Matthews' correlation of two columns of classes, two classes or more; (n,) each -> [-1, 1].

    With n examples, c of them right, p_k predicted and t_k labelled as class k, it is
    (c n - sum p_k t_k) / sqrt((n^2 - sum p_k^2) (n^2 - sum t_k^2)); 0 where all predictions or all labels are one
    class.  Raises ValueError as `accuracy` does.
    """
    predictions, labels = _classes(predictions, labels)
    classes = np.unique(np.concatenate([predictions, labels]))
    predicted = np.array([(predictions == one).sum() for one in classes], dtype=np.float64)
    labelled = np.array([(labels == one).sum() for one in classes], dtype=np.float64)
    n, right = float(len(labels)), float((predictions == labels).sum())
    spread = (n * n - predicted @ predicted) * (n * n - labelled @ labelled)
    return float(np.clip((right * n - predicted @ labelled) / np.sqrt(spread), -1, 1)) if spread else 0.0


def pearson(predictions: Any, labels: Any) -> float:
    """Pearson's correlation of two columns of numbers; (n,) each, or (n, 1) predictions -> [-1, 1].

    Raises ValueError: fewer than two numbers, numbers that are all the same, nan or inf, lengths that differ.
    """
    return correlation(*_numbers(predictions, labels))


def spearman(predictions: Any, labels: Any) -> float:
    """Pearson's correlation of the ranks, equal numbers sharing their mean rank; (n,) each -> [-1, 1].

    Raises ValueError as `pearson` does.
    """
    predictions, labels = _numbers(predictions, labels)
    return correlation(ranks(predictions), ranks(labels))


@dataclass(frozen=True)
class Standing:
    """What a leaderboard makes of the scores of its tasks.

    average: the unweighted mean over the tasks, None while one is missing.  tasks: what counts of each, the mean of its
    metrics (and of its parts).  missing: the tasks, or parts of tasks, that there is no score of.  without: the tasks
    left out on purpose, which a report has to say.
    """

    average: float | None
    tasks: dict[str, float]
    missing: tuple[str, ...]
    without: tuple[str, ...]


def standing(
    scores: Mapping[str, Mapping[str, float]],
    groups: Mapping[str, tuple[str, ...]],
    without: Iterable[str] = (),
    aside: Iterable[str] = (),
) -> Standing:
    """The mean over tasks of the mean over a task's parts of the mean over a part's metrics.

    scores: of each part its metrics by name.  groups: of each task its parts (MNLI: matched and mismatched).  without:
    tasks to leave out of the average.  aside: names that may have scores and never count (diagnostics).
    Raises ValueError: a name that is no task or part, a part without metrics, all tasks left out.
    """
    without, known = tuple(without), {part for parts in groups.values() for part in parts}
    for name, among in [*((one, known | set(aside)) for one in scores), *((one, set(groups)) for one in without)]:
        if name not in among:
            raise ValueError(f"'{name}' is no task; expected {', '.join(map(repr, sorted(among)))}")
    counted = {name: parts for name, parts in groups.items() if name not in without}
    empty = [name for name, metrics in scores.items() if not metrics]
    if empty or not counted:
        raise ValueError(
            f"'{empty[0]}' has no metrics to average" if empty else "every task is left out of the average"
        )
    means = {name: float(np.mean(list(metrics.values()))) for name, metrics in scores.items()}
    tasks = {
        name: float(np.mean([means[part] for part in parts]))
        for name, parts in counted.items()
        if all(part in means for part in parts)
    }
    missing = tuple(part for parts in counted.values() for part in parts if part not in means)
    return Standing(None if missing else float(np.mean(list(tasks.values()))), tasks, missing, without)


def _f1(predicted: NDArray[np.bool_], labelled: NDArray[np.bool_]) -> float:
    found = int(predicted.sum()) + int(labelled.sum())  # 2 TP + FP + FN
    return 2 * int((predicted & labelled).sum()) / found if found else 0.0


def _classes(predictions: Any, labels: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    predictions, labels = _columns(np.asarray(predictions), np.asarray(labels), "one class")
    words = [column.dtype.kind in "US" for column in (predictions, labels)]
    if words[0] != words[1]:
        raise ValueError(
            f"predictions such as {predictions[0]!r} for labels such as {labels[0]!r}: expected class numbers for "
            "both, or class names for both"
        )
    for name, column in (("predictions", predictions), ("labels", labels)):
        if column.dtype.kind == "f" and np.isnan(column).any():
            raise ValueError(f"{int(np.isnan(column).sum())} of {len(column)} {name} are nan; expected a class each")
    return predictions, labels


def _numbers(predictions: Any, labels: Any) -> tuple[Array, Array]:
    predictions, labels = (np.asarray(column, dtype=np.float64) for column in (predictions, labels))
    if predictions.ndim == 2 and predictions.shape[1] == 1:
        predictions = predictions[:, 0]
    predictions, labels = _columns(predictions, labels, "one number")
    if len(labels) < 2:
        raise ValueError("one example has no correlation; expected two or more")
    for name, column in (("predictions", predictions), ("labels", labels)):
        broken = int((~np.isfinite(column)).sum())
        if broken:
            raise ValueError(f"{broken} of {len(column)} {name} are not numbers (nan or inf); expected a number each")
        if (column == column[0]).all():
            raise ValueError(
                f"all {len(column)} {name} are {column[0]:g}: they correlate with nothing; expected different numbers"
            )
    return predictions, labels


def _columns(predictions: NDArray[Any], labels: NDArray[Any], what: str) -> tuple[NDArray[Any], NDArray[Any]]:
    for name, column in (("predictions", predictions), ("labels", labels)):
        if column.ndim != 1:
            hint = "; take the argmax(-1) of logits" if column.ndim == 2 and what == "one class" else ""
            raise ValueError(f"{name} of shape {column.shape}: expected {what} per example, (n,){hint}")
    if len(predictions) != len(labels):
        raise ValueError(f"{len(predictions)} predictions for {len(labels)} labels: expected one each")
    if not len(labels):
        raise ValueError("no predictions and no labels: expected at least one example to score")
    return predictions, labels
