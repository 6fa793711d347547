import json
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

import gossamer
from gossamer.data import Data, Split
from gossamer.measure import Schedule, Subject, compare, measure, reference, side
from gossamer.measure.eager import Eager, eager
from gossamer.measure.subject import candidate, teacher_of
from gossamer.task import Classification, Regression

LABELS = ("bad", "good")
TEXTS = ("a b c", "b c", "c d e f", "a", "f g a b", "z y", "b a", "q r s t")
QUICK = Schedule(batch_size=4, singles=4, burst=2, pool=8, rounds=3, warmup=1)


class Table:
    """A predictor that looks its answers up."""

    def __init__(self, answers, labels=LABELS, name="table"):
        self.answers, self.labels, self.name = np.asarray(answers, dtype=np.float32), labels, name

    def logits(self, texts, pairs=None, batch_size=32):
        return self.answers[[TEXTS.index(text) for text in texts]]


def answers(*classes, labels=2):
    return 4 * np.eye(labels)[list(classes)]


def reviews(labels=(0, 1, 0, 1, 0, 1, 0, 1), names=LABELS):
    return Data("reviews", None, None, Split(TEXTS, None, labels), names)


TRUTH = Table(answers(0, 1, 0, 1, 0, 1, 0, 1), name="truth")
WRONG_ONCE = Table(answers(0, 1, 0, 1, 0, 1, 0, 0), name="wrong once")


def run(artefacts, baseline=None, data=None, **options):
    return measure(artefacts, data=data or reviews(), baseline=baseline, schedule=QUICK, examples=2, **options)


def test_a_report_has_all_its_parts(tmp_path):
    (tmp_path / "recipe.txt").write_text("Int8()\n")
    report = run(Subject("small", WRONG_ONCE, folder=tmp_path), Subject("teacher", TRUTH), seed=7)
    assert {"task", "data", "seed", "versions", "hardware", "recipe", "baseline", "compressed"} <= set(report)
    assert report["task"] == "text-classification" and report["seed"] == 7 and report["recipe"] == "Int8()"
    assert report["data"]["name"] == "reviews" and report["data"]["split"] == "test"
    assert report["data"]["examples"] == 8 and report["data"]["labels"] == ["bad", "good"]
    assert report["hardware"]["threads"] == report["timing"]["threads"] >= 1
    base, small = report["baseline"], report["compressed"]
    for one, score in ((base, 1.0), (small, 7 / 8)):
        assert {"parameters", "bytes", "macs", "latency_ms", "throughput_per_s", "engine"} <= set(one)
        assert one["quality"]["value"] == score and one["quality"]["metric"] == "accuracy"
        assert one["quality"]["low"] < score <= one["quality"]["high"]
        ends = {f"{p}{end}" for p in ("p50", "p99") for end in ("", "_low", "_high")}
        assert set(one["latency_ms"]) == ends and one["latency_ms"]["p50_low"] is None  # of two rounds
        assert one["throughput_interval"]["low"] <= one["throughput_per_s"] <= one["throughput_interval"]["high"]
    assert (base["engine"], small["engine"]) == ("truth", "wrong once")
    assert small["label_loyalty"] == 7 / 8 and 0 < small["probability_loyalty"] < 1 and small["loyalty_base"] == 2
    assert set(small["faster"]) == {"latency", "throughput", "latency_cpu", "throughput_cpu"}
    assert set(small["faster_interval"]) == set(small["faster"])
    low, high = (small["faster_interval"]["throughput"][end] for end in ("low", "high"))
    assert low <= small["faster"]["throughput"] <= high
    assert "label_loyalty" not in base
    assert json.loads(json.dumps(report)) == report


def test_a_plain_folder_is_the_baseline_in_eager_fp32(plain_folder):
    report = run(Subject("small", WRONG_ONCE), plain_folder)
    base = report["baseline"]
    assert base["engine"] == "transformers eager fp32" and base["model"] == str(plain_folder) and base["errors"] == {}
    model = eager(plain_folder).model
    assert model.config._attn_implementation == "eager"
    assert base["parameters"] == sum(p.numel() for p in model.parameters())
    assert base["bytes"] <= base["bytes_folder"] == sum(f.stat().st_size for f in plain_folder.iterdir())
    assert base["macs"] > 2 * 3 * (4 * 32**2 + 2 * 32 * 80)
    assert report["compressed"]["parameters"] is None and report["compressed"]["errors"] == {}  # nothing to count


def test_eager_answers_as_transformers_does(plain_folder):
    import torch
    from transformers import pipeline

    runner = eager(plain_folder)
    found = runner.logits(TEXTS, batch_size=3)
    assert found.shape == (8, 2) and found.dtype == np.float32
    batch = runner.tokenizer(list(TEXTS[:3]), padding=True, return_tensors="pt")
    with torch.no_grad():
        assert found[:3] == pytest.approx(runner.model(**batch).logits.numpy(), abs=1e-6)
    said = pipeline("text-classification", str(plain_folder))(list(TEXTS))
    assert [one["label"] for one in runner(TEXTS)] == [one["label"] for one in said]
    assert [one["score"] for one in runner(TEXTS)] == pytest.approx([one["score"] for one in said], abs=1e-5)
    assert runner.logits([]).shape == (0, 2)


def test_eager_regression_and_a_tokenizer_without_padding(bert, tokenizer):
    import copy

    bare = copy.deepcopy(tokenizer)
    bare.pad_token, bare.eos_token = None, "[SEP]"
    model = bert(num_labels=1)
    model.config.pad_token_id = None
    runner = Eager(model, bare, 16)
    assert runner.labels is None and runner.logits(TEXTS, TEXTS).shape == (8, 1)
    assert set(runner(TEXTS)[0]) == {"value"} and model.config.pad_token_id == 3


def test_a_model_without_a_trained_head_is_refused(tmp_path, bert, tokenizer):
    bert().bert.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no trained .*classifier.* expected a fine-tuned model"):
        reference(tmp_path)
    report = run(Subject("small", TRUTH), tmp_path)
    assert "no trained" in report["baseline"]["errors"]["open"]
    assert report["compressed"]["quality"]["value"] == 1 and report["compressed"]["label_loyalty"] is None


def test_one_side_failing_does_not_lose_the_other():
    class Broken(Table):
        def logits(self, texts, pairs=None, batch_size=32):
            raise RuntimeError("no such kernel")

    broken = Broken(answers(0, 1), name="broken")
    report = run([Subject("small", TRUTH), Subject("worse", broken)], Subject("teacher", WRONG_ONCE))
    assert report["baseline"]["quality"] and report["compressed"]["quality"]
    worse = report["others"][0]
    assert worse["engine"] == "broken" and worse["quality"] is worse["latency_ms"] is worse["label_loyalty"] is None
    assert worse["errors"]["quality"] == "RuntimeError: no such kernel"
    assert set(worse["errors"]) >= {"quality", "latency", "throughput"}
    report = run(Subject("small", TRUTH), Subject("teacher", broken))
    assert report["baseline"]["errors"] and report["compressed"]["quality"]["value"] == 1
    assert report["compressed"]["label_loyalty"] is None


def test_nan_answers_are_an_error_of_that_side_only():
    sick = Table(np.full((8, 2), np.nan), name="sick")
    report = run(Subject("small", sick), Subject("teacher", TRUTH))
    assert "8 of 8 answers are not numbers" in report["compressed"]["errors"]["quality"]
    assert "not numbers" in report["compressed"]["errors"]["label_loyalty"]
    assert "NaN" not in json.dumps(report)


def test_nothing_opened_is_the_artefacts_own_error(tmp_path, monkeypatch):
    engines = ModuleType("gossamer.engines")

    def load(folder, engine="auto", threads=None):
        raise FileNotFoundError(f"{folder} is not an artefact")

    engines.load = load
    monkeypatch.setitem(sys.modules, "gossamer.engines", engines)
    monkeypatch.setattr(gossamer, "engines", engines, raising=False)
    with pytest.raises(FileNotFoundError, match="artefact-x is not an artefact"):
        run("artefact-x", tmp_path / "teacher-x")
    with pytest.raises(ValueError, match="no artefact to measure"):
        run([])


def test_an_artefact_runs_by_its_best_engine_and_is_counted_in_torch(plain_folder, monkeypatch):
    asked = []
    runner = eager(plain_folder)
    graph = Table(runner.logits(TEXTS), name="onnxruntime")

    def load(folder, engine="auto", threads=None):
        asked.append((str(folder), engine, threads))
        return runner if engine == "torch" else graph

    engines = ModuleType("gossamer.engines")
    engines.load = load
    monkeypatch.setitem(sys.modules, "gossamer.engines", engines)
    monkeypatch.setattr(gossamer, "engines", engines, raising=False)
    (plain_folder / "model.onnx").write_bytes(b"x" * 11)
    subject = candidate(plain_folder, threads=1)
    assert asked == [(str(plain_folder), "auto", 1), (str(plain_folder), "torch", 1)]
    assert subject.predictor is graph and subject.counted is runner and subject.model is runner.model
    report = run(plain_folder, threads=1)
    small = report["compressed"]
    assert small["engine"] == "onnxruntime" and small["macs"] > 0 and small["parameters"] > 0 and small["errors"] == {}
    assert small["bytes"] < small["bytes_folder"] - (plain_folder / "model.safetensors").stat().st_size + 1
    assert report["baseline"] is None and report["recipe"] is None


def test_the_teacher_that_a_report_names_is_the_default_baseline(tmp_path, plain_folder):
    (tmp_path / "report.json").write_text(json.dumps({"baseline": {"model": str(plain_folder)}}))
    assert teacher_of(tmp_path) == str(plain_folder)
    (tmp_path / "report.json").write_text(json.dumps({"baseline": {"model": "gone"}}))
    assert teacher_of(tmp_path) is None
    for text in ("", "{", "[]", '{"baseline": null}'):
        (tmp_path / "report.json").write_text(text)
        assert teacher_of(tmp_path) is None
    assert teacher_of(tmp_path / "none") is None


def test_classes_in_another_order_or_without_names_are_aligned():
    swapped = Table(TRUTH.answers[:, ::-1], ("good", "bad"))
    unnamed = Table(TRUTH.answers, ("LABEL_0", "LABEL_1"))
    for one in (swapped, unnamed):
        for other in (swapped, unnamed, TRUTH):
            if {one, other} == {swapped, unnamed}:
                continue  # nobody can know
            report = run(Subject("small", one), Subject("teacher", other))
            assert report["compressed"]["quality"]["value"] == report["baseline"]["quality"]["value"] == 1
            assert report["compressed"]["label_loyalty"] == 1


def test_a_model_for_other_classes_is_refused():
    with pytest.raises(ValueError, match="unseen in training; the model knows 'x', 'y'"):
        run(Subject("small", Table(TRUTH.answers, ("x", "y"))))
    three = Table(answers(0, 1, 2, 0, 1, 2, 0, 1, labels=3), ("bad", "good", "none"))
    report = run(Subject("small", TRUTH), Subject("teacher", three))
    assert "expected (8, 2)" in report["baseline"]["errors"]["quality"]
    assert report["compressed"]["quality"]["value"] == 1


def test_numbers_have_pearson_and_no_loyalty():
    scores = tuple(float(i) / 3 for i in range(8))
    data = Data("sts", None, None, Split(TEXTS, TEXTS, scores), None)
    one = Table(np.arange(8.0)[:, None] ** 2, None)
    report = run(Subject("small", one), Subject("teacher", one), data)
    assert report["task"] == "text-regression" and report["data"]["labels"] is None
    quality = report["compressed"]["quality"]
    assert quality["metric"] == "pearson" and -1 < quality["low"] < quality["value"] < quality["high"] < 1
    assert report["compressed"]["label_loyalty"] is None and "label_loyalty" not in report["compressed"]["errors"]


def test_without_labels_all_but_quality_is_measured():
    report = run(Subject("small", TRUTH), Subject("teacher", TRUTH), reviews(labels=None))
    assert report["compressed"]["quality"] is None and "carry no labels" in report["compressed"]["errors"]["quality"]
    assert report["compressed"]["label_loyalty"] == 1 and report["compressed"]["latency_ms"]


def test_the_dev_split_serves_where_there_is_no_test():
    data = reviews()
    report = run(Subject("small", TRUTH), data=Data("reviews", None, data.test, None, LABELS))
    assert report["data"]["split"] == "dev"
    with pytest.raises(ValueError, match="reviews has neither a test nor a dev split"):
        run(Subject("small", TRUTH), data=Data("reviews", data.test, None, None, LABELS))


def test_a_file_is_read(tmp_path):
    rows = [f"{text},{LABELS[i % 2]}" for i, text in enumerate(TEXTS)]
    (tmp_path / "test.csv").write_text("\n".join(["sentence,label", *rows]))
    report = run(Subject("small", TRUTH), data=tmp_path / "test.csv", text="sentence")
    assert report["compressed"]["quality"]["value"] == 1


def test_sides_by_themselves_and_against_each_other(bert, tokenizer):
    model = bert()
    runner = Eager(model, tokenizer, 64)
    runner.labels = LABELS
    one = side(runner, model, None, reviews(), Classification(LABELS), schedule=QUICK, examples=2)
    assert one["parameters"] == sum(p.numel() for p in model.parameters()) and one["macs"] > 0
    assert one["bytes"] == 4 * one["parameters"] and one["bytes_folder"] is None and one["errors"] == {}
    subject = Subject("small", runner, model, runner)
    base, small = compare(
        Subject("base", TRUTH), subject, reviews(), Classification(LABELS), schedule=QUICK, examples=2
    )
    assert base["quality"]["value"] == 1 and small["macs"] == one["macs"] and 0 <= small["label_loyalty"] <= 1
    numbers = Table(np.arange(8.0)[:, None], None)
    data = Data("sts", None, None, Split(TEXTS, None, tuple(map(float, range(8)))), None)
    assert side(numbers, None, None, data, Regression(), schedule=QUICK)["quality"]["value"] == pytest.approx(1)


def test_progress_never_goes_back():
    told = []
    run(Subject("small", TRUTH), Subject("teacher", TRUTH), progress=lambda what, share: told.append((what, share)))
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
    assert any("quality of teacher" in what for what, _ in told)


def test_threads_are_set_for_the_run_and_put_back():
    import torch

    seen, before = [], torch.get_num_threads()

    class Watching(Table):
        def logits(self, texts, pairs=None, batch_size=32):
            seen.append(torch.get_num_threads())
            return super().logits(texts)

    report = run(Subject("small", Watching(TRUTH.answers)), threads=before + 1)
    assert set(seen) == {before + 1} and report["timing"]["threads"] == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="threads=0: expected at least 1"):
        run(Subject("small", TRUTH), threads=0)


def test_the_package_is_its_function():
    assert gossamer.measure(Subject("small", TRUTH), data=reviews(), schedule=QUICK)["compressed"]["quality"]
    assert gossamer.measure.loyalty.label_loyalty(np.eye(2), np.eye(2)) == 1


def test_nothing_heavy_is_imported_before_it_is_needed():
    heavy = "[m for m in ('torch', 'transformers') if m in sys.modules]"
    code = f"import sys, gossamer.measure, gossamer.report; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
