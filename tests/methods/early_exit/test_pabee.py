"""PABEE: patience is counted per example, and without agreement the whole model answers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gossamer.anatomy import blocks
from gossamer.methods.early_exit.pabee import PABEE
from gossamer.runtime.exits import Exits
from gossamer.trace import tracing
from gossamer.train import Lesson, _marked
from tests import jobs, tiny


def installed(tmp_path: Path, patience: int = 2, family: str = "bert", classes: int = 2, **more: Any) -> Any:
    """A job with exits that were installed and not trained, and the exits."""
    at = jobs.job(tmp_path, family, layers=6, classes=classes)
    stage = next(PABEE(patience, **more)(at))
    [exits] = [m for m in at.model.modules() if isinstance(m, Exits)]
    torch.manual_seed(0)
    for head in exits.heads.linear:
        head.weight.data.normal_()
        head.bias.data.normal_()
    return at, stage, exits


def layers_run(model: Any, batch: Any) -> list[int]:
    """How many layers each row of the batch passed."""
    ran: list[int] = []
    hooks = [b.layer.register_forward_pre_hook(lambda m, args: ran.append(len(args[0]))) for b in blocks(model)]
    jobs.logits(model, batch)
    for hook in hooks:
        hook.remove()
    return [sum(n > row for n in sorted(ran, reverse=True)) for row in range(max(ran))]


@pytest.mark.parametrize("patience", [1, 2, 3, 4])
def test_when_all_agree_the_exit_is_one_after_the_patience(tmp_path: Path, patience: int) -> None:
    at, _, exits = installed(tmp_path, patience)
    for i, head in enumerate(exits.heads.linear):
        head.weight.data.zero_()
        head.bias.data = torch.tensor([0.0, 1.0 + i])
    batch = jobs.inputs(at)
    assert layers_run(at.model, batch) == [patience + 1] * 6
    assert torch.equal(jobs.logits(at.model, batch), torch.tensor([[0.0, 1.0 + patience]]).expand(6, 2))  # the current


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_without_agreement_the_whole_model_answers(tmp_path: Path, family: str) -> None:
    at, _, exits = installed(tmp_path, family=family)
    batch = jobs.inputs(at)
    for i, head in enumerate(exits.heads.linear):
        head.weight.data.zero_()
        head.bias.data = torch.tensor([float(i % 2), 0.5])
    expected = jobs.logits(at.teacher, batch)
    assert torch.allclose(jobs.logits(at.model, batch), expected, atol=1e-5)
    assert layers_run(at.model, batch) == [6] * 6
    exits.threshold = 6  # longer than the model is deep
    assert torch.allclose(jobs.logits(at.model, batch), expected, atol=1e-5)


def test_two_together_leave_as_two_alone(tmp_path: Path) -> None:
    at, _, _ = installed(tmp_path, patience=1, classes=3)
    every = at.collate(at.train[:24])
    alone = [{k: v[i : i + 1, : len(at.train[i]["input_ids"])] for k, v in every.items() if k in
              ("input_ids", "attention_mask")} for i in range(24)]  # fmt: skip
    layers = [layers_run(at.model, one)[0] for one in alone]
    assert len(set(layers)) > 1
    first, other = 0, next(i for i in range(24) if layers[i] != layers[0])
    pair = jobs.inputs(at, 24)
    pair = {k: v[[first, other]] for k, v in pair.items()}
    together = jobs.logits(at.model, pair)
    assert sorted(layers_run(at.model, pair)) == sorted([layers[first], layers[other]])
    assert torch.allclose(together[0], jobs.logits(at.model, alone[first])[0], atol=1e-5)
    assert torch.allclose(together[1], jobs.logits(at.model, alone[other])[0], atol=1e-5)


def test_the_more_patience_the_later_the_exit(tmp_path: Path) -> None:
    at, _, exits = installed(tmp_path, classes=3)
    batch, means = jobs.inputs(at, 24), list[float]()
    for exits.threshold in (1, 2, 3, 4, 5):
        means.append(sum(layers_run(at.model, batch)) / 24)
    assert means == sorted(means) and means[0] < means[-1] == 6


def test_numbers_agree_within_the_tolerance(tmp_path: Path) -> None:
    at, _, exits = installed(tmp_path, 2, classes=0)
    found = []
    for exits.rule.tolerance in (0.0, 4.0, 6.0, 8.0, 100.0):
        found.append(sum(layers_run(at.model, jobs.inputs(at, 12))) / 12)
    assert found == sorted(found, reverse=True) and found[0] == 6 and found[-1] == 3  # strictly less than 0: never
    assert any(3 < mean < 6 for mean in found)


def test_exits_share_the_pooler_and_are_trained_with_the_model(tmp_path: Path) -> None:
    at, stage, exits = installed(tmp_path)
    assert len(exits.heads.linear) == 5 and all(h.weight.shape == (2, 32) for h in exits.heads.linear)
    assert exits.features == ["bert.pooler"]
    lesson = Lesson(at.model, stage.loss, None).eval()
    exits.whole = True
    _marked(stage, lesson)
    lesson(**at.collate(at.train[:8]))["loss"].backward()
    assert all(p.grad is not None for p in at.model.parameters())
    before = {n: p.detach().clone() for n, p in at.model.named_parameters()}
    jobs.run(jobs.job(tmp_path / "other", layers=6), PABEE(2))
    assert all(torch.equal(p, before[n]) for n, p in at.model.named_parameters())


def test_the_loss_weighs_exits_by_their_depth(tmp_path: Path) -> None:
    """(1 L1 + 2 L2 + ... + 6 L6) / 21, whatever patience says."""
    at, stage, exits = installed(tmp_path, patience=1)
    given = at.collate(at.train[:8])
    found = Lesson(at.model.train(), stage.loss, None)
    for module in at.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    at.model.config.hidden_dropout_prob = 0.0  # that of the exits
    with tracing(at.model) as seen, torch.no_grad():
        out = at.model(**{k: v for k, v in given.items() if k != "index"})
        own = [nn.functional.cross_entropy(tiny.said(exits, i, seen.hidden[i + 1]), given["labels"]) for i in range(5)]
        expected = sum((i + 1) * loss for i, loss in enumerate([*own, out.loss])) / 21
        assert torch.allclose(found(**given)["loss"], torch.as_tensor(expected))


def test_patience_that_could_never_run_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"4 layers and patience 3: no example could stop .* PABEE\(patience=2\)"):
        next(PABEE(3)(jobs.job(tmp_path)))
