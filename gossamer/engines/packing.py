"""Texts laid end to end: rows of one width that hold several texts each, so that next to nothing is padding.

A row is a bin; first-fit decreasing fills the bins (Johnson et al., SIAM Journal on Computing 1974).  Inside a row
every text counts its positions from the start, and attends to itself alone: tokens of one text have the same segment
number, padding has 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gossamer.engines.texts import Facts
from gossamer.task.kind import Read

WIDTH = 128  # tokens of a row; attention costs each token as many products as the row is wide
TOKENS = 2048  # of a batch: enough to keep the processor's products large, few enough for its caches
WORTH = 0.9  # packed, a batch has at most this share of the tokens that it would have sorted and padded

Batch = dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Packed:
    """Some texts in rows.

    batch: input_ids, position_ids, segments (B, T), [token_type_ids], and firsts (n,): the place of each text's first
    token among the B * T.  texts: which text each of the n is.  spans: row and first column of each.
    """

    batch: Batch
    texts: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


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


def worth(lengths: Sequence[int], batch_size: int, width: int = WIDTH) -> bool:
    """Whether packing saves tokens over sorting by length and padding batches of `batch_size`."""
    order = sorted(lengths, reverse=True)
    padded = sum(order[at] * len(order[at : at + batch_size]) for at in range(0, len(order), batch_size))
    rows = bins(lengths, width)
    packed = sum(max(sum(lengths[i] for i in row), 1) for row in rows)
    widest = [max(sum(lengths[i] for i in row) for row in group) * len(group) for group in _groups(rows, lengths)]
    assert sum(widest) >= packed
    return len(lengths) > 1 and sum(widest) <= WORTH * padded


def batches(reads: Sequence[Read], facts: Facts, width: int = WIDTH) -> Iterator[Packed]:
    """All texts in packed batches of about TOKENS tokens."""
    lengths = [len(one.ids) for one in reads]
    for group in _groups(bins(lengths, width), lengths):
        yield _packed(group, reads, facts)


def _groups(rows: Sequence[list[int]], lengths: Sequence[int]) -> Iterator[list[list[int]]]:
    """Rows of like width, about TOKENS tokens of them together."""
    ordered = sorted(rows, key=lambda row: -sum(lengths[i] for i in row))
    at = 0
    while at < len(ordered):
        widest = sum(lengths[i] for i in ordered[at])
        count = max(1, TOKENS // max(1, widest))
        yield ordered[at : at + count]
        at += count


def _packed(rows: Sequence[Sequence[int]], reads: Sequence[Read], facts: Facts) -> Packed:
    wide = max(sum(len(reads[i].ids) for i in row) for row in rows)
    shape = len(rows), wide
    ids = np.full(shape, facts.pad_id, np.int64)
    positions, segments, types = (np.zeros(shape, np.int64) for _ in range(3))
    texts, spans = list[int](), list[tuple[int, int]]()
    for y, row in enumerate(rows):
        x = 0
        for number, i in enumerate(row, 1):
            one, end = reads[i], x + len(reads[i].ids)
            ids[y, x:end], types[y, x:end] = one.ids, one.types
            positions[y, x:end] = np.arange(facts.first_position, facts.first_position + end - x)
            segments[y, x:end] = number
            texts.append(i)
            spans.append((y, x))
            x = end
    firsts = np.array([y * wide + x for y, x in spans], np.int64)
    batch = {"input_ids": ids, "position_ids": positions, "segments": segments, "firsts": firsts}
    if facts.typed:
        batch["token_type_ids"] = types
    return Packed(batch, tuple(texts), tuple(spans))
