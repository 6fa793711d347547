"""BERT-of-Theseus: coins, who learns, and what is left in the end."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gossamer.anatomy import blocks
from gossamer.methods.distillation.theseus import Coin, Theseus
from gossamer.runtime.walks import stack_of
from gossamer.train import Lesson, Moment, _marked, train
from tests import jobs


def started(tmp_path: Path, layers: int = 4, successors: int = 2) -> tuple[Any, Any, Any, Coin]:
    """Job, the rest of its story, the first stage, and the coin; successors that differ from their origins."""
    at = jobs.job(tmp_path, layers=layers)
    story = Theseus(successors)(at)
    stage = next(story)
    with torch.no_grad():
        for layer in stage.only:
            for p in layer.parameters():
                p.add_(torch.randn_like(p) * 0.05)
    [coin] = [m for m in at.model.modules() if isinstance(m, Coin)]
    return at, story, stage, coin


def tossing(model: Any) -> Any:
    """In training, but without dropout."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@torch.no_grad()
def answers(model: Any, batch: Any) -> torch.Tensor:
    return model(**batch).logits


def test_at_rate_one_the_successors_run_alone_and_at_rate_zero_the_predecessors(tmp_path: Path) -> None:
    at, _, stage, coin = started(tmp_path)
    model, batch = tossing(at.model), jobs.inputs(at)
    alone = copy.deepcopy(at.teacher)
    alone.bert.encoder.layer = nn.ModuleList(copy.deepcopy(list(stage.only)))
    coin.rate = 1.0
    assert torch.allclose(answers(model, batch), answers(alone, batch), atol=1e-6)
    coin.rate = 0.0
    assert torch.allclose(answers(model, batch), answers(at.teacher, batch), atol=1e-6)
    assert torch.allclose(jobs.logits(at.model, batch), answers(alone, batch), atol=1e-6)  # evaluation: successors


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_the_coin_falls_as_often_as_it_should_and_each_group_by_itself(rate: float) -> None:
    torch.manual_seed(0)
    coin = Coin(6, 3).train()
    coin.rate = rate
    tosses = [list(coin.order(range(9))) for _ in range(1500)]
    for group in range(3):
        new = [6 + group in order for order in tosses]
        assert sum(new) / 1500 == pytest.approx(rate, abs=0.04)
        assert all((2 * group in o) == (2 * group + 1 in o) == (not n) for o, n in zip(tosses, new, strict=True))
    both = sum(6 in o and 7 in o for o in tosses) / 1500
    assert both == pytest.approx(rate**2, abs=0.05)
    assert all(sorted(o, key=lambda i: (i - 6) * 2 if i >= 6 else i) == o for o in tosses)  # in order of depth
    assert list(coin.eval().order(range(9))) == [6, 7, 8]


def test_one_toss_serves_a_whole_batch(tmp_path: Path) -> None:
    at, _, _, coin = started(tmp_path)
    model, batch = tossing(at.model), jobs.inputs(at)
    coin.rate = 0.5
    found = {tuple(answers(model, batch).flatten().tolist()) for _ in range(40)}
    assert len(found) == 4  # two groups, two sides each


def test_only_successors_learn(tmp_path: Path) -> None:
    at, _, stage, coin = started(tmp_path)
    assert repr(stage.loss) == "Task()" and len(stage.only) == 2
    lesson, coin.rate = Lesson(tossing(at.model), stage.loss, None), 1.0
    _marked(stage, lesson)
    lesson(**at.collate(at.train[:8]))["loss"].backward()
    mine = {id(p) for layer in stage.only for p in layer.parameters()}
    assert {id(p) for p in at.model.parameters() if p.grad is not None} == mine


def test_everything_else_stays_as_it_was(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    before = copy.deepcopy(at.model.state_dict())
    jobs.run(at, Theseus(2, lr=1e-3))
    changed = {n for n, t in at.model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed and all(n.startswith("bert.encoder.layer.") for n in changed)
    assert len(blocks(at.model)) == at.model.config.num_hidden_layers == 2 and stack_of(at.model) is None
    assert all(p.requires_grad for p in at.model.parameters())


def test_successors_start_as_the_first_layers(tmp_path: Path) -> None:
    at = jobs.job(tmp_path, layers=6)
    stage = next(Theseus(3)(at))
    for new, old in zip(stage.only, blocks(at.teacher), strict=False):
        assert all(torch.equal(a, b) for a, b in zip(new.parameters(), old.layer.parameters(), strict=True))
        assert new is not old.layer
    assert len(next(Theseus()(jobs.job(tmp_path, layers=6))).only) == 3  # 0: half


def test_the_rate_rises_evenly_to_one(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    stage = next(Theseus(2, start=0.3, curriculum=0.5)(at))
    [coin] = [m for m in at.model.modules() if isinstance(m, Coin)]
    rates = []
    for progress in (0.0, 0.25, 0.5, 0.9):
        stage.each_step(Moment(progress, None))
        rates.append(coin.rate)
    assert rates == pytest.approx([0.3, 0.65, 1.0, 1.0])


def test_then_the_successors_are_tuned_alone(tmp_path: Path) -> None:
    at, story, stage, _ = started(tmp_path)
    train(at, stage)
    tune = next(story)
    assert tune.name == "tune the successors" and [id(m) for m in tune.only] == [id(m) for m in stage.only]
    assert [id(b.layer) for b in blocks(at.model)] == [id(m) for m in tune.only]
    batch = jobs.inputs(at)
    rebuilt = type(at.model)(at.model.config)
    rebuilt.load_state_dict(at.model.state_dict())  # an ordinary shallower model
    assert torch.allclose(jobs.logits(rebuilt, batch), jobs.logits(at.model, batch), atol=1e-6)


@pytest.mark.parametrize("count", [3, 4, 5])
def test_groups_must_come_out_even(tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError, match=r"expected a proper divisor of 4 \(1, 2\); type Theseus\(layers=2\)"):
        next(Theseus(count)(jobs.job(tmp_path)))
