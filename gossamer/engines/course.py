"""The way of a batch through an artefact's stages: whoever is done or dropped leaves, the rest is laid out anew.

One stage is the plain case.  With more, each ends where texts may have their answer or tokens may leave (see
gossamer.engines.laid); what has left is neither computed nor copied any further.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossamer.engines.packing import CALL, WIDTHS, Layout, fill, layouts, together
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
    for layout in layouts([len(one.ids) for one in reads], call=CALL * len(stages)):
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
    company = Company(layout, batch, reads, None if facts.task.per_text or len(stages) == 1 else Rest(layout))
    for stage in stages[:-1]:
        said = stage(company.batch)
        done = company.going & said.get("done", False)
        for first in np.flatnonzero(done):
            yield int(company.layout.texts[first]), [said["logits"][first : first + 1]]
        company.going = company.going & ~done
        if not company.going.any():
            return
        company.onward(said, changed=bool(done.any()))
    company.gather()
    said = stages[-1](company.batch)
    for at, outputs in enumerate(_apart(said, company.layout, facts)):
        if company.going[at]:
            yield int(company.layout.texts[at]), outputs


class Company:
    """The texts of a layout between two stages.

    batch: what the next stage is given.  rest: where the states of tokens that leave are kept, if anybody asks for
    them.  going (n,): who has no answer yet.  kept (N,): which tokens, in a row, are still there.
    """

    def __init__(
        self, layout: Layout, batch: dict[str, NDArray[Any]], reads: Sequence[Read], rest: Rest | None
    ) -> None:
        self.layout, self.batch, self.reads, self.rest = layout, batch, reads, rest
        self.going, self.kept = np.ones(len(layout.texts), bool), np.ones(len(layout.within), bool)

    def onward(self, said: Arrays, changed: bool) -> None:
        """From what a stage said to what the next one is given; changed: somebody has got an answer by it."""
        handed = {name.removeprefix(NEXT): value for name, value in said.items() if name.startswith(NEXT)}
        if self.rest is not None:
            self.rest.note(self.layout.collect(handed["x"]), self.kept)
        if not changed and "keep" not in said:  # most stages of few texts: all stand where they stood
            self.batch = self.batch | handed
            return
        if "keep" in said:
            self.kept = self.kept & self.layout.collect(said["keep"])
        left = self.kept & self.going[self.layout.owners]
        x = handed.pop("x")
        if left.sum() <= REPACK * len(left):
            self.layout, x, chosen, stood = closer(self.layout, x, left, self.going)
            handed = {name: value[chosen] for name, value in handed.items()}
            self.going, self.kept = np.ones(len(chosen), bool), np.ones(len(stood), bool)
            if self.rest is not None:
                self.rest.which = self.rest.which[stood]
            segments = self.layout.segments
        else:
            segments = self.layout.spread(np.where(left, 1 + self.layout.owners, 0), 0)
        known = {name: self.batch[name] for name in ("threshold",) if name in self.batch}
        self.batch = _laid(self.layout, x, segments, self.reads) | handed | known

    def gather(self) -> None:
        """Before the last stage, if it reads every token: all are back in their places."""
        if self.rest is not None:
            self.layout = self.rest.layout
            self.going = np.ones(len(self.layout.texts), bool)
            self.batch = _laid(self.layout, self.layout.spread(self.rest.states, 0), self.layout.segments, self.reads)


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
    width = layout.shape[1]
    new = together(left_of.tolist(), [one for one in WIDTHS if one <= width] or [width])
    starts = np.cumsum(left_of) - left_of
    order = starts[new.texts][new.owners] + new.within  # from the old row of what is left to the new one
    stood = np.flatnonzero(left)[order]
    source = np.full(new.shape, layout.places[0])  # what padding is does not matter, so it is some token
    source.reshape(-1)[new.places] = layout.places[stood]
    states = x.reshape(-1, *x.shape[2:]).take(source, axis=0, mode="clip")  # in one pass
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
