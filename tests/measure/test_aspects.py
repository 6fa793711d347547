"""What can be measured, by name: all that is wanted and no more, and one failure costs nothing else."""

import json
import math
import os
from typing import Any

import numpy as np
import pytest

from gossamer.data import Data, Split
from gossamer.measure import measure
from gossamer.measure.aspects import ALWAYS, ASKED, LONGEST, wanted
from gossamer.measure.subject import Subject
from gossamer.measure.time import Schedule

TEXTS = tuple(f"{'good' if i % 2 else 'bad'} film number {i} with some words" for i in range(20))
DATA = Data("films", None, None, Split(TEXTS, None, tuple(i % 2 for i in range(20))), ("bad", "good"))
QUICK = Schedule(singles=4, pool=4, rounds=1, burst=2, warmup=1)


class Words:
    """Answers by a word; wrong on texts that hold another."""

    labels = ("bad", "good")

    def __init__(self, name: str, weak: str = "") -> None:
        self.name, self.weak = name, weak

    def logits(self, texts: Any, pairs: Any = None, batch_size: int = 32) -> Any:
        good = np.array([("good" in t) != bool(self.weak and self.weak in t) for t in texts])
        return np.where(good[:, None], [[-2.0, 2.0]], [[2.0, -2.0]])


def run(**more: Any) -> dict[str, Any]:
    base, small = Subject("t", Words("truth")), Subject("s", Words("weak", "number 1"))
    return measure(small, data=DATA, baseline=base, schedule=QUICK, examples=10, **more)


def test_all_that_needs_no_asking() -> None:
    one = run()["compressed"]
    assert one["quality"]["value"] == pytest.approx(1 - 11 / 20) and one["calibration"]["ece"] > 0
    assert one["fidelity"]["agreement"] == one["label_loyalty"] == pytest.approx(9 / 20)
    assert one["churn"]["bad"] == 11 and one["churn"]["good"] == 0 and one["churn"]["test"]["p"] < 0.01
    assert {s["by"] for s in one["slices"]} == {"label", "length", "rarity of words", "difficulty"}
    assert not {"worst", "robustness", "energy", "reasons"} & {k for k, v in one.items() if v}
    assert one["errors"] == {}


@pytest.mark.parametrize("aspect", ALWAYS)
def test_only_one_thing_is_measured(aspect: str) -> None:
    found = run(only=[aspect])["compressed"]
    figures = {
        "quality": {"quality"}, "size": set(), "macs": set(), "loyalty": {"label_loyalty", "probability_loyalty"},
        "speed": {"latency_ms", "throughput_per_s", "cpu", "timed", "faster", "faster_interval", "speedups"},
        "fidelity": {"fidelity"}, "calibration": {"calibration"}, "churn": {"churn"}, "slices": {"slices"},
    }  # fmt: skip
    assert {k for k, v in found.items() if v} - {"model", "engine", "loyalty_base"} == figures[aspect]


def test_the_worst_are_shown_with_their_words_but_not_all_of_them() -> None:
    worst = run(only=[], more=["worst"])["compressed"]["worst"]
    assert len(worst) == 10 and all("number 1" in w["text"] and len(w["text"]) <= LONGEST for w in worst)
    assert worst[0]["was"] == worst[0]["label"] != worst[0]["answer"] and worst[0]["label"] in ("bad", "good")


def test_disturbances_are_the_same_for_both() -> None:
    report = run(only=[], more=["robustness"], seed=3)
    base, one = report["baseline"]["robustness"], report["compressed"]["robustness"]
    assert one["examples"] == 10 and one["seed"] == 3 and 0 <= one["accuracy"] <= 1 and base["clean"] == 1
    assert base["accuracy"] == pytest.approx(
        np.mean([d["baseline"]["accuracy"] for d in one["disturbances"] if d["preserving"]])
    )
    assert run(only=[], more=["robustness"], seed=3)["compressed"] == report["compressed"]


def test_an_attack_is_on_both_and_tells_no_texts() -> None:
    report = run(only=[], more=["attack"])
    base, one = report["baseline"]["attack"], report["compressed"]["attack"]
    assert base["examples"] == one["examples"] == 20 and base["original_accuracy"] == 1 > one["original_accuracy"]
    assert base["after_attack_accuracy"] <= 1 and "attempts" not in one and one["source"] and one["mean_queries"] > 0


def test_another_domain_asks_for_itself() -> None:
    far = Data("plays", None, None, Split(("good play", "bad play", "a good one"), None, (1, 0, 0)), ("bad", "good"))
    found = run(only=["quality"], far=far)["compressed"]["domains"]
    assert found["baseline"] == {"in_domain": 1.0, "out_of_domain": pytest.approx(2 / 3), "gap": pytest.approx(1 / 3)}
    assert found["compressed"]["in_domain"] == pytest.approx(0.45) and found["relative_bias"] is not None
    assert "name some with --far" in run(only=[], more=["domains"])["compressed"]["errors"]["domains"]


def test_energy_says_how_it_was_had() -> None:
    report = run(only=[], more=["energy"], energy_seconds=0.05, region="FR")
    for one in (report["baseline"], report["compressed"]):
        found = one["energy"]
        assert found["joules_per_text"] == pytest.approx(found["joules_per_run"] / 4) and found["runs"] >= 1
        assert all(part["tier"] and part["note"] for part in found["parts"])
        assert found["co2_per_million"]["grams"] >= 0


def test_what_cannot_be_had_costs_nothing_else() -> None:
    report = run(only=["quality"], more=["reasons", "energy"], energy_seconds=-1.0)
    one = report["compressed"]
    assert "attributions need both models in torch" in one["errors"]["reasons"]
    assert "seconds" in one["errors"]["energy"] and one["quality"]["value"] == pytest.approx(0.45)
    assert json.loads(json.dumps(report)) == report


def test_names_that_are_none() -> None:
    assert wanted(["speed"], ["energy"]) == {"speed", "energy"} and wanted() == set(ALWAYS)
    with pytest.raises(ValueError, match=r"cannot measure 'taste'; expected one or more of quality, .*reasons"):
        run(only=["taste"])
    with pytest.raises(ValueError, match="no carbon intensity for the region 'Atlantis'"):
        run(more=["energy"], region="Atlantis")
    assert not set(ALWAYS) & set(ASKED)


def test_two_torch_models_agree_with_themselves(plain_folder: Any) -> None:
    report = measure(plain_folder, data=DATA, baseline=plain_folder, only=[], more=["reasons"], examples=6)
    assert report["compressed"]["errors"] == {}
    assert report["compressed"]["reasons"]["correlation"] == pytest.approx(1)


def test_nothing_to_measure_and_a_region_without_a_row_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"only names nothing to measure; expected one or more of quality, .*noise"):
        run(only=[])
    with pytest.raises(ValueError, match=r"no carbon intensity for the region 'Atlantis'"):
        run(only=["quality"], region="Atlantis")


def test_what_is_welcome_is_measured_and_not_missed() -> None:
    assert len(run(only=[], welcome=["worst"])["compressed"]["worst"]) == 10
    alone = measure(Subject("s", Words("weak")), data=DATA, schedule=QUICK, only=["quality"], welcome=["worst"])
    assert alone["compressed"]["errors"] == {}
    asked = measure(Subject("s", Words("weak")), data=DATA, schedule=QUICK, only=["quality"], more=["worst"])
    assert "worst compares with a baseline, and there is none" in asked["compressed"]["errors"]["worst"]


def test_loyalty_to_base_e() -> None:
    two = run(only=["loyalty"])["compressed"]
    for given in ("e", math.e):
        natural = run(only=["loyalty"], loyalty_base=given)["compressed"]
        assert natural["loyalty_base"] == math.e and two["loyalty_base"] == 2
        lost = [1 - one["probability_loyalty"] for one in (natural, two)]
        assert lost[0] == pytest.approx(lost[1] * math.sqrt(math.log(2)))
    with pytest.raises(ValueError, match=r"loyalty_base='10': expected 2 or e"):
        run(only=["loyalty"], loyalty_base="10")


def test_energy_by_codecarbon_asks_for_energy_and_is_refused_at_once_where_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gossamer.measure import aspects, energy

    seen: list[str] = []
    whole = energy.energy

    def fake(work: Any, seconds: float, *, tier: Any) -> Any:
        seen.append(tier)
        return whole(work, seconds, idle=False)

    monkeypatch.setattr(energy, "energy", fake)
    monkeypatch.setattr(aspects, "find_spec", lambda name: True)
    report = run(only=[], energy_by="codecarbon", energy_seconds=0.05)
    assert seen == ["codecarbon", "codecarbon"] and report["compressed"]["energy"]["runs"] >= 1
    monkeypatch.setattr(aspects, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'codecarbon is not installed; type: pip install "gossamer\[energy\]"'):
        run(only=[], energy_by="codecarbon")
    with pytest.raises(ValueError, match=r"energy_by='guess': expected"):
        run(only=["quality"], energy_by="guess")


def test_a_number_that_is_none_is_a_gap_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from gossamer.measure import aspects

    monkeypatch.setattr(aspects, "fidelity", lambda *answers: {"agreement": 1.0, "teacher_student": float("inf")})
    one = run(only=["fidelity"])["compressed"]
    assert one["fidelity"] is None
    assert one["errors"]["fidelity"] == ("ValueError: found inf in fidelity.teacher_student, expected a finite number")


def test_one_thread_is_one_thread_of_tokenizers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    class Looks(Words):
        def logits(self, texts: Any, pairs: Any = None, batch_size: int = 32) -> Any:
            seen.append(os.environ.get("TOKENIZERS_PARALLELISM"))
            return super().logits(texts, pairs, batch_size)

    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    for threads in (1, 2):
        report = measure(Subject("s", Looks("l")), data=DATA, schedule=QUICK, only=["quality"], threads=threads)
        assert report["timing"]["threads"] == threads
    assert seen == ["false", None] and "TOKENIZERS_PARALLELISM" not in os.environ
