"""Correlation of two columns of numbers: Pearson's (1895), and by ranks Spearman's (1904)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def correlation(first: Any, second: Any) -> float:
    """Pearson's, of (n,) and (n,), in [-1, 1]; not a number where a column is the same throughout."""
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    assert x.shape == y.shape and x.ndim == 1, (x.shape, y.shape)
    x, y = (column - column.mean() for column in (x, y))
    sizes = [np.abs(column).max() for column in (x, y)]
    if not all(sizes):
        return float("nan")
    x, y = (column / size for column, size in zip((x, y), sizes, strict=True))  # so that no square over- or underflows
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))  # rounding may step just outside


def ranks(numbers: Any) -> NDArray[np.float64]:
    """The rank of each number, from 1, equal numbers sharing the mean of theirs; (n,) -> (n,)."""
    _, place, count = np.unique(np.asarray(numbers), return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[place], dtype=np.float64)
