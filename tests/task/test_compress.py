"""The whole job for every kind of task, and every method with every kind: it works, or says why it does not."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from gossamer import artefact, pipeline, recipe
from gossamer.cli import app
from gossamer.engines import export, load
from gossamer.job import Job
from gossamer.measure import Schedule, measure
from gossamer.measure.layers import watching
from gossamer.promise import Promise, judge
from gossamer.report import failures, rows, table
from gossamer.report.card import card
from gossamer.task import TASKS, of_model
from gossamer.train import drive
from tests import jobs, small, tiny
from tests.task.test_every_task import alike, asked

KINDS = [task.kind for task in TASKS]
QUICK = Schedule(singles=4, pool=8, rounds=2, seconds=2.0)
WHY = {"texts": "wants an answer for every token", "classes": "has no classes of texts"}
BY_TEXT = {n: WHY[method.serves] for n, method in recipe.methods().items() if hasattr(method, "serves")}
SKIPS = [n for n, method in recipe.methods().items() if method.__module__.split(".")[-2] == "token_skipping"]
REFUSED = {  # models that a method does not serve, and what it says
    "masked-lm": {"SkipBERT": "this model writes with the same words"},
    "causal-lm": BY_TEXT
    | {"SkipBERT": "does not know the embeddings of llama"}
    | dict.fromkeys(SKIPS, "lets rows or tokens leave on the way")
    | {"CoFi": "its norms are not LayerNorms after each addition"},
    "seq2seq": BY_TEXT
    | {"SkipBERT": "does not know the embeddings of bart"}
    | dict.fromkeys(("Share", "Theseus", *SKIPS), "has two loops")
    | {"TinyBERT": "has an encoder and a decoder, expected one of them"},
}
CONSTANT = {  # a tiny random model may answer all texts alike, which has no correlation
    "text-regression", "sentence-embedding",
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def made(request, world, tmp_path_factory):
    """Of each kind: its name, the artefact that Int8 makes of its model, and the report."""
    one, out = world(request.param), tmp_path_factory.mktemp(request.param) / "small"
    report = pipeline.compress(
        str(one.folder / "model"), "Int8()", data=one.folder / "data", out=out, task=request.param,
        measuring={"schedule": QUICK, "examples": 4},
    )  # fmt: skip
    return request.param, out, report


def test_a_model_becomes_smaller_and_its_report_stands(made, world):
    kind, out, report = made
    one = world(kind)
    assert report["task"] == kind
    small_ = report["compressed"]
    stored = [(folder / "model.safetensors").stat().st_size for folder in (one.folder / "model", out)]
    assert stored[1] < 0.5 * stored[0], "of so small a model the graph takes more than the weights"
    assert small_["macs"] > 0 and small_["flops"] == 2 * small_["macs"]
    if kind not in CONSTANT:
        assert np.isfinite(small_["quality"]["value"]) and not {"quality"} & set(small_["errors"])
        assert small_["quality"]["low"] <= small_["quality"]["value"] <= small_["quality"]["high"]
        assert 0 <= small_["label_loyalty"] <= 1
    assert not {"macs", "bytes", "latency", "throughput"} & set(small_["errors"])
    engine = "torch" if kind in ("causal-lm", "seq2seq") else "onnxruntime"
    assert small_["engine"] == engine
    assert type(artefact.load(out)).__name__ == type(one.model).__name__, "a plain transformers class"
    assert table(report).row_count == len(rows(report))
    page = card(report, out)
    assert one.task.auto in page and kind in page


@pytest.mark.parametrize("kind", ["token-classification", "question-answering", "masked-lm"])
def test_a_model_without_a_head_is_to_be_fine_tuned_first(kind, world, tmp_path):
    one = world(kind)
    bare = tiny.build("bert", "base", vocab_size=100)
    bare.save_pretrained(tmp_path / "bare")
    one.tokenizer.save_pretrained(tmp_path / "bare")
    model, _, ready = pipeline.opened(str(tmp_path / "bare"), one.data)
    assert not ready and type(model).__name__ == type(one.model).__name__
    assert of_model(model.config.to_dict() | {"architectures": [type(model).__name__]}) == one.task
    plan = pipeline.compress(
        str(tmp_path / "bare"), "Int8()", data=one.folder / "data", out=tmp_path / "out", task=kind, dry_run=True
    )
    assert plan["stages"][0]["stage"] == "fine-tune"
    assert plan["settings"]["task"] == kind


def test_it_is_measured_again_by_what_it_was_made_for(made, world):
    kind, out, _ = made
    report = measure(out, data=world(kind).folder / "data", only=("quality", "loyalty", "macs"), examples=3)
    assert report["task"] == kind
    assert not [words for words in failures(report) if "quality" in words and kind not in CONSTANT]


@pytest.mark.parametrize("made", ["masked-lm"], indirect=True)
def test_perplexity_is_better_when_lower(made):
    _, _, report = made
    quality = report["compressed"]["quality"]
    assert (quality["metric"], quality["better"]) == ("perplexity", "lower")
    assert any("lower is better" in row.name for row in rows(report))
    before, after = (report[side]["quality"]["value"] for side in ("baseline", "compressed"))
    drop, least = judge(report, Promise(max_drop=50.0, min_quality=3.0))
    assert drop.found == pytest.approx(100 * (after / before - 1)) and drop.met
    assert not least.met and "lower is better" in least.why


def test_predict_answers_in_the_words_of_the_task(made, world, tmp_path):
    kind, out, _ = made
    source = world(kind).folder / "data" / "test.jsonl"
    target = tmp_path / "answers.jsonl"
    result = CliRunner().invoke(app, ["predict", str(out), "--input", str(source), "--output", str(target)])
    assert result.exit_code == 0, result.output
    answers = [json.loads(line) for line in target.read_text().splitlines()]
    split = world(kind).data.test
    assert len(answers) == len(split)
    words = {
        "text-classification": {"label", "score"}, "text-regression": {"value"}, "token-classification": {"tags"},
        "question-answering": {"answer", "start", "score"}, "masked-lm": {"perplexity", "tokens"},
        "causal-lm": {"perplexity", "tokens"}, "seq2seq": {"target"}, "sentence-embedding": {"similarity"},
    }[kind]  # fmt: skip
    assert all(set(answer) == words for answer in answers)
    if kind == "token-classification":
        assert [len(a["tags"]) for a in answers] == [len(t.split()) for t in split.texts]
    if kind == "question-answering":
        for answer, context in zip(answers, split.pairs, strict=True):
            assert answer["start"] == -1 or context[answer["start"] :].startswith(answer["answer"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", small.NAMES)
def test_every_method_serves_every_task_or_says_why_not(name, kind, world, tmp_path):
    if kind in ("text-classification", "text-regression"):
        pytest.skip("the laws hold this")
    if kind in ("causal-lm", "seq2seq") and name != "Int8":
        pytest.skip("decoders: see the next test")
    one = world(kind, layers=4)
    teacher = deepcopy(one.model).requires_grad_(False)
    job = Job(
        model=deepcopy(one.model), teacher=teacher, task=one.task, tokenizer=one.tokenizer, train=one.examples[:48],
        dev=[], folder=tmp_path, pretrained=deepcopy(teacher), max_steps=small.STEPS.get(name, 2),
    )  # fmt: skip
    method = small.method(name)
    if name in BY_TEXT:
        with pytest.raises(ValueError, match=rf"{name} lets texts .*and {kind} {BY_TEXT[name]}"):
            drive(job, method)
        return
    if name in REFUSED.get(kind, {}):
        with pytest.raises(ValueError, match=REFUSED[kind][name]):
            drive(job, method)
        return
    drive(job, method)
    batch = one.task.collate(one.examples[:4], 0)
    with torch.no_grad():
        said = one.task.said(job.model(**one.task.given(batch)), batch)
    assert said.logits.isfinite().all() and said.loss.isfinite()
    folder = artefact.save(
        job.model, tmp_path / "made", tokenizer=one.tokenizer, probe=one.task.probe(batch), verify=False
    )
    texts, pairs = asked(one, 4)
    again = load(folder, engine="torch").logits(texts, pairs)
    assert len(again) == len(texts)
    assert all(alike(a, b) for a, b in zip(again, load(folder, engine="torch").logits(texts, pairs), strict=True))


@pytest.mark.parametrize("kind", ["token-classification", "question-answering"])
@pytest.mark.parametrize("name", ["LTP", "LAT", "Transkimmer"])
def test_every_token_has_an_answer_though_some_left(name, kind, world, tmp_path):
    """Skipped tokens are answered for by the state they left with, on every engine."""
    one = world(kind, layers=3)
    job = Job(
        model=deepcopy(one.model), teacher=deepcopy(one.model).requires_grad_(False), task=one.task,
        tokenizer=one.tokenizer, train=one.examples[:48], dev=one.examples[48:64], folder=tmp_path, max_steps=8,
    )  # fmt: skip
    drive(job, small.method(name))
    texts, pairs = asked(one, 8)
    batch = one.task.collate(one.examples[:4], 0)
    folder = artefact.save(
        job.model, tmp_path / "made", tokenizer=one.tokenizer, probe=one.task.probe(batch), verify=False
    )
    with watching(job.model) as seen, torch.no_grad():
        job.model(**one.task.given(one.task.collate(one.examples[:1], 0), labels=False))
    assert seen[-1][1] < len(one.examples[0]["input_ids"]), "some have left"
    export.write(job.model, one.tokenizer, folder)
    wanted = load(folder, engine="torch").logits(texts, pairs, batch_size=1)
    for engine in ("onnxruntime", "openvino"):
        for size in (1, 3, 8):
            found = load(folder, engine=engine).logits(texts, pairs, batch_size=size)
            assert all(alike(a, b) for a, b in zip(found, wanted, strict=True)), (engine, size)


@pytest.mark.parametrize(
    "name", [n for n, method in recipe.methods().items() if getattr(method, "serves", "") == "classes"]
)
def test_how_certain_a_class_is_says_nothing_of_numbers(name, tmp_path):
    job = jobs.job(tmp_path, classes=0)
    with pytest.raises(ValueError, match=rf"{name} lets texts go .* text-regression has no classes .* type BERxiT\(\)"):
        drive(job, small.method(name))


@pytest.mark.parametrize("kind", ["causal-lm", "seq2seq"])
@pytest.mark.parametrize("name", [name for name in small.NAMES if name != "Int8"])
def test_decoders_work_with_a_method_or_are_refused_in_words(name, kind, world, tmp_path):
    one = world(kind, layers=4)
    teacher = deepcopy(one.model).requires_grad_(False)
    job = Job(
        model=deepcopy(one.model), teacher=teacher, task=one.task, tokenizer=one.tokenizer, train=one.examples[:32],
        dev=[], folder=tmp_path, pretrained=deepcopy(teacher), max_steps=2,
    )  # fmt: skip
    try:
        drive(job, small.method(name))
    except ValueError as refused:
        assert REFUSED[kind][name] in str(refused)
        return
    assert name not in REFUSED[kind]
    batch = one.task.collate(one.examples[:4], 0)
    with torch.no_grad():
        said = one.task.said(job.model(**one.task.given(batch)), batch)
    assert said.loss.isfinite()
    artefact.save(job.model, tmp_path / "made", tokenizer=one.tokenizer, probe=one.task.probe(batch), verify=False)
