"""What goes wrong at `measure`: one clear sentence about it, and everything else of the report is there."""

import csv
import json
from functools import partial

import numpy as np
import pytest
import torch

from gossamer import artefact
from gossamer.measure import Schedule, energy, measure
from gossamer.measure.sensors import Sensors
from gossamer.report import failures, rows, show
from gossamer.report.card import how
from gossamer.report.page import render

NAMES = ("bad", "good")
QUICK = Schedule(batch_size=4, singles=3, burst=3, pool=4, rounds=3, warmup=1)
WORDS = ["a b c", "b c", "c d e f", "a", "f g a b", "z y", "b a", "q r s t", "u v", "w x y"]


def written(place, labels, texts=WORDS):
    place.mkdir(exist_ok=True)
    with (place / "test.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *zip(texts, labels, strict=False)])
    return place / "test.csv"


@pytest.fixture
def classes(tmp_path):
    return written(tmp_path / "classes", [NAMES[i % 2] for i in range(10)])


@pytest.fixture
def numbers(tmp_path):
    return written(tmp_path / "numbers", [f"{i / 4:.2f}" for i in range(10)])


@pytest.fixture
def folder(tmp_path, bert, tokenizer):
    """A function of a name and labels (None: a regression): the folder of a random model."""

    def build(name, labels=NAMES, change=None):
        if labels is None:
            model = bert(num_labels=1, problem_type="regression")
        else:
            model = bert(id2label=dict(enumerate(labels)), label2id={v: k for k, v in enumerate(labels)})
        with torch.no_grad():
            for p in model.parameters():  # answers that differ from text to text
                p.copy_(torch.randn_like(p) * 0.2 + (p == 1))
            if change is not None:
                change(model)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return build


def run(artefacts, data, baseline=None, **more):
    report = measure(artefacts, data=data, baseline=baseline, schedule=QUICK, examples=3, threads=1, **more)
    json.dumps(report, allow_nan=False)
    assert rows(report) and how(report) and render(report)
    show(report)
    for sentence in failures(report):
        assert "Traceback" not in sentence
    return report


def whole(side, *, compared=False):
    """All that a sound side has, and no error."""
    assert side["errors"] == {}
    for figure in ("quality", "parameters", "bytes", "macs", "flops", "macs_batched", "layers", "latency_ms", "timed"):
        assert side[figure], figure
    if compared:
        assert side["label_loyalty"] is not None and side["speedups"]["macs"] and side["faster"]["latency"]
    return True


def measured_all_but_answers(side):
    """What does not depend on the answers is there all the same."""
    assert side["quality"] is None and side["parameters"] and side["macs"] and side["layers"] and side["latency_ms"]
    return True


def test_label_sets_that_do_not_match(folder, classes):
    report = run([folder("small"), folder("cats", ("cat", "dog"))], classes, folder("teacher"))
    assert whole(report["baseline"]) and whole(report["compressed"], compared=True)
    [cats] = report["others"]
    assert measured_all_but_answers(cats) and cats["label_loyalty"] is None
    assert "'bad', 'good'" in cats["errors"]["quality"] and "'cat', 'dog'" in cats["errors"]["quality"]
    assert "correct the labels, or train on data that has them" in cats["errors"]["quality"]


def test_the_first_of_several_may_be_the_one_that_does_not_fit(folder, classes):
    report = run([folder("cats", ("cat", "dog")), folder("small")], classes, folder("teacher"))
    assert "'cat', 'dog'" in report["compressed"]["errors"]["quality"] and report["data"]["labels"] == list(NAMES)
    assert whole(report["baseline"]) and whole(report["others"][0], compared=True)
    with pytest.raises(ValueError, match=r"'bad', 'good', unseen in training; the model knows 'cat', 'dog': correct"):
        run(folder("alone", ("cat", "dog")), classes)


def test_a_baseline_of_other_labels(folder, classes):
    report = run(folder("small"), classes, folder("teacher", ("bad", "good", "none")))
    assert (
        measured_all_but_answers(report["baseline"]) and "expected (10, 2)" in report["baseline"]["errors"]["quality"]
    )
    one = report["compressed"]
    assert one["errors"] == {"comparison": "the baseline gave no answers to compare with; its own error says why"}
    assert one["quality"] and one["speedups"]["macs"] and one["faster"]["latency"] and one["label_loyalty"] is None


@pytest.mark.parametrize("content", ["", "text,label\n"])
def test_an_empty_file_of_data(folder, tmp_path, content):
    (tmp_path / "test.csv").write_text(content)
    with pytest.raises(ValueError, match=r"test.csv.*(empty|no rows|no examples)"):
        run(folder("small"), tmp_path / "test.csv")
    with pytest.raises(ValueError, match=r"test.csv.*(empty|no rows|no examples)"):
        run(folder("small"), written(tmp_path / "good", NAMES * 5), far=tmp_path / "test.csv")


@pytest.mark.parametrize("aspect", ["loyalty", "calibration", "fidelity", "churn", "slices", "worst"])
def test_a_figure_that_the_task_does_not_have(folder, numbers, aspect):
    small, teacher = folder("small", None), folder("teacher", None)
    report = run(small, numbers, teacher, only=["quality", aspect])
    figure = {"loyalty": "label_loyalty"}.get(aspect, aspect)
    assert report["compressed"]["errors"][figure] == (
        f"{aspect} is of answers with classes, and this task is text-regression, whose answers are not; "
        "leave it out, or measure a classifier"
    )
    assert report["compressed"]["quality"] and report["baseline"]["quality"] and not report["compressed"].get(figure)
    assert set(report["baseline"]["errors"]) == ({"calibration"} if aspect == "calibration" else set())


def test_who_asked_for_nothing_by_name_hears_nothing_of_it(folder, numbers):
    report = run(folder("small", None), numbers, folder("teacher", None))
    assert report["compressed"]["errors"] == report["baseline"]["errors"] == {}
    assert report["compressed"]["quality"]["metric"] == "pearson" and report["compressed"]["speedups"]["layers"] == 1


def test_a_comparison_without_a_baseline(folder, classes):
    report = run(folder("small"), classes, only=["quality", "loyalty", "churn"])
    assert report["compressed"]["errors"]["label_loyalty"] == (
        "loyalty compares with a baseline, and there is none; name one with --baseline"
    )
    assert "churn compares with a baseline" in report["compressed"]["errors"]["churn"]
    assert report["compressed"]["quality"]


def test_a_figure_that_nobody_knows(folder, classes):
    with pytest.raises(ValueError, match=r"cannot measure 'loyality'; expected one or more of quality, .*loyalty"):
        run(folder("small"), classes, only=["quality", "loyality"])


def test_answers_that_are_no_numbers(folder, classes):
    def spoil(model):
        model.bert.encoder.layer[0].output.dense.weight[0, 0] = float("nan")

    report = run([folder("sick", change=spoil), folder("small")], classes, folder("teacher"))
    sick = report["compressed"]
    assert measured_all_but_answers(sick)
    why = "10 of 10 answers are not numbers (nan or inf); the model is broken, train or compress it again"
    assert why in sick["errors"]["quality"]
    assert "answers of the student are not numbers" in sick["errors"]["label_loyalty"]
    assert whole(report["baseline"]) and whole(report["others"][0], compared=True)
    report = run(folder("small"), classes, folder("teacher", change=spoil))
    assert "answers of the teacher are not numbers" in report["compressed"]["errors"]["label_loyalty"]
    assert report["compressed"]["quality"] and measured_all_but_answers(report["baseline"])


def test_a_machine_without_energy_counters(folder, classes, tmp_path, monkeypatch):
    bare = partial(Sensors, powercap=tmp_path / "none", gpu=False)
    monkeypatch.setattr(energy, "Sensors", bare)
    report = run(folder("small"), classes, folder("teacher"), only=["quality"], more=["energy"], energy_seconds=0.05)
    for side in (report["baseline"], report["compressed"]):
        found = side["energy"]
        assert found["estimated"] is True and all(part["estimated"] for part in found["parts"]) and not side["errors"]
        assert found["joules_per_text"] > 0 and found["assumed"]["tdp_watts"] > 0 and side["quality"]
    [row] = [row for row in rows(report) if row.name.startswith("energy")]
    assert all(cell.endswith("estimated") for cell in row.cells)
    assert any("**Energy of small**" in line and "estimate" in line for line in how(report))


@pytest.mark.parametrize("first", [True, False])
def test_a_regression_among_classifiers_and_the_reverse(folder, classes, numbers, first):
    small, number = folder("small"), folder("number", None)
    kinds = ["text-classification", "text-regression"]
    for data, good, bad, (asked, made) in ((classes, small, number, kinds), (numbers, number, small, kinds[::-1])):
        report = run([bad, good] if first else [good, bad], data, folder("teacher", None if good is number else NAMES))
        one, other = report["compressed"], report["others"][0]
        assert whole(report["baseline"])
        wrong, right = (one, other) if first else (other, one)
        assert right["errors"] == {} and right["quality"] and right["speedups"]
        said = f"the model was made for {made}, and the data asks for {asked}; give data that the model was trained for"
        assert measured_all_but_answers(wrong) and said in wrong["errors"]["quality"]


def test_nothing_that_fits_the_data_is_refused_at_once(folder, classes, numbers):
    with pytest.raises(ValueError, match=r"has the classes 'bad', 'good', but the model answers with a number"):
        run(folder("number", None), classes)
    with pytest.raises(ValueError, match=r"has numbers for labels, but the model knows the classes 'bad', 'good'"):
        run(folder("small"), numbers, folder("teacher"))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_damaged_artefact_among_good_ones(folder, classes, tmp_path, bert, tokenizer, place):
    broken = tmp_path / "broken"
    model = bert(id2label=dict(enumerate(NAMES)), label2id={v: k for k, v in enumerate(NAMES)})
    probe = {"input_ids": torch.tensor([[2, 5, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    artefact.save(model, broken, tokenizer=tokenizer, probe=probe, verify=False)
    content = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    (broken / "recipe.txt").write_bytes(b"\xff\xfe\x00")
    given = [folder("one"), folder("two")]
    given.insert(place, broken)
    report = run(given, classes, folder("teacher"))
    found = [report["compressed"], *report["others"]]
    assert "model.safetensors is damaged" in found[place]["errors"]["open"] and found[place]["macs"] is None
    assert whole(report["baseline"]) and all(whole(s, compared=True) for i, s in enumerate(found) if i != place)
    assert len(failures(report)) == 1


def test_a_folder_that_is_no_model(folder, classes, tmp_path):
    (tmp_path / "empty").mkdir()
    report = run([tmp_path / "empty", folder("small"), tmp_path / "nowhere"], classes, folder("teacher"))
    empty, (small, nowhere) = report["compressed"], report["others"]
    assert "empty' holds no model (no config.json); expected what gossamer compress wrote" in empty["errors"]["open"]
    assert (
        "no folder" in nowhere["errors"]["open"] and "expected one that gossamer compress" in nowhere["errors"]["open"]
    )
    assert whole(small, compared=True) and whole(report["baseline"])
    for base, said in ((tmp_path / "empty", "holds no model (no config.json)"), (tmp_path / "nowhere", "no folder")):
        report = run(folder("small"), classes, base)
        why = report["baseline"]["errors"]["open"]
        assert said in why and "expected a folder that transformers or gossamer compress wrote, or a hub id" in why
        one = report["compressed"]
        assert one["quality"] and one["macs"] and one["latency_ms"] and one["label_loyalty"] is None
    with pytest.raises(FileNotFoundError, match=r"empty' holds no model \(no config.json\)"):
        run(tmp_path / "empty", classes)


def test_answers_at_random_are_not_nan(folder, classes):
    """A model whose answers are all alike has all figures of classes too."""

    def flat(model):
        model.classifier.weight.zero_()

    report = run(folder("flat", change=flat), classes, folder("teacher"))
    assert whole(report["compressed"], compared=True) and np.isfinite(report["compressed"]["probability_loyalty"])
