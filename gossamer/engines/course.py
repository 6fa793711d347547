"""The way of a batch through an artefact's stages: whoever is done or dropped leaves, the rest is laid out anew.

One stage is the plain case.  With more, each ends where texts may have their answer or tokens may leave (see
gossamer.engines.laid); what has left is neither computed nor copied any further.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossamer.engines.packing import Layout, fill, layouts
from gossamer.engines.texts import Facts
from gossamer.task.kind import Read

Arrays = Mapping[str, NDArray[Any]]
Program = Callable[[Arrays], dict[str, NDArray[Any]]]  # a graph: inputs by name (more than it reads do not matter)
Answer = tuple[int, Sequence[NDArray[Any]]]  # which text, and its outputs as of a batch of one

NEXT = "next."  # in front of the names of what a stage hands to the one after it
MEMORY = "memory."  # in front of the names of what walks keep for each text
REPACK = 7 / 8  # of the tokens are left, or fewer, when the rest is laid out anew: copying costs too


def through(stages: Sequence[Program], reads: Sequence[Read], facts: Facts) -> Iterator[Answer]:
    """The answers to some texts, each once, in any order."""
    for layout in layouts([len(one.ids) for one in reads]):
        batch = fill(layout, reads, facts)
        if len(stages) > 1:
            batch["lengths"] = lengths(layout, reads)
        yield from _way(stages, layout, batch, facts, reads)


class Rest:
    """The state of every token when it left, for a head that reads them all."""

    def __init__(self, layout: Layout) -> None:
        self.layout, self.states = layout, np.zeros((len(layout.within), 0), np.float32)
        self.which = np.arange(len(layout.within))  # (N',): which token each is that still travels

    def note(self, x: NDArray[Any], kept: NDArray[np.bool_]) -> None:
        """The states (N', d) of those that were there until now, `kept` (N',)."""
        if not self.states.size:
            self.states = np.zeros((len(self.states), x.shape[1]), x.dtype)
        self.states[self.which[kept]] = x[kept]


def _way(
    stages: Sequence[Program], layout: Layout, batch: dict[str, NDArray[Any]], facts: Facts, reads: Sequence[Read]
) -> Iterator[Answer]:
    going = np.ones(len(layout.texts), bool)  # (n,): who has no answer yet
    kept = np.ones(len(layout.within), bool)  # (N,): which tokens, in a row, are still there
    rest = Rest(layout)
    for stage in stages[:-1]:
        said = stage(batch)
        done = going & said.get("done", False)
        for first in np.flatnonzero(done):
            yield int(layout.texts[first]), [said["logits"][first : first + 1]]
        going = going & ~done
        if not going.any():
            return
        if not facts.task.per_text:
            rest.note(layout.collect(said[NEXT + "x"]), kept)
        if "keep" in said:
            kept = kept & layout.collect(said["keep"])
        left = kept & going[layout.owners]
        handed = {name.removeprefix(NEXT): said[name] for name in said if name.startswith(NEXT)}
        x = handed.pop("x")
        if left.sum() <= REPACK * len(left):
            layout, x, chosen, stood = closer(layout, x, left, going)
            handed = {name: value[chosen] for name, value in handed.items()}
            going, kept = np.ones(len(layout.texts), bool), np.ones(len(layout.within), bool)
            rest.which = rest.which[stood]
            segments = layout.segments
        else:
            segments = layout.spread(np.where(left, 1 + layout.owners, 0), 0)
        known = {name: batch[name] for name in ("threshold",) if name in batch}
        batch = _laid(layout, x, segments, reads) | handed | known
    if len(stages) > 1 and not facts.task.per_text:
        layout, going = rest.layout, np.ones(len(rest.layout.texts), bool)
        batch = _laid(layout, layout.spread(rest.states, 0), layout.segments, reads)
    said = stages[-1](batch)
    for at, outputs in enumerate(_apart(said, layout, facts)):
        if going[at]:
            yield int(layout.texts[at]), outputs


def _laid(
    layout: Layout, x: NDArray[Any], segments: NDArray[np.int64], reads: Sequence[Read]
) -> dict[str, NDArray[Any]]:
    """What a later stage is given: hidden states (R, T, d), where whose are, and how long their texts were."""
    places, long = layout.spread(layout.within, 0), lengths(layout, reads)
    return {"x": x, "segments": segments, "firsts": layout.firsts, "position_ids": places, "lengths": long}


def lengths(layout: Layout, reads: Sequence[Read]) -> NDArray[np.int64]:
    """How long each token's text was in the beginning, (R, T)."""
    return layout.spread(np.array([len(reads[i].ids) for i in layout.texts])[layout.owners], 1)


def closer(
    layout: Layout, x: NDArray[Any], left: NDArray[np.bool_], going: NDArray[np.bool_]
) -> tuple[Layout, NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """Texts that are `going` (n,), by the tokens that are `left` (N,), in a smaller grid.

    Returns the new layout, the hidden states in it (R', T', d), which of the n texts stands where (n',), and which of
    the N tokens each is, in a row (N',).
    """
    left_of = np.bincount(layout.owners[left], minlength=len(layout.texts))[going]
    [new] = layouts(left_of.tolist(), tokens=int(left_of.sum()) * len(left_of) + 1)
    starts = np.cumsum(left_of) - left_of
    order = starts[new.texts][new.owners] + new.within  # from the old row of what is left to the new one
    stood = np.flatnonzero(left)[order]
    states = new.spread(layout.collect(x)[stood], 0)
    chosen = np.flatnonzero(going)[new.texts]
    return (
        Layout(layout.texts[chosen], new.rows, new.columns, new.lengths, new.shape),
        states,
        chosen,
        stood,
    )


def _apart(said: Arrays, layout: Layout, facts: Facts) -> Iterator[list[NDArray[Any]]]:
    """The last stage's outputs, text by text."""
    names = facts.task.outputs
    if facts.task.per_text:
        return ([said[name][at : at + 1] for name in names] for at in range(len(layout.texts)))
    return (list(parts) for parts in zip(*(layout.each(said[name]) for name in names), strict=True))
