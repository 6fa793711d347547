from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.measure.sample import chosen, spread
from gossamer.measure.time import (
    Clock,
    Lap,
    Schedule,
    Speed,
    Work,
    faster,
    faster_interval,
    interleave,
    intervals,
    quantile,
    ratio,
    speeds,
)

TEXTS = [f"text {i}" for i in range(10)]


class Hands:
    """A clock that moves when it is told to."""

    def __init__(self):
        self.now = self.busy = 0.0

    def pass_(self, wall, cpu=None):
        self.now += wall
        self.busy += wall if cpu is None else cpu

    @property
    def clock(self):
        return Clock(lambda: self.now, lambda: self.busy)


class Paced:
    """A predictor that takes so long per text; it writes down what it was asked."""

    def __init__(self, hands, seconds, cpu=None, breaks_at=None, log=None, name=""):
        self.hands, self.seconds, self.cpu, self.breaks_at = hands, seconds, cpu, breaks_at
        self.calls, self.log, self.name = [], log if log is not None else [], name

    def logits(self, texts, pairs=None, batch_size=32):
        self.calls.append((list(texts), pairs, batch_size))
        self.log.append(self.name)
        if self.breaks_at is not None and len(self.calls) > self.breaks_at:
            raise RuntimeError("worn out")
        self.hands.pass_(self.seconds * len(texts), None if self.cpu is None else self.cpu * len(texts))


def test_steady_predictors_are_timed_exactly():
    hands = Hands()
    predictors = {"slow": Paced(hands, 0.010, cpu=0.020), "fast": Paced(hands, 0.002)}
    schedule = Schedule(batch_size=4, singles=30, burst=10, pool=8, rounds=3)
    found = speeds(predictors, TEXTS, schedule=schedule, clock=hands.clock)
    slow = found["slow"].summary()
    same = {"p50": 10, "p50_low": 10, "p50_high": 10, "p99": 10, "p99_low": 10, "p99_high": 10}
    assert slow["latency_ms"] == pytest.approx(same)
    assert slow["throughput_interval"] == pytest.approx({"low": 100, "high": 100})
    assert slow["throughput_per_s"] == pytest.approx(100)
    spread = slow["timed"].pop("latency_quantiles_ms")
    assert slow["timed"] == {"singles": 30, "passes": 3} and spread == pytest.approx([10] * 21)
    assert slow["cpu"]["latency_ms"] == pytest.approx(dict.fromkeys(same, 20))
    assert slow["cpu"]["throughput_per_s"] == pytest.approx(50)
    assert faster(found["slow"], found["fast"]) == pytest.approx(
        {"latency": 5, "throughput": 5, "latency_cpu": 10, "throughput_cpu": 10}
    )
    ends = faster_interval(found["slow"], found["fast"])
    assert ends["latency"] == pytest.approx({"low": 5, "high": 5})
    assert ends["throughput_cpu"] == pytest.approx({"low": 10, "high": 10})
    assert {len(one.singles) for one in found.values()} == {30}
    assert {len(one.passes) for one in found.values()} == {3}


def test_all_answer_the_same_texts_alone_and_in_batches():
    hands = Hands()
    predictors = {name: Paced(hands, 1) for name in "ab"}
    speeds(predictors, TEXTS, [f"{text}?" for text in TEXTS], Schedule(4, 5, 2, 6, 2, 1), hands.clock)
    assert predictors["a"].calls == predictors["b"].calls
    alone = [texts for texts, pairs, size in predictors["a"].calls if size == 1]
    assert all(len(texts) == 1 for texts in alone)
    assert [texts[0] for texts in alone] == [f"text {i}" for i in (0, 0, 0, 2, 0, 4, 6, 0, 8)]  # 0: warm-up, settling
    many = [(texts, pairs) for texts, pairs, size in predictors["a"].calls if size == 4]
    assert [len(texts) for texts, _ in many] == [4, 4, 6, 4, 6]
    assert all(pairs == [f"{text}?" for text in texts] for texts, pairs in many)


def test_turns_alternate_and_so_does_who_begins():
    hands, log = Hands(), []
    works = {name: Work(lambda i, name=name: log.append(f"{name}{i}"), lambda: None) for name in "abc"}
    interleave(works, 4, 1, Schedule(warmup=0), hands.clock)
    assert " ".join(log) == "a0 b0 c0 b1 c1 a1 c2 a2 b2 a3 b3 c3"


def test_one_that_fails_does_not_cost_the_others():
    hands = Hands()
    predictors = {
        "good": Paced(hands, 0.01),
        "never": Paced(hands, 1, breaks_at=0),
        "later": Paced(hands, 1, breaks_at=20),
    }
    found = speeds(predictors, TEXTS, schedule=Schedule(singles=30, rounds=3, warmup=1), clock=hands.clock)
    assert found["good"].failed == {} and len(found["good"].singles) == 30
    for name in ("never", "later"):
        assert found[name].failed == dict.fromkeys(("latency", "throughput"), "RuntimeError: worn out")
        assert found[name].singles == found[name].passes == ()
        summary = found[name].summary()
        assert summary["latency_ms"] is summary["throughput_per_s"] is summary["cpu"]["latency_ms"] is None
        assert set(faster(found["good"], found[name]).values()) == {None}


def test_ctrl_c_is_not_a_failure():
    def stop(i):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interleave({"a": Work(stop, lambda: None)}, 3, 1, Schedule(), Hands().clock)


def test_time_is_limited_but_three_rounds_run():
    hands = Hands()
    work = Work(lambda i: hands.pass_(40), lambda: None)
    assert len(interleave({"a": work}, 50, 1, Schedule(seconds=100), hands.clock)[0]["a"]) == 3
    assert len(interleave({"a": work}, 50, 1, Schedule(seconds=300), hands.clock)[0]["a"]) == 8
    two = interleave({"a": work, "b": work}, 50, 5, Schedule(seconds=100), hands.clock)[0]
    assert len(two["a"]) == len(two["b"]) == 15  # rounds end together


def test_the_ratio_is_of_pairs_not_of_medians():
    """A machine that slows to a third in the middle of the run slows both."""
    weather = [1, 1, 3, 3, 3]
    slow, fast = [[Lap(work * w, work * w) for w in weather] for work in (0.008, 0.002)]
    assert ratio(slow, fast, "wall") == pytest.approx(4)
    assert ratio(slow, [], "wall") is None


@given(st.lists(st.floats(1e-6, 1e3), min_size=1))
def test_summary_is_ordered(values):
    speed = Speed(tuple(Lap(v, v) for v in values), tuple(Lap(v, v) for v in values), 7)
    summary = speed.summary()
    assert 1e3 * min(values) <= summary["latency_ms"]["p50"] * (1 + 1e-9)
    assert summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"] * (1 + 1e-9) <= 1e3 * max(values) * (1 + 1e-8)
    assert summary["throughput_per_s"] == pytest.approx(7 / quantile(values, 50))


@given(st.integers(1, 100), st.integers(1, 100))
def test_a_spread_sample(n, k):
    rows = spread(n, k)
    assert len(rows) == k and set(rows) <= set(range(n))
    if k <= n:
        assert rows == sorted(set(rows)) and rows[0] == 0
        gaps = {b - a for a, b in product(rows, rows) if b > a and not any(a < r < b for r in rows)}
        assert max(gaps, default=0) - min(gaps, default=0) <= 1


def test_chosen_rows_keep_their_pairs():
    assert chosen("abc", None, [2, 0]) == (["c", "a"], None)
    assert chosen("abc", "xyz", [1]) == (["b"], ["y"])


def test_a_schedule_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"Schedule\(rounds=0\): expected at least 1"):
        Schedule(rounds=0)


def test_garbage_collection_is_left_as_it_was():
    import gc

    seen = []
    work = Work(lambda i: seen.append(gc.isenabled()), lambda: None)
    interleave({"a": work}, 1, 1, Schedule(), Hands().clock)
    assert seen == [False] and gc.isenabled()


def laps(*seconds):
    return tuple(Lap(s, s) for s in seconds)


def test_intervals_hold_what_they_are_of_and_a_few_rounds_span_all_of_them():
    singles = laps(*(0.01 * (1 + i % 5) for i in range(200)))
    speed = Speed(singles, laps(1.0, 1.5, 2.0, 2.5, 3.0), 60, burst=10)
    found = speed.summary()
    assert found["throughput_per_s"] == 30 and found["throughput_interval"] == pytest.approx({"low": 20, "high": 60})
    latency = found["latency_ms"]
    assert latency["p50_low"] <= latency["p50"] <= latency["p50_high"] <= latency["p99_high"] <= 50 * (1 + 1e-9)
    assert set(found["cpu"]) == {"latency_ms", "throughput_per_s", "throughput_interval"}


def test_the_interval_of_a_ratio_is_of_pairs_and_knows_no_weather():
    weather = [1, 1, 3, 3, 3, 9]
    slow, fast = (Speed(laps(*(work * w for w in weather)), laps(*(work * w for w in weather)), 8) for work in (4, 1))
    assert all(ends == pytest.approx({"low": 4, "high": 4}) for ends in faster_interval(slow, fast).values())
    assert slow.summary()["throughput_interval"]["low"] < slow.summary()["throughput_interval"]["high"]


def test_two_rounds_have_no_interval():
    speed = Speed(laps(1, 2), laps(1, 2), 8)
    assert speed.summary()["throughput_interval"] is None and speed.summary()["latency_ms"]["p50_low"] is None
    assert set(faster_interval(speed, speed).values()) == {None} and intervals([], 1, (50,)) is None


def test_rounds_not_laps_are_drawn():
    """Ten laps of a round that share its weather say no more than one of them."""
    rounds = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    once = intervals(rounds, 1, (50,))
    often = intervals([value for value in rounds for _ in range(10)], 10, (50,))
    assert often[0] == pytest.approx(once[0], abs=0.5)
    as_if_independent = intervals([value for value in rounds for _ in range(10)], 1, (50,))
    assert as_if_independent[0]["high"] - as_if_independent[0]["low"] < often[0]["high"] - often[0]["low"]


@given(st.lists(st.floats(1e-3, 1e3), min_size=7, max_size=7), st.integers(1, 2))
def test_an_interval_holds_its_figure_even_with_a_short_last_round(values, burst):
    for percent, ends in zip((50, 99), intervals(values, burst, (50, 99)), strict=True):
        assert ends["low"] <= quantile(values, percent) <= ends["high"]


def test_the_interval_of_a_median_covers_it_about_as_often_as_it_says():
    import numpy as np

    chance, inside = np.random.default_rng(1), 0
    for _ in range(200):
        ends = intervals(chance.normal(10, 1, 15).tolist(), 1, (50,))[0]
        inside += ends["low"] <= 10 <= ends["high"]
    assert 0.9 <= inside / 200 <= 1
