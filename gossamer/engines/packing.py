"""Texts laid end to end: rows of one width that hold several texts each, so that next to nothing is padding.

A row is a bin; first-fit decreasing fills the bins (Johnson et al., SIAM Journal on Computing 1974).  Inside a row
every text counts its positions from the start, and attends to itself alone: tokens of one text have the same segment
number, padding has 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossamer.engines.texts import Facts
from gossamer.task.kind import Read

WIDTH = 128  # tokens of a row; attention costs each token as many products as the row is wide
TOKENS = 2048  # of a batch: enough to keep the processor's products large, few enough for its caches
WORTH = 0.9  # packed, a batch has at most this share of the tokens that it would have sorted and padded

Batch = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Layout:
    """Where some texts stand in a grid of R rows and T columns.

    texts (n,): which text each is.  rows, columns, lengths (n,): where it begins, and how long it is.  shape: (R, T).
    "In a row" means: the tokens of all n texts, one after the other, (N, ...).
    """

    texts: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    lengths: NDArray[np.int64]
    shape: tuple[int, int]

    @cached_property
    def firsts(self) -> NDArray[np.int64]:
        """(n,): the place of each text's first token among the R * T."""
        return self.rows * self.shape[1] + self.columns

    @cached_property
    def within(self) -> NDArray[np.int64]:
        """(N,): the position of each token in its text, in a row."""
        starts = np.cumsum(self.lengths) - self.lengths
        return np.arange(int(self.lengths.sum())) - np.repeat(starts, self.lengths)

    @cached_property
    def owners(self) -> NDArray[np.int64]:
        """(N,): which of the n texts each token belongs to, in a row."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """(N,): the place of each token among the R * T, in a row."""
        return self.firsts[self.owners] + self.within

    @cached_property
    def segments(self) -> NDArray[np.int64]:
        """(R, T): which of a row's texts a token belongs to, from 1 on; 0 for padding."""
        return self.spread(1 + self.owners, 0)

    def spread(self, values: NDArray[Any], filler: Any) -> NDArray[Any]:
        """(R, T, ...) of what stands in a row, (N, ...)."""
        grid = np.full((self.shape[0] * self.shape[1], *values.shape[1:]), filler, values.dtype)
        grid[self.places] = values
        return grid.reshape(*self.shape, *values.shape[1:])

    def collect(self, grid: NDArray[Any]) -> NDArray[Any]:
        """(N, ...), in a row, of what stands in the grid, (R, T, ...)."""
        found: NDArray[Any] = grid.reshape(-1, *grid.shape[2:])[self.places]
        return found

    def each(self, grid: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """(1, length, ...) of each text, as if it were a batch of one."""
        return (part[None] for part in np.split(self.collect(grid), np.cumsum(self.lengths)[:-1]))


def bins(lengths: Sequence[int], width: int = WIDTH) -> list[list[int]]:
    """Which texts share a row; a text that is longer than `width` has a row of its own.

    No bin could take another one's first text whole when that was placed; bins come longest text first.
    """
    made: list[list[int]] = []
    left: list[int] = []
    first_open = 0  # bins before it have no room for even one token
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for at in range(first_open, len(made)):
            if left[at] >= lengths[i]:
                made[at].append(i)
                left[at] -= lengths[i]
                break
        else:
            made.append([i])
            left.append(max(0, width - lengths[i]))
        while first_open < len(made) and not left[first_open]:
            first_open += 1
    return made


def layouts(lengths: Sequence[int], width: int = WIDTH, tokens: int = TOKENS) -> Iterator[Layout]:
    """All texts, by their lengths, in grids of about so many tokens each; rows of like width share a grid."""
    filled = [(sum(lengths[i] for i in row), row) for row in bins(lengths, width)]
    filled.sort(key=lambda one: -one[0])
    at = 0
    while at < len(filled):
        widest = filled[at][0]
        group = filled[at : at + max(1, tokens // max(1, widest))]
        yield _layout([row for _, row in group], lengths, widest)
        at += len(group)


def _layout(rows: Sequence[Sequence[int]], lengths: Sequence[int], width: int) -> Layout:
    texts = np.array([i for row in rows for i in row])
    long = np.array([lengths[i] for i in texts])
    which = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    ends = np.cumsum(long)
    before = np.concatenate([[0], ends])[np.searchsorted(which, which)]  # tokens in earlier rows
    return Layout(texts, which, ends - long - before, long, (len(rows), width))


def worth(lengths: Sequence[int], batch_size: int, width: int = WIDTH) -> bool:
    """Whether packing saves tokens over sorting by length and padding batches of `batch_size`."""
    if len(lengths) < 2:
        return False
    order = sorted(lengths, reverse=True)
    padded = sum(order[at] * len(order[at : at + batch_size]) for at in range(0, len(order), batch_size))
    return sum(one.shape[0] * one.shape[1] for one in layouts(lengths, width)) <= WORTH * padded


def fill(layout: Layout, reads: Sequence[Read], facts: Facts) -> Batch:
    """What a packed graph is given: input_ids, position_ids, segments (R, T), firsts (n,).

    And where there are such: token_type_ids (R, T), threshold ().
    """
    mine = [reads[i] for i in layout.texts]
    batch = {
        "input_ids": layout.spread(np.concatenate([np.array(one.ids, np.int64) for one in mine]), facts.pad_id),
        "position_ids": layout.spread(layout.within + facts.first_position, facts.first_position),
        "segments": layout.segments,
        "firsts": layout.firsts,
    }
    if facts.typed:
        batch["token_type_ids"] = layout.spread(np.concatenate([np.array(one.types, np.int64) for one in mine]), 0)
    if facts.threshold is not None:
        batch["threshold"] = np.array(facts.threshold, np.float32)
    return batch
