"""CoFi: the count is the truth, the sliced model is the gated one, and the sparsity ends where it was asked to."""

from pathlib import Path

import pytest
import torch
from torch import nn

from gossamer.anatomy import blocks, width
from gossamer.forms import formed, settle
from gossamer.gates import HardConcrete, PartialNorm, compact
from gossamer.loss import Step
from gossamer.methods.pruning.cofi import Budget, CoFi
from gossamer.runtime.modules import Nothing
from gossamer.teacher import Teacher
from gossamer.trace import Trace
from gossamer.train import Lesson, Train, train
from tests import jobs, tiny

QUICK = {"gate_lr": 0.3, "warmup": 0.2, "lr": 1e-4}


def at(progress: float) -> Step:
    return Step(Trace(), None, {}, progress)


def budget_of(stage: Train) -> Budget:
    return next(m for m in stage.loss.modules() if isinstance(m, Budget))


def kept(model: nn.Module) -> int:
    """The weights of the layers' matrices that are left."""
    return sum(m.weight.numel() for b in blocks(model) for m in b.matrices if isinstance(m, nn.Linear))


def saturate(gates: list[HardConcrete], seed: int) -> None:
    """Every gate open or closed for good; some sublayers closed as a whole, never all hidden dimensions."""
    draw = torch.Generator().manual_seed(seed)
    for gate in gates:
        open_ = torch.rand(len(gate.log_alpha), generator=draw) < (0.7 if len(gate.log_alpha) > 1 else 0.8)
        gate.log_alpha.data = torch.where(open_, 60.0, -60.0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("hidden", [True, False])
def test_the_expected_sparsity_is_the_real_one_once_gates_are_decided(seed: int, hidden: bool) -> None:
    """And the sliced model computes what the gated one did, however much of it has gone."""
    model = tiny.build("bert", "classes", num_hidden_layers=3)
    batch, whole, budget = tiny.batch(model), kept(model), Budget(0.5, 0.1)
    saturate(budget.install(model, hidden), seed)
    assert budget.total == whole
    expected, answers = float(budget.expected().detach()), jobs.logits(model, batch)
    settle(model)
    compact(model)
    assert 1 - kept(model) / whole == pytest.approx(expected, abs=1e-3)
    assert torch.allclose(jobs.logits(model, batch), answers, atol=1e-4)


@pytest.mark.parametrize("family", ["roberta", "distilbert", "llama", "mistral", "modernbert", "deberta-v2"])
def test_the_count_holds_in_other_families(family: str) -> None:
    """Where heads share keys or matrices only whole sublayers go, and that is what is counted."""
    model = tiny.build(family, "classes")
    budget, batch = Budget(0.5, 0.1), tiny.batch(model)
    saturate(budget.install(model, False), 3)
    expected, answers = float(budget.expected().detach()), jobs.logits(model, batch)
    before = sum(p.numel() for p in model.parameters())
    gates = sum(g.log_alpha.numel() for g in model.modules() if isinstance(g, HardConcrete))
    settle(model)
    compact(model)
    after = sum(p.numel() for p in model.parameters())
    assert torch.allclose(jobs.logits(model, batch), answers, atol=1e-4)
    assert (before - gates - after) / budget.total == pytest.approx(expected, abs=0.06)  # biases go too, uncounted


@pytest.mark.parametrize("target", [0.3, 0.6, 0.9])
def test_the_multipliers_hold_the_sparsity_to_the_target(target: float) -> None:
    """A toy problem that wants every gate open; without the multipliers' climb it would have its way."""
    torch.manual_seed(0)
    model = tiny.build("bert", "classes", num_hidden_layers=3)
    budget = Budget(target, 0.2)
    gates = budget.install(model, True)
    optimizer = torch.optim.AdamW([{"params": [g.log_alpha for g in gates]}, {"params": budget.parameters()}], lr=0.1)
    for i in range(400):
        optimizer.zero_grad()
        wish = -0.02 * torch.stack([g.alive().mean() for g in gates]).sum()
        (wish + budget(at(i / 400))).backward()
        optimizer.step()
        for gate in gates:
            gate.draw()
    assert float(budget.expected().detach()) == pytest.approx(target, abs=0.02)


def test_the_multipliers_climb_while_gates_descend() -> None:
    budget = Budget(0.5, 0.1)
    gates = budget.install(tiny.build("bert", "classes"), False)
    with torch.no_grad():
        budget.multipliers.fill_(1.0)
    over = float(budget.expected().detach()) - 0.5
    assert over < 0  # far too dense
    budget(at(1.0)).backward()
    assert budget.multipliers.grad is not None
    assert budget.multipliers.grad.tolist() == pytest.approx([-over, -(over**2)], rel=1e-4)  # negated: they climb
    slope = gates[2].log_alpha.grad
    assert slope is not None and (slope.sum() > 0) == (1 + 2 * over < 0)


def test_the_target_rises_evenly_over_the_warm_up() -> None:
    budget = Budget(0.8, 0.25)
    budget.install(tiny.build("bert", "classes"), False)
    with torch.no_grad():
        budget.multipliers.copy_(torch.tensor([1.0, 0.0]))
    expected = float(budget.expected().detach())
    found = [float(budget(at(p)).detach()) for p in (0.0, 0.125, 0.25, 1.0)]
    assert found == pytest.approx([expected, expected - 0.4, expected - 0.8, expected - 0.8], abs=1e-6)


def test_gates_start_open_and_neurons_half_open() -> None:
    gates = Budget(0.5, 0.1).install(tiny.build("bert", "classes"), True)
    assert {float(g.log_alpha.detach()[0]) for g in gates if len(g.log_alpha) == 64} == {0.0}
    assert {float(g.log_alpha.detach()[0]) for g in gates if len(g.log_alpha) != 64} == {10.0}
    assert sorted({len(g.log_alpha) for g in gates}) == [1, 4, 32, 64]


@pytest.mark.parametrize("hidden", [True, False])
def test_from_a_dense_model_to_a_small_one(tmp_path: Path, hidden: bool) -> None:
    """Real training: what is sliced computes what the gates decided, and is as small as they said."""
    at = jobs.job(tmp_path, layers=3, max_steps=50)
    batch, whole = jobs.inputs(at), kept(at.model)
    story = CoFi(0.9, hidden, prune_epochs=40, tune_epochs=2, **QUICK)(at)
    stage = next(story)
    train(at, stage)
    gated, expected = jobs.logits(at.model, batch), float(budget_of(stage).expected().detach())
    stage = next(story)
    assert stage.name == "tune the small one" and torch.allclose(jobs.logits(at.model, batch), gated, atol=1e-4)
    assert 1 - kept(at.model) / whole == pytest.approx(expected, abs=0.05) and expected > 0.2  # one head is 3 %
    assert (width(at.model) < 32) == hidden
    at.max_steps = 3
    train(at, stage)
    assert not torch.equal(jobs.logits(at.model, batch), gated)  # and it goes on learning
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


def test_a_layer_without_neurons_still_adds_its_bias(tmp_path: Path) -> None:
    """Training and the sliced model agree on what a dead feed-forward part does."""
    model = tiny.build("bert", "classes")
    batch, budget = tiny.batch(model), Budget(0.5, 0.1)
    for gate in budget.install(model, False):
        gate.log_alpha.data.fill_(-60.0 if len(gate.log_alpha) == 64 else 60.0)
    answers = jobs.logits(model, batch)
    settle(model)
    compact(model)
    assert isinstance(blocks(model)[0].down, Nothing) and blocks(model)[0].down.bias is not None
    assert torch.allclose(jobs.logits(model, batch), answers, atol=1e-5)


def test_there_must_be_something_to_prune(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="CoFi finds no sublayer left to prune"):
        next(CoFi()(jobs.job(tmp_path, "gpt2")))
