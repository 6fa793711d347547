"""DRONE: what layers really see decides; padding is not seen, and nothing is worse than without the data."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gossamer.anatomy import blocks
from gossamer.calibrate import grams
from gossamer.factor import even_rank, output_basis, project_outputs
from gossamer.methods.lowrank import drone
from gossamer.methods.lowrank.drone import DRONE, narrowed
from gossamer.runtime.modules import LowRank, ScoreAttention
from tests import jobs, tiny
from tests.jobs import wider


def heard(model: Any, linear: nn.Module, batches: list[Any]) -> torch.Tensor:
    """The inputs of a layer on real tokens; (tokens, in)."""
    inputs: list[torch.Tensor] = []
    masks = iter(batches)
    hook = linear.register_forward_pre_hook(lambda m, a: inputs.append(a[0][next(masks)["attention_mask"].bool()]))
    for batch in batches:
        model(**batch)
    hook.remove()
    return torch.cat(inputs).detach()


def test_statistics_are_of_real_tokens_only() -> None:
    model = tiny.build("bert", "classes").requires_grad_(False)
    batch = tiny.batch(model)
    linears = [blocks(model)[0].q, blocks(model)[1].down]
    found = grams(model, linears, [batch])
    for gram, linear in zip(found, linears, strict=True):
        x = heard(model, linear, [batch]).double()
        assert torch.allclose(gram, x.T @ x, rtol=1e-6)
    padded = grams(model, linears, [wider(batch, 6)])
    assert all(torch.allclose(a, b, atol=1e-5 * float(a.max())) for a, b in zip(found, padded, strict=True))
    [homogeneous] = grams(model, linears[:1], [batch], homogeneous=True)
    assert homogeneous.shape == (33, 33) and float(homogeneous[-1, -1]) == float(batch["attention_mask"].sum())
    assert not linears[0]._forward_pre_hooks


def test_on_what_a_layer_sees_it_beats_the_svd_of_the_weight_at_every_rank(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    batches = list(at.batches(48))
    for part in ("o", "up", "down"):
        linear: Any = blocks(at.model)[1].part(part)
        [gram] = grams(at.model, [linear], batches)
        x = heard(at.model, linear, [{k: v for k, v in b.items() if k != "labels"} for b in batches])
        basis, _ = output_basis(linear.weight, gram)
        u, s, vt = torch.linalg.svd(linear.weight.detach(), full_matrices=False)
        for rank in range(1, 33):
            ours = (project_outputs(linear, basis, rank)(x) - linear(x)).detach().square().sum()
            plain = (x @ (linear.weight.detach() - (u[:, :rank] * s[:rank]) @ vt[:rank]).T).square().sum()
            assert float(ours) <= float(plain) * (1 + 1e-4) + 1e-3
        assert float(ours) < 1e-3  # nothing is lost at full rank


def test_attention_of_full_size_is_what_it_was(tmp_path: Path) -> None:
    """Biases and the scale included."""
    at = jobs.job(tmp_path)
    batch = jobs.inputs(at)
    expected = jobs.logits(at.model, batch)
    for block in blocks(at.model):
        [gram] = grams(at.model, [block.q], at.batches(48), homogeneous=True)
        block.put("attend", narrowed(block, gram, block.head_dim, block.attend))
    assert torch.allclose(jobs.logits(at.model, batch), expected, atol=1e-3)


def test_layers_are_treated_from_the_bottom_up_and_see_what_came_before(tmp_path: Path, monkeypatch: Any) -> None:
    """Statistics are taken anew after each replacement."""
    at = jobs.job(tmp_path, layers=2)
    order: list[tuple[int, int]] = []
    original = drone.grams

    def note(model: Any, linears: Any, batches: Any, **kwargs: Any) -> Any:
        done = sum(isinstance(m, (LowRank, ScoreAttention)) for m in model.modules())
        layer = next(i for i, b in enumerate(blocks(model)) if any(m is linears[0] for m in b.layer.modules()))
        order.append((layer, done))
        return original(model, linears, batches, **kwargs)

    monkeypatch.setattr(drone, "grams", note)
    list(DRONE(keep=0.5, tune_epochs=0.0)(at))
    assert order == [(layer, i) for i, layer in enumerate([0] * 5 + [1] * 5)]


@pytest.mark.parametrize("keep", [0.25, 0.5, 0.75])
def test_the_share_that_is_kept(tmp_path: Path, keep: float) -> None:
    at = jobs.job(tmp_path)
    jobs.run(at, DRONE(keep=keep, scores=False, tune_epochs=0.0))
    for block in blocks(at.model):
        for part in block.parts:
            module: Any = block.part(part)
            assert isinstance(module, LowRank)
            whole = module.in_features * module.out_features
            left = module.down.weight.numel() + module.up.weight.numel()
            assert keep - 0.05 <= left / whole <= keep
            assert module.rank == int(keep * even_rank(module.out_features, module.in_features))


def test_queries_and_keys_are_narrowed_and_not_factored_again(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    jobs.run(at, DRONE(keep=0.5, tune_epochs=0.0))
    for block in blocks(at.model):
        attend: Any = block.attend
        assert isinstance(attend, ScoreAttention) and attend.score_size == 4 and attend.scaling == 8**-0.5
        assert type(block.q) is nn.Linear and block.q.weight.shape == (16, 32)
        assert all(isinstance(block.part(p), LowRank) for p in ("v", "o", "up", "down"))


def test_the_loss_grows_by_no_more_than_was_allowed(tmp_path: Path) -> None:
    """Each replacement by the smallest rank of the grid that obeys; a matrix that none fits stays whole."""
    at = jobs.job(tmp_path)
    before = drone.loss(at, 48)
    losses = [before]
    method = DRONE(keep=0.1, loss_ratio=0.02, samples=48, tune_epochs=0.0)
    for block in blocks(at.model):
        method.narrow(at, block)
        losses.append(drone.loss(at, 48))
        for part in ("v", "o", "up", "down"):
            method.factor(at, block, part)
            losses.append(drone.loss(at, 48))
    assert all(b <= a * 1.02 + 1e-6 for a, b in pairwise(losses))
    found = [m for m in at.model.modules() if isinstance(m, LowRank)]
    assert found and len({m.rank for m in found}) > 1
    assert all(m.rank < even_rank(m.in_features, m.out_features) for m in found)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_the_grid_is_of_ranks_that_save_something(ratio: float) -> None:
    grid = DRONE(keep=0.3, loss_ratio=ratio).grid(20)
    assert grid == ([6] if not ratio else [6, 8, 10, 12, 14, 16, 18])
    assert DRONE(keep=0.05, loss_ratio=ratio).grid(3)[0] == 1


def test_training_goes_on_afterwards_on_the_task(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    story = jobs.stages(at, DRONE())
    stage = next(story)
    assert stage.name == "fine-tune" and repr(stage.loss) == "Task()"
    assert next(story, None) is None


def test_doing_nothing_raises(tmp_path: Path) -> None:
    at = jobs.job(tmp_path)
    list(DRONE(tune_epochs=0.0)(at))
    with pytest.raises(ValueError, match="no Linear of this model is plain any more, so DRONE finds nothing to do"):
        list(DRONE(tune_epochs=0.0)(at))
