"""SustaiNLP: good enough first, then the lowest energy."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossamer.benchmarks.run import benchmark
from gossamer.benchmarks.sustainlp import Entry, Track, entry, rank, tracks

CPU = Track("CPU", "cpu", baseline=0.70, tolerance=0.01)
BERT = Entry("BERT", 0.70, 20_000.0, "measured", "cpu")
TASKS = ("BoolQ", "CB", "COPA", "MultiRC", "ReCoRD", "RTE", "WiC", "WSC")

entries = st.lists(
    st.tuples(st.floats(0, 1), st.floats(1, 1e6), st.sampled_from(["cpu", "gpu"])), min_size=1, max_size=8
).map(lambda rows: [Entry(f"system {i}", a, j, "measured", d) for i, (a, j, d) in enumerate(rows)])


def test_the_lowest_energy_wins_among_those_that_are_good_enough():
    small, weak, foreign = (
        replace(BERT, name="small", accuracy=0.692, joules=1000.0),
        replace(BERT, name="weak", accuracy=0.6899, joules=10.0),
        replace(BERT, name="foreign", joules=10.0, device="gpu"),
    )
    found = rank(CPU, [BERT, weak, small, foreign], reference=BERT)
    assert [(p.place, p.entry.name, p.saving) for p in found.places] == [(1, "small", 20.0), (2, "BERT", 1.0)]
    assert found.refused == {
        "weak": "scores 0.6899, the track asks for 0.6900",
        "foreign": "ran on the gpu, the track is for the cpu",
    }
    assert found.tiers == ("measured",)
    assert asdict(found)["places"][0]["entry"]["joules"] == 1000.0


def test_the_level_itself_is_good_enough():
    assert len(rank(CPU, [replace(BERT, accuracy=0.69)]).places) == 1  # 0.70 - 0.01 is not 0.69 in binary
    assert len(rank(replace(CPU, tolerance=0.0), [BERT]).places) == 1


def test_equal_energies_share_a_place():
    found = rank(CPU, [replace(BERT, name=n, accuracy=a, joules=j) for n, a, j in
                       (("a", 0.7, 5.0), ("b", 0.8, 5.0), ("c", 0.9, 7.0))])  # fmt: skip
    assert [(p.place, p.entry.name, p.saving) for p in found.places] == [(1, "b", None), (1, "a", None), (3, "c", None)]


@given(entries)
def test_nobody_is_lost_and_nobody_is_beaten_by_a_later_place(given_):
    found = rank(CPU, given_)
    assert sorted([*found.refused, *(p.entry.name for p in found.places)]) == sorted(e.name for e in given_)
    joules = [p.entry.joules for p in found.places]
    assert joules == sorted(joules)
    assert all(p.entry.accuracy >= CPU.level - 1e-9 and p.entry.device == "cpu" for p in found.places)


def test_energies_of_different_tiers_do_not_compare():
    guessed = replace(BERT, name="guessed", tier="estimated")
    with pytest.raises(ValueError, match=r"do not compare: BERT is measured, guessed is estimated; .*mixed_tiers=True"):
        rank(CPU, [BERT, guessed])
    assert rank(CPU, [BERT, guessed], mixed_tiers=True).tiers == ("estimated", "measured")
    with pytest.raises(ValueError, match="do not compare"):
        rank(CPU, [BERT], reference=guessed)
    assert len(rank(CPU, [BERT, replace(guessed, accuracy=0.1)]).places) == 1  # what is not in compares with nothing


def test_a_saving_is_told_against_a_reference_on_the_same_device():
    with pytest.raises(
        ValueError,
        match=r"the reference BERT ran on the gpu, the track 'CPU' is for the cpu: expected both on the same; measure",
    ):
        rank(CPU, [BERT], reference=replace(BERT, device="gpu"))


def test_a_file_of_entries(tmp_path):
    file = tmp_path / "entries.json"
    small = {"name": "small", "accuracy": 0.695, "joules": 5000, "tier": "measured", "device": "cpu"}
    base = {"name": "BERT", "scores": {task: {"accuracy": 0.7} for task in TASKS}, "joules": 20000.0,
            "tier": "measured", "device": "cpu"}  # fmt: skip
    told = {"track": asdict(CPU), "entries": [small, base], "reference": base}
    file.write_text(json.dumps(told))
    found = benchmark("sustainlp", file)
    assert (found["part"], found["examples"]) == ("CPU", 2)
    assert [(p["entry"]["name"], p["saving"]) for p in found["scores"]["places"]] == [("small", 4.0), ("BERT", 1.0)]
    for wrong, words in (
        ({"entries": [small | {"joules": "5 J"}]}, r"entries\.json, entry 1: 'joules' is .*expected int or float"),
        ({"entries": [small | {"scores": {}}]}, r"entry 1 has 'accuracy' and 'scores'; expected one or the other"),
        ({"entries": [base | {"scores": {"CB": {}}}]}, r"CB"),
        ({"reference": base | {"device": "gpu"}}, "the reference BERT ran on the gpu"),
        ({"track": asdict(CPU) | {"device": "tpu"}}, r"entries\.json, track: 'device' is 'tpu', expected cpu or gpu"),
        ({"track": None}, r"entries\.json: 'track' is nothing \(null\), expected dict"),
    ):
        file.write_text(json.dumps(told | wrong))
        with pytest.raises(ValueError, match=words):
            benchmark("sustainlp", file)


def test_an_entry_is_the_mean_of_all_eight_tasks():
    results = {task: {"accuracy": 0.1 * i} for i, task in enumerate(TASKS)} | {"CB": {"accuracy": 0.0, "f1": 0.2}}
    assert entry("ours", results, 3.0, "measured", "cpu").accuracy == pytest.approx(sum(0.1 * i for i in range(8)) / 8)
    with pytest.raises(ValueError, match=r"ours has no score of WSC: expected all eight tasks"):
        entry("ours", {k: v for k, v in results.items() if k != "WSC"}, 3.0, "measured", "cpu")


def test_the_levels_of_the_three_tracks_are_given_not_known():
    found = tracks(bert_base=0.6, roberta_large=0.8, tolerance=0.02)
    assert [(t.device, round(t.level, 6)) for t in found] == [("gpu", 0.58), ("gpu", 0.78), ("cpu", 0.58)]
    with pytest.raises(TypeError):
        tracks()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"accuracy": 69.0}, "BERT scores 69.0: expected 0 to 1; divide a percentage by 100"),
        ({"accuracy": float("nan")}, "BERT scores nan"),
        ({"joules": 0.0}, "BERT took 0.0 joules: expected a number above 0"),
        ({"joules": float("inf")}, "BERT took inf joules"),
        ({"device": "tpu"}, "BERT ran on 'tpu': expected cpu or gpu"),
        ({"tier": ""}, "BERT's energy has no tier"),
    ],
)
def test_what_is_no_entry_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        replace(BERT, **wrong)


def test_a_ranking_needs_entries_that_can_be_told_apart():
    with pytest.raises(ValueError, match="no entries for the track 'CPU'"):
        rank(CPU, [])
    with pytest.raises(ValueError, match="entries called BERT twice"):
        rank(CPU, [BERT, BERT])
