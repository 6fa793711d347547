import io

import pytest
from rich.console import Console

from gossamer.report import digits, failures, rows, short, show, verdicts


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
        "accuracy -0.4 points, inside the baseline's 95 % interval."
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
    assert "accuracy -11.4 points, outside" in verdicts(report)[0]


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
