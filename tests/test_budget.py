"""The budget of gates: the count is the truth, the multipliers hold to it, and in the end it is met."""

import pytest
import torch
from torch import nn

from gossamer.anatomy import blocks
from gossamer.budget import Budget
from gossamer.forms import settle
from gossamer.gates import HardConcrete, compact
from gossamer.loss import Step
from gossamer.runtime.modules import Nothing
from gossamer.trace import Trace
from tests import jobs, tiny


def at(progress: float) -> Step:
    return Step(Trace(), None, {}, progress)


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


def test_a_layer_without_neurons_still_adds_its_bias() -> None:
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


@pytest.mark.parametrize("target", [0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("seed", range(3))
def test_the_target_is_met_however_undecided_the_gates_are(target: float, seed: int) -> None:
    """Within 2 %, by what is really sliced; which unit goes before which stays as it was learned."""
    model = tiny.build("bert", "classes", num_hidden_layers=8)
    batch, whole, budget = tiny.batch(model), kept(model), Budget(target, 0.1)
    gates, draw = budget.install(model, False), torch.Generator().manual_seed(seed)
    for gate in gates:
        gate.log_alpha.data = 2 * torch.randn(gate.log_alpha.shape, generator=draw)
    before = [gate.log_alpha.clone() for gate in gates]
    met = budget.meet()
    assert met == pytest.approx(target, abs=0.02)  # one head of this model is 1.6 %
    assert met == budget.hard()
    for gate, old in zip(gates, before, strict=True):
        z = gate.eval()()
        assert torch.allclose(z[z > 0], torch.sigmoid(1.2 * old[z > 0])), "what stays keeps the scale it was trained at"
        assert not len(z[z > 0]) or not len(z[z == 0]) or old[z > 0].min() >= old[z == 0].max()
    answers = jobs.logits(model, batch)
    settle(model)
    compact(model)
    assert 1 - kept(model) / whole == pytest.approx(met, abs=1e-6)
    assert torch.allclose(jobs.logits(model, batch), answers, atol=1e-4)


def test_sublayers_stay_as_they_were_decided_where_the_units_can_meet_the_target() -> None:
    budget, draw = Budget(0.6, 0.1), torch.Generator().manual_seed(0)
    gates = budget.install(tiny.build("bert", "classes", num_hidden_layers=8), False)
    wholes = [gate for gate in gates if len(gate.log_alpha) == 1]
    for gate in gates:
        gate.log_alpha.data = torch.randn(gate.log_alpha.shape, generator=draw)
    for i, whole in enumerate(wholes):
        whole.log_alpha.data.fill_(-4.0 if i % 5 == 0 else 4.0)
    assert budget.meet() == pytest.approx(0.6, abs=0.02)
    assert [bool(whole.eval()() > 0) for whole in wholes] == [i % 5 != 0 for i in range(len(wholes))]
    for whole in wholes:  # and when far too few are left, some come back
        whole.log_alpha.data.fill_(-4.0)
    assert budget.meet() == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize("target", [0.4, 0.8])
def test_neurons_are_not_all_spent_where_heads_have_no_gates(target: float) -> None:
    """MPNet's heads stay together; a target beyond its neurons is met by sublayers, and neurons are left in others."""
    budget = Budget(target, 0.1)
    gates = budget.install(tiny.build("mpnet", "classes", num_hidden_layers=6), False)
    draw = torch.Generator().manual_seed(0)
    for gate in gates:
        gate.log_alpha.data = gate.log_alpha.data + torch.randn(gate.log_alpha.shape, generator=draw)
    assert budget.meet() == pytest.approx(target, abs=0.06)  # an attention of this model is 5 %
    neurons = [g for g in gates if len(g.log_alpha) == 64]
    assert sum(int((g.eval()() > 0).sum()) for g in neurons) > 0.1 * 64 * len(neurons)


def test_a_layer_lives_while_one_of_its_sublayers_does() -> None:
    budget = Budget(0.5, 0.1)
    gates = budget.install(tiny.build("bert", "classes"), False)
    wholes = [gate for gate in gates if len(gate.log_alpha) == 1]
    assert len(wholes) == 2 * len(budget.living()) and all(budget.living())
    for whole in wholes[:2]:
        assert budget.living()[0]
        whole.log_alpha.data.fill_(-60.0)
    assert not budget.living()[0] and all(budget.living()[1:])
