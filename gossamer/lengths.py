"""Search for how much of a text each layer needs, by evolution over cost and quality.

Section 3.3 of LAT, the Length-Adaptive Transformer (Kim & Cho, ACL 2021).
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from torch import nn

from gossamer.anatomy import blocks
from gossamer.measure.curves import Point, front
from gossamer.measure.formula import layer
from gossamer.walking import order

Lengths = tuple[float, ...]  # of a text's length, what is left after each layer's attention


class Cost:
    """Multiply-accumulates of the layers for texts of some lengths, as a share of what they are when nobody leaves."""

    def __init__(self, model: nn.Module, texts: Sequence[int]) -> None:
        stored = blocks(model)
        self.layers = [stored[i] for i in order(model)]
        self.texts = Counter(texts)
        self.whole = self.sum([1.0] * len(self.layers))

    def sum(self, lengths: Sequence[float]) -> int:
        """Of all texts."""
        total = 0
        for n, times in self.texts.items():
            left = [n, *(math.ceil(share * n - 1e-4) for share in lengths)]
            total += times * sum(map(layer, self.layers, left[:-1], left[1:]))
        return total

    def of(self, lengths: Sequence[float]) -> float:
        """The share."""
        return self.sum(lengths) / self.whole

    def constant(self, drop: float) -> Lengths:
        """The same share leaves in every layer."""
        return tuple((1 - drop) ** (i + 1) for i in range(len(self.layers)))

    def fitting(self, keep: float, most: float) -> Lengths:
        """The constant share that costs just `keep`, by bisection; where `most` leaves, it is no dearer."""
        low, high = 0.0, most
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if self.of(self.constant(middle)) > keep else (low, middle)
        return self.constant(high)


def search(
    cost: Cost,
    quality: Callable[[Lengths], float],
    keep: float,
    drop: float,
    children: int,
    chance: random.Random,
    rounds: Sequence[int] | Iterator[int],
) -> Lengths:
    """The lengths of best quality among those found that cost at most `keep`.

    It begins with shares that leave evenly, up to `drop` in every layer; each round adds so many mutations and as many
    crossovers of those that no other beats in both.
    """
    least, known = cost.constant(drop), dict[Lengths, Point]()

    def ask(lengths: Lengths) -> None:
        if lengths not in known:
            known[lengths] = Point(cost.of(lengths), quality(lengths))

    for lengths in [*(cost.constant(drop * i / 10) for i in range(11)), cost.fitting(keep, drop)]:
        ask(lengths)
    for _ in rounds:
        best = set(front(list(known.values())))
        for child in offspring([one for one in known if known[one] in best], children, chance, least):
            ask(child)
    fits = [one for one in known if known[one].cost <= keep]
    return max(fits, key=lambda one: (known[one].metric, -known[one].cost))


def offspring(best: Sequence[Lengths], count: int, chance: random.Random, least: Lengths) -> Iterator[Lengths]:
    """As many mutations and as many crossovers of what is best."""
    for _ in range(count):
        parent = list(chance.choice(best))
        for i in range(len(parent)):
            if chance.random() < 0.5:
                below = parent[i + 1] if i + 1 < len(parent) else least[i]
                above = parent[i - 1] if i else 1.0
                parent[i] = round(chance.uniform(max(least[i], below), above), 4)
        yield tuple(parent)
    for _ in range(count):
        one, two = chance.choice(best), chance.choice(best)
        yield tuple(round((a + b) / 2, 4) for a, b in zip(one, two, strict=True))
