"""TinyBERT: a new student, two stages, one projection, and nothing to learn from a teacher like itself."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from gossamer.anatomy import blocks, width
from gossamer.loss import Hidden
from gossamer.methods.distillation.tinybert import TinyBERT
from gossamer.teacher import Teacher
from gossamer.train import Lesson, train
from tests import jobs
from tests.jobs import wider

SMALL = {"layers": 2, "hidden": 16}


def test_the_stages_are_general_intermediate_and_prediction(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    stages = list(jobs.stages(at, TinyBERT(**SMALL)))
    assert [s.name for s in stages] == ["general distillation", "intermediate", "prediction"]
    likeness = "Hidden(width=16, teacher_width=32, below=0) + Attention(below=0)"
    assert [repr(s.loss) for s in stages] == [likeness, likeness, "Logits(heat=1.0)"]
    assert stages[0].teacher is at.pretrained and stages[1].teacher is stages[2].teacher is None
    assert [s.schedule for s in stages] == ["linear", "constant", "linear"]
    assert stages[2].lr == pytest.approx(3e-5) and stages[1].lr == 5e-5


def test_without_a_pretrained_model_or_epochs_the_first_stage_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [s.name for s in TinyBERT(**SMALL)(jobs.job(tmp_path, pretrained=None))]
    assert names == ["intermediate", "prediction"]
    assert "without general distillation" in caplog.text
    caplog.clear()
    assert [s.name for s in TinyBERT(**SMALL, general_epochs=0.0)(jobs.job(tmp_path))] == names
    assert not caplog.text


def test_the_student_is_a_plain_model_of_the_family(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    jobs.run(at, TinyBERT(**SMALL))
    assert type(at.model) is type(at.teacher) and len(blocks(at.model)) == 2 and width(at.model) == 16
    assert at.model.config.intermediate_size == 64 and blocks(at.model)[0].heads == 4
    rebuilt = type(at.model)(at.model.config)
    rebuilt.load_state_dict(at.model.state_dict())  # the projection is not part of it
    batch = jobs.inputs(at)
    assert torch.allclose(jobs.logits(rebuilt, batch), jobs.logits(at.model, batch), atol=1e-6)


@pytest.mark.parametrize(("layers", "taken"), [(2, [1, 3]), (1, [3]), (3, [0, 2, 3])])
def test_a_student_as_wide_as_its_teacher_starts_from_its_layers(tmp_path: Path, layers: int, taken: list[int]) -> None:
    at = jobs.job(tmp_path)
    student = TinyBERT(layers, 0).student(at.teacher, at.teacher)
    theirs = blocks(at.teacher)
    for block, i in zip(blocks(student), taken, strict=True):
        assert torch.equal(block.up.weight, theirs[i].up.weight)
    assert torch.equal(student.classifier.weight, at.teacher.classifier.weight)
    assert torch.equal(student.get_input_embeddings().weight, at.teacher.get_input_embeddings().weight)


def test_a_teacher_like_the_student_has_nothing_to_teach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All losses and their gradients are zero, in every stage."""
    at = jobs.job(tmp_path)
    monkeypatch.setattr(TinyBERT, "student", lambda self, teacher, origin: copy.deepcopy(teacher).requires_grad_(True))
    for stage in TinyBERT(2, 0)(at):
        teacher = stage.teacher or at.teacher
        lesson = Lesson(at.model, stage.loss, Teacher(teacher, stage.loss.reads)).eval()
        loss = lesson(**at.collate(at.train[:8]))["loss"]
        loss.backward()
        assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
        assert all(p.grad is None or float(p.grad.abs().max()) < 1e-4 for p in at.model.parameters())


def test_padding_teaches_nothing(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    for stage in TinyBERT(**SMALL)(at):
        lesson = Lesson(at.model, stage.loss, Teacher(stage.teacher or at.teacher, stage.loss.reads)).eval()
        batch = at.collate(at.train[:6])
        losses = [float(lesson(**x)["loss"].detach()) for x in (batch, wider(batch, 9))]
        assert losses[1] == pytest.approx(losses[0], rel=1e-5) and losses[0] > 0


def test_each_stage_learns_all_it_should_and_the_labels_nothing(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    for stage in TinyBERT(**SMALL)(at):
        teacher = stage.teacher or at.teacher
        lesson = Lesson(at.model, stage.loss, Teacher(teacher, stage.loss.reads)).eval()
        given = at.collate(at.train[:8])
        losses = [lesson(**x)["loss"] for x in (given, given | {"labels": 1 - given["labels"]})]
        assert torch.equal(*losses)
        at.model.zero_grad()
        losses[0].backward()
        still = {n for n, p in at.model.named_parameters() if p.grad is None}
        head = {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"}
        assert still == (set() if stage.name == "prediction" else head)
        assert all(p.grad is None for p in teacher.parameters())


def test_the_projection_is_shared_and_goes_between_the_widths(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    stage = next(TinyBERT(**SMALL)(at))
    [hidden] = [m for m in stage.loss.modules() if isinstance(m, Hidden)]
    assert isinstance(hidden.project, nn.Linear) and hidden.project.weight.shape == (32, 16)
    before = hidden.project.weight.detach().clone()
    train(at, stage)
    assert not torch.equal(hidden.project.weight, before)


def test_the_projection_learned_in_general_is_the_one_that_the_task_begins_with(tmp_path: Path) -> None:
    story = TinyBERT(**SMALL)(jobs.job(tmp_path))
    first, second = ([m for m in next(story).loss.modules() if isinstance(m, Hidden)] for _ in range(2))
    assert first == second and len(first) == 1


def test_a_feed_forward_of_its_own_width(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    student = TinyBERT(2, 16, feed_forward=40).student(at.teacher, at.teacher)
    assert student.config.intermediate_size == 40 and blocks(student)[0].up.weight.shape == (40, 16)


def test_of_equal_width_the_student_starts_from_its_first_teacher(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    next(TinyBERT(2, 0)(at))
    assert torch.equal(blocks(at.model)[0].up.weight, blocks(at.pretrained)[1].up.weight)
    at = jobs.job(tmp_path)
    next(TinyBERT(2, 0, general_epochs=0.0)(at))
    assert torch.equal(blocks(at.model)[0].up.weight, blocks(at.teacher)[1].up.weight)


def test_a_number_is_taught_as_a_number(tmp_path: Path) -> None:
    at = jobs.job(tmp_path, classes=0)
    jobs.run(at, TinyBERT(**SMALL))
    assert jobs.logits(at.model, jobs.inputs(at)).shape == (6, 1)


def test_students_that_cannot_be(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    with pytest.raises(ValueError, match=r"the teacher has 4 layers, expected 5 at least; type TinyBERT\(4\)"):
        next(TinyBERT(5, 16)(at))
    with pytest.raises(ValueError, match=r"hidden=30 is not a multiple of the 4 heads; type TinyBERT\(hidden=32\)"):
        next(TinyBERT(2, 30)(at))
