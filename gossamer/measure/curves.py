"""Curves of cost and quality: what a model that can run at several speeds is worth.

A compressed model is seldom one point; early exits, token skipping and searches give one for each setting.  Here are
the Pareto front; the hypervolume under it (Zitzler and Thiele, IEEE Transactions on Evolutionary Computation 1999); the
mean metric over log cost; the cost at which a metric is reached; and the ELUE score of "Towards Efficient NLP: A
Standard Evaluation and A Strong Baseline" (Liu et al., NAACL 2022), against any baseline's curve.

Of cost, in any one unit (multiply-accumulates, milliseconds, bytes, joules), less is better; of the metric, more.
Between two points a curve is taken to be straight, as ELUE takes it.  That is an assumption, not a measurement: what
was measured is said beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np


@dataclass(frozen=True)
class Point:
    """A model, or one setting of it: what it costs (over 0) and how well it does."""

    cost: float
    metric: float
    name: str = ""


@dataclass(frozen=True)
class Saving:
    """The least cost at which the metric stays at least `metric`, and what that saves.

    cost: along the front, interpolated.  share: 1 - cost / the baseline's; below 0, it costs more.  times: the
    baseline's cost / cost.  measured: the cheapest point that was measured and does it.
    """

    metric: float
    cost: float
    share: float
    times: float
    measured: Point


@dataclass(frozen=True)
class Elue:
    """The mean of `gains`, each submitted point's metric less the baseline's at the same cost.

    clamped: how many points cost less or more than every baseline point; they were held against its nearest end, and
    say less than the others.
    """

    score: float
    points: int
    clamped: int
    gains: tuple[float, ...]


def front(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points that no other beats, from the cheapest on: both cost and metric strictly rise.

    One point beats another that costs no less and does no better.  Of points equal in both, the first given stays.
    Raises ValueError when there are no points, or when one's cost or metric is not a number of its range.
    """
    kept: list[Point] = []
    for point in sorted(_sound(points), key=lambda one: (one.cost, -one.metric)):  # stable: equals as given
        if not kept or point.metric > kept[-1].metric:
            kept.append(point)
    return tuple(kept)


def hypervolume(points: Sequence[Point], cost_max: float, metric_min: float) -> float:
    """The area that the points beat, up to the reference (cost_max, metric_min), in units of cost times metric.

    Points that the reference beats add nothing.  Both figures must be the same for all that is compared.
    Raises ValueError as `front` does, and for a reference that is not finite.
    """
    if not (isfinite(cost_max) and isfinite(metric_min)):
        raise ValueError(f"a reference of cost {cost_max} and metric {metric_min}: expected finite numbers")
    area, floor = 0.0, metric_min
    for point in front(points):
        if point.cost < cost_max and point.metric > floor:
            area += (cost_max - point.cost) * (point.metric - floor)  # the strip between the last metric and this one
            floor = point.metric
    return area


def area_over_log_cost(points: Sequence[Point], costs: tuple[float, float] | None = None) -> float:
    """The mean metric over the logarithm of cost, along the front: the area under it / the log-cost range.

    costs: from which cost to which, by default from the front's cheapest point to its dearest; of a single cost, the
    metric there.  Only areas over the same costs compare.  Between points the metric is straight in log cost; beyond
    the dearest the best stays the best, for nobody must spend more.  The unit of cost cancels.
    Raises ValueError as `front` does, and for costs that are out of order or under the cheapest point's, where there is
    nothing to average.
    """
    best = front(points)
    low, high = costs if costs is not None else (best[0].cost, best[-1].cost)
    if not (0 < low <= high and isfinite(high)):
        raise ValueError(f"costs from {low} to {high}: expected two finite costs over 0, the lower one first")
    if low < best[0].cost:
        raise ValueError(
            f"costs from {low}: the cheapest point costs {best[0].cost}, and no metric is known below it; "
            f"expected costs from {best[0].cost} on"
        )
    at, (first, last) = np.log([one.cost for one in best]), np.log([low, high])
    x = np.array([first, *at[(first < at) & (at < last)], last])
    y = np.interp(x, at, [one.metric for one in best])
    return float(np.trapezoid(y, x) / (last - first)) if first < last else float(y[-1])


def cost_at(points: Sequence[Point], metric: float) -> float | None:
    """The least cost at which the front reaches the metric, interpolated; None where it never does.

    Where even the cheapest point does better, its cost: nothing is guessed below what was measured.
    Raises ValueError as `front` does.
    """
    best = front(points)
    if not metric <= best[-1].metric:
        return None
    return float(np.interp(metric, [one.metric for one in best], [one.cost for one in best]))


def saving(points: Sequence[Point], baseline: Point, *, drop: float) -> Saving | None:
    """The largest saving of cost that loses at most `drop` of the baseline's metric; None where no point keeps it.

    drop: in the metric's own unit (one point is 1 of a percentage, 0.01 of a share); 0 asks for an equal metric.
    Raises ValueError as `front` does, and for a negative drop.
    """
    if not (isfinite(drop) and drop >= 0):
        raise ValueError(f"a drop of {drop}: expected at least 0, in the metric's unit")
    _sound([baseline])
    least = baseline.metric - drop
    cost = cost_at(points, least)
    if cost is None:
        return None
    measured = next(one for one in front(points) if one.metric >= least)
    return Saving(least, cost, 1 - cost / baseline.cost, baseline.cost / cost, measured)


def elue(points: Sequence[Point], baseline: Sequence[Point]) -> Elue:
    """The ELUE score: (1 / n) sum_k [metric_k - baseline(cost_k)].

    points: all that were submitted, beaten ones too.  baseline: its curve, one point per exit or size in any order,
    straight between them and held at its ends outside (where ELUE says nothing; `clamped` counts those).
    Raises ValueError as `front` does, and for a baseline that has two metrics at one cost.
    """
    submitted = _sound(points)
    curve: dict[float, float] = {}
    for one in sorted(_sound(baseline), key=lambda one: one.cost):
        if curve.setdefault(one.cost, one.metric) != one.metric:
            raise ValueError(
                f"the baseline has metrics {curve[one.cost]} and {one.metric} at cost {one.cost}: expected one; "
                "front(baseline) keeps the better"
            )
    costs, metrics = list(curve), list(curve.values())
    gains = [one.metric - float(np.interp(one.cost, costs, metrics)) for one in submitted]
    clamped = sum(not costs[0] <= one.cost <= costs[-1] for one in submitted)
    return Elue(float(np.mean(gains)), len(gains), clamped, tuple(gains))


def _sound(points: Sequence[Point]) -> Sequence[Point]:
    if not len(points):
        raise ValueError("no points; expected at least one cost and metric")
    for one in points:
        if not (isfinite(one.cost) and one.cost > 0 and isfinite(one.metric)):
            raise ValueError(
                f"point {one.name!r} of cost {one.cost} and metric {one.metric}: "
                "expected a cost over 0, and finite numbers"
            )
    return points
