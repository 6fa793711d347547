import io

import pytest
from rich.console import Console

from gossamer.measure.quality import wilson
from gossamer.report import digits, failures, names, percent, points, rows, share, short, show, verdicts


def printed(report, width=140):
    console = Console(file=io.StringIO(), width=width)
    show(report, console)
    return console.file.getvalue()


def line(report, name):
    return next(row for row in rows(report) if row.name.startswith(name))


def test_each_figure_stands_beside_its_baseline(report):
    assert line(report, "accuracy").cells == ("81.4 % [79.9, 82.9]", "81.0 % [79.5, 82.5]")
    assert line(report, "accuracy").against == ("-0.4 points",)
    assert line(report, "parameters").cells == ("22.7 M", "14.0 M")
    assert line(report, "parameters").against == ("1.62x fewer",)
    assert line(report, "bytes to run").cells == ("91.6 MB", "15.2 MB")
    assert line(report, "bytes to run").against == ("6.03x smaller",)
    assert line(report, "parameters without").cells == ("10.6 M", "2.00 M")
    assert line(report, "multiply-accumulates (MACs), mean of 200 inputs").cells == ("271 M", "90.0 M")
    assert line(report, "FLOPs (= 2 MACs)").cells == ("542 M", "180 M")
    assert line(report, "FLOPs").against == line(report, "multiply-acc").against == ("3.01x fewer",)
    assert line(report, "MACs of a text in batches of 32").cells == ("350 M", "100 M")
    assert line(report, "layers run").cells == ("12.0 of 12", "4.80 of 12")
    assert line(report, "latency at batch 1, p50").cells == ("9.21 ms", "0.912 ms")
    assert line(report, "latency at batch 1, p50").against == ("10.1x faster",)  # of pairs, not 9.21 / 0.912
    assert line(report, "latency at batch 1, p99").against == ("10.6x faster",)
    assert line(report, "texts per second at batch 32").against == ("6.25x faster",)
    assert line(report, "label loyalty").cells == ("-", "0.931")


def test_three_speed_ups_stand_below_each_other(report):
    found = {row.name: row.cells[1] for row in rows(report) if row.name.startswith("speed-up")}
    assert found == {
        "speed-up by the clock (CPU time), batch 32": "6.25x (6.00x)",
        "speed-up by MACs": "3.01x",
        "speed-up by layers (and tokens)": "2.50x",
    }
    report["compressed"]["layers"]["token_layers"] = 60.0  # tokens leave as well
    report["compressed"]["speedups"] |= {"token_layers": 5.0, "measured": None}
    assert line(report, "speed-up by layers").cells == ("-", "2.50x (5.00x)")
    assert not any(row.name.startswith("speed-up by the clock") for row in rows(report))


def test_another_seed_stands_beside_what_changed(report):
    drift = {"label_loyalty": 0.931, "probability_loyalty": 0.842, "churn": {"changed": 0.069}}
    seed = {"label_loyalty": 0.949, "probability_loyalty": 0.871, "churn": {"changed": 0.051}}
    report["compressed"]["noise"] = {"student": drift, "reseeded": seed, "beyond": 0.018, "test": {"p": 0.0312}}
    found = line(report, "changed answers : another seed's")
    assert found.cells == ("-", "6.9 % : 5.1 % (McNemar p = 0.031)")
    report["reseeded"] = {"model": "runs/twin", "errors": {"open": "OSError: gone"}}
    assert failures(report) == ["runs/twin: no open: OSError: gone"]


def test_the_table_says_what_is_better(report):
    text = printed(report)
    assert "rotten-tomatoes, 2553 test examples" in text
    assert "baseline" in text and "compressed" in text and "ratio" in text and "onnxruntime" in text
    wanted = (
        "runs/small: 6.03x smaller, 10.1x faster at batch 1, 6.25x faster at batch 32, "
        "accuracy -0.4 points (not paired: its own 95 % interval overlaps the baseline's)."
    )
    assert verdicts(report) == [wanted]
    assert wanted in " ".join(text.split())


def test_what_got_worse_is_said_too(report):
    report["compressed"] |= {"bytes": 183_200_000, "macs": 271_000_000, "layers": None}
    report["compressed"]["faster"]["latency"] = 0.5
    report["compressed"]["quality"] = {"value": 0.7, "metric": "accuracy", "low": 0.68, "high": 0.72}
    assert line(report, "multiply-acc").against == ("same",)
    assert line(report, "layers run").against == ("-",)
    assert verdicts(report)[0].startswith("runs/small: 2.00x larger, 2.00x slower at batch 1, 6.25x faster")
    assert "accuracy -11.4 points (not paired: its own 95 % interval does not overlap" in verdicts(report)[0]


def test_no_change_is_said_as_such(report):
    report["compressed"] |= {"bytes": 91_600_000}
    report["compressed"]["faster"] |= {"latency": 1.001}
    assert verdicts(report)[0].startswith("runs/small: same size, same speed at batch 1, 6.25x faster at batch 32")


def test_without_a_baseline_there_is_no_ratio(report):
    report["baseline"] = None
    for name in ("label_loyalty", "probability_loyalty", "loyalty_base", "faster"):
        del report["compressed"][name]
    assert verdicts(report) == []
    assert line(report, "parameters").cells == ("14.0 M",) and line(report, "parameters").against == ("",)
    assert not any("loyalty" in row.name for row in rows(report))
    assert "ratio" not in printed(report)


def test_several_artefacts_stand_side_by_side(report):
    report["others"] = [report["compressed"] | {"model": "runs/tiny", "bytes": 9_160_000}]
    assert line(report, "bytes to run").cells == ("91.6 MB", "15.2 MB", "9.16 MB")
    assert line(report, "bytes to run").against == ("6.03x smaller", "10.0x smaller")
    assert len(verdicts(report)) == 2 and "runs/tiny" in printed(report, 200)


@pytest.mark.parametrize("side", ["baseline", "compressed"])
def test_a_side_that_failed_leaves_gaps_and_a_reason(report, side):
    kept = ("model", "errors")
    report[side] = {key: value if key in kept else None for key, value in report[side].items()}
    report[side]["errors"] = {"open": "ValueError: no [trained] head"}
    name = report[side]["model"]
    assert failures(report) == [f"{name}: no open: ValueError: no [trained] head"]
    text = printed(report)
    assert "failed" in text and "no [trained] head" in text  # brackets are text, not markup
    assert all("x " not in cell for row in rows(report) for cell in row.against if row.name.startswith("bytes"))


def test_regression_is_shown_as_a_correlation(report):
    for side in ("baseline", "compressed"):
        report[side]["quality"] = {"value": 0.871, "metric": "pearson", "low": 0.85, "high": 0.89}
    assert line(report, "pearson").cells[0] == "0.871 [0.850, 0.890]"
    assert line(report, "pearson").against == ("+0.000",)


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "-"), (0, "0"), (7, "7"), (999, "999"), (999.6, "1.00 k"), (1234, "1.23 k"), (22_713_216, "22.7 M"),
     (999_600_000, "1.00 G"), (11_174_000_000, "11.2 G"), (3.2e12, "3.20 T")],
)  # fmt: skip
def test_short_numbers(number, text):
    assert short(number) == text


def test_short_bytes_and_digits():
    assert short(15_200_000, "B") == "15.2 MB" and short(12, "B") == "12 B"
    assert [digits(x) for x in (0.0912, 5.728, 22.71, 431.2, 9.996)] == ["0.091", "5.73", "22.7", "431", "10.0"]


def test_small_figures_do_not_vanish():
    assert [short(x, "J") for x in (0.4, 1.4, 0.0123, 4.2e-5, 0, 12.0)] == [
        "400 mJ", "1.40 J", "12.3 mJ", "42.0 µJ", "0 J", "12 J",
    ]  # fmt: skip
    assert [share(x) for x in (0.931, 0.0004, 0.00432, 0.9996, 0.99996, 0.0, 1.0, None)] == [
        "0.931", "0.0004", "0.0043", "0.9996", "0.99996", "0.000", "1.000", "-",
    ]  # fmt: skip
    assert [percent(x) for x in (0.069, 0.0004, 0.9996, 0, 1)] == ["6.9 %", "0.04 %", "99.96 %", "0.0 %", "100.0 %"]
    assert [points(x) for x in (-0.018, -0.0004, 0, 0.0203)] == ["-1.8", "-0.04", "+0.0", "+2.0"]
    assert digits(0.0004) == "0.0004"


def test_small_figures_are_told_in_the_table(report):
    report["compressed"] |= {"fidelity": {"teacher_student": 0.0004}, "label_loyalty": 0.9996}
    assert line(report, "predictive KL").cells == ("-", "0.0004")
    assert line(report, "label loyalty").cells == ("-", "0.9996")


def test_the_verdict_trusts_the_paired_test(report):
    """21 answers of 1155 lost and none won is no chance, though the two intervals overlap."""
    flips = {"changed": 21 / 1155, "examples": 1155, "bad": 21, "good": 0, "test": {"p": 9.5367e-07}}
    for side, right in (("baseline", 960), ("compressed", 939)):
        low, high = wilson(right, 1155)
        report[side]["quality"] = {"value": right / 1155, "metric": "accuracy", "low": low, "high": high}
    report["compressed"]["churn"] = flips
    said = verdicts(report)[0]
    assert said.endswith("accuracy -1.8 points (McNemar p = 9.5e-07).") and "interval" not in said
    report["compressed"]["churn"]["test"] = None  # no labels
    assert "(not paired: its own 95 % interval overlaps the baseline's)" in verdicts(report)[0]


def test_another_metric_has_no_test_of_right_and_wrong_words(report):
    for side in ("baseline", "compressed"):
        report[side]["quality"] |= {"metric": "f1"}
    report["compressed"]["churn"] = {"changed": 0.1, "test": {"p": 0.01}}
    assert "f1 -0.004 (not paired" in verdicts(report)[0]


def test_times_have_their_intervals(report):
    report["baseline"]["latency_ms"] |= {"p50_low": 9.0, "p50_high": 9.5, "p99_low": 13.0, "p99_high": 16.0}
    report["compressed"] |= {
        "throughput_interval": {"low": 520.0, "high": 560.0},
        "faster_interval": {"latency": {"low": 9.8, "high": 10.4}, "throughput": None},
    }
    found = line(report, "latency at batch 1, p50 [95 % interval]")
    assert found.cells == ("9.21 ms [9.00, 9.50]", "0.912 ms") and found.against == ("10.1x faster [9.80, 10.4]",)
    assert line(report, "latency at batch 1, p99").cells[0] == "14.9 ms [13.0, 16.0]"
    assert line(report, "texts per second at batch 32 [95 % interval]").cells == ("86.4", "540 [520, 560]")
    report["compressed"]["faster"]["latency"] = 0.25
    report["compressed"]["faster_interval"]["latency"] = {"low": 0.2, "high": 0.5}
    assert line(report, "latency at batch 1, p50").against == ("4.00x slower [2.00, 5.00]",)
    assert "4.00x slower at batch 1" in verdicts(report)[0]


def test_names_tell_models_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert names(["."]) == [tmp_path.name] and names([".."]) == [tmp_path.parent.name]
    assert names(["runs/a/final", "runs/b/final"]) == ["a/final", "b/final"]
    assert names(["runs/a/x/final", "runs/b/x/final", "other"]) == ["a/x/final", "b/x/final", "other"]
    assert names(["final", "runs/final"]) == ["final", "runs/final"]
    assert names(["one", "one"]) == ["one (1)", "one (2)"] and names(["owner/model", "small"]) == ["model", "small"]
    assert names(["/"]) == ["/"]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_no_number_is_a_gap_with_a_reason(report, value):
    report["compressed"]["quality"] = {"value": value, "metric": "accuracy", "low": 0.1, "high": value}
    assert line(report, "accuracy").cells == ("81.4 % [79.9, 82.9]", "-")
    assert failures(report) == [
        f"runs/small: no quality: ValueError: found {value} in quality.value, expected a finite number"
    ]
    assert "accuracy" not in verdicts(report)[0] and "quality.value" in " ".join(printed(report).split())
