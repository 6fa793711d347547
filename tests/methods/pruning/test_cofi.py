"""CoFi: from a dense model to a small one that computes what its gates decided."""

from pathlib import Path

import pytest
import torch
from torch import nn

from gossamer.anatomy import blocks, width
from gossamer.budget import Budget
from gossamer.forms import formed
from gossamer.gates import HardConcrete, PartialNorm
from gossamer.methods.pruning.cofi import CoFi
from gossamer.teacher import Teacher
from gossamer.train import Lesson, Train, drive, train
from tests import jobs, small

QUICK = {"gate_lr": 0.3, "warmup": 0.2, "lr": 1e-4}


def budget_of(stage: Train) -> Budget:
    return next(m for m in stage.loss.modules() if isinstance(m, Budget))


def kept(model: nn.Module) -> int:
    """The weights of the layers' matrices that are left."""
    return sum(m.weight.numel() for b in blocks(model) for m in b.matrices if isinstance(m, nn.Linear))


@pytest.mark.parametrize("hidden", [True, False])
def test_from_a_dense_model_to_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: bool) -> None:
    """Real training; what is sliced computes what the gates decided, and is as small as was asked for."""
    at = jobs.job(tmp_path, max_steps=60)
    batch, whole, decided, meet = jobs.inputs(at), kept(at.model), list[torch.Tensor](), Budget.meet

    def met(budget: Budget) -> float:
        found = meet(budget)
        decided.append(jobs.logits(at.model, batch))
        return found

    monkeypatch.setattr(Budget, "meet", met)
    story = CoFi(0.9, hidden, prune_epochs=40, tune_epochs=2, **QUICK)(at)
    train(at, next(story))
    stage = next(story)
    assert stage.name == "tune the small one" and torch.allclose(jobs.logits(at.model, batch), decided[0], atol=1e-4)
    assert 1 - kept(at.model) / whole == pytest.approx(0.9, abs=0.02)
    assert (width(at.model) < 32) == hidden
    at.max_steps = 3
    train(at, stage)
    assert not torch.equal(jobs.logits(at.model, batch), decided[0])  # and it goes on learning
    assert not list(formed(at.model))
    assert not any(isinstance(m, (HardConcrete, PartialNorm)) for m in at.model.modules())


def test_tables_stand_still_and_all_gates_learn(tmp_path: Path) -> None:
    """The gate of the hidden dimensions lies on the tables too, and learns all the same."""
    at = jobs.job(tmp_path)
    stage = next(CoFi(0.5, **QUICK)(at))
    tables = [m for m in at.model.bert.embeddings.children() if isinstance(m, nn.Embedding)]
    assert {id(m) for m in stage.without} == {id(m) for m in tables}
    before = {n: p.detach().clone() for n, p in at.model.named_parameters()}
    train(at, stage)
    same = {n for n, p in at.model.named_parameters() if torch.equal(p, before[n])}
    assert len(same) == 3 and all("_embeddings" in n and n.endswith("weight.original") for n in same)
    assert not budget_of(stage).multipliers.eq(0).any()


def test_the_labels_are_not_read(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    stage = next(CoFi(0.5, **QUICK)(at))
    lesson, given = Lesson(at.model, stage.loss, Teacher(at.teacher, stage.loss.reads)).eval(), at.collate(at.train[:8])
    before, after = (lesson(**x)["loss"] for x in (given, given | {"labels": 1 - given["labels"]}))
    assert torch.equal(before, after)


def test_there_must_be_something_to_prune(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no sublayer that could be pruned is left in this model"):
        next(CoFi()(jobs.job(tmp_path, "gpt2")))


def test_a_short_stage_gives_gates_the_rate_to_close(tmp_path: Path) -> None:
    for steps, rate in ((4, 3.0), (24, 0.5)):
        at = jobs.job(tmp_path, max_steps=steps)
        assert next(CoFi(prune_epochs=100)(at)).extra_lr == pytest.approx(rate)
    assert next(CoFi(prune_epochs=100, gate_lr=0.9)(jobs.job(tmp_path, max_steps=24))).extra_lr == 0.9


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_layers_that_play_are_those_that_are_pulled(tmp_path: Path, family: str) -> None:
    """ALBERT's one layer plays several times: a word for each layer that the loss sees."""
    at = jobs.job(tmp_path, family, max_steps=1)
    stage = next(CoFi(0.5, hidden=False, **QUICK)(at))
    train(at, stage)
    assert at.log


def test_shared_layers_are_pruned_too(tmp_path: Path) -> None:
    at = small.again(small.after(small.job(tmp_path / "a"), "Share"), tmp_path / "b")
    drive(at, CoFi(0.5, prune_epochs=1, tune_epochs=1))
    assert at.log
