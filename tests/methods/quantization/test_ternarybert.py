"""TernaryBERT: which weights are ternary, what is trained is what is stored, and whom it learns from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gossamer.anatomy import blocks
from gossamer.forms import Ternary, formed
from gossamer.methods.quantization.ternarybert import TernaryBERT
from gossamer.runtime.modules import InputRounding, TernaryEmbedding, TernaryLinear, unpack
from gossamer.teacher import Teacher
from gossamer.train import Lesson, train
from tests import jobs


@pytest.mark.parametrize("rule", ["twn", "exact", "lat"])
@pytest.mark.parametrize("bits", [8, 4, 0])
def test_the_stored_model_answers_as_the_trained_one(tmp_path: Path, rule: Any, bits: int) -> None:
    at = jobs.job(tmp_path)
    batch = jobs.inputs(at)
    story = TernaryBERT(rule, bits, lr=1e-3)(at)
    train(at, next(story))
    soft = {n: m.weight.detach().clone() for m, n, _ in named(at.model)}
    expected = jobs.logits(at.model, batch)
    assert next(story, None) is None
    assert torch.allclose(jobs.logits(at.model, batch), expected, atol=1e-5)
    for path, weight in soft.items():
        module: Any = at.model.get_submodule(path)
        scale = module.scale if module.scale.ndim == 2 else module.scale[:, None]
        assert torch.equal(unpack(module.packed, weight.shape[1]) * scale, weight)  # to the last bit
    assert len([m for m in at.model.modules() if isinstance(m, InputRounding)]) == (25 + 16 if bits else 0)


def named(model: Any) -> Any:
    """Every module with a ternary form, with its path."""
    paths = {id(m): path for path, m in model.named_modules()}
    return [(module, paths[id(module)], form) for module, _, form in formed(model, Ternary)]


def test_what_is_ternary_and_what_is_not(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    jobs.run(at, TernaryBERT())
    linears = {p for p, m in at.model.named_modules() if isinstance(m, TernaryLinear)}
    assert len(linears) == 4 * 6 + 1 and "bert.pooler.dense" in linears
    front = at.model.bert.embeddings
    assert isinstance(front.word_embeddings, TernaryEmbedding)
    assert front.word_embeddings.scale.shape == (50, 1) and len(front.word_embeddings.scale.unique()) > 40  # by row
    assert type(front.position_embeddings) is type(front.token_type_embeddings) is nn.Embedding
    assert type(at.model.classifier) is nn.Linear
    assert all(m.scale.shape == (1,) for m in at.model.modules() if isinstance(m, TernaryLinear))  # by matrix
    assert all(len(unpack(m.packed, m.in_features).unique()) == 3 for m in at.model.modules() if hasattr(m, "packed")
               and isinstance(m, TernaryLinear))  # fmt: skip


def test_the_teacher_is_its_former_self_in_full_precision(tmp_path: Path) -> None:
    """The labels are not read; the former self is untouched by what is attached to the student."""
    at = jobs.job(tmp_path)
    batch = jobs.inputs(at)
    before = jobs.logits(at.model, batch)
    stage = next(TernaryBERT()(at))
    assert stage.teacher is not None and not list(formed(stage.teacher))
    assert torch.equal(jobs.logits(stage.teacher, batch), before)
    assert not torch.allclose(jobs.logits(at.model.train(), batch), before, atol=1e-2)
    lesson = Lesson(at.model, stage.loss, Teacher(stage.teacher, stage.loss.reads)).eval()
    given = at.collate(at.train[:8])
    losses = [float(lesson(**x)["loss"].detach()) for x in (given, given | {"labels": 1 - given["labels"]})]
    assert losses[0] == losses[1] > 0
    assert repr(stage.loss) == "Logits(heat=1.0) + Hidden(width=32, teacher_width=32, below=0) + Attention(below=0)"


def test_without_rounding_there_is_nothing_to_learn_from_oneself(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    stage = next(TernaryBERT(activation_bits=0)(at))
    assert stage.teacher is not None
    lesson = Lesson(stage.teacher, stage.loss, Teacher(stage.teacher, stage.loss.reads)).eval()
    assert float(lesson(**at.collate(at.train[:8]))["loss"].detach()) == pytest.approx(0, abs=1e-6)


def test_the_loss_aware_rule_sees_the_optimizer_s_curvature(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    story = TernaryBERT("lat")(at)
    stage = next(story)
    forms: list[Any] = [form for _, _, form in formed(at.model, Ternary)]
    assert not any(form.curvature is not None and form.curvature.any() for form in forms)
    train(at, stage)
    assert all(bool((form.curvature >= 0).all()) and form.curvature.any() for form in forms)
    module, _, form = named(at.model)[3]
    free = module.parametrizations.weight.original
    assert form.curvature.shape == free.shape
    assert not torch.equal(form.codes(free)[0], Ternary("twn").codes(free)[0])
    assert next(story, None) is None  # settled by the same rule


def test_the_operands_of_attention_are_rounded(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    batch = jobs.inputs(at)
    story = TernaryBERT()(at)
    train(at, next(story))
    before = jobs.logits(at.model, batch)
    roundings = [blocks(at.model)[0].attend.rounding, blocks(at.model)[3].attend.rounding]
    assert all(float(r.high) > float(r.low) for each in roundings for r in each.children())
    assert all(float(each.probs.low) >= 0 and float(each.probs.high) <= 1 for each in roundings)
    for each in roundings:
        each.query.high.mul_(0.01)  # what is outside of the range is clipped: it must show
    assert not torch.allclose(jobs.logits(at.model, batch), before, atol=1e-4)


def test_bytes_go_down_by_what_two_bits_save(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    linears = {p: m for p, m in at.model.named_modules() if type(m) is nn.Linear and p != "classifier"}
    before = {p: m.weight.numel() * 4 for p, m in linears.items()}
    jobs.run(at, TernaryBERT(activation_bits=0))
    after = {p: at.model.get_submodule(p).packed.numel() for p in before}
    assert sum(before.values()) == 16 * sum(after.values())


def test_doing_nothing_raises(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    jobs.run(at, TernaryBERT())
    with pytest.raises(ValueError, match="every Linear of this model is settled, so TernaryBERT finds nothing to do"):
        next(TernaryBERT()(at))
