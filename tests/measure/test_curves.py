import json
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossamer.measure.curves import Point, area_over_log_cost, cost_at, elue, front, hypervolume, saving

# whole numbers, so that a grid of unit cells measures areas exactly
whole = st.builds(Point, st.integers(1, 12), st.integers(-3, 12))
# with steps, as reports have: points a rounding error apart may tie or not once they are shifted
real = st.builds(
    Point, st.integers(1, 10**6).map(lambda i: i / 100), st.integers(-(10**5), 10**5).map(lambda i: i / 1000)
)
curves = st.lists(whole, min_size=1, max_size=8)
real_curves = st.lists(real, min_size=1, max_size=8)
baselines = st.lists(real, min_size=1, max_size=8, unique_by=lambda one: one.cost)
THREE = (Point(1, 70, "small"), Point(2, 80, "middle"), Point(4, 84, "large"))


def beats(one, other):
    return (
        one.cost <= other.cost and one.metric >= other.metric and (one.cost, one.metric) != (other.cost, other.metric)
    )


@given(curves)
def test_the_front_is_what_nothing_beats(points):
    best = front(points)
    unbeaten = {(p.cost, p.metric) for p in points if not any(beats(other, p) for other in points)}
    assert [(p.cost, p.metric) for p in best] == sorted(unbeaten)
    assert all(one.metric < other.metric for one, other in pairwise(best))
    assert front(best) == best


def test_of_ties_the_better_and_of_equals_the_first_stays():
    points = [
        Point(2, 1, "late"),
        Point(1, 1, "a"),
        Point(1, 1, "b"),
        Point(1, 0),
        Point(3, 2, "worse"),
        Point(3, 5, "c"),
    ]
    assert [p.name for p in front(points)] == ["a", "c"]


@given(curves, st.integers(1, 14), st.integers(-5, 10))
def test_hypervolume_is_the_grids(points, cost_max, metric_min):
    cells = sum(
        any(p.cost <= x and p.metric >= y + 1 for p in points) for x in range(cost_max) for y in range(metric_min, 13)
    )
    assert hypervolume(points, cost_max, metric_min) == pytest.approx(cells, abs=1e-9)


@given(real_curves, real)
def test_hypervolume_never_falls_with_another_point(points, another):
    before = hypervolume(points, 2e4, -200)
    assert hypervolume([*points, another], 2e4, -200) >= before - 1e-6
    assert before > 0


@given(real_curves, st.data())
def test_a_beaten_point_changes_nothing(points, data):
    above = data.draw(st.sampled_from(points))
    beaten = Point(above.cost + data.draw(st.floats(0, 1e3)), above.metric - data.draw(st.floats(0, 50)), "beaten")
    more = [*points, beaten]
    assert front(more) == front(points)
    assert hypervolume(more, 1e4, -100) == hypervolume(points, 1e4, -100)
    assert area_over_log_cost(more) == area_over_log_cost(points)
    assert cost_at(more, above.metric) == cost_at(points, above.metric)
    assert saving(more, above, drop=1) == saving(points, above, drop=1)


def test_areas_worked_by_hand():
    assert hypervolume(THREE, 5, 60) == 4 * 10 + 3 * 10 + 1 * 4
    assert area_over_log_cost(THREE) == pytest.approx((75 + 82) / 2)  # both doublings weigh the same
    assert area_over_log_cost(THREE, (1, 8)) == pytest.approx((75 + 82 + 84) / 3)
    assert area_over_log_cost(THREE, (2, 4)) == pytest.approx(82)
    assert area_over_log_cost(THREE, (2, 2)) == 80
    assert area_over_log_cost(THREE[:1]) == 70


@settings(deadline=None)
@given(real_curves, st.floats(0, 1))
def test_the_area_is_quadratures(points, part):
    integrate = pytest.importorskip("scipy.integrate")
    best = front(points)
    logs, metrics = np.log([p.cost for p in best]), [p.metric for p in best]
    low, high = best[0].cost * (1 + part), best[-1].cost * 4
    ends = np.log([low, high])
    inner = [x for x in logs if ends[0] < x < ends[1]]
    whole, _ = integrate.quad(lambda x: np.interp(x, logs, metrics), *ends, points=inner or None, limit=200)
    assert area_over_log_cost(points, (low, high)) == pytest.approx(whole / (ends[1] - ends[0]), abs=1e-6)


@given(real_curves, st.floats(0.01, 100), st.floats(-50, 50))
def test_the_unit_of_cost_cancels_and_the_metric_shifts_through(points, unit, shift):
    area = area_over_log_cost(points)
    assert area_over_log_cost([replace(p, cost=p.cost * unit) for p in front(points)]) == pytest.approx(area, abs=1e-4)
    assert area_over_log_cost([replace(p, metric=p.metric + shift) for p in front(points)]) == pytest.approx(
        area + shift, abs=1e-6
    )
    best = front(points)
    assert best[0].metric - 1e-9 <= area <= best[-1].metric + 1e-9


def test_costs_are_interpolated_and_never_guessed_below_what_was_measured():
    assert cost_at(THREE, 75) == pytest.approx(1.5)
    assert cost_at(THREE, 82) == pytest.approx(3)
    assert cost_at(THREE, 84) == 4
    assert cost_at(THREE, 84.1) is None
    assert cost_at(THREE, 10) == 1
    assert cost_at(THREE, float("nan")) is None


def test_a_saving_worked_by_hand():
    base = Point(8, 85, "teacher")
    found = saving(THREE, base, drop=3)
    assert (found.metric, found.cost, found.share, found.times) == (82, 3, 1 - 3 / 8, pytest.approx(8 / 3))
    assert found.measured.name == "large"  # what the line promises at 3, only 4 has shown
    assert saving(THREE, base, drop=0) is None
    assert saving([*THREE, base], base, drop=0).share == 0
    assert saving([Point(16, 90)], base, drop=0).share == -1  # better, and twice the cost
    json.dumps(asdict(found), allow_nan=False)


@given(real_curves, real, st.floats(0, 50), st.floats(0, 50))
def test_a_larger_drop_saves_no_less(points, base, drop, more):
    tight, loose = saving(points, base, drop=drop), saving(points, base, drop=drop + more)
    if tight is not None:
        assert loose.share >= tight.share - 1e-9
        assert tight.cost <= tight.measured.cost * (1 + 1e-9) and tight.measured.metric >= tight.metric


@given(baselines)
def test_the_baselines_own_points_score_nothing(baseline):
    found = elue(baseline[::-1], baseline)
    assert (found.score, found.clamped, found.points) == (0, 0, len(baseline))


@given(real_curves, baselines)
def test_one_more_everywhere_scores_one_more(points, baseline):
    before = elue(points, baseline)
    after = elue([replace(p, metric=p.metric + 1) for p in points], baseline)
    assert after.score == pytest.approx(before.score + 1, abs=1e-9)
    raised = elue(points, [replace(p, metric=p.metric + 1) for p in baseline])
    assert raised.score == pytest.approx(before.score - 1, abs=1e-6)
    assert before.score == pytest.approx(sum(before.gains) / before.points, abs=1e-9)


@given(baselines, st.data())
def test_elue_is_the_line_between_two_points_by_hand(baseline, data):
    ordered = sorted(baseline, key=lambda p: p.cost)
    cost = data.draw(st.floats(0.005, 2e4))
    under = [p for p in ordered if p.cost <= cost]
    over = [p for p in ordered if p.cost >= cost]
    if not under or not over:
        expected, outside = (over or under[::-1])[0].metric, 1
    elif under[-1].cost == over[0].cost:
        expected, outside = over[0].metric, 0
    else:
        (a, b), outside = (under[-1], over[0]), 0
        share = (cost - a.cost) / (b.cost - a.cost)
        expected = a.metric * (1 - share) + b.metric * share
    found = elue([Point(cost, 0)], baseline)
    assert (-found.score, found.clamped) == (pytest.approx(expected, abs=1e-6), outside)


def test_elue_worked_by_hand_and_points_outside_are_flagged():
    found = elue([Point(1.5, 76), Point(3, 80), Point(0.5, 71), Point(9, 85)], THREE)
    assert found.gains == pytest.approx((1, -2, 1, 1))
    assert (found.score, found.clamped, found.points) == (pytest.approx(0.25), 2, 4)
    assert elue([Point(2, 79)], [THREE[2], THREE[0], THREE[1], THREE[1]]).score == -1  # any order, said twice


def test_what_is_no_curve_is_refused():
    for ask in (front, area_over_log_cost, lambda x: elue(x, THREE), lambda x: elue(THREE, x)):
        with pytest.raises(ValueError, match="no points; expected at least one"):
            ask([])
        with pytest.raises(ValueError, match=r"point 'free' of cost 0 and metric 1: expected a cost over 0"):
            ask([Point(0, 1, "free")])
        with pytest.raises(ValueError, match="metric nan"):
            ask([Point(1, float("nan"))])
    with pytest.raises(ValueError, match="reference of cost inf"):
        hypervolume(THREE, float("inf"), 0)
    with pytest.raises(ValueError, match=r"costs from 0\.5: the cheapest point costs 1.*from 1 on"):
        area_over_log_cost(THREE, (0.5, 4))
    for costs in ((4, 2), (0, 2), (1, float("inf")), (float("nan"), 2)):
        with pytest.raises(ValueError, match="expected two finite costs over 0"):
            area_over_log_cost(THREE, costs)
    with pytest.raises(ValueError, match="a drop of -1: expected at least 0"):
        saving(THREE, THREE[0], drop=-1)
    with pytest.raises(ValueError, match="of cost -8"):
        saving(THREE, Point(-8, 85), drop=0)
    with pytest.raises(ValueError, match=r"metrics 80 and 81 at cost 2: expected one; front\(baseline\)"):
        elue(THREE, [*THREE, Point(2, 81)])
