"""What another seed changes as well: its answers beside the artefacts'."""

import numpy as np
import pytest

from gossamer.data import Data, Split
from gossamer.measure import Subject, measure
from gossamer.measure.noise import floor, same_classes

TEXTS = tuple(f"text {i}" for i in range(20))
NAMES = ("bad", "good")
DATA = Data("made up", None, None, Split(TEXTS, None, tuple(i % 2 for i in range(20))), NAMES)


class Flipped:
    """Right but for the first `many` texts; from a folder or not, it answers from memory."""

    def __init__(self, many, labels=NAMES, name="table"):
        self.many, self.labels, self.name = many, labels, name

    def logits(self, texts, pairs=None, batch_size=32):
        rows = [TEXTS.index(text) for text in texts]
        sure = 4 * np.eye(2)[[(i + (i < self.many)) % 2 for i in rows]]
        return sure if self.labels != NAMES[::-1] else sure[:, ::-1]


def run(*many, reseeded=Subject("twin", Flipped(3)), only=("quality", "churn"), **more):
    given = [Subject(f"small {n}", Flipped(n)) for n in many]
    base = Subject("teacher", Flipped(0))
    return measure(given, data=DATA, baseline=base, reseeded=reseeded, only=only, **more)


def test_floor_and_churn_of_each_artefact_stand_side_by_side():
    report = run(5, 2)
    twin = report["reseeded"]
    assert twin["model"] == "twin" and twin["quality"]["value"] == 0.85 and twin["errors"] == {}
    assert twin["churn"]["changed"] == 0.15 and twin["label_loyalty"] == 0.85
    more, less = report["compressed"]["noise"], report["others"][0]["noise"]
    for found, own in ((more, 0.25), (less, 0.1)):
        assert found["student"]["churn"]["changed"] == own and found["reseeded"]["churn"]["changed"] == 0.15
        assert found["beyond"] == pytest.approx(own - 0.15) and found["loyalty_base"] == 2
    assert (more["test"]["bad"], more["test"]["good"]) == (2, 0) and less["test"]["good"] == 1
    assert report["compressed"]["churn"]["changed"] == 0.25 and "noise" not in report["baseline"]
    assert "latency_ms" not in twin and "macs" not in twin  # a short side: its speed is not the question


def test_it_is_measured_when_a_second_teacher_is_given_and_said_to_lack_one_when_asked_for():
    assert run(5, only=[])["compressed"]["noise"]["beyond"] == pytest.approx(0.1)
    report = run(5, reseeded=None)
    assert "noise" not in report["compressed"] and "reseeded" not in report
    why = run(5, reseeded=None, more=["noise"])["compressed"]["errors"]["noise"]
    assert "no answers of a re-seeded teacher; name one with --reseeded" in why


def test_without_a_baseline_it_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"reseeded='twin' without a baseline; .* --baseline"):
        measure(Subject("small", Flipped(1)), data=DATA, reseeded=Subject("twin", Flipped(3)))
    with pytest.raises(ValueError, match="twin' without a baseline"):
        measure(Subject("small", Flipped(1)), data=DATA, reseeded=tmp_path / "twin")


def test_other_classes_are_its_own_error_and_the_rest_of_the_report_stands():
    report = run(5, reseeded=Subject("twin", Flipped(3, ("cat", "dog"))))
    why = report["reseeded"]["errors"]["noise"]
    assert (
        "the re-seeded teacher answers with the classes 'cat', 'dog', the baseline with the classes 'bad', 'good'"
        in why
    )
    assert "expected the same; train it on the same data" in why
    one = report["compressed"]
    assert one["noise"] is None and "no answers of a re-seeded teacher" in one["errors"]["noise"]
    assert one["quality"]["value"] == 0.75 and one["churn"]["changed"] == 0.25 and report["baseline"]["errors"] == {}
    assert run(5, reseeded=Subject("twin", Flipped(3, NAMES[::-1])))["compressed"]["noise"]["beyond"] > 0  # by name


def test_a_second_teacher_that_cannot_be_opened_costs_only_itself(tmp_path):
    report = run(5, reseeded=tmp_path / "twin")
    assert "twin" in report["reseeded"]["errors"]["open"] and report["compressed"]["quality"]["value"] == 0.75
    assert "no answers of a re-seeded teacher" in report["compressed"]["errors"]["noise"]


def test_an_artefact_without_answers_is_said_to_have_none():
    class Sick(Flipped):
        def logits(self, texts, pairs=None, batch_size=32):
            raise RuntimeError("no such kernel")

    base, twin = Subject("teacher", Flipped(0)), Subject("twin", Flipped(3))
    report = measure(
        [Subject("sick", Sick(0)), Subject("small", Flipped(5))], data=DATA, baseline=base, reseeded=twin, only=[]
    )
    assert "no answers of the artefact to hold against" in report["compressed"]["errors"]["noise"]
    assert report["others"][0]["noise"]["beyond"] == pytest.approx(0.1)


def test_a_regression_has_no_floor():
    data = Data("numbers", None, None, Split(TEXTS, None, tuple(i / 3 for i in range(20))), None)

    class Numbers:
        labels, name = None, "numbers"

        def logits(self, texts, pairs=None, batch_size=32):
            return np.array([[float(len(text) + TEXTS.index(text))] for text in texts])

    base, small, twin = (Subject(name, Numbers()) for name in ("teacher", "small", "twin"))
    report = measure(small, data=data, baseline=base, reseeded=twin, only=["quality"])
    assert "a regression has no distribution to match" in report["compressed"]["errors"]["noise"]
    assert report["compressed"]["quality"] and report["reseeded"]["quality"]


def test_classes_are_the_same_by_name_or_where_there_are_none_by_number():
    same_classes(("a", "b"), ("b", "a"))
    same_classes(None, None)
    same_classes(("a", "b"), ("LABEL_0", "LABEL_1"))
    for other in (None, ("a",), ("a", "c"), ("LABEL_0", "LABEL_1", "LABEL_2")):
        with pytest.raises(ValueError, match=r"the re-seeded teacher answers with (a number|the classes)"):
            same_classes(("a", "b"), other)


def test_the_same_model_again_is_no_noise():
    answers = np.random.default_rng(0).normal(size=(9, 3))
    found = floor(answers, answers, answers, None)
    assert found["beyond"] == 0 and found["student"]["label_loyalty"] == found["reseeded"]["label_loyalty"] == 1
    with pytest.raises(ValueError, match="no answers of the baseline"):
        floor(None, answers, answers, None)
