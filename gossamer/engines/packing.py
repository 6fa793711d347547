"""Texts laid end to end: rows that hold several texts each, so that next to nothing is padding.

A row is a bin; best-fit decreasing fills the bins (Johnson et al., SIAM Journal on Computing 1974).  Inside a row
every text counts its positions from the start, and attends to itself alone: tokens of one text have the same segment
number, padding has 0.

How wide a row is decides what is lost: wide rows leave less room unused, but each token attends to the whole row, and
where products of integers are quick, attention, which is computed in floats, costs as much as they do.  So the width
is chosen for the texts at hand, and rows of other widths go into grids of their own where that is worth a call.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossamer.engines.texts import Facts
from gossamer.task.kind import Read

WIDTHS = (32, 64, 96, 128)  # tokens of a row, or those of the longest text if it is longer
EQUAL = 384  # how wide a row is in which attention, in floats, costs about as much as all else, in integers
CALL = 64  # tokens that might have been computed in the time that a call costs
TOKENS = 2048  # of a grid: enough to keep the processor's products large, few enough for its caches
# Widths are multiples of the first unless that costs a tenth more than those of the second: OpenVINO prepares itself,
# some 10 ms, for each shape that is new to it (benchmarks/graphs.py).
STEPS, DEARER = (32, 8), 1.1
WORTH = 0.9  # packed, texts cost at most this share of what they would sorted and padded

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


def price(rows: int, width: int) -> float:
    """What a grid costs, in tokens of narrow rows."""
    return rows * width * (1 + width / EQUAL)


def bins(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Which texts share a row; a text that is longer than `width` has a row of its own.

    No bin could take another one's first text whole when that was placed; bins come longest text first.
    """
    made: list[list[int]] = []
    with_room = defaultdict[int, list[int]](list)  # bins by how much room they have
    rooms: list[int] = []  # sorted, each that some bin has
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = bisect_left(rooms, lengths[i])
        if at < len(rooms):
            room = rooms[at]
            which = with_room[room].pop()
            if not with_room[room]:
                rooms.pop(at)
            made[which].append(i)
        else:
            room, which = width, len(made)
            made.append([i])
        room -= lengths[i]
        if room > 0:
            if not with_room[room]:
                insort(rooms, room)
            with_room[room].append(which)
    return made


def layouts(
    lengths: Sequence[int], tokens: int = TOKENS, call: float = CALL, widths: Sequence[int] = WIDTHS
) -> Iterator[Layout]:
    """All texts, by their lengths, in grids of at most so many tokens each (or one text), which cost little.

    call: what a grid costs beside its tokens, see CALL.  widths: of a row, one of them; where there are longer texts,
    or as wide as the longest of them.
    """
    if not lengths:
        return
    rows = _best(lengths, widths, lambda rows: _grids(rows, tokens, call)[0])
    for first, after in _grids(rows, tokens, call)[1]:
        yield _layout([row for _, row in rows[first:after]], lengths, rows[first][0])


def together(lengths: Sequence[int], widths: Sequence[int] = WIDTHS) -> Layout:
    """All texts, by their lengths, in one grid, of that width which costs least; see `layouts`."""
    rows = _best(lengths, widths, lambda rows: price(len(rows), rows[0][0]))
    return _layout([row for _, row in rows], lengths, rows[0][0])


Rows = list[tuple[int, list[int]]]  # tokens, and texts; the longest first


def _best(lengths: Sequence[int], widths: Sequence[int], cost: Callable[[Rows], float]) -> Rows:
    """Rows of that of the widths, or of the longest text's if it is longer, which costs least."""
    longest = max(lengths)
    if len(lengths) == 1:
        return [(longest, [0])]
    among = widths if longest <= widths[-1] else [*widths, longest]
    filled = [_filled(lengths, width) for width in among]
    found = []
    for step in STEPS:
        rows = [_rounded(some, step) for some in filled]
        costs = [cost(some) for some in rows]
        found.append((min(costs), rows[costs.index(min(costs))]))
    (coarse, wide), (fine, narrow) = found
    return wide if coarse <= DEARER * fine else narrow


def _filled(lengths: Sequence[int], width: int) -> Rows:
    filled = [(sum(lengths[i] for i in row), row) for row in bins(lengths, width)]
    return sorted(filled, key=lambda one: -one[0])


def _rounded(rows: Rows, step: int) -> Rows:
    """Rows that are multiples of `step` wide; one that is alone is as wide as what it holds."""
    return rows if len(rows) == 1 else [(-(-size // step) * step, row) for size, row in rows]


def _grids(rows: Sequence[tuple[int, Any]], tokens: int, call: float) -> tuple[float, list[tuple[int, int]]]:
    """What grids of neighbouring rows cost, and where each begins and ends; at least, where `tokens` cuts none.

    A grid is as wide as its first row.  Rows of one width stay together or are cut where `tokens` says; best[j] is the
    least for those before the j-th width, of which the last part begins with the cut[j]-th.
    """
    starts = [i for i in range(len(rows)) if not i or rows[i][0] != rows[i - 1][0]]
    ends = [*starts[1:], len(rows)]
    best, cut = [0.0], [0]
    for end in ends:
        costs = []
        for before, start in zip(best, starts, strict=False):  # as many as there are bests
            width, n = rows[start][0], end - start
            costs.append(before + price(n, width) + call * -(-n // max(1, tokens // width)))
        at = min(range(len(costs)), key=costs.__getitem__)
        best.append(costs[at])
        cut.append(at)
    found, j = list[tuple[int, int]](), len(ends)
    while j:
        start, end = starts[cut[j]], ends[j - 1]
        most = max(1, tokens // rows[start][0])
        found += [(first, min(first + most, end)) for first in range(start, end, most)][::-1]
        j = cut[j]
    return best[-1], found[::-1]


def _layout(rows: Sequence[Sequence[int]], lengths: Sequence[int], width: int) -> Layout:
    texts = np.array([i for row in rows for i in row])
    long = np.array([lengths[i] for i in texts])
    which = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    ends = np.cumsum(long)
    before = np.concatenate([[0], ends])[np.searchsorted(which, which)]  # tokens in earlier rows
    return Layout(texts, which, ends - long - before, long, (len(rows), width))


def worth(lengths: Sequence[int], batch_size: int) -> bool:
    """Whether packing costs less than sorting by length and padding batches of `batch_size`."""
    if len(lengths) < 2:
        return False
    order = sorted(lengths, reverse=True)
    batches = [(len(order[at : at + batch_size]), order[at]) for at in range(0, len(order), batch_size)]
    padded = sum(price(*shape) + CALL for shape in batches)
    if sum(price(1, length) for length in lengths) + CALL > WORTH * padded:  # rows are as wide as any text in them
        return False
    return bool(sum(price(*one.shape) + CALL for one in layouts(lengths)) <= WORTH * padded)


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
