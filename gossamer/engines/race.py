"""Engines against each other on the same texts, within seconds.

As in gossamer.measure.time they take turns, since a machine drifts and others use it: each round asks every engine for
the same texts, who goes first changes from round to round, and a first call that is not timed lets the threads of the
one before come to rest.  Tokenizing is left out: it is the same for all, and runs ahead of the engine where it can.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from math import exp, inf, log
from pathlib import Path
from statistics import NormalDist, fmean, median
from typing import Any, TypeVar

import numpy as np

from gossamer.engines.predictor import Predictor
from gossamer.engines.stream import CHARACTERS, Row
from gossamer.engines.texts import facts, reader

SINGLES = 5  # texts of a round that are asked one by one
WARM = 8  # texts of the first batch, which is not timed: packed graphs are opened, memory is laid out
LEAST, MOST = 64, 256  # texts of a race, more where a batch is larger
LOOK = 10_000  # texts of a file, among which those that are timed are chosen evenly
MIDDLE, MEAN = 20, 24  # tokens of texts that nobody has shown: the median and the mean of a lognormal distribution
WORDS = (
    *("it", "was", "the", "best", "of", "times", "and", "a", "man", "in", "his", "house", "said", "that", "she", "had"),
    *("not", "for", "long", "with", "but", "this", "film", "is", "good", "they", "were", "on", "to", "one", "work"),
)

Tell = Callable[[float], object]
Done = TypeVar("Done")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Limits:
    """How long a race may be.

    seconds: after so many no round begins but the first; warming up is not counted.  rounds: at most.  margin: it ends
    after `enough` rounds if the same engine won each of them by at least so much.
    """

    seconds: float = 2.0
    rounds: int = 12
    enough: int = 3
    margin: float = 1.3


@dataclass(frozen=True)
class Sample:
    """Texts to be timed, and how they came about in words.  lengths: their tokens."""

    texts: list[str]
    pairs: list[str] | None
    lengths: tuple[int, ...]
    origin: str

    def __str__(self) -> str:
        return f"{self.origin}, {fmean(self.lengths):.0f} tokens on average, {max(self.lengths)} at most"


@dataclass
class Race:
    """What was timed.

    laps: by engine and batch size, of each round the seconds of each call; lap i of two engines is the same work in the
    same round.  failed: why an engine left, by its name.
    """

    laps: dict[str, dict[int, list[list[float]]]]
    failed: dict[str, str] = field(default_factory=dict)

    def attempt(self, name: str, work: Callable[..., Done], *given: Any) -> Done | None:
        """What an engine's work gives; where it fails, or one before it did, None, and the engine leaves."""
        if name in self.failed:
            return None
        try:
            return work(*given)
        except Exception as error:  # whatever it is, the others can still run
            self.failed[name] = f"{type(error).__name__}: {error}"
            self.laps.pop(name)
            return None

    def per_second(self, name: str, size: int) -> float:
        """Texts a second, the median round."""
        return median(len(calls) * size / max(sum(calls), 1e-9) for calls in self.laps[name][size])

    def quantile_ms(self, name: str, percent: float) -> float:
        """Milliseconds of a text that is asked alone; `percent` of them take no longer."""
        return 1e3 * float(np.percentile(np.concatenate(self.laps[name][1]), percent))

    def times(self, name: str, other: str, sizes: Iterable[int]) -> list[float]:
        """How many times as long `name` took as `other`, round by round; of batch sizes the geometric mean."""
        mine, its = ([self.laps[one][size] for size in sizes] for one in (name, other))
        return [
            exp(fmean(log(max(sum(a), 1e-9) / max(sum(b), 1e-9)) for a, b in zip(one, two, strict=True)))
            for one, two in zip(zip(*mine, strict=True), zip(*its, strict=True), strict=True)
        ]

    def winner(self, sizes: Iterable[int], among: Iterable[str] | None = None) -> str:
        """Who takes the least time, by the median round; "" where nobody is left."""
        names = [name for name in (self.laps if among is None else among) if name in self.laps]
        return min(names, key=lambda name: median(self.times(name, names[0], tuple(sizes))), default="")

    def clear(self, sizes: Iterable[int], margin: float) -> bool:
        """Whether one of them won every round by `margin`, or nobody else is left; no margin is infinite."""
        first, sizes = self.winner(sizes), tuple(sizes)
        return margin < inf and all(
            min(self.times(name, first, sizes)) >= margin for name in self.laps if name != first
        )


def made_up(predictor: Predictor, size: int, lengths: Sequence[int] | None = None) -> Sample:
    """Words by chance, the same every time, of so many tokens each; enough texts for batches of `size`.

    lengths: in tokens, None for skewed ones such as sentences have.  A pair, where the task needs one, is as long.
    """
    number = _enough(size)
    origin = "made-up texts" if lengths is None else "made-up texts of the lengths that were asked for"
    lengths = _skewed(number) if lengths is None else _again(_evenly(lengths, number), number)
    lengths = [min(length, predictor.facts.max_length) for length in lengths]
    several = 1.0  # tokens of a word: more in the tokenizers of other languages
    for _ in range(2):
        chance = np.random.default_rng(0)
        texts = [" ".join(chance.choice(WORDS, max(1, round((n - 2) / several)))) for n in lengths]
        pairs = list(reversed(texts)) if predictor.task.stride else None
        read = predictor.read(texts, None)[:number] if pairs is None else predictor.read(texts, pairs)
        found = tuple(len(one.ids) for one in read)
        several = max(0.2, (sum(found) - 2 * number) / max(1, sum(text.count(" ") + 1 for text in texts)))
        if pairs is not None:
            break  # what a question leaves of its context is the task's own affair
    return Sample(texts, pairs, found, origin)


def shown(predictor: Predictor, size: int, texts: Sequence[str], pairs: Sequence[str] | None, origin: str) -> Sample:
    """Texts of the user's, evenly chosen and in their order; again from the first where they are few.

    Raises:
        ValueError: there are none.
    """
    if not texts:
        raise ValueError(f"{origin} has no texts, expected some to time engines with")
    number = _enough(size)
    some = _again(_evenly(texts, number), number)
    others = None if pairs is None else _again(_evenly(pairs, number), number)
    return Sample(some, others, tuple(len(one.ids) for one in predictor.read(some, others)), origin)


def read(folder: Path, file: str | Path, text: str = "", pair: str = "") -> tuple[list[str], list[str] | None]:
    """The first texts of a file, as many as tell how long they are, and their pairs if the first one has one.

    text, pair: columns; "": those of the artefact's task.  Raises what gossamer.data.lines raises.
    """
    from gossamer.data import lines

    found = list(_first(lines(file, text=text, pair=pair, task=facts(folder).task.kind, words=True)))
    alone = all(second is None for _, second in found[:1])
    kept = [(first, second or "") for first, second in found if (second is None) == alone]
    return [first for first, _ in kept], None if alone else [second for _, second in kept]


def lengths(folder: Path, file: str | Path, size: int, text: str = "", pair: str = "") -> tuple[int, ...] | None:
    """The tokens of those texts of a file that `shown` would take; None where they cannot be read."""
    try:
        texts, pairs = read(folder, file, text, pair)
        number = _enough(size)
        some, others = _evenly(texts, number), None if pairs is None else _evenly(pairs, number)
        found = reader(folder, facts(folder))(some, others)
        return tuple(_again([len(one.ids) for one in found], number)) or None
    except (ValueError, OSError):  # who reads all of it says why, after the answers before
        return None


def race(
    predictors: Mapping[str, Predictor],
    sample: Sample,
    sizes: Sequence[int],
    limits: Limits = Limits(),
    *,
    clock: Callable[[], float] = time.perf_counter,
    tell: Tell = lambda share: None,
) -> Race:
    """Time all predictors on the same texts at the given batch sizes; one that fails leaves, the others go on.

    clock: seconds.  tell: is told which share is done.
    """
    found, names = Race({name: {size: [] for size in sizes} for name in predictors}), list(predictors)
    for name in names:
        found.attempt(name, _warm, predictors[name], sample, sizes)
    began = clock()
    for number in range(limits.rounds):
        shift = number % max(1, len(names))
        for size in sizes:
            for name in names[shift:] + names[:shift]:
                laps = found.attempt(name, _laps, predictors[name], sample, size, number, clock)
                if laps is not None:
                    found.laps[name][size].append(laps)
        share = max((number + 1) / limits.rounds, (clock() - began) / limits.seconds)
        tell(min(1.0, share))
        if share >= 1 or (number + 1 >= limits.enough and found.clear(sizes, limits.margin)):
            break
    return found


def _warm(predictor: Predictor, sample: Sample, sizes: Sequence[int]) -> None:
    for size in {min(size, WARM) for size in sizes}:
        texts, pairs = sample.texts[:size], sample.pairs and sample.pairs[:size]
        predictor.answers(predictor.read(texts, pairs), texts, pairs, size)


def _laps(predictor: Predictor, sample: Sample, size: int, number: int, clock: Callable[[], float]) -> list[float]:
    laps: list[float] = []
    for rows in _calls(size, number, len(sample.texts)):
        texts, pairs = sample.texts[rows], None if sample.pairs is None else sample.pairs[rows]
        reads = predictor.read(texts, pairs)
        if not laps:
            predictor.answers(reads[:1], texts[:1], pairs and pairs[:1], 1)
        start = clock()
        predictor.answers(reads, texts, pairs, size)
        laps.append(clock() - start)
    return laps


def _calls(size: int, number: int, texts: int) -> list[slice]:
    """Which texts are asked together in a round: one batch, or some texts alone; others in each round, while they last.

    Sizes beyond the number of texts take them all.
    """
    each = min(size, texts)
    calls = SINGLES if size == 1 else 1
    starts = [(number * calls + i) % (texts // each) * each for i in range(calls)]
    return [slice(start, start + each) for start in starts]


def _enough(size: int) -> int:
    """How many texts are timed: different ones in each round, some whole batches."""
    return max(size, min(MOST, max(LEAST, 4 * size)) // size * size)


def _first(rows: Iterable[Row]) -> Iterator[Row]:
    """Up to LOOK of them; fewer where they are long."""
    characters = 0
    for one, two in islice(rows, LOOK):
        yield one, two
        characters += len(one) + len(two or "")
        if characters >= CHARACTERS:
            return


def _again(items: Sequence[Item], number: int) -> list[Item]:
    """So many of them, again from the first where they are few."""
    return list(islice(cycle(items), number))


def _evenly(items: Sequence[Item], number: int) -> list[Item]:
    """At most so many, evenly chosen, in order."""
    few = min(number, len(items))
    return [items[i * len(items) // few] for i in range(few)]


def _skewed(number: int) -> list[int]:
    """Token counts like those of sentences, in no order: MIDDLE in the middle, MEAN on average."""
    spread = (2 * log(MEAN / MIDDLE)) ** 0.5
    normal = [NormalDist().inv_cdf((i + 0.5) / number) for i in range(number)]
    lengths = np.array([max(3, round(MIDDLE * exp(spread * z))) for z in normal])
    return [int(length) for length in np.random.default_rng(0).permutation(lengths)]
