"""What holds for every kind of task: read, learn, answer, save, load, score; on every engine, alone and in a batch."""

import json

import numpy as np
import pytest
import torch

from gossamer import artefact
from gossamer.engines import export, load
from gossamer.job import Job
from gossamer.loss import Logits
from gossamer.loss import Task as TaskLoss
from gossamer.measure.eager import eager
from gossamer.task import TASKS, encode, named, of_model
from gossamer.teacher import Teacher
from gossamer.train import Lesson, Train, train

KINDS = [task.kind for task in TASKS]
ON_TORCH = ("causal-lm", "seq2seq")


def alike(first, second, tolerance=2e-4):
    """Two answers of the same kind."""
    if isinstance(first, str):
        return first == second
    if isinstance(first, dict):
        return first["answer"] == second["answer"] and abs(first["score"] - second["score"]) < tolerance
    return np.allclose(np.asarray(first), np.asarray(second), atol=tolerance, equal_nan=True)


def asked(world, n=12):
    split = world.data.test
    return list(split.texts[:n]), None if split.pairs is None else list(split.pairs[:n])


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_found_by_its_name_and_by_the_model(kind, world):
    one = world(kind)
    assert named(kind) is type(one.task)
    config = json.loads((one.folder / "model" / "config.json").read_text())
    found = of_model(config)
    assert type(found) is type(one.task)
    assert getattr(found, "labels", None) == getattr(one.task, "labels", None)
    if kind == "question-answering":
        assert found == one.task, "whether nothing is an answer stands in the config"
    with pytest.raises(ValueError, match=rf"no task 'poetry'; expected one of: .*{kind}"):
        named("poetry")


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_learned_from(kind, world):
    one = world(kind)
    batch = one.task.collate(one.examples[:8], 0)
    lesson = Lesson(one.model, TaskLoss(), None, one.task)
    out = lesson(**batch)
    assert out["loss"].isfinite() and out["loss"].requires_grad
    assert out["logits"].ndim == 2, "a row for each text, word or position"
    said = Teacher(one.model, Logits().reads, task=one.task)(batch)
    again = Lesson(one.model, Logits(), lambda _: said, one.task)(**batch)
    assert again["loss"].item() == pytest.approx(0, abs=1e-5), "the model is its own teacher"


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_no_loss(kind, world):
    one = world(kind)
    short = one.task.collate(one.examples[:6], 0)
    wide = one.task.collate(one.examples[:6], 0, multiple=32)
    assert wide["input_ids"].shape[1] >= short["input_ids"].shape[1]
    losses = [Lesson(one.model, TaskLoss(), None, one.task)(**batch)["loss"].item() for batch in (short, wide)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_steps_teach(kind, world, tmp_path):
    one = world(kind)
    fresh = type(one.model)(one.model.config)
    job = Job(
        model=fresh, teacher=None, task=one.task, tokenizer=one.tokenizer, train=one.examples, dev=[], folder=tmp_path
    )
    batch = one.task.collate(one.examples, 0)

    def loss():
        with torch.no_grad():
            return Lesson(fresh.eval(), TaskLoss(), None, one.task)(**batch)["loss"].item()

    before = loss()
    train(job, Train(TaskLoss(), epochs=20, lr=3e-3, batch_size=16))
    assert loss() < 0.9 * before


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_the_same_alone_in_batches_and_by_transformers(kind, world):
    one = world(kind)
    texts, pairs = asked(one)
    predictor = load(one.folder / "model", engine="torch")
    together = predictor.logits(texts, pairs, batch_size=5)
    assert len(together) == len(texts)
    for i in range(len(texts)):
        alone = predictor.logits([texts[i]], None if pairs is None else [pairs[i]])
        assert alike(alone[0], together[i])
    plain = eager(one.folder / "model", None)
    assert all(alike(a, b) for a, b in zip(plain.logits(texts, pairs, batch_size=5), together, strict=True))
    told = [json.dumps(answer) for answer in predictor(texts, pairs)]
    assert told == [json.dumps(one.task.told(answer)) for answer in predictor.logits(texts, pairs)]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ON_TORCH])
def test_the_graph_answers_as_the_model_does(kind, world, tmp_path):
    one = world(kind)
    folder = artefact.save(one.model, tmp_path / "made", tokenizer=one.tokenizer, verify=False)
    export.write(one.model, one.tokenizer, folder)
    artefact.seal(folder)
    texts, pairs = asked(one)
    graph, model = load(folder, engine="onnxruntime"), load(folder, engine="torch")
    assert all(alike(a, b) for a, b in zip(graph.logits(texts, pairs), model.logits(texts, pairs), strict=True))


@pytest.mark.parametrize("kind", ON_TORCH)
def test_who_writes_word_by_word_has_no_graph(kind, world):
    one = world(kind)
    with pytest.raises(ValueError, match=rf'a model for {kind} writes word by word, which runs with engine="torch"'):
        export.write(one.model, one.tokenizer, one.folder / "model")


@pytest.mark.parametrize("kind", KINDS)
def test_scores_have_a_best_value_and_answers_agree_with_themselves(kind, world):
    one = world(kind)
    predictor = load(one.folder / "model", engine="torch")
    split = one.data.test
    answers = predictor.logits(split.texts, split.pairs)
    value = one.task.score(answers, split.labels)
    assert np.isfinite(value)
    assert one.task.finite(answers).all()
    same = one.task.same(answers, answers)
    assert same is None or same.all()
    right = one.task.right(answers, split.labels)
    assert right is None or set(right.tolist()) <= {0, 1}
    flat = one.task.flat(answers, split.labels)
    if flat is not None:
        assert len(flat.logits) == len(flat.labels) == len(flat.owners)
        assert int(flat.owners.max()) == len(split) - 1


@pytest.mark.parametrize("kind", ["token-classification", "masked-lm", "causal-lm", "seq2seq"])
def test_pairs_are_refused_where_a_text_stands_alone(kind, world):
    one = world(kind)
    split = type(one.data.test)(("w10 w11",), ("w12",), None)
    with pytest.raises(ValueError, match=rf"{kind} reads texts alone, found pairs"):
        encode(one.task, one.tokenizer, split, 16)
