"""The gate: bounds met and missed, figures that could not be had, and what was not asked."""

from typing import Any

import pytest

from gossamer.promise import Criterion, Promise, check, judge

BASE = {"model": "t", "quality": {"value": 0.85, "metric": "accuracy"}, "bytes": 100, "macs": 50, "errors": {}}
ONE = {
    "model": "s", "quality": {"value": 0.84, "metric": "accuracy"}, "bytes": 20, "macs": 25, "errors": {},
    "faster": {"throughput": 4.0, "latency": 3.0, "throughput_cpu": 5.0, "latency_cpu": 2.0},
    "label_loyalty": 0.95, "probability_loyalty": 0.9, "latency_ms": {"p50": 2.0, "p99": 9.0},
}  # fmt: skip


def found(promise: Promise, one: Any = ONE, base: Any = BASE) -> dict[str, Criterion]:
    return {c.name: c for c in judge({"baseline": base, "compressed": one}, promise)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_drop", 1.0), ("min_quality", 0.84), ("min_speedup", 4.0), ("min_latency_speedup", 3.0),
        ("min_smaller", 5.0), ("min_fewer_macs", 2.0), ("min_label_loyalty", 0.95), ("min_probability_loyalty", 0.9),
        ("max_latency_ms", 2.0),
        ("max_bytes", 20),
    ],
)  # fmt: skip
def test_each_bound_is_met_at_its_value_and_missed_beyond(name: str, value: float) -> None:
    worse = -0.01 if name.startswith("max") else 0.01
    at, beyond = found(Promise(**{name: value}))[name], found(Promise(**{name: value + worse}))[name]
    assert at.met and at.found == pytest.approx(value) and not beyond.met
    assert str(at).startswith("pass  ") and str(beyond).startswith("FAIL  ")
    assert f"{name}: {value:.4g}, expected {'<=' if worse < 0 else '>='}" in str(at)


def test_cpu_time_is_another_ratio() -> None:
    assert found(Promise(min_speedup=4.5, cpu=True))["min_speedup"].met
    assert not found(Promise(min_latency_speedup=2.5, cpu=True))["min_latency_speedup"].met


def test_a_figure_that_could_not_be_had_is_not_met_and_says_why() -> None:
    broken = {**ONE, "quality": None, "faster": None, "errors": {"quality": "ValueError: nan", "throughput": "slow"}}
    criteria = found(Promise(max_drop=1.0, min_speedup=2.0, min_smaller=2.0), broken)
    assert [c.met for c in criteria.values()] == [False, False, True]
    assert str(criteria["max_drop"]) == "FAIL  max_drop: not measured, expected <= 1 (ValueError: nan)"
    assert criteria["min_speedup"].why == "slow"


def test_a_comparison_needs_a_baseline_and_a_promise_something_to_ask() -> None:
    with pytest.raises(
        ValueError, match="max_drop compares with a baseline, and there is none; name one with --baseline"
    ):
        judge({"baseline": None, "compressed": ONE}, Promise(max_drop=1.0, max_bytes=5))
    assert judge({"baseline": None, "compressed": ONE}, Promise(max_bytes=50))[0].met
    with pytest.raises(ValueError, match=r"no criterion; type one or more, as in --max-drop 1.0 --min-speedup 2"):
        check("nowhere", Promise(), data="nothing")


def test_only_what_is_asked_is_measured_and_a_missing_baseline_costs_no_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gossamer import measure as package

    seen: list[Any] = []

    def measure(artefact: Any, **words: Any) -> Any:
        seen.append(words)
        return {"baseline": BASE, "compressed": ONE}

    monkeypatch.setattr(package, "measure", measure)
    with pytest.raises(ValueError, match="max_drop compares with a baseline"):
        check("nowhere", Promise(max_drop=1.0), data="d")
    assert not seen
    criteria = check("nowhere", Promise(max_drop=1.0, min_smaller=2.0), data="d", baseline="t")
    assert [c.met for c in criteria] == [True, True]
    assert seen == [{"data": "d", "baseline": "t", "only": ["quality", "size"]}]


@pytest.mark.parametrize(
    ("criterion", "said"),
    [
        (Criterion("min_speedup", 2.0, 1.99996, False), "min_speedup: 1.99996, expected >= 2"),
        (Criterion("min_speedup", 2.0, 2.3456789, True), "min_speedup: 2.346, expected >= 2"),
        (Criterion("max_bytes", 20_000_000, 20_000_400, False), "max_bytes: 20000400, expected <= 20000000"),
        (Criterion("max_bytes", 18_612_345, 18_600_001, True), "max_bytes: 18600001, expected <= 18612345"),
        (Criterion("min_label_loyalty", 0.95, 0.949996, False), "0.949996, expected >= 0.95"),
        (Criterion("max_drop", 1.0, 1.0000000000000002, False), "max_drop: 1.0000000000000002, expected <= 1"),
    ],
)
def test_a_line_shows_why_it_fails(criterion: Criterion, said: str) -> None:
    assert said in str(criterion)


def test_a_baseline_without_answers_is_why_there_is_no_loyalty() -> None:
    one = {**ONE, "label_loyalty": None, "errors": {"comparison": "the baseline gave no answers"}}
    base = {**BASE, "quality": None, "errors": {"open": "OSError: gone"}}
    missed = found(Promise(min_label_loyalty=0.9), one, base)["min_label_loyalty"]
    assert not missed.met and missed.why == "the baseline gave no answers: OSError: gone"
    worn = {**BASE, "errors": {"quality": "RuntimeError: worn out"}}
    assert (
        "worn out"
        in found(Promise(min_probability_loyalty=0.9), {**one, "probability_loyalty": None}, worn)[
            "min_probability_loyalty"
        ].why
    )


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_no_number_is_not_measured(value: float) -> None:
    one = {**ONE, "quality": {"value": value, "metric": "perplexity", "better": "lower"}}
    missed = found(Promise(max_drop=5.0), one)["max_drop"]
    assert missed.found is None and not missed.met and "in quality.value, expected a finite number" in missed.why


@pytest.mark.parametrize("side", ["baseline", "compressed"])
def test_what_cannot_be_opened_is_a_wrong_input_and_no_broken_promise(
    monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    from gossamer import measure as package

    report = {"baseline": BASE, "compressed": ONE} | {side: {**BASE, "errors": {"open": "OSError: no folder"}}}
    monkeypatch.setattr(package, "measure", lambda artefact, **words: report)
    with pytest.raises(ValueError, match="cannot be measured: OSError: no folder"):
        check("s", Promise(min_smaller=2.0), data="d", baseline="t")
