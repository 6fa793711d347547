"""SustaiNLP 2020: who answers SuperGLUE's test sets well enough with the least energy.

"Overview of the SustaiNLP 2020 Shared Task" (Wang & Wolf, SustaiNLP workshop at EMNLP 2020): inference on the eight
test sets of SuperGLUE (Wang et al., NeurIPS 2019), its energy, and three tracks: two on a GPU for two levels of quality
and one on a CPU.  Whoever comes close enough to a track's baseline is in it, and in it the lowest energy wins.

The baselines were a BERT-base and a RoBERTa-large, each with a tolerance; the numbers could not be verified, so they
are parameters here and have no defaults.  Energy is a plain number of joules, with a word on how it came about: a
measured figure and one estimated from a data sheet do not compare.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from . import superglue
from .files import document, field

DEVICES = ("cpu", "gpu")


@dataclass(frozen=True)
class Entry:
    """One system on one machine.

    accuracy: its SuperGLUE score, 0 to 1.  joules: of inference over all eight test sets.  tier: how that was found, in
    words, such as "measured" or "estimated".  device: "cpu" or "gpu", whatever answered.
    """

    name: str
    accuracy: float
    joules: float
    tier: str
    device: str

    def __post_init__(self) -> None:
        """Raise ValueError for what is no entry."""
        if not 0 <= self.accuracy <= 1:
            raise ValueError(f"{self.name} scores {self.accuracy}: expected 0 to 1; divide a percentage by 100")
        if not (isfinite(self.joules) and self.joules > 0):
            raise ValueError(
                f"{self.name} took {self.joules} joules: expected a number above 0; leave an entry out whose energy is "
                "not known"
            )
        if self.device not in DEVICES:
            raise ValueError(f"{self.name} ran on '{self.device}': expected {' or '.join(DEVICES)}")
        if not self.tier:
            raise ValueError(f"{self.name}'s energy has no tier: say how it was found, such as tier='measured'")


@dataclass(frozen=True)
class Track:
    """Where entries compete.

    baseline: the score to come close to, 0 to 1.  tolerance: how far below it an entry may stay.
    """

    name: str
    device: str
    baseline: float
    tolerance: float

    @property
    def level(self) -> float:
        """The lowest score that is in."""
        return self.baseline - self.tolerance


@dataclass(frozen=True)
class Place:
    """One entry in the ranking.  saving: the reference's energy over its own, None without a reference."""

    place: int
    entry: Entry
    saving: float | None


@dataclass(frozen=True)
class Ranking:
    """A track's result: the places, the names that are not in it with the reason, and the tiers of the energies."""

    track: Track
    places: tuple[Place, ...]
    refused: dict[str, str]
    tiers: tuple[str, ...]


def entry(name: str, results: Mapping[str, Mapping[str, float]], joules: float, tier: str, device: str) -> Entry:
    """An entry from what `superglue.score` gave, by the names of the tasks.

    Raises ValueError when one of the eight is missing: the energy would be that of another benchmark.
    """
    standing = superglue.standing(results)
    if standing.average is None:
        raise ValueError(
            f"{name} has no score of {', '.join(standing.missing)}: expected all eight tasks of SuperGLUE, for the "
            "energy of some of them compares with no one's"
        )
    return Entry(name, standing.average, joules, tier, device)


def read(file: str | Path) -> tuple[Track, tuple[Entry, ...], Entry | None]:
    """A JSON file of entries: {"track": {...}, "entries": [{...}, ...]}, perhaps with a "reference": {...}.

    A track has name, device, baseline and tolerance; an entry has name, joules, tier, device, and accuracy or instead
    "scores", what `superglue.score` gave by the names of the tasks.
    Raises FileNotFoundError: no such file.  ValueError: not JSON, an entry of the file that is missing or of a wrong
    type, what is no entry.
    """
    told = document(file)
    where = f"{file}, track"
    given = field(told, "track", dict, str(file))
    number = (int, float)
    baseline, tolerance = (float(field(given, key, number, where)) for key in ("baseline", "tolerance"))
    device = field(given, "device", str, where)
    if device not in DEVICES:
        raise ValueError(f"{where}: 'device' is '{device}', expected {' or '.join(DEVICES)}")
    track = Track(field(given, "name", str, where), device, baseline, tolerance)
    entries = field(told, "entries", list, str(file))
    found = tuple(_entry(one, f"{file}, entry {place}") for place, one in enumerate(entries, 1))
    reference = _entry(told["reference"], f"{file}, reference") if told.get("reference") is not None else None
    return track, found, reference


def _entry(told: Any, where: str) -> Entry:
    name, tier, device = (field(told, key, str, where) for key in ("name", "tier", "device"))
    joules = float(field(told, "joules", (int, float), where))
    if "scores" not in told:
        return Entry(name, float(field(told, "accuracy", (int, float), where)), joules, tier, device)
    if "accuracy" in told:
        raise ValueError(f"{where} has 'accuracy' and 'scores'; expected one or the other")
    results = field(told, "scores", dict, where)
    for task in results:
        for metric in field(results, task, dict, f"{where}, scores"):
            field(results[task], metric, (int, float), f"{where}, scores of {task}")
    return entry(name, results, joules, tier, device)


def tracks(bert_base: float, roberta_large: float, tolerance: float) -> tuple[Track, Track, Track]:
    """The three tracks, given the baselines' scores, 0 to 1, and how far below them an entry may stay.

    Which baseline the CPU track had is not verified either: the smaller one is taken.
    """
    return (
        Track("GPU, level of BERT-base", "gpu", bert_base, tolerance),
        Track("GPU, level of RoBERTa-large", "gpu", roberta_large, tolerance),
        Track("CPU, level of BERT-base", "cpu", bert_base, tolerance),
    )


def rank(track: Track, entries: Sequence[Entry], reference: Entry | None = None, mixed_tiers: bool = False) -> Ranking:
    """Those that are good enough and ran on the track's device, the lowest energy first.

    Equal energies share a place, the better score first.  reference: what savings are told against, such as the
    baseline on the same machine.  mixed_tiers: rank energies that were found in different ways all the same; the result
    names the tiers.
    Raises ValueError: no entries, a name twice, energies of different tiers among those that are in, a reference that
    ran on another device than the track's, against which a saving would be one of hardware.
    """
    names = [one.name for one in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not entries or twice:
        found = f"entries called {twice[0]} twice" if twice else "no entries"
        raise ValueError(f"{found} for the track '{track.name}': expected one or more, each with its own name")
    if reference is not None and reference.device != track.device:
        raise ValueError(
            f"the reference {reference.name} ran on the {reference.device}, the track '{track.name}' is for the "
            f"{track.device}: expected both on the same; measure the reference again there, or leave it out"
        )
    reasons = {one.name: _reason(track, one) for one in entries}
    inside = sorted((e for e in entries if not reasons[e.name]), key=lambda e: (e.joules, -e.accuracy, e.name))
    compared = [*inside, reference] if reference is not None else inside
    tiers = tuple(sorted({one.tier for one in compared}))
    if len(tiers) > 1 and not mixed_tiers:
        told = ", ".join(f"{one.name} is {one.tier}" for one in compared)
        raise ValueError(
            f"energies that were found in different ways do not compare: {told}; measure all in one way, or type "
            "mixed_tiers=True and say so beside the ranking"
        )
    places = tuple(
        Place(
            1 + sum(other.joules < one.joules for other in inside),
            one,
            None if reference is None else reference.joules / one.joules,
        )
        for one in inside
    )
    return Ranking(track, places, {name: reason for name, reason in reasons.items() if reason}, tiers)


def _reason(track: Track, one: Entry) -> str:
    """Why an entry is not in the track; "" when it is."""
    if one.device != track.device:
        return f"ran on the {one.device}, the track is for the {track.device}"
    if one.accuracy < track.level - 1e-12:  # the level is a difference, and rounded
        return f"scores {one.accuracy:.4f}, the track asks for {track.level:.4f}"
    return ""
